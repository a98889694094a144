"""Views of arrays: some of their rows, channels first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench_own.storage import ArrayLike

ROWS = 256  # rows read at a time when a whole array is walked through


@dataclass(frozen=True)
class Images:
    """Samples of an array, channels first.

    Samples (h, w) become (1, h, w); with ``channels_last`` samples (h, w, c) become (c, h, w).
    """

    array: ArrayLike
    channels_last: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, c, h, w)``, or ``(n, c)``."""
        count, *sample = self.array.shape
        if len(sample) == 2:
            return (count, 1, *sample)
        if self.channels_last and len(sample) > 2:
            return (count, sample[-1], *sample[:-1])
        return (count, *sample)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[Any]:
        found = self.array[index]
        if found.ndim == 3:
            return found[:, None]
        return np.moveaxis(found, -1, 1) if self.channels_last and found.ndim > 3 else found


@dataclass(frozen=True)
class Rows:
    """Some rows of an array."""

    array: ArrayLike
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, ...)``."""
        return (len(self.rows), *self.array.shape[1:])

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[Any]:
        return self.array[self.rows[index]]


def extremes(arrays: Iterable[ArrayLike]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Smallest and largest value of each channel, as float32 (c,); NaN where there is one."""
    low, high = [], []
    for array in arrays:
        for start in range(0, array.shape[0], ROWS):
            x = np.asarray(array[np.arange(start, min(start + ROWS, array.shape[0]))], dtype=np.float32)
            axes = (0, *range(2, x.ndim))
            low.append(x.min(axis=axes))
            high.append(x.max(axis=axes))
    return np.min(low, axis=0), np.max(high, axis=0)
