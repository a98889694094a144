"""Splits and sample order that depend on nothing but the sample names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.values import Data


def sample_order(ids: NDArray[Any], seed: int = 0) -> NDArray[np.int64]:
    """A permutation of the samples by a hash of their names: (n,) int64.

    Taking the first k of it is a random subset that a larger k contains.
    """
    keys = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in ids]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def split_indices(
    ids: NDArray[Any],
    fractions: Mapping[str, float],
    *,
    seed: int = 0,
    labels: NDArray[Any] | None = None,
    source: Data | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Disjoint index arrays, one for each name in ``fractions`` (which sum to at most 1).

    With ``labels`` (n,) every class is split by the same fractions. With a ``source``, the data set that networks are
    trained on, labels decide nothing: a network may be adapted to these samples without knowing what they are. Those
    that have a name of the source are in the split in which it has them, so that no object is trained on in one data
    set and tested on in the other. Indices are in hash order.
    """
    if sum(fractions.values()) > 1 + 1e-9 or min(fractions.values()) < 0:
        raise ValueError(f"split fractions must be >= 0 and sum to at most 1, got {dict(fractions)}")
    order = sample_order(ids, seed)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in fractions}
    free = np.ones(len(ids), dtype=bool)
    if source is not None:
        for name in fractions:
            shared = np.isin(ids, source.splits[name].ids) if name in source.splits else ~free
            parts[name].append(np.flatnonzero(shared & free))
            free &= ~shared
        labels = None
    rest = order[free[order]]
    groups = [rest] if labels is None else [rest[labels[rest] == value] for value in np.unique(labels)]
    for group in groups:
        edges = np.rint(np.cumsum([0.0, *fractions.values()]) * len(group)).astype(int)
        for name, start, stop in zip(fractions, edges[:-1], edges[1:]):
            parts[name].append(group[start:stop])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    joined = {name: np.concatenate(chunks) for name, chunks in parts.items()}
    return {name: index[np.argsort(rank[index])] for name, index in joined.items()}
