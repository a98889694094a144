"""Accuracy where classes are rare and common."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from advbench.api import Metric, Tags


class BalancedAccuracy(Metric):
    """Mean over the classes of the share of their perturbed samples that is recognised.

    A network that always gives the same answer gets 1 / K, however common that class is. Samples of no class and
    classes without a sample do not count; NaN if none is left.
    """

    tags: ClassVar[Tags] = Tags(
        tasks={"classification"},
        reference="https://scikit-learn.org/stable/modules/model_evaluation.html#balanced-accuracy-score",
    )
    version: ClassVar[int] = 1

    def measure(self, target: Any, clean: Any, perturbed: Any) -> float:
        """In [0, 1], from integers (n,)."""
        truth, right = np.asarray(target), np.asarray(perturbed) == np.asarray(target)
        shares = [right[truth == label].mean() for label in np.unique(truth[truth >= 0])]
        return float(np.mean(shares)) if shares else float("nan")
