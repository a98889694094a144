"""Detection by the entropy of the predicted probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from advbench.api import InputSpace, Prediction, Rng, Tags, param
from advbench_defenses.calibrated import Calibrated
from advbench_defenses.max_softmax import entropy


class Entropy(Calibrated):
    """Entropy of the class probabilities, a threshold of which parts known from unknown classes.

    Inputs of which the network is unsure are rejected, as in universal domain adaptation: Saito et al. 2020,
    https://arxiv.org/abs/2002.07953, and Ciprijanovic et al. 2023, https://arxiv.org/abs/2302.02005, where the
    threshold is log(K) / 2. Unless it is given it is calibrated on clean samples.
    """

    tags: ClassVar[Tags] = Tags(
        tasks=frozenset({"classification"}), detects=True, reference="https://arxiv.org/abs/2002.07953"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"normalised": True, "fixed_threshold": 1.0})

    normalised: bool = param(
        False, "divide by log(K), so that the score is in [0, 1] for any number of classes"
    )
    fixed_threshold: float | None = param(
        None,
        "entropy above which an input is rejected, in nat unless normalised; calibrated unless given",
        ge=0,
    )

    def score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Entropy (b,) in nat, in [0, log K], or as a share of log K."""
        log_probability = inside.output(x).log_softmax(1)
        unit = math.log(log_probability.shape[1]) if self.normalised else 1.0
        return entropy(log_probability) / unit

    def threshold(self, scores: Any) -> float:
        """The given entropy, or that at the false-positive rate."""
        return super().threshold(scores) if self.fixed_threshold is None else self.fixed_threshold
