"""How much each sample moves a figure: what tells the standard error of a median, a spread or an AUROC.

The influence function of a figure (Hampel 1974, https://doi.org/10.2307/2285666) says it, estimated from the samples
themselves. Parts have mean 0 over the samples, up to ties, and the figure is normal with the standard error of their
mean. A bootstrap would take 2,000 times as long and, since the median of drawn samples lies on one of them, give too
wide an interval: of medians of correlated distances it covers 98 to 99 %.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.exact import least_changed
from advbench.evidence.statistics import Z95, Interval, bootstrap, sigma_mad, student_reach

FEWEST = 20
"""Samples below which nobody knows a density."""

MOST_DRAWN = 20_000_000
"""Samples that a bootstrap draws in all: enough for 2,000 draws of 10,000."""

Parts = NDArray[np.float64]
"""Of every sample, (n,), how much it moves a figure, times n."""


def of_median(values: NDArray[Any]) -> Parts | None:
    """Parts of the median of values (n,) in which NaN has none; infinite values are larger than all.

    ``sign(x - m) / (2 f(m))``. None where the median is no smooth function of the samples: if values about it repeat,
    or if it is so near the infinite ones that its interval may reach them.
    """
    known = values[~np.isnan(values)]
    ordered = np.sort(known)
    if not _smooth(ordered):
        return None
    middle = float(np.median(known))
    density = _density(ordered, middle, float(np.median(np.abs(known - middle))))
    if not density > 0:
        return None
    return np.where(
        np.isnan(values), 0.0, np.sign(values - middle) / (2 * density) * len(values) / len(known)
    )


def of_spread(errors: NDArray[Any]) -> Parts | None:
    """Parts of sigma_mad of errors (n,); None if they repeat where it counts, or lie in two heaps.

    With median m and median absolute deviation d, ``1.4826 ((sign(|e - m| - d) - (f(m + d) - f(m - d)) sign(e - m) /
    f(m)) / 2) / (f(m + d) + f(m - d))``, which is Hampel's without his symmetry.
    """
    ordered = np.sort(errors)
    if not _smooth(ordered):
        return None
    centre = float(np.median(errors))
    away = np.abs(errors - centre)
    reach = float(np.median(away))
    if not _smooth(np.sort(away)):
        return None
    right, left, middle = (
        _density(ordered, place, reach) for place in (centre + reach, centre - reach, centre)
    )
    if not middle > (right + left) / 3:  # of a normal distribution .6, of an exponential one .45
        return None
    moved = np.sign(away - reach) - (right - left) * np.sign(errors - centre) / middle
    return np.asarray(1.4826 * moved / 2 / (right + left))


def _smooth(ordered: NDArray[Any]) -> bool:
    """Whether the median of sorted values has enough of them about it, all finite and hardly two alike."""
    n = len(ordered)
    if n < FEWEST:
        return False
    far = math.ceil(Z95 * math.sqrt(n))  # twice as far as its interval goes
    about = ordered[max(0, n // 2 - far) : n // 2 + far + 1]
    if n // 2 + far >= n or not np.isfinite(about[[0, -1]]).all():
        return False
    return bool((np.diff(about) > 0).mean() > 0.9)


def of_auroc(scores: NDArray[Any]) -> Parts | None:
    """Parts of the probability that the second of scores (n, 2) is larger than the first of another sample.

    Those of DeLong, DeLong and Clarke-Pearson 1988, https://doi.org/10.2307/2531595, summed where a sample has both
    scores, as Obuchowski 1997, https://doi.org/10.2307/2533958, does for clusters. Scores that are NaN have none. None
    if a side has less than two.
    """
    negative, positive = (side[~np.isnan(side)] for side in scores.T)
    if min(len(negative), len(positive)) < 2:
        return None
    parts = np.zeros(len(scores))
    for own, others, sign in ((scores[:, 0], positive, -1), (scores[:, 1], negative, 1)):
        known = ~np.isnan(own)
        ordered = np.sort(others)
        below = (
            np.searchsorted(ordered, own[known], "left") + np.searchsorted(ordered, own[known], "right")
        ) / 2
        parts[known] += sign * (below - below.mean()) / len(others) * len(scores) / known.sum()
    return parts


def _density(ordered: NDArray[Any], place: float, deviation: float) -> float:
    """Density of sorted values, with all for a total but without those that repeat, by a Gaussian kernel.

    Its bandwidth is two thirds of that of Silverman 1986, eq. 3.31, with the median absolute ``deviation`` for a
    spread: what is smoothed away makes intervals too narrow, noise does not.
    """
    n = len(ordered)
    width: float = 0.6 * 1.4826 * deviation * n**-0.2
    finite = ordered[np.isfinite(ordered)]
    apart = np.concatenate([[True], np.diff(finite) > 0, [True]])
    alone = finite[apart[1:] & apart[:-1]]
    kernel = np.exp(-0.5 * ((alone - place) / width) ** 2)
    return float(kernel.sum()) / (n * width * math.sqrt(2 * math.pi))


def spread(errors: NDArray[Any]) -> Interval:
    """sigma_mad of errors (n,) with its 95 % interval: normal in the logarithm.

    By a bootstrap where nothing is known of its error, or too much is not; a handful has NaN ends.
    """
    value = float(sigma_mad(errors)) if len(errors) else math.nan
    if len(errors) < least_changed() or not math.isfinite(value):
        return Interval(value, math.nan, math.nan)
    parts = of_spread(errors)
    share = math.inf if parts is None else float(parts.std(ddof=1)) / math.sqrt(len(errors)) / value
    if share > 0.5:
        return bootstrap(sigma_mad, errors, draws=max(200, min(2000, MOST_DRAWN // len(errors))))
    factor = math.exp(Z95 * share)
    return Interval(value, value / factor, value * factor)


def mean(values: NDArray[Any]) -> Interval:
    """Mean of values (n,) with the 95 % interval of Student's t; NaN ends for less than two, or infinite ones."""
    n = len(values)
    with np.errstate(invalid="ignore", over="ignore"):
        middle = float(values.mean()) if n else math.nan
        deviation = float(values.std(ddof=1)) if n > 1 else math.nan
    if not math.isfinite(deviation):
        return Interval(middle, math.nan, math.nan)
    half = student_reach(n - 1) * deviation / math.sqrt(n)
    return Interval(middle, middle - half, middle + half)
