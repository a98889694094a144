"""The data sets: the same galaxies at both depths, one stretch, files from disk or network."""

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from advbench.api import Data, DataError, Dataset
from advbench.components.identity import Spec
from advbench.components.loader import Plugins
from advbench.runtime.data import Context, Environment
from advbench.store.artifacts import Store
from advbench_astro.conditions import Conditions
from advbench_astro.lsst_mock import LsstMock
from advbench_astro.lsst_zenodo import LsstZenodo
from advbench_astro.stretch import ArcsinhStretch, StretchedRows

N = 60


def load(
    dataset: Dataset,
    cache: Path,
    source: Data | None = None,
    *,
    folders: tuple[Path, ...] = (),
    download: bool = False,
) -> Data:
    environment = Environment(Plugins([]), Store(cache), folders, download)
    return dataset.load(
        Context(environment, Spec("dataset", f"astro/{type(dataset).__name__}", "{}", 1), source)
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def deep(cache: Path) -> Data:
    return load(LsstMock(depth="y10", n=N), cache)


@pytest.fixture(scope="module")
def shallow(cache: Path, deep: Data) -> Data:
    return load(LsstMock(depth="y1", n=N), cache, deep)


def test_both_depths_show_the_same_galaxies(deep: Data, shallow: Data) -> None:
    for name, split in deep.splits.items():
        assert split.ids.tolist() == shallow.splits[name].ids.tolist()
        assert np.array_equal(split.y, shallow.splits[name].y)
        assert split.x.shape == (len(split), 3, 100, 100)
    # Averaged over pixels, noise goes and the galaxy stays: block means agree far better than pixels do.
    a, b = (np.array(data.splits["train"].x.flux[:]) for data in (deep, shallow))
    blocks = [flux.reshape(N, 3, 10, 10, 10, 10).mean(axis=(3, 5)).ravel() for flux in (a, b)]
    assert np.corrcoef(*blocks)[0, 1] > 0.999


def test_the_noiseless_galaxies_are_kept_once(cache: Path, deep: Data, shallow: Data) -> None:
    sizes = [path.parent.name for path in cache.glob("artifacts/data/*/flux.npy")]
    assert len(sizes) == 3  # galaxies, y10 exposures, y1 exposures
    noise = {
        name: data.splits["test"].x.flux[:, :, :8, :8] for name, data in (("y10", deep), ("y1", shallow))
    }  # a corner, where there is mostly sky
    spread = {name: np.median(np.abs(corner - np.median(corner))) for name, corner in noise.items()}
    assert spread["y1"] / spread["y10"] == pytest.approx(np.sqrt(10), rel=0.1)


def test_splits_are_disjoint_complete_and_stratified(deep: Data) -> None:
    names = [str(name) for split in deep.splits.values() for name in split.ids]
    assert len(names) == len(set(names)) == N
    assert set(deep.splits) == {"train", "valid", "calibration", "test"}
    assert np.bincount(deep.splits["train"].y).tolist() == [14, 14, 14]
    row = int(deep.splits["test"].ids[0][1:])
    assert deep.splits["test"].y[0] == row % 3


def test_the_stretch_is_that_of_the_source_training_split(deep: Data, shallow: Data) -> None:
    assert shallow.space.link is deep.space.link
    assert (shallow.space.lower, shallow.space.upper) == (deep.space.lower, deep.space.upper)
    train = deep.splits["train"].x
    low, high = np.percentile(train.flux[train.rows], [0.1, 99.9])
    assert deep.space.link == ArcsinhStretch(pytest.approx(low), pytest.approx(high))
    lower, upper = deep.space.lower[0], deep.space.upper[0]
    assert upper == pytest.approx(0.8856, abs=5e-5)
    assert 0.4 < lower < 0.5
    for split in (*deep.splits.values(), *shallow.splits.values()):
        x = split.x[np.arange(len(split))]
        assert x.dtype == np.float32
        assert lower - 1e-6 <= x.min()
        assert x.max() <= upper + 1e-6


def test_without_a_source_the_own_training_split_is_used(cache: Path, deep: Data) -> None:
    alone = load(LsstMock(depth="y1", n=N), cache)
    assert alone.space.lower[0] < deep.space.lower[0]  # more noise below the sky


def test_rows_are_read_by_integer_slice_or_mask(deep: Data) -> None:
    x = deep.splits["test"].x
    whole = x[np.arange(len(x))]
    assert np.array_equal(x[np.array([2, 0, 2])], whole[[2, 0, 2]])
    assert np.array_equal(x[1], whole[1])
    assert np.array_equal(x[:3], whole[:3])
    assert np.array_equal(x[np.arange(len(x)) == 4], whole[4:5])


def test_fractions_must_leave_something_to_train_on() -> None:
    with pytest.raises(ValidationError, match="must be below 1"):
        LsstMock(valid=0.5, calibration=0.3, test=0.2)


def test_stretch_closed_form_and_inverse() -> None:
    stretch = ArcsinhStretch(low=-0.2, high=20.0)
    flux = torch.tensor([-5.0, -0.2, 0.0, 20.0, 300.0])
    x = stretch.from_physical(flux)
    assert x[2] == 0.5
    assert x[3] == x[4] == pytest.approx((np.arcsinh(0.85) + 1) / 2) == pytest.approx(0.8856, abs=5e-5)
    assert x[0] == x[1] == pytest.approx(stretch.bounds()[0])
    inside = torch.linspace(-0.2, 20.0, 1001)
    exact = (np.arcsinh(0.85 / 20.0 * inside.double().numpy()) + 1) / 2
    assert np.abs(stretch.from_physical(inside).numpy() - exact).max() < 1.2e-7  # two float32 steps
    assert torch.allclose(stretch.to_physical(stretch.from_physical(inside)), inside, rtol=1e-5, atol=1e-5)
    assert stretch == ArcsinhStretch(-0.2, 20.0)
    assert len({stretch, ArcsinhStretch(-0.2, 20.0)}) == 1


def test_a_stretch_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match=r"99\.9"):
        ArcsinhStretch.fit(np.zeros((4, 3, 5, 5)), np.arange(4))


def published(folder: Path, n: int = 12, side: int = 10) -> dict[str, Any]:
    """A small set in the published layout: float64, one-hot, labels shared by both depths."""
    generator = np.random.default_rng(0)
    kept: dict[str, Any] = {}
    for part in ("train", "valid", "test"):
        labels = np.arange(n) % 3
        kept[f"labels_{part}.npy"] = np.eye(3)[labels]
        for depth in ("Y10", "Y1"):
            kept[f"images_{depth}_{part}.npy"] = generator.normal(
                labels[:, None, None, None], 1.0, (n, 3, side, side)
            )
    folder.mkdir(exist_ok=True)
    for name, array in kept.items():
        np.save(folder / name, array)
    return kept


@pytest.mark.parametrize("place", ["", "lsst-zenodo"])
def test_published_files_round_trip(tmp_path: Path, place: str) -> None:
    kept = published(tmp_path / place)
    dataset = LsstZenodo(depth="y10")
    data = load(dataset, tmp_path / "cache", folders=(tmp_path,))
    assert [path.name for path in dataset.files([tmp_path])] == [
        name
        for part in ("train", "valid", "test")
        for name in (f"images_Y10_{part}.npy", f"labels_{part}.npy")
    ]
    train, link = data.splits["train"], data.space.link
    assert isinstance(train.x.flux, np.memmap)
    assert link is not None
    assert train.y.tolist() == [0, 1, 2] * 4
    assert train.ids[7] == "train000007"
    low, high = np.percentile(kept["images_Y10_train.npy"], [0.1, 99.9])
    back = link.to_physical(torch.from_numpy(train.x[np.arange(12)])).numpy()
    assert np.allclose(back, kept["images_Y10_train.npy"].clip(low, high), atol=1e-5)
    valid, calibration = data.splits["valid"], data.splits["calibration"]
    assert sorted([*valid.ids, *calibration.ids]) == [f"valid{i:06d}" for i in range(12)]
    assert np.bincount(valid.y).tolist() == np.bincount(calibration.y).tolist() == [2, 2, 2]
    one_year = load(LsstZenodo(depth="y1"), tmp_path / "cache", data, folders=(tmp_path,))
    assert one_year.space.link is data.space.link
    assert one_year.space.facts["exposure_s"] == pytest.approx([240.0, 552.0, 552.0])
    assert "sky_rate" not in one_year.space.facts  # nobody says what a flux of 1 is
    assert Conditions.of(one_year.space) is None
    assert one_year.splits["valid"].ids.tolist() == valid.ids.tolist()


def test_a_gain_turns_published_fluxes_into_count_rates(tmp_path: Path) -> None:
    kept = published(tmp_path)
    data = load(LsstZenodo(gain=(2.0, 4.0, 8.0)), tmp_path / "cache", folders=(tmp_path,))
    link, seen = data.space.link, Conditions.of(data.space)
    assert link is not None
    assert seen is not None
    assert link.unit == "e-/s"
    assert seen.sky_rate[1] == pytest.approx(43.70 * 10 ** (0.4 * 2.8) * 0.04)
    counted = kept["images_Y10_train.npy"] * np.array([2.0, 4.0, 8.0])[:, None, None]
    low, high = np.percentile(counted, [0.1, 99.9])
    back = link.to_physical(torch.from_numpy(data.splits["train"].x[np.arange(12)])).numpy()
    assert np.allclose(back, counted.clip(low, high), atol=1e-4)


def test_an_infinite_flux_is_named_and_not_clipped(tmp_path: Path) -> None:
    kept = published(tmp_path)
    broken = kept["images_Y10_test.npy"].copy()
    broken[7, 1, 2, 3] = np.inf
    np.save(tmp_path / "images_Y10_test.npy", broken)
    data = load(LsstZenodo(), tmp_path / "cache", folders=(tmp_path,))
    test = data.splits["test"].x
    assert np.isfinite(test[:7]).all()
    with pytest.raises(DataError, match="row 7 "):
        test[np.array([3, 7])]
    broken = kept["images_Y10_train.npy"].copy()
    broken[5] = np.nan
    np.save(tmp_path / "images_Y10_train.npy", broken)
    with pytest.raises(DataError, match="row 5 "):
        load(LsstZenodo(), tmp_path / "cache", folders=(tmp_path,))


def test_a_missing_file_is_named_with_its_doi(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / "images_Y1_valid.npy").unlink()
    with pytest.raises(DataError, match=r"images_Y1_valid\.npy.*10\.5281/zenodo\.5514180"):
        load(LsstZenodo(depth="y1"), tmp_path / "cache", folders=(tmp_path,))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels_valid.npy", np.full((12, 3), 0.5), "row 0 is not one-hot"),
        ("labels_valid.npy", np.zeros(12), r"labels have shape \(12,\)"),
        ("labels_test.npy", np.eye(3)[[0, 1]], "12 images for 2 labels"),
        ("images_Y10_test.npy", np.zeros((12, 10, 10, 3)), r"images have shape \(12, 10, 10, 3\)"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    published(tmp_path)
    np.save(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        load(LsstZenodo(), tmp_path / "cache", folders=(tmp_path,))
    assert name in str(caught.value) or "images_Y10_test.npy" in str(caught.value)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    published(tmp_path)
    whole = (tmp_path / "images_Y10_train.npy").read_bytes()
    (tmp_path / "images_Y10_train.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"images_Y10_train\.npy is no readable"):
        load(LsstZenodo(), tmp_path / "cache", folders=(tmp_path,))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    published(tmp_path / "published")
    handler = functools.partial(Quiet, directory=str(tmp_path / "published"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/{{name}}?download=1"
        http.shutdown()
        thread.join()


def test_missing_files_are_downloaded_once_if_allowed(tmp_path: Path, server: str) -> None:
    cache = tmp_path / "cache"
    dataset = LsstZenodo(url=server)
    with pytest.raises(DataError, match="allow downloads"):
        load(dataset, cache)
    data = load(dataset, cache, download=True)
    assert len(list(cache.glob("artifacts/data/*/*.npy"))) == 6
    (tmp_path / "published" / "labels_train.npy").unlink()  # the second time nothing is asked for
    again = load(dataset, cache, download=True)
    assert again.space == data.space


def test_a_download_that_fails_names_file_address_and_doi(tmp_path: Path, server: str) -> None:
    wrong = LsstZenodo(url=server, hashes={"images_Y10_train.npy": "0" * 64})
    with pytest.raises(
        DataError, match=r"images_Y10_train\.npy could not be downloaded.*hash.*zenodo\.5514180"
    ):
        load(wrong, tmp_path / "cache", download=True)
    (tmp_path / "published" / "images_Y10_train.npy").unlink()
    with pytest.raises(
        DataError, match=r"images_Y10_train\.npy could not be downloaded from http://127.*404"
    ):
        load(LsstZenodo(url=server), tmp_path / "cache", download=True)


def test_rows_are_read_when_asked_for_and_not_before() -> None:
    class Counting:
        shape = (1000, 3, 4, 4)
        read = 0

        def __getitem__(self, rows: Any) -> Any:
            chosen = np.arange(1000)[rows]
            Counting.read += chosen.size
            return np.ones((*chosen.shape, 3, 4, 4))

    space = ArcsinhStretch(-1.0, 2.0).space((3, 4, 4), ("g", "r", "i"))
    rows = StretchedRows(Counting(), np.arange(0, 1000, 2), space)
    assert rows.shape == (500, 3, 4, 4)
    assert Counting.read == 0
    assert rows[np.arange(7)].shape == (7, 3, 4, 4)
    assert Counting.read == 7
