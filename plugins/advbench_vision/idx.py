"""The IDX files of the MNIST family, http://yann.lecun.com/exdb/mnist/ (a big-endian header, then bytes)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advbench.api import Classification, Data, DataContext, DataError
from advbench_vision.pixels import carve, unit_space

TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Unsigned bytes of an IDX file, gzipped if the name ends in ``.gz``.

    Parameters
    ----------
    path
        File to read.
    dimensions
        Number of axes that it must have: 3 for images (n, h, w), 1 for labels (n,).

    Raises
    ------
    DataError
        If the file cannot be unpacked, is no IDX file of bytes with so many axes, or is too short or too long.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked, the file is truncated or damaged ({error})") from None
    magic = struct.pack(">HBB", 0, UNSIGNED_BYTE, dimensions)
    if content[:4] != magic:
        found = content[:4].hex() or "nothing"
        raise DataError(
            f"{path}: not an IDX file of bytes with {dimensions} axes: starts with {found}, not {magic.hex()}"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DataError(f"{path}: truncated: the header needs {start} bytes, the file has {len(content)}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    expected, found_bytes = math.prod(shape), len(content) - start
    if expected != found_bytes:
        what = "truncated" if found_bytes < expected else "too long"
        raise DataError(
            f"{path}: {what}: the header announces {expected} bytes of shape {shape}, there are {found_bytes}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def candidates(folders: Sequence[str], stem: str) -> list[str]:
    """Names under which a file may lie, relative to a data folder, the most specific first."""
    return [
        f"{folder}{stem}{suffix}" for folder in (*(f"{f}/" for f in folders), "") for suffix in (".gz", "")
    ]


def locate(folders: Sequence[str], data_dirs: Sequence[Path]) -> list[Path]:
    """The four files if they are there; those that are missing are left out."""
    for name in candidates(folders, TRAIN[0]):
        for root in (*data_dirs, Path()):
            if (root / name).is_file():
                home = (root / name).parent
                return [path for stem in (*TRAIN, *TEST) for path in _sibling(home, stem)[:1]]
    return []


def load_idx(
    context: DataContext,
    folders: Sequence[str],
    classes: tuple[str, ...],
    fractions: Mapping[str, float],
    seed: int,
) -> Data:
    """Training file split by ``fractions``, test file as the test split.

    All four files come from the folder in which the training images were found.

    Raises
    ------
    DataError
        If a file is missing or broken, or holds another number of images than of labels.
    """
    hint = f"put the four IDX files (.gz or not) into a folder {folders[0]!r} of a data folder"
    home = context.find(*candidates(folders, TRAIN[0]), hint=hint).parent
    images, y = _pair(home, TRAIN, len(classes))
    test_images, test_y = _pair(home, TEST, len(classes))
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{home}: training images are {images.shape[1:]}, test images {test_images.shape[1:]}"
        )
    splits = carve(images[:, None], y, _names("train", len(y)), fractions, seed, context.source)
    splits |= carve(
        test_images[:, None], test_y, _names("test", len(test_y)), {"test": 1.0}, seed, context.source
    )
    return Data(unit_space(1, *images.shape[1:]), Classification(classes), splits)


def _sibling(home: Path, stem: str) -> list[Path]:
    return [home / f"{stem}{suffix}" for suffix in (".gz", "") if (home / f"{stem}{suffix}").is_file()]


def _pair(home: Path, stems: tuple[str, str], classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    paths = []
    for stem in stems:
        found = _sibling(home, stem)
        if not found:
            raise DataError(f"{home}: there is neither {stem}.gz nor {stem} beside the training images")
        paths.append(found[0])
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise DataError(f"{paths[1]}: {len(labels)} labels for the {len(images)} images of {paths[0].name}")
    if len(labels) and labels.max() >= classes:
        place = int(np.argmax(labels >= classes))
        raise DataError(f"{paths[1]}: label {labels[place]} of sample {place} is outside 0..{classes - 1}")
    return images, labels.astype(np.int64)


def _names(prefix: str, count: int) -> NDArray[np.str_]:
    return np.array([f"{prefix}-{i:06d}" for i in range(count)], dtype=np.str_)
