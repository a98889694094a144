"""Detection by the softmax alone, Hendrycks and Gimpel 2017, https://arxiv.org/abs/1610.02136."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import InputSpace, Prediction, Rng, Tags, param
from advbench_defenses.calibrated import Calibrated


def unconfidence(logits: Tensor) -> Tensor:
    """One minus the largest probability (b,), in [0, 1 - 1/K].

    Small values are exact: they are computed from the log-odds of the largest logit of (b, K).
    """
    top, place = logits.max(1)
    others = logits.scatter(1, place[:, None], float("-inf"))
    return torch.sigmoid(others.logsumexp(1) - top)


def narrowness(logits: Tensor) -> Tensor:
    """One minus the difference of the two largest probabilities (b,), in [0, 1]."""
    second = logits.log_softmax(1).topk(2, dim=1).values[:, 1]
    return unconfidence(logits) + second.exp()


def entropy(log_probability: Tensor) -> Tensor:
    """``-sum p log p`` (b,) in nat, in [0, log K], from log-probabilities (b, K)."""
    return -(log_probability.exp() * log_probability).sum(1)


class MaxSoftmax(Calibrated):
    """Maximum softmax probability, Hendrycks and Gimpel 2017, https://arxiv.org/abs/1610.02136.

    Inputs of which the network is unsure are rejected. The paper's score is ``measure: max``; the margin between
    the two largest probabilities and the entropy of all of them are variants.
    """

    tags: ClassVar[Tags] = Tags(
        tasks=frozenset({"classification"}), detects=True, reference="https://arxiv.org/abs/1610.02136"
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"measure": "margin"}, {"measure": "entropy"})

    measure: Literal["max", "margin", "entropy"] = param(
        "max", "one minus the largest probability, one minus its margin, or the entropy in nat"
    )

    def score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Doubt (b,), 0 where the network is certain."""
        logits = inside.output(x)
        if self.measure == "entropy":
            return entropy(logits.log_softmax(1))
        return unconfidence(logits) if self.measure == "max" else narrowness(logits)
