"""8-bit pixels that become numbers in [0, 1] when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from advbench.api import Data, InputSpace, Split, split_indices

COLOURS = {1: ("grey",), 3: ("red", "green", "blue")}


@dataclass(frozen=True)
class Pixels:
    """Some rows of an array (n, c, h, w) of uint8; indexing gives float32 in [0, 1] (value / 255)."""

    array: NDArray[np.uint8]
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, c, h, w)``."""
        return (len(self.rows), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.array[self.rows[index]].astype(np.float32) / np.float32(255)


def unit_space(channels: int, height: int, width: int) -> InputSpace:
    """Pixels in [0, 1], grey or red, green, blue."""
    low, high = (0.0,) * channels, (1.0,) * channels
    return InputSpace((channels, height, width), low, high, COLOURS[channels])


def remainder(**fractions: float) -> dict[str, float]:
    """Fractions of all splits: those given that are not 0, and ``train``, which takes what is left.

    Raises
    ------
    ValueError
        If they sum to more than 1.
    """
    train = 1.0 - sum(fractions.values())
    if train < -1e-9:
        given = ", ".join(f"{name} {value:g}" for name, value in fractions.items())
        raise ValueError(f"the fractions of the splits sum to more than 1 ({given})")
    return {name: value for name, value in {"train": train, **fractions}.items() if value > 1e-9}


def carve(
    array: NDArray[np.uint8],
    y: NDArray[np.int64],
    ids: NDArray[np.str_],
    fractions: Mapping[str, float],
    seed: int,
    source: Data | None,
) -> dict[str, Split]:
    """Splits of images (n, c, h, w), of the same fractions of every class, or as the ``source`` has them."""
    parts = split_indices(ids, fractions, seed=seed, labels=y, source=source)
    return {name: Split(Pixels(array, rows), y[rows], ids[rows]) for name, rows in parts.items()}
