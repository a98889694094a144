"""Samples of a split in batches, and the statistics of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from advbench.values import Split

ROWS = 256  # samples read at a time when a whole split is walked through


def batches(count: int, size: int = ROWS) -> Iterator[NDArray[np.int64]]:
    """Index arrays of at most ``size`` rows, in order."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def read(split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Inputs of some rows, (b, c, h, w) float32, C-contiguous; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(split.x[rows], dtype=np.float32)


def channel_statistics(split: Split) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation per channel over a split, in float64; 1 where a channel is constant."""
    count, total, square = 0, 0.0, 0.0
    for rows in batches(len(split)):
        x = read(split, rows).astype(np.float64)
        axes = (0, *range(2, x.ndim))
        count += x.size // x.shape[1]
        total, square = total + x.sum(axis=axes), square + np.square(x).sum(axis=axes)
    mean = np.asarray(total) / count
    std = np.sqrt(np.maximum(np.asarray(square) / count - mean**2, 0))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()
