"""Statistics of samples drawn with replacement, by how often each is drawn: sorted once, and not in every draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.statistics import sigma_mad

Drawn = Callable[["NDArray[Any]"], "NDArray[Any]"]
"""From the positions (draws, m) of the samples that were drawn to (draws,)."""


def counted(rows: NDArray[Any], n: int) -> NDArray[np.int32]:
    """How often each of n samples is drawn (draws, n), from the positions (draws, m)."""
    draws = len(rows)
    places = (rows + n * np.arange(draws)[:, None]).ravel()
    return np.bincount(places, minlength=draws * n).reshape(draws, n).astype(np.int32)


def drawn_median(values: NDArray[Any]) -> Drawn:
    """Medians of values (n,) without those that are NaN; NaN where nothing is left."""
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]
    ordered = values[order]

    def of(rows: NDArray[Any]) -> NDArray[Any]:
        if not len(ordered):
            return np.full(len(rows), np.nan)
        up_to = np.cumsum(counted(rows, len(values))[:, order], axis=1)
        count = up_to[:, -1:]
        low, high = ((up_to <= place).sum(1) for place in ((count - 1) // 2, count // 2))
        both = ordered[np.minimum([low, high], len(ordered) - 1)]
        return np.where(count[:, 0] > 0, both.mean(0), np.nan)

    return of


def drawn_spread(errors: NDArray[Any]) -> Drawn:
    """sigma_mad of errors (n,)."""
    return lambda rows: sigma_mad(errors[rows])


def drawn_auroc(scores: NDArray[Any]) -> Drawn:
    """Probabilities that the second of scores (n, 2) is larger than the first of another sample, ties counted half.

    Scores that are NaN have no part in it; NaN where nothing is left on a side.
    """
    joined = scores.T.ravel()
    order = np.argsort(joined)[: int((~np.isnan(joined)).sum())]
    sample, positive = order % len(scores), order >= len(scores)
    ordered = joined[order]
    first = np.searchsorted(ordered, ordered, side="left")
    last = np.searchsorted(ordered, ordered, side="right")

    def of(rows: NDArray[Any]) -> NDArray[Any]:
        weights = counted(rows, len(scores))[:, sample]
        below = np.zeros((len(rows), len(order) + 1))
        np.cumsum(np.where(positive, 0, weights), axis=1, out=below[:, 1:])
        won = (np.where(positive, weights, 0) * (below[:, first] + below[:, last]) / 2).sum(1)
        pairs = below[:, -1] * np.where(positive, weights, 0).sum(1)
        return np.asarray(np.divide(won, pairs, out=np.full(len(rows), np.nan), where=pairs > 0))

    return of
