"""Splits that keep the images of one galaxy together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.api import split_indices
from advbench_astro.shares import with_train


def split_by_origin(
    origin: NDArray[Any], held_out: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Rows of ``train`` and of the splits in ``held_out``; rows with the same origin (n,) are in the same split."""
    galaxies, member = np.unique(origin, return_inverse=True)
    chosen = split_indices(galaxies, with_train(held_out), seed=seed)
    place = np.empty(len(galaxies), dtype=np.int64)
    for number, part in enumerate(chosen.values()):
        place[part] = number
    return {name: np.flatnonzero(place[member] == number) for number, name in enumerate(chosen)}
