"""Your own arrays: formats, splits, labels, bounds, and what is said when they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from advbench.api import Classification, Data, DataContext, DataError, Regression, Split
from advbench_own import storage
from advbench_own.arrays import Arrays
from advbench_own.meaning import Labels, classes_of
from advbench_own.rows import Images, Rows
from advbench_own.storage import Reference, open_array

Contexts = Callable[..., DataContext]
N = 60


@pytest.fixture
def images() -> NDArray[np.float32]:
    """Image i is filled with i / N in its first channel, and 1 - i / N in the second."""
    level = np.arange(N, dtype=np.float32) / N
    return np.stack([level, 1 - level], axis=1)[:, :, None, None] * np.ones((N, 2, 4, 5), dtype=np.float32)


@pytest.fixture
def labels() -> NDArray[np.int64]:
    return np.arange(N) % 3


def write(folder: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """One file with these arrays, in the format that the name says; npy takes one for each, ``name-key.npy``."""
    if name.endswith(".npz"):
        np.savez(folder / name, **arrays)
        return
    with h5py.File(folder / name, "w") as file:
        for key, array in arrays.items():
            text = array.dtype.kind == "U"
            file.create_dataset(
                key, data=array.astype(object) if text else array, dtype=h5py.string_dtype() if text else None
            )


def everything(split: Split) -> NDArray[Any]:
    x: NDArray[Any] = split.x[np.arange(len(split))]
    return x


def check_rows(data: Data, images: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Every split holds the images and labels that its ids (row numbers) name."""
    for split in data.splits.values():
        came_from = split.ids.astype(int)
        np.testing.assert_array_equal(everything(split), images[came_from])
        np.testing.assert_array_equal(split.y, labels[came_from])
        assert split.y.dtype == np.int64


@pytest.mark.parametrize("name", ["a.npz", "a.hdf5", "a.h5"])
def test_the_least_that_must_be_given(
    tmp_path: Path, data_context: Contexts, images: NDArray[np.float32], labels: NDArray[np.int64], name: str
) -> None:
    write(tmp_path, name, {"images": images, "classes": labels})
    data = Arrays(inputs=f"{name}:images", labels=f"{name}:classes", bounds=(0, 1)).load(
        data_context(tmp_path)
    )
    assert {key: len(split) for key, split in data.splits.items()} == {
        "train": 36,
        "valid": 6,
        "calibration": 6,
        "test": 12,
    }
    check_rows(data, images, labels)
    for split in data.splits.values():
        np.testing.assert_array_equal(np.bincount(split.y), len(split) // 3)  # stratified
    assert data.task == Classification(("0", "1", "2"))
    assert data.space.shape == (2, 4, 5)
    assert (data.space.lower, data.space.upper) == ((0.0, 0.0), (1.0, 1.0))
    assert data.notes == ()


def test_npy_is_memory_mapped(
    tmp_path: Path, data_context: Contexts, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    np.save(tmp_path / "x.npy", images.astype(np.float64))
    np.save(tmp_path / "y.npy", labels)
    data = Arrays(inputs=str(tmp_path / "x.npy"), labels="y.npy", bounds=(0, 1)).load(data_context(tmp_path))
    check_rows(data, images.astype(np.float64), labels)
    view = data.splits["test"].x
    assert isinstance(view, Rows)
    assert isinstance(view.array, Images)
    assert isinstance(view.array.array, np.memmap)


def test_hdf5_rows_in_any_order(tmp_path: Path, images: NDArray[np.float32]) -> None:
    write(tmp_path, "a.h5", {"group/images": images})
    array = open_array(tmp_path / "a.h5", "group/images")
    index = np.array([50, 3, 3, 0, 50, 59])
    np.testing.assert_array_equal(array[index], images[index])
    assert open_array(tmp_path / "a.h5", "").shape == images.shape  # the only array of a file needs no name


def test_channels_last_grey_and_flat(
    tmp_path: Path, data_context: Contexts, labels: NDArray[np.int64]
) -> None:
    x = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", colour=x, grey=x[..., 0], flat=x[:, 0, 0], y=labels)
    settings = {"labels": "a.npz:y", "bounds": (0, 255)}
    context = data_context(tmp_path)
    colour = Arrays(inputs="a.npz:colour", channels_last=True, channels=("u", "g", "r"), **settings).load(
        context
    )
    assert colour.space.shape == (3, 6, 5)
    assert colour.space.channels == ("u", "g", "r")
    test = colour.splits["test"]
    np.testing.assert_array_equal(everything(test), x[test.ids.astype(int)].transpose(0, 3, 1, 2))
    grey = Arrays(inputs="a.npz:grey", **settings).load(context)
    assert grey.space.shape == (1, 6, 5)
    np.testing.assert_array_equal(
        everything(grey.splits["test"])[:, 0], x[grey.splits["test"].ids.astype(int)][..., 0]
    )
    flat = Arrays(inputs="a.npz:flat", **settings).load(context)
    assert flat.space.shape == (3,)
    doubtful = Arrays(inputs="a.npz:colour", **settings).load(context)
    assert doubtful.space.shape == (6, 5, 3)
    assert "channels_last" in doubtful.notes[0]


def test_labels_as_text_one_hot_and_floats(
    tmp_path: Path, data_context: Contexts, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    names = np.array(["spiral", "elliptical", "merger"])
    kinds = {
        "text": names[labels],
        "one_hot": np.eye(3)[labels],
        "floats": labels.astype(np.float32),
        "column": labels[:, None],
    }
    for name in ("a.npz", "a.hdf5"):
        write(tmp_path, name, {"x": images, **kinds})
        for kind in kinds:
            given = Arrays(inputs=f"{name}:x", labels=f"{name}:{kind}", bounds=(0, 1)).load(
                data_context(tmp_path)
            )
            if kind == "text":
                assert given.task == Classification(("elliptical", "merger", "spiral"))  # sorted
                check_rows(given, images, np.array([2, 0, 1])[labels])
            else:
                check_rows(given, images, labels)
        ordered = Arrays(inputs=f"{name}:x", labels=f"{name}:text", bounds=(0, 1), classes=tuple(names))
        check_rows(ordered.load(data_context(tmp_path)), images, labels)
    np.savez(tmp_path / "bytes.npz", x=images, y=names[labels].astype("S"))
    as_bytes = Arrays(inputs="bytes.npz:x", labels="bytes.npz:y", bounds=(0, 1)).load(data_context(tmp_path))
    assert as_bytes.task == Classification(("elliptical", "merger", "spiral"))


@pytest.mark.parametrize(
    ("wrong", "classes", "message"),
    [
        (np.where(np.arange(N) == 7, -1, 0), (), "label -1 of row 7 is not a class number"),
        (np.where(np.arange(N) == 7, 0.5, 0), (), "label 0.5 of row 7 is not a class number"),
        (np.where(np.arange(N) == 7, np.nan, 0), (), "label nan of row 7 is not a class number"),
        (np.where(np.arange(N) == 7, 3, 0), ("a", "b", "c"), r"label 3 of row 7 is outside 0..2"),
        (np.where(np.arange(N) == 7, "x", "a"), ("a", "b"), "label x of row 7 is none of the classes a, b"),
        (
            np.where(np.arange(N)[:, None] == 7, 1, np.eye(2, dtype=int)[0]),
            (),
            r"label \[1 1\] of row 7 is not one-hot",
        ),
        (np.eye(3)[np.arange(N) % 3], ("a", "b"), "one-hot rows of 3 entries for 2 classes"),
        (np.zeros(N, dtype=int), (), "there is one class only, 0"),
        (np.zeros((N, 2, 2)), (), r"not float64 of shape \(60, 2, 2\)"),
        (np.zeros(N, dtype=complex), (), "not complex128"),
    ],
)
def test_wrong_labels_are_named(
    tmp_path: Path,
    data_context: Contexts,
    images: NDArray[np.float32],
    wrong: NDArray[Any],
    classes: tuple[str, ...],
    message: str,
) -> None:
    np.savez(tmp_path / "a.npz", x=images, y=wrong)
    with pytest.raises(DataError, match=message) as caught:
        Arrays(inputs="a.npz:x", labels="a.npz:y", bounds=(0, 1), classes=classes).load(
            data_context(tmp_path)
        )
    assert "a.npz:y" in str(caught.value)


def test_regression_with_extras_and_ids(
    tmp_path: Path, data_context: Contexts, images: NDArray[np.float32]
) -> None:
    z, reddening = np.linspace(0, 1, N), np.linspace(0, 0.3, N)
    names = np.array([f"galaxy-{i}" for i in range(N)])
    np.savez(tmp_path / "a.npz", x=images, z=z, both=np.stack([z, 2 * z], axis=1), ebv=reddening, name=names)
    dataset = Arrays(
        inputs="a.npz:x",
        targets="a.npz:z",
        bounds=(0, 1),
        extras={"ebv": "a.npz:ebv"},
        ids="a.npz:name",
        tolerance=0.15,
        relative=True,
        target_names=("z",),
    )
    data = dataset.load(data_context(tmp_path))
    assert data.task == Regression(("z",), 0.15, relative=True)
    for split in data.splits.values():
        rows = np.array([int(sample.removeprefix("galaxy-")) for sample in split.ids])
        np.testing.assert_array_equal(split.y[:, 0], z[rows])
        np.testing.assert_array_equal(split.extras["ebv"], reddening[rows])
    two = dataset.model_copy(update={"targets": "a.npz:both", "target_names": ()}).load(
        data_context(tmp_path)
    )
    assert two.task.outputs == 2
    with pytest.raises(DataError, match=r"1 target names for \[2\] targets"):
        dataset.model_copy(update={"targets": "a.npz:both"}).load(data_context(tmp_path))


def test_splits_of_their_own(
    tmp_path: Path, data_context: Contexts, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    names = np.array(["a", "b", "c"])[labels]
    names[names == "c"] = "b"
    parts = {"train": slice(0, 40), "test": slice(40, 60)}
    for name, part in parts.items():
        np.savez(tmp_path / f"{name}.npz", x=images[part], y=names[part])
    np.savez(tmp_path / "test.npz", x=images[parts["test"]], y=np.full(20, "c"))
    splits = {name: {"inputs": f"{name}.npz:x", "labels": f"{name}.npz:y"} for name in parts}
    data = Arrays(bounds=(0, 1), splits=splits).load(data_context(tmp_path))
    assert data.task == Classification(("a", "b", "c"))  # from all splits
    np.testing.assert_array_equal(everything(data.splits["train"]), images[:40])
    assert set(data.splits["test"].y) == {2}
    assert (data.splits["train"].ids[5], data.splits["test"].ids[5]) == ("train-000005", "test-000005")
    np.savez(tmp_path / "test.npz", x=images[40:, :1], y=names[40:])
    with pytest.raises(
        DataError, match=r"test.npz:y: one sample is \(1, 4, 5\), but \(2, 4, 5\) in train.npz:y"
    ):
        Arrays(bounds=(0, 1), splits=splits).load(data_context(tmp_path))
    np.savez(tmp_path / "test.npz", x=images[40:], y=np.zeros(20, dtype=int))
    with pytest.raises(DataError, match=r"text in some files and numbers in others: train.npz:y, test.npz:y"):
        Arrays(bounds=(0, 1), splits=splits).load(data_context(tmp_path))


def test_index_files(
    tmp_path: Path, data_context: Contexts, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    index = {"train": np.arange(30), "valid": np.array([40, 31]), "test": np.array([59, 45, 50])}

    def load() -> Data:
        for name, rows in index.items():
            np.save(tmp_path / f"{name}.npy", rows)
        files = {name: f"{name}.npy" for name in index}
        return Arrays(inputs="a.npz:x", labels="a.npz:y", bounds=(0, 1), indices=files).load(
            data_context(tmp_path)
        )

    data = load()
    check_rows(data, images, labels)
    for name, rows in index.items():
        np.testing.assert_array_equal(data.splits[name].ids.astype(int), rows)
    for wrong, message in {
        (59, 29): "test.npy: row 29 is also in train.npy; splits must be disjoint",
        (59, 59): "test.npy: a row is listed twice",
        (59, 60): "test.npy: row numbers run from 59 to 60, there are 60 samples",
        (-1, 59): "test.npy: row numbers run from -1 to 59",
        (59.0, 45.0): r"test.npy: row numbers must be integers \(n,\), not float64",
    }.items():
        index["test"] = np.array(wrong)
        with pytest.raises(DataError, match=message):
            load()
    index["test"] = np.array([], dtype=int)
    with pytest.raises(DataError, match="no sample is left for the split 'test'"):
        load()


def test_bounds(
    tmp_path: Path, data_context: Contexts, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    stretched = images * np.array([50, 2], dtype=np.float32).reshape(1, 2, 1, 1) - 4
    np.savez(
        tmp_path / "a.npz",
        x=stretched,
        y=labels,
        constant=np.zeros_like(images),
        nan=images + np.float32("nan"),
    )

    def load(bounds: Any, inputs: str = "x") -> Data:
        return Arrays(inputs=f"a.npz:{inputs}", labels="a.npz:y", bounds=bounds).load(data_context(tmp_path))

    per_channel = load([[-4, -4], [50, 0]]).space
    assert (per_channel.lower, per_channel.upper) == ((-4.0, -4.0), (50.0, 0.0))
    measured = load("data")
    np.testing.assert_array_equal(measured.space.lower, stretched.min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(measured.space.upper, stretched.max(axis=(0, 2, 3)))
    assert "range of the data" in measured.notes[0]
    for bounds, inputs, message in (
        ([[0, 0, 0], 1], "x", r"3 bounds for 2 channels; one sample is \(2, 4, 5\)"),
        ([1, 0], "x", r"channel '0' has the bounds \[1, 0\]"),
        ("data", "constant", r"channel '0' has the bounds \[0, 0\]"),
        ("data", "nan", r"channel '0' has the bounds \[nan, nan\]"),
    ):
        with pytest.raises(DataError, match=message):
            load(bounds, inputs)


def test_files_that_do_not_fit(
    tmp_path: Path, data_context: Contexts, images: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    np.savez(
        tmp_path / "a.npz", x=images, y=labels, few=labels[:50], text=np.full(N, "a"), scalar=np.array(3)
    )
    np.savez(tmp_path / "objects.npz", y=np.array([{}] * N, dtype=object))
    np.save(tmp_path / "objects.npy", np.array([{}] * N, dtype=object))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no")
    (tmp_path / "broken.npy").write_bytes(b"")
    (tmp_path / "broken.h5").write_bytes(b"no")
    for inputs, targets, message in (
        ("a.npz:x", "a.npz:few", r"a.npz:few: 50 rows for the 60 samples of a.npz:x"),
        ("a.npz:x", "a.npz:scalar", r"a.npz:scalar: a single value for the 60 samples"),
        ("a.npz:x", "a.npz:z", r"no array 'z'; there are x, y, few, text, scalar"),
        ("a.npz:x", "a.npz", r"say which array, as a.npz:key; there are x"),
        ("a.npz:text", "a.npz:y", r"a.npz:text: inputs must be real numbers, not <U1"),
        ("a.npz:y", "a.npz:y", r"a.npz:y: expected at least one sample and its values, found shape \(60,\)"),
        ("a.npz:x", "objects.npz:y", r"objects.npz:y: not a plain array"),
        ("a.npz:x", "objects.npy", r"objects.npy: not a plain array"),
        ("objects.npy", "a.npz:y", r"objects.npy: not a plain array"),
        ("broken.npz:x", "a.npz:y", r"broken.npz:x: cannot be read"),
        ("broken.npy", "a.npz:y", r"broken.npy: cannot be read"),
        ("broken.h5:x", "a.npz:y", r"broken.h5: cannot be read"),
        ("absent.npy", "a.npz:y", r"absent.npy not found"),
    ):
        with pytest.raises(DataError, match=message):
            Arrays(inputs=inputs, labels=targets, bounds=(0, 1)).load(data_context(tmp_path))


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.h5", {"x": np.zeros(3)})
    monkeypatch.setattr(storage, "h5py", None)
    with pytest.raises(DataError, match=r'needs h5py; install it with pip install "advbench\[hdf5\]"'):
        open_array(tmp_path / "a.h5", "x")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"inputs": "x.npy", "labels": "y.npy"}, "bounds"),
        ({"labels": "y.npy", "bounds": [0, 1]}, "give `inputs`, or `splits`"),
        ({"inputs": "x.npy", "bounds": [0, 1]}, "either `labels`.*or `targets`"),
        (
            {"inputs": "x.npy", "labels": "y", "targets": "z", "bounds": [0, 1]},
            "either `labels`.*or `targets`",
        ),
        ({"inputs": "x.npy", "targets": "z.npy", "bounds": [0, 1]}, "needs `tolerance`"),
        ({"inputs": "x.npy", "labels": "y.npy", "bounds": [0, 1], "tolerance": 0.1}, "the data have labels"),
        ({"inputs": "x.npy", "labels": "y.npy", "bounds": "guess"}, "data"),
        (
            {"inputs": "x.npy", "labels": "y.npy", "bounds": [0, 1], "test": 0.9, "valid": 0.2},
            "sum to more than 1",
        ),
        (
            {"inputs": "x.npy", "labels": "y.npy", "bounds": [0, 1], "indices": {"train": "i.npy"}},
            "`indices` has no `test`",
        ),
        (
            {"bounds": [0, 1], "splits": {"train": {"inputs": "x.npy", "labels": "y.npy"}}},
            "`splits` has no `test`",
        ),
        (
            {"inputs": "x.npy", "bounds": [0, 1], "splits": {"test": {"inputs": "x.npy", "labels": "y.npy"}}},
            "give `splits`, or inputs for all splits, not both",
        ),
        (
            {"bounds": [0, 1], "splits": {"test": {"inputs": "x.npy", "labels": "y.npy", "label": "z"}}},
            "label",
        ),
        (
            {
                "bounds": [0, 1],
                "splits": {
                    "test": {"inputs": "x", "labels": "y"},
                    "train": {"inputs": "x", "labels": "y", "extras": {"e": "e"}},
                },
            },
            "same `extras`",
        ),
    ],
)
def test_parameters_that_do_not_fit(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Arrays(**params)


def test_parameters_survive_json() -> None:
    """A resolved suite holds them as JSON."""
    params = {"inputs": "x.npy", "labels": "y.npy", "bounds": [[0, -4], [1, 50]], "channels": ["g", "r"]}
    dataset = Arrays(**params)
    assert Arrays(**json.loads(dataset.model_dump_json())) == dataset


def test_files_are_all_files_that_are_named(tmp_path: Path) -> None:
    for name in ("x.npz", "y.npy", "e.npy", "i.npy"):
        (tmp_path / name).touch()
    dataset = Arrays(
        inputs="x.npz:x",
        labels="y.npy",
        ids="x.npz:id",
        extras={"e": "e.npy"},
        bounds=(0, 1),
        indices={"test": "i.npy", "train": "absent.npy"},
    )
    assert [path.name for path in dataset.files([tmp_path])] == ["x.npz", "y.npy", "e.npy", "i.npy"]


def test_references() -> None:
    assert Reference.of("a/b.npy") == ("a/b.npy", "")
    assert Reference.of("a.npz:key") == ("a.npz", "key")
    assert Reference.of("/data/a.HDF5:group/key") == ("/data/a.HDF5", "group/key")
    assert Reference.of("C:\\data\\a.npz:key") == ("C:\\data\\a.npz", "key")
    assert Reference.of("a.npz") == ("a.npz", "")


def test_real_colour_images(shared_data: Path, data_context: Contexts) -> None:
    file_name = "cifar10/cifar10_test100.npz"
    with np.load(shared_data / file_name) as file:
        x, y = file["x"], file["y"]
    dataset = Arrays(
        inputs=f"{file_name}:x",
        labels=f"{file_name}:y",
        bounds=(0, 255),
        channels_last=True,
        valid=0,
        calibration=0,
        test=1,
    )
    data = dataset.load(data_context(shared_data))
    assert list(data.splits) == ["test"]
    split = data.splits["test"]
    rows = split.ids.astype(int)
    np.testing.assert_array_equal(everything(split), x[rows].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(split.y, y[rows])


def test_numbers_with_gaps_are_no_class_numbers() -> None:
    labels = [Labels(np.array([0, 1, 2, 7]), "labels.npy"), Labels(np.array([1, 1]), "valid.npy")]
    with pytest.raises(DataError, match=r"labels run to 7, but no sample has label 3, 4, 5, 6"):
        classes_of(labels, ())
    assert classes_of(labels, tuple("abcdefgh")).outputs == 8
    assert classes_of([Labels(np.array([0, 2]), "a"), Labels(np.array([1]), "b")], ()).outputs == 3
