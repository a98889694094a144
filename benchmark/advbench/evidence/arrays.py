"""Outcomes of which each array is read when it is asked for: a comparison needs three of twenty."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from advbench.evidence.figures import of_worst, worst_member

_END = struct.Struct("<4s6xH2I2x")  # of the central directory: its entries, size and place
_ENTRY = struct.Struct(
    "<4s6xH8x2I3H8xI"
)  # method, packed and plain size, lengths of name, extra and comment, place
_LOCAL = struct.Struct("<4s22x2H")  # before the packed bytes: lengths of name and extra


class Arrays(Mapping[str, "NDArray[Any]"]):
    """What stands in the bytes of an npz, as `numpy.savez_compressed` writes it.

    The standard library's reader takes longer to open one of these small files than to read all of it, and a
    comparison opens thousands.

    Raises
    ------
    ValueError
        If it is none, when it is made; if an array is damaged or holds objects, when it is read.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._read: dict[str, NDArray[Any]] = {}
        try:
            self._places = dict(_entries(data))
        except struct.error as error:
            raise ValueError(str(error)) from None

    def __getitem__(self, name: str) -> NDArray[Any]:
        """One array; it is read once and cannot be written to."""
        if name not in self._read:
            method, size, place = self._places[name]
            try:
                signature, *lengths = _LOCAL.unpack_from(self._data, place)
                start = place + _LOCAL.size + sum(lengths)
                packed = self._data[start : start + size]
                plain = zlib.decompress(packed, -zlib.MAX_WBITS) if method == 8 else packed
            except (struct.error, zlib.error) as error:
                raise ValueError(str(error)) from None
            if signature != b"PK\x03\x04" or method not in (0, 8):
                raise ValueError(f"no array {name} at its place")
            self._read[name] = _array(plain)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _entries(data: bytes) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Method, packed size and place of each array."""
    signature, count, _, place = _END.unpack(data[-_END.size :])
    if signature != b"PK\x05\x06":
        raise ValueError("not an npz, or cut off")
    for _ in range(count):
        signature, method, packed, _, name, extra, comment, local = _ENTRY.unpack_from(data, place)
        start = place + _ENTRY.size
        if signature != b"PK\x01\x02" or local == 0xFFFFFFFF:
            raise ValueError("not an npz that numpy wrote")
        yield data[start : start + name].decode().removesuffix(".npy"), (method, packed, local)
        place = start + name + extra + comment


class WorstArrays(Mapping[str, "NDArray[Any]"]):
    """Outcomes of a worst-case row, each array put together from its members when it is asked for."""

    def __init__(self, members: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self._members = members
        self._names = sorted(set.intersection(*(set(member) for member in members)))
        self._read: dict[str, NDArray[Any]] = {}

    @functools.cached_property
    def _choice(self) -> NDArray[Any]:
        return worst_member(self._members)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """One array."""
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = of_worst(self._members, self._choice, name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _array(data: bytes) -> NDArray[Any]:
    if data[:8] != b"\x93NUMPY\x01\x00":
        found: NDArray[Any] = npy.read_array(io.BytesIO(data), allow_pickle=False)
        return found
    start = 10 + int.from_bytes(data[8:10], "little")
    shape, fortran, dtype = _header(data[8:start])
    if dtype.hasobject:
        raise ValueError("an array of objects")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


@functools.lru_cache(maxsize=256)
def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    return npy.read_array_header_1_0(io.BytesIO(data))
