"""Mergers, simulated and observed; published mergers and surveys from files; the network of the merger studies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import balanced_accuracy_score

from advbench.api import Classification, Data, DataError, Dataset, InputSpace
from advbench.components.identity import Spec
from advbench.components.loader import Plugins
from advbench.runtime.checks import check_structure, fingerprint
from advbench.runtime.data import Context, Environment
from advbench.store.artifacts import Store
from advbench_astro.balanced_accuracy import BalancedAccuracy
from advbench_astro.conditions import Conditions
from advbench_astro.deepmerge import FILES, DeepMerge
from advbench_astro.deepmerge_cnn import DeepMergeCNN
from advbench_astro.mergers_mock import MergersMock
from advbench_astro.survey_pair import SurveyPair

N = 60


def load(dataset: Dataset, cache: Path, source: Data | None = None, *folders: Path) -> Data:
    environment = Environment(Plugins([]), Store(cache), folders, False)
    name = f"astro/{type(dataset).__name__}"
    data = dataset.load(Context(environment, Spec("dataset", name, "{}", 1), source))
    check_structure(name, data)
    return data


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def simulated(cache: Path) -> Data:
    return load(MergersMock(n=N), cache)


@pytest.fixture(scope="module")
def observed(cache: Path, simulated: Data) -> Data:
    return load(MergersMock(n=N, domain="observed"), cache, simulated)


def test_both_domains_have_both_classes_in_every_split(simulated: Data, observed: Data) -> None:
    assert simulated.task == observed.task == Classification(("non-merger", "merger"))
    for data in (simulated, observed):
        assert data.space.shape == (3, 75, 75)
        fingerprint("mergers", data)  # every value finite and within the bounds
        for split in data.splits.values():
            ones = int(split.y.sum())
            assert 0 < ones < len(split)
            assert abs(2 * ones - len(split)) <= 2
    assert sum(map(len, simulated.splits.values())) == N


def test_observed_galaxies_are_others_in_the_stretch_of_the_simulated(
    simulated: Data, observed: Data
) -> None:
    assert observed.space.link is simulated.space.link
    names = [
        {str(one) for split in data.splits.values() for one in split.ids} for data in (simulated, observed)
    ]
    assert not names[0] & names[1]
    first, second = (data.splits["train"].x.flux.mean(axis=1) for data in (simulated, observed))
    centre = np.s_[:, 25:50, 25:50]
    alike = [
        np.corrcoef(first[i][25:50, 25:50].ravel(), second[i][25:50, 25:50].ravel())[0, 1] for i in range(N)
    ]
    assert first[centre].shape == second[centre].shape
    assert np.median(alike) < 0.9


def test_a_pair_shows_the_same_galaxies_in_the_same_splits(cache: Path, simulated: Data) -> None:
    paired = load(MergersMock(n=N, domain="observed", paired=True, psf=1.0, neighbours=0.0), cache, simulated)
    for name, split in paired.splits.items():
        assert split.ids.tolist() == simulated.splits[name].ids.tolist()
        assert np.array_equal(split.y, simulated.splits[name].y)
    first, second = (data.splits["train"].x.flux.mean(axis=1) for data in (simulated, paired))
    alike = [
        np.corrcoef(first[i][25:50, 25:50].ravel(), second[i][25:50, 25:50].ravel())[0, 1] for i in range(N)
    ]
    assert np.median(alike) > 0.98


def test_conditions_of_both_domains_are_stated_and_true(simulated: Data, observed: Data) -> None:
    seen = [Conditions.of(data.space) for data in (simulated, observed)]
    assert seen[0] is not None
    assert seen[1] is not None
    assert np.divide(seen[1].psf_fwhm_arcsec, seen[0].psf_fwhm_arcsec) == pytest.approx(1.6)
    assert np.divide(seen[1].exposure_s, seen[0].exposure_s) == pytest.approx(0.03)
    assert seen[0].pixel_scale_arcsec == seen[1].pixel_scale_arcsec == pytest.approx(20 / 75)
    for data, conditions in zip((simulated, observed), seen):
        assert conditions is not None
        corners = data.splits["train"].x.flux[:, :, :5, :5]
        spread = np.median(
            np.abs(corners - np.median(corners, axis=(0, 2, 3), keepdims=True)), axis=(0, 2, 3)
        )
        expected = np.sqrt(np.array(conditions.sky_rate) / conditions.exposure_s)
        assert 1.4826 * spread == pytest.approx(expected, rel=0.2)


def test_simulated_galaxies_are_alone_and_observed_ones_in_company() -> None:
    lone, crowded = (MergersMock(n=N, domain=domain)._sample().scene for domain in ("simulated", "observed"))
    elliptical = 2  # one profile of its own
    assert len(lone.galaxy(0, elliptical, 20.0).profiles) == 1
    counts = [len(crowded.galaxy(0, elliptical + 4 * i, 20.0).profiles) - 1 for i in range(200)]
    # 0.7 and 2 small ones, and a large one in five stamps
    assert np.mean(counts) == pytest.approx(2.9, abs=4 * np.sqrt(2.9 / 200))


def test_only_observed_galaxies_can_be_paired() -> None:
    with pytest.raises(ValidationError, match="for the observed domain"):
        MergersMock(paired=True)


def published(folder: Path, n: int = 40, last: bool = False) -> dict[str, Any]:
    """Files of the merger studies: float64, labels as floats; the noisy images are those of the same galaxies."""
    generator = np.random.default_rng(0)
    labels = (np.arange(n) % 2).astype(np.float64)
    pristine = generator.normal(labels[:, None, None, None], 1.0, (n, 3, 75, 75))
    kept = {}
    for (pair, domain), name in FILES.items():
        images = pristine + (0.5 if domain == "target" else 0.0) + (5.0 if pair == "simreal" else 0.0)
        kept[name.format("X")] = np.moveaxis(images, 1, -1) if last else images
        kept[name.format("y")] = labels
    folder.mkdir(exist_ok=True, parents=True)
    for name, array in kept.items():
        np.save(folder / name, array)
    return kept


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("place", ["", "deepmerge"])
def test_published_mergers_round_trip(tmp_path: Path, place: str, last: bool) -> None:
    kept = published(tmp_path / place, last=last)
    dataset = DeepMerge()
    source = load(dataset, tmp_path / "cache", None, tmp_path)
    assert [path.name for path in dataset.files([tmp_path])] == [
        "SimSim_SOURCE_X_Illustris2_pristine.npy",
        "SimSim_SOURCE_y_Illustris2_pristine.npy",
    ]
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 28,
        "valid": 2,
        "calibration": 2,
        "test": 8,
    }
    train, link = source.splits["train"], source.space.link
    assert link is not None
    assert source.space.shape == (3, 75, 75)
    rows = np.array([int(str(one)[-6:]) for one in train.ids])
    images = kept["SimSim_SOURCE_X_Illustris2_pristine.npy"]
    images = np.moveaxis(images, -1, 1) if last else images
    low, high = np.percentile(images[rows], [0.1, 99.9])  # of training images alone
    back = link.to_physical(torch.from_numpy(train.x[np.arange(28)])).numpy()
    assert np.allclose(back, images[rows].clip(low, high), atol=1e-5)
    assert np.array_equal(train.y, rows % 2)
    target = load(DeepMerge(domain="target"), tmp_path / "cache", source, tmp_path)
    assert target.space.link is source.space.link
    assert all(
        target.splits[name].ids.tolist() == split.ids.tolist() for name, split in source.splits.items()
    )
    real = load(DeepMerge(pair="simreal"), tmp_path / "cache", None, tmp_path)
    assert real.space.lower != source.space.lower


@pytest.mark.parametrize(
    ("what", "spoil", "message"),
    [
        ("X", lambda kept: kept[:, :2], r"shape \(40, 2, 75, 75\)"),
        ("X", lambda kept: kept[:, :, :70], r"shape \(40, 3, 70, 75\)"),
        ("X", lambda kept: np.where(np.arange(40)[:, None, None, None] < 39, kept, np.nan), "row 39 .*NaN"),
        ("y", lambda kept: kept[:30], "30 labels for 40 images"),
        (
            "y",
            lambda kept: np.where(np.arange(40) == 3, 2.0, kept),
            "label of row 3 is 2.0, not one of 0 to 1",
        ),
        ("y", lambda kept: np.where(np.arange(40) == 4, np.nan, kept), "label of row 4 is nan"),
        ("y", lambda kept: np.full((40, 2), 0.5), "row 0 is not one-hot"),
        ("y", lambda kept: np.zeros((40, 3)), r"labels have shape \(40, 3\)"),
    ],
)
def test_a_broken_file_of_mergers_is_named(
    tmp_path: Path, what: str, spoil: Callable[[Any], Any], message: str
) -> None:
    kept = published(tmp_path)
    name = FILES["simsim", "source"].format(what)
    np.save(tmp_path / name, spoil(kept[name]))
    with pytest.raises(DataError, match=message) as caught:
        fingerprint("mergers", load(DeepMerge(), tmp_path / "cache", None, tmp_path))
    assert name in str(caught.value) or "row 39" in str(caught.value)


def test_labels_may_be_a_column_or_one_hot(tmp_path: Path) -> None:
    kept = published(tmp_path)
    name = FILES["simsim", "source"].format("y")
    plain = load(DeepMerge(), tmp_path / "cache", None, tmp_path).splits["test"].y
    for labels in (kept[name][:, None], np.eye(2)[kept[name].astype(int)]):
        np.save(tmp_path / name, labels)
        assert np.array_equal(load(DeepMerge(), tmp_path / "cache", None, tmp_path).splits["test"].y, plain)


def test_a_missing_file_of_mergers_is_named_with_its_doi(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SimReal_TARGET_X_postmergers_SDSS\.npy.*10\.5281/zenodo\.4507941"):
        load(DeepMerge(pair="simreal", domain="target"), tmp_path / "cache", None, tmp_path)
    (tmp_path / "SimReal_TARGET_X_postmergers_SDSS.npy").write_bytes(b"nothing")
    (tmp_path / "SimReal_TARGET_y_postmergers_SDSS.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no readable \.npy file.*zenodo\.4507941"):
        load(DeepMerge(pair="simreal", domain="target"), tmp_path / "cache", None, tmp_path)


def surveys(
    folder: Path, n: int = 60, tested: int = 20, dtype: Any = np.uint8, **change: Any
) -> dict[str, Any]:
    """A survey in its published layout; labels run through all ten classes."""
    generator = np.random.default_rng(1)
    kept: dict[str, Any] = {
        "images": generator.integers(0, 256, (n, 100, 100, 3)).astype(dtype),
        "labels": (np.arange(n) % 10).astype(np.int64),
        "images_test": generator.integers(0, 256, (tested, 100, 100, 3)).astype(dtype),
        "labels_test": (np.arange(tested) % 10).astype(np.int64),
    }
    kept |= change
    folder.mkdir(exist_ok=True, parents=True)
    with h5py.File(folder / "decals.h5", "w") as file:
        for name, array in kept.items():
            if array is not None:
                file[name] = array
    return kept


def test_a_survey_round_trips_and_its_tenth_class_is_none(tmp_path: Path) -> None:
    kept = surveys(tmp_path / "survey-pair")
    dataset = SurveyPair(survey="decals")
    data = load(dataset, tmp_path / "cache", None, tmp_path)
    assert dataset.files([tmp_path]) == [tmp_path / "survey-pair" / "decals.h5"]
    assert isinstance(data.task, Classification)
    assert len(data.task.classes) == 9
    assert data.space.shape == (3, 100, 100)
    assert (data.splits["calibration"].y >= 0).all()
    assert sum(len(data.splits[name]) for name in ("train", "valid", "calibration")) == 60
    unknown = sum(int((data.splits[name].y == -1).sum()) for name in ("train", "valid"))
    assert unknown == 6
    for name in ("train", "test"):
        split, ending = data.splits[name], "_test" if name == "test" else ""
        rows = np.array([int(str(one)[-6:]) for one in split.ids])
        expected = np.moveaxis(kept[f"images{ending}"][rows], -1, 1) / np.float32(255)
        assert np.array_equal(split.x[np.arange(len(rows))], expected)
        assert np.array_equal(split.x[1:3], expected[1:3])
        assert np.array_equal(split.y, np.where(rows % 10 == 9, -1, rows % 10))
    fingerprint("survey-pair", data)


def test_channels_first_one_hot_and_floats_are_read_too(tmp_path: Path) -> None:
    kept = surveys(tmp_path)
    plain = load(SurveyPair(survey="decals"), tmp_path / "cache", None, tmp_path)
    pixels = {
        name: split.x[np.arange(len(split))] for name, split in plain.splits.items()
    }  # before the file changes
    surveys(
        tmp_path,
        images=np.moveaxis(kept["images"], -1, 1) / 255.0,
        images_test=kept["images_test"] / 255.0,
        labels=np.eye(10)[kept["labels"]],
    )
    other = load(SurveyPair(survey="decals"), tmp_path / "cache", None, tmp_path)
    for name, split in plain.splits.items():
        assert np.array_equal(split.y, other.splits[name].y)
        assert np.allclose(pixels[name], other.splits[name].x[np.arange(len(split))], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "there is no array 'labels'; there are images, images_test, labels_test"),
        ({"labels": np.full(60, 10)}, "label of row 0 is 10, not one of 0 to 9"),
        ({"labels_test": np.zeros(19)}, "19 labels for 20 images"),
        ({"images_test": np.zeros((20, 90, 100, 3))}, r"shape \(20, 90, 100, 3\)"),
        (
            {"images": np.full((60, 100, 100, 3), 200.0, dtype=np.float32)},
            "values from 200 to 200, not from 0 to 1",
        ),
        ({"images": np.full((60, 100, 100, 3), np.nan, dtype=np.float32)}, "remove what is NaN"),
    ],
)
def test_a_broken_survey_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    surveys(tmp_path, **change)
    with pytest.raises(DataError, match=message) as caught:
        fingerprint("pair", load(SurveyPair(survey="decals"), tmp_path / "cache", None, tmp_path))
    assert "decals.h5" in str(caught.value)


def test_white_is_what_the_user_says(tmp_path: Path) -> None:
    surveys(tmp_path, dtype=np.float32)
    data = load(SurveyPair(survey="decals", white=255.0), tmp_path / "cache", None, tmp_path)
    assert 0.99 < data.splits["test"].x[:].max() <= 1.0


def test_a_missing_survey_is_named_with_its_doi(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sdss_2\.h5.*10\.5281/zenodo\.7473597"):
        load(SurveyPair(survey="sdss_2"), tmp_path / "cache", None, tmp_path)
    (tmp_path / "sdss_2.h5").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no readable HDF5 file"):
        load(SurveyPair(survey="sdss_2"), tmp_path / "cache", None, tmp_path)


def test_the_network_has_the_published_sizes() -> None:
    space = InputSpace((3, 75, 75), (0.0,) * 3, (1.0,) * 3, ("a", "b", "c"))
    module = DeepMergeCNN().build(space, Classification(("no", "yes"))).eval()
    layers = [3 * 8 * 25 + 8, 8 * 16 * 9 + 16, 16 * 32 * 9 + 32, 2592 * 64 + 64, 64 * 32 + 32, 32 * 2 + 2]
    norms = 2 * (8 + 16 + 32)
    assert sum(parameter.numel() for parameter in module.parameters()) == sum(layers) + norms == 174_626
    features, logits = module(torch.rand(4, 3, 75, 75))
    assert features.shape == (4, 2592)
    assert logits.shape == (4, 2)
    assert features.min() >= 0
    wide = InputSpace((5, 64, 48), (0.0,) * 5, (1.0,) * 5, tuple("ugriz"))
    features, logits = (
        DeepMergeCNN().build(wide, Classification(tuple("abcdefg"))).eval()(torch.rand(2, 5, 64, 48))
    )
    assert features.shape == (2, 32 * 8 * 6)
    assert logits.shape == (2, 7)
    reason = DeepMergeCNN().supports(
        InputSpace((1, 7, 9), (0.0,), (1.0,), ("a",)), Classification(("a", "b"))
    )
    assert reason is not None
    assert "8x8" in reason


def test_balanced_accuracy_is_that_of_scikit_learn_and_counts_no_strangers() -> None:
    generator = np.random.default_rng(2)
    truth, answer = generator.choice(4, 200, p=[0.7, 0.2, 0.1, 0.0]), generator.integers(0, 4, 200)
    clean = np.zeros(200, dtype=np.int64)
    with_unknown = (
        np.concatenate([truth, np.full(20, -1)]),
        np.concatenate([answer, np.zeros(20, dtype=np.int64)]),
    )
    expected = np.mean([(answer[truth == k] == k).mean() for k in range(3)])
    assert BalancedAccuracy().measure(truth, clean, answer) == pytest.approx(expected)
    known = answer % 3
    theirs = balanced_accuracy_score(truth, known)
    assert BalancedAccuracy().measure(truth, clean, known) == pytest.approx(theirs)
    longer = np.concatenate([clean, clean[:20]])
    assert BalancedAccuracy().measure(with_unknown[0], longer, with_unknown[1]) == pytest.approx(expected)
    always = np.zeros(200, dtype=np.int64)
    assert BalancedAccuracy().measure(truth, clean, always) == pytest.approx(1 / 3)
    assert np.isnan(BalancedAccuracy().measure(np.full(3, -1), clean[:3], clean[:3]))
