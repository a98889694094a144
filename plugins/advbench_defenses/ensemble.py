"""An ensemble of independently trained networks, and votes as outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import Classification, Defense, InputSpace, Prediction, Rng, Tags, Task, param

TIE_BREAK = 0.1
"""What a probability of 1 is worth, in votes."""

FLOOR = 1e-3
"""Probability that is added to each, so that no class has a logarithm far below the others."""


def mean_log_softmax(logits: Tensor) -> Tensor:
    """Logarithm of the mean probabilities (b, k) of logits (m, b, k); finite wherever they are."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def log_shares(votes: Tensor, probability: Tensor) -> Tensor:
    """Logits (b, k) of votes (b, k): the logarithm of each class's smoothed share.

    The mean probability (b, k) decides between classes with as many votes; all of it weighs a tenth of a vote.
    """
    weight = votes + TIE_BREAK * (probability + FLOOR)
    return weight.log() - weight.sum(1, keepdim=True).log()


def count_votes(logits: Tensor) -> Tensor:
    """How many of logits (m, b, k) are largest for each class, (b, k)."""
    one_hot = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1])
    return one_hot.sum(0).to(logits.dtype)


class Ensemble(Defense):
    """Mean or majority of independently trained networks (Hansen and Salamon 1990; Strauss et al. 2017).

    They differ by their seed, that is by their initial weights and the order of their training samples.
    ``mean`` is the mean of their probabilities, or of their predictions for a regressor; ``vote`` counts
    their classes. Votes have no gradient: an adaptive attack climbs the mean of the probabilities instead.
    Outputs of classifiers are logarithms of what was joined, so that they are logits.
    See https://arxiv.org/abs/1709.03423.
    """

    tags: ClassVar[Tags] = Tags(wraps=True, reference="https://arxiv.org/abs/1709.03423")

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"size": 2}, {"size": 3, "combine": "vote"})

    size: int = param(5, "number of networks", ge=2)
    combine: Literal["mean", "vote"] = param(
        "mean", "mean of the probabilities, or the class of most networks"
    )

    @property
    def networks(self) -> int:
        """The size."""
        return self.size

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Votes are for classes."""
        votes = self.combine == "vote" and not isinstance(task, Classification)
        return "combine: vote needs classes; take the mean" if votes else None

    def predict(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Logarithms of mean probabilities or of vote shares (b, k), or mean predictions of a regressor."""
        outputs = _outputs(x, inside)
        if self.combine == "mean":
            return _mean(outputs, inside)
        return log_shares(count_votes(outputs), mean_log_softmax(outputs).exp())

    def surrogate_predict(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """The mean, also for a vote."""
        return _mean(_outputs(x, inside), inside)


def _outputs(x: Tensor, inside: Prediction) -> Tensor:
    return torch.stack([member.output(x) for member in inside.members])


def _mean(outputs: Tensor, inside: Prediction) -> Tensor:
    return mean_log_softmax(outputs) if isinstance(inside.task, Classification) else outputs.mean(0)
