"""Thresholds of detectors at a stated false-positive rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from advbench.api import Defense, PluginError, param


def threshold_at(scores: Any, false_positive_rate: float) -> float:
    """The ``ceil(n (1 - false_positive_rate))``-th smallest of the clean scores (n,).

    At most the stated share of those scores lies above it. Of fresh clean inputs of the same kind it is
    ``(floor(n false_positive_rate) + 1) / (n + 1)`` on average, where no scores are equal.

    Raises
    ------
    PluginError
        If there are no scores, or the one that it would take is not finite.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64).ravel())  # NaN comes last: most suspicious
    if not len(ordered):
        raise PluginError("a detector needs clean calibration scores for its threshold; there are none")
    above = math.floor(len(ordered) * false_positive_rate + 1e-9)  # 100 * 0.29 is less than 29
    threshold = float(ordered[len(ordered) - 1 - above])
    if not math.isfinite(threshold):
        raise PluginError(f"the clean calibration scores give a threshold of {threshold}")
    return threshold


class Calibrated(Defense):
    """A detector whose threshold lets the stated share of clean calibration samples pass."""

    false_positive_rate: float = param(
        0.05, "share of the clean calibration samples that may be rejected", ge=0, lt=1
    )

    def threshold(self, scores: Any) -> float:
        """`threshold_at` this rate."""
        return threshold_at(scores, self.false_positive_rate)
