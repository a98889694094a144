"""Arrays in files, named ``file`` or ``file:key``: npy, npz, hdf5."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from advbench.api import DataError

try:
    import h5py
except ImportError:
    h5py = None

HDF5 = frozenset({".h5", ".hdf5", ".he5"})
_REFERENCE = re.compile(r"(?P<file>.+?\.(?:npz|h5|hdf5|he5))(?::(?P<key>.+))?", re.IGNORECASE)


class ArrayLike(Protocol):
    """What can be indexed by an integer array along its first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, samples first."""

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[Any]:
        """Those rows, in that order; rows may repeat."""


class Reference(NamedTuple):
    """An array in a file; ``key`` is empty for npy and for the only array of a file."""

    file: str
    key: str

    @classmethod
    def of(cls, text: str) -> Reference:
        """From ``"file.npy"``, ``"file.npz:key"`` or ``"file.hdf5:group/key"``."""
        match = _REFERENCE.fullmatch(text)
        return cls(match["file"], match["key"] or "") if match else cls(text, "")


@dataclass(frozen=True)
class H5Array:
    """A dataset of an HDF5 file. The file is open only while rows are read, so that it may cross processes."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[Any]:
        # HDF5 selects increasing rows without repetition.
        unique, inverse = np.unique(index, return_inverse=True)
        with h5py.File(self.path, "r") as file:
            rows: NDArray[Any] = file[self.key][unique]
        return rows[inverse]


def open_array(path: Path, key: str) -> ArrayLike:
    """An array of numbers, read row by row where the format allows: npy is memory-mapped, npz is read whole.

    Raises
    ------
    DataError
        If the file cannot be read, has no such key, or holds no numbers.
    """
    array: Any = _open_hdf5(path, key) if path.suffix.lower() in HDF5 else _open_numpy(path, key, mmap=True)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{_name(path, key)}: inputs must be real numbers, not {array.dtype}")
    opened: ArrayLike = array
    return opened


def read_array(path: Path, key: str) -> NDArray[Any]:
    """A whole array of numbers or text.

    Raises
    ------
    DataError
        As `open_array`; text is allowed here.
    """
    if path.suffix.lower() not in HDF5:
        array = _open_numpy(path, key, mmap=False)
        return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    found = _open_hdf5(path, key)
    with h5py.File(path, "r") as file:
        dataset = file[found.key]
        if h5py.check_string_dtype(dataset.dtype) is not None:
            return np.array(dataset.asstr()[...], dtype=np.str_)
        return np.asarray(dataset[...])


def _open_numpy(path: Path, key: str, *, mmap: bool) -> NDArray[Any]:
    try:
        if path.suffix.lower() == ".npz":
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as loaded:
                return np.asarray(loaded[_pick(path, key, loaded.files)])
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
        return array
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if "objects" in str(error) or "allow_pickle" in str(error):
            reason = "not a plain array of numbers or text; save it with numpy as such"
        else:
            reason = f"cannot be read ({error})"
        raise DataError(f"{_name(path, key)}: {reason}") from None


def _open_hdf5(path: Path, key: str) -> H5Array:
    if h5py is None:
        raise DataError(f'{path}: reading HDF5 needs h5py; install it with pip install "advbench[hdf5]"')
    try:
        with h5py.File(path, "r") as file:
            names = _datasets(file)
            key = _pick(path, key.strip("/"), names)
            return H5Array(path, key, tuple(file[key].shape), file[key].dtype)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _datasets(file: Any) -> list[str]:
    names: list[str] = []

    def note(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            names.append(name)

    file.visititems(note)
    return sorted(names)


def _pick(path: Path, key: str, names: list[str]) -> str:
    if key in names:
        return key
    if not key and len(names) == 1:
        return names[0]
    have = ", ".join(names) or "none"
    if key:
        raise DataError(f"{path}: there is no array {key!r}; there are {have}")
    raise DataError(f"{path}: say which array, as {path.name}:key; there are {have}")


def _name(path: Path, key: str) -> str:
    return f"{path}:{key}" if key else str(path)
