"""The MNIST family: IDX files, their splits and what is said of broken ones."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from advbench.api import Data, DataContext, DataError
from advbench_vision.digits import Digits
from advbench_vision.fashion_mnist import FashionMnist
from advbench_vision.idx import read_idx
from advbench_vision.mnist import Mnist

Contexts = Callable[..., DataContext]


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_mnist(folder: Path, count: int = 100, *, packed: bool = True) -> NDArray[np.uint8]:
    """A small data set whose image i is filled with i (train) or 200 (test); labels go round."""
    folder.mkdir(parents=True)
    images = np.repeat(np.arange(count, dtype=np.uint8), 784).reshape(count, 28, 28)
    parts = {
        "train-images-idx3-ubyte": images,
        "train-labels-idx1-ubyte": np.arange(count, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": np.full((20, 28, 28), 200, dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
    }
    for name, array in parts.items():
        content = idx_bytes(array)
        path = folder / f"{name}.gz" if packed else folder / name
        path.write_bytes(gzip.compress(content) if packed else content)
    return images


def rows(data: Data, split: str) -> NDArray[np.float32]:
    x: NDArray[np.float32] = data.splits[split].x[np.arange(len(data.splits[split]))]
    return x


def test_read_idx_returns_what_was_written(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx_bytes(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain", 3), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed.gz", 3), array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "truncated.*6 bytes of shape.*there are 5"),
        (lambda content: content + b"\0", "too long.*6 bytes.*there are 7"),
        (lambda content: content[:9], "truncated.*header needs 16 bytes"),
        (lambda content: b"", "starts with nothing, not 00000803"),
        (lambda content: b"\x00\x00\x08\x01" + content[4:], "starts with 00000801, not 00000803"),
        (lambda content: b"\x00\x00\x0d\x03" + content[4:], "starts with 00000d03"),
    ],
)
def test_broken_file_is_named(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(change(idx_bytes(np.zeros((1, 2, 3), dtype=np.uint8))))
    with pytest.raises(DataError, match=f"images: {message}|images: .*{message}"):
        read_idx(path, 3)


def test_truncated_or_damaged_gzip_is_named(tmp_path: Path) -> None:
    content = gzip.compress(idx_bytes(np.arange(200, dtype=np.uint8)))
    for name, damaged in {
        "short.gz": content[:-20],
        "not.gz": b"plain text",
        "bits.gz": content[:40] + bytes(40),
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match=f"{name}: cannot be unpacked"):
            read_idx(tmp_path / name, 1)


@pytest.mark.parametrize("packed", [True, False])
def test_splits_of_mnist(tmp_path: Path, data_context: Contexts, packed: bool) -> None:
    write_mnist(tmp_path / "mnist", packed=packed)
    data = Mnist().load(data_context(tmp_path))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 80,
        "valid": 10,
        "calibration": 10,
        "test": 20,
    }
    for name in ("train", "valid", "calibration"):
        # Image i is filled with i, so each row tells where it came from.
        came_from = np.array([int(sample.removeprefix("train-")) for sample in data.splits[name].ids])
        x = rows(data, name)
        assert x.dtype == np.float32
        np.testing.assert_array_equal(
            x, np.broadcast_to((came_from / 255).astype(np.float32)[:, None, None, None], x.shape)
        )
        np.testing.assert_array_equal(data.splits[name].y, came_from % 10)
        np.testing.assert_array_equal(np.bincount(data.splits[name].y), len(came_from) // 10)  # stratified
    assert data.space.shape == (1, 28, 28)
    assert (data.space.lower, data.space.upper) == ((0.0,), (1.0,))
    assert sorted(data.splits["test"].ids)[:2] == ["test-000000", "test-000001"]
    assert rows(data, "test").max() == np.float32(200 / 255)


def test_split_seed_and_fractions(tmp_path: Path, data_context: Contexts) -> None:
    write_mnist(tmp_path / "mnist")
    context = data_context(tmp_path)
    first, other = (Mnist(split_seed=seed).load(context) for seed in (0, 1))
    assert set(first.splits["valid"].ids) != set(other.splits["valid"].ids)
    assert "calibration" not in Mnist(calibration=0).load(context).splits
    with pytest.raises(ValidationError, match="sum to more than 1"):
        Mnist(valid=0.6, calibration=0.6)


def test_missing_and_mismatched_files(tmp_path: Path, data_context: Contexts) -> None:
    home = tmp_path / "mnist"
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        Mnist().load(data_context(tmp_path))
    write_mnist(home)
    labels = home / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(99, dtype=np.uint8))))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.gz: 99 labels for the 100 images"):
        Mnist().load(data_context(tmp_path))
    labels.write_bytes(gzip.compress(idx_bytes(np.full(100, 11, dtype=np.uint8))))
    with pytest.raises(DataError, match=r"label 11 of sample 0 is outside 0..9"):
        Mnist().load(data_context(tmp_path))
    labels.unlink()
    with pytest.raises(DataError, match=r"neither train-labels-idx1-ubyte.gz nor train-labels-idx1-ubyte"):
        Mnist().load(data_context(tmp_path))


def test_files_are_those_that_are_loaded(tmp_path: Path) -> None:
    assert list(Mnist().files([tmp_path])) == []
    write_mnist(tmp_path / "second" / "mnist")
    files = Mnist().files([tmp_path / "first", tmp_path / "second"])
    assert [path.name[:12] for path in files] == [
        "train-images",
        "train-labels",
        "t10k-images-",
        "t10k-labels-",
    ]
    assert {path.parent for path in files} == {tmp_path / "second" / "mnist"}


def test_families_do_not_take_each_other(tmp_path: Path, data_context: Contexts) -> None:
    write_mnist(tmp_path / "mnist")
    with pytest.raises(DataError, match="fashion_mnist"):
        FashionMnist().load(data_context(tmp_path))


def test_digits_are_exact_sixteenths(data_context: Contexts) -> None:
    data = Digits().load(data_context())
    x = np.concatenate([split.x for split in data.splits.values()])
    assert x.shape == (1797, 1, 8, 8)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(np.unique(x), np.arange(17, dtype=np.float32) / 16)
    assert len(set(np.concatenate([split.ids for split in data.splits.values()]))) == 1797
    assert abs(len(data.splits["test"]) - 0.2 * 1797) < 10


def test_real_files(shared_data: Path, data_context: Contexts) -> None:
    context = data_context(shared_data)
    digits, clothes = Mnist().load(context), FashionMnist().load(context)
    for data in (digits, clothes):
        assert sum(len(data.splits[name]) for name in ("train", "valid", "calibration")) == 10_000
        assert len(data.splits["test"]) == 2_000
    # The mean of the full MNIST training set is 0.1307, of Fashion-MNIST 0.2860; 10,000 images are close.
    assert rows(digits, "train").mean() == pytest.approx(0.1307, abs=0.003)
    assert rows(clothes, "train").mean() == pytest.approx(0.2860, abs=0.005)
    assert clothes.task.classes[9] == "Ankle boot"
    first = int(np.flatnonzero(digits.splits["test"].ids == "test-000000")[0])
    assert digits.splits["test"].y[first] == 7  # the well-known first test image
