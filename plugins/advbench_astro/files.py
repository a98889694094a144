"""Reading published images from disk: NumPy files, HDF5, axes in either order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.api import DataError

try:
    import h5py
except ImportError:
    h5py = None

COLOURS = 3


@dataclass(frozen=True)
class H5Rows:
    """A data set of an HDF5 file. The file is open only while rows are read, so that it may cross processes."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: Any

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Rows at an integer or an integer array, in that order; rows may repeat."""
        rows = np.asarray(index)
        distinct, inverse = np.unique(rows, return_inverse=True)  # all that HDF5 can select
        with h5py.File(self.path, "r") as file:
            read: NDArray[Any] = file[self.key][distinct]
        return read[inverse].reshape(*rows.shape, *self.shape[1:])


@dataclass(frozen=True)
class ChannelsFirst:
    """Images (n, h, w, c) read as (n, c, h, w)."""

    images: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all of them, (n, c, h, w)."""
        count, height, width, channels = self.images.shape
        return (count, channels, height, width)

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Images at any index of rows."""
        return np.moveaxis(np.asarray(self.images[index]), -1, -3)


def open_npy(path: Path, advice: str) -> Any:
    """A memory-mapped ``.npy`` file.

    Raises
    ------
    DataError
        If it is none, or holds no plain numbers.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no readable .npy file ({error}); {advice}") from None


def open_h5(path: Path, key: str, advice: str) -> H5Rows:
    """A data set of an HDF5 file, not read yet.

    Raises
    ------
    DataError
        If h5py is missing, the file cannot be read or has no such key.
    """
    if h5py is None:
        raise DataError(f'{path}: reading HDF5 needs h5py; install it with pip install "advbench[hdf5]"')
    try:
        with h5py.File(path, "r") as file:
            if key not in file or not hasattr(file[key], "shape"):
                raise DataError(f"{path}: there is no array {key!r}; there are {', '.join(file) or 'none'}")
            return H5Rows(path, key, tuple(file[key].shape), file[key].dtype)
    except OSError as error:
        raise DataError(f"{path} is no readable HDF5 file ({error}); {advice}") from None


def colour_images(where: str, images: Any, side: int) -> Any:
    """Images of three channels, channels first.

    The channel axis is the one of length 3 among the second and the last; the other two have ``side`` pixels, so that
    only one of both can be it.

    Raises
    ------
    DataError
        If the shape is neither (n, 3, side, side) nor (n, side, side, 3).
    """
    shape = tuple(images.shape)
    if shape[1:] == (COLOURS, side, side):
        return images
    if shape[1:] == (side, side, COLOURS):
        return ChannelsFirst(images)
    raise DataError(
        f"{where}: images have shape {shape}, not (n, {COLOURS}, {side}, {side}) or (n, {side}, {side}, {COLOURS})"
    )


def class_numbers(where: str, labels: Any, classes: int, count: int) -> NDArray[np.int64]:
    """Labels (count,) in [0, classes) from integers, whole numbers as floats, a column of them, or one-hot rows.

    Raises
    ------
    DataError
        Naming the row whose label is none, or telling the numbers that differ.
    """
    found = np.asarray(labels)
    if found.ndim == 2 and found.shape[1] == classes and classes > 1:
        bad = (np.sort(found, axis=1) != [0] * (classes - 1) + [1]).any(axis=1)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(f"{where}: row {row} is not one-hot: {found[row].tolist()}")
        found = found.argmax(axis=1)
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.ndim != 1:
        raise DataError(f"{where}: labels have shape {found.shape}, not (n,), (n, 1) or (n, {classes})")
    if len(found) != count:
        raise DataError(f"{where}: {len(found)} labels for {count} images")
    bad = ~np.isin(found, np.arange(classes))  # NaN is in nothing
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{where}: the label of row {row} is {found[row]}, not one of 0 to {classes - 1}")
    return found.astype(np.int64)
