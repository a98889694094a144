"""Detection by dropout at test time, Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import Classification, InputSpace, Prediction, Rng, Tags, param
from advbench_defenses.calibrated import Calibrated
from advbench_defenses.max_softmax import entropy


def predictive_entropy(logits: Tensor) -> Tensor:
    """Entropy (b,) of the mean probabilities of logits (m, b, K), in nat, in [0, log K]."""
    return entropy(logits.log_softmax(-1).logsumexp(0) - math.log(len(logits)))


def mutual_information(logits: Tensor) -> Tensor:
    """How much the passes disagree (b,): entropy of their mean less their mean entropy, in [0, log K].

    Houlsby et al. 2011, eq. 2, https://arxiv.org/abs/1112.5745.
    """
    each = entropy(logits.log_softmax(-1).flatten(0, 1)).view(logits.shape[:2])
    return (predictive_entropy(logits) - each.mean(0)).clamp_min(0)


def variance(predictions: Tensor) -> Tensor:
    """Variance over the passes (b,) of predictions (m, b, t) of a regressor, mean over its targets."""
    return (predictions - predictions.mean(0)).square().mean((0, 2))


class MCDropout(Calibrated):
    """Monte Carlo dropout, Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142.

    The network predicts ``passes`` times with its dropout layers on, and inputs of which it is then unsure are
    rejected: by the entropy of the mean probabilities, by the mutual information (which is large where the
    passes disagree, and small where all of them are equally unsure), or for a regressor by the variance of its
    predictions. The class is that of a usual pass.
    """

    tags: ClassVar[Tags] = Tags(detects=True, stochastic=True, reference="https://arxiv.org/abs/1506.02142")

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"passes": 4},
        {"passes": 4, "measure": "mutual-information"},
    )

    passes: int = param(20, "passes with dropout", ge=2)
    measure: Literal["entropy", "mutual-information"] = param(
        "entropy", "what is measured of the passes' probabilities; the variance for a regressor in any case"
    )

    @property
    def draws(self) -> int:
        """1: a score is a mean over passes already."""
        return 1

    def score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Uncertainty (b,), 0 where all passes are certain of the same."""
        outputs = torch.stack([inside.output_with_dropout(x) for _ in range(self.passes)])
        if not isinstance(inside.task, Classification):
            return variance(outputs)
        return predictive_entropy(outputs) if self.measure == "entropy" else mutual_information(outputs)
