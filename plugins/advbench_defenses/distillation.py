"""Defensive distillation, Papernot et al. 2016, https://arxiv.org/abs/1511.04508."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from advbench.api import Batch, Defense, Tags, Training, Use, param


def soft_cross_entropy(z: Tensor, q: Tensor, temperature: float) -> Tensor:
    """``-sum_k q_k log softmax(z / T)_k``, the mean over the batch, eq. 8 of the paper.

    Parameters
    ----------
    z
        Logits (b, K).
    q
        Soft labels (b, K): probabilities.
    temperature
        ``T > 0``. The gradient, ``(softmax(z / T) - q) / T``, falls with T. It is not multiplied by T or T^2: no
        second loss at another temperature has to be balanced with it (as in Hinton et al. 2015), and Adam, which
        recipes use by default, takes the same steps at any scale of the loss.
    """
    return -(q * (z / temperature).log_softmax(1)).sum(1).mean()


class Tempered(nn.Module):
    """A network with its logits divided by the temperature, as it is trained; what is used is the network alone.

    So the validation loss, too, is at the temperature. At T = 1 logits that have grown T times as large make it
    rise with every epoch after the first, and those of the first would be kept.
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, x: Tensor, extras: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits over the temperature, (b, K)."""
        logits: Tensor = self.network(x, extras) / self.temperature
        return logits


class Distillation(Defense):
    """Defensive distillation, Papernot et al. 2016, https://arxiv.org/abs/1511.04508.

    A teacher is trained at temperature T on the labels, a student of the same architecture at T on the teacher's
    probabilities at T; the student is used at T = 1. Teacher and student begin with the same seeded weights and see
    the batches in different orders. At T = 1 the softmax is saturated and the gradient of the cross-entropy
    vanishes in float32, which is not robustness (Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644): the
    losses of our attacks are of the logits, which do not saturate, and DDN is added. Logits have to grow T times as
    large, so a high temperature needs more steps than plain training (the paper takes 50 epochs): give the model's
    recipe more epochs.
    """

    tags: ClassVar[Tags] = Tags(
        tasks={"classification"}, trains=True, reference="https://arxiv.org/abs/1511.04508"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"temperature": 5, "network": "teacher"})

    temperature: float = param(20.0, "temperature T of teacher and student while they are trained", gt=0)
    network: Literal["student", "teacher"] = param(
        "student", "which of the two is used; the teacher is the same network without distillation"
    )
    warm_start: int = param(
        0, "epochs at temperature 1, on the labels, from which both begin; 1 in Carlini and Wagner 2017", ge=0
    )

    @property
    def adaptive_loss(self) -> str:
        """The margin of the logits, whose gradient no temperature makes vanish."""
        return "margin"

    def adaptive_attacks(self) -> Sequence[Use]:
        """DDN."""
        return (Use(use="attacks/ddn"),)

    def train(self, training: Training) -> nn.Module:
        """The student, or the teacher."""
        start = self._start(training)
        # The default loss, cross-entropy with the labels and class weights of the recipe, is here at T.
        teacher = self._fit(training, start, purpose="teacher")
        if self.network == "teacher":
            return teacher.network

        def loss(module: Tempered, batch: Batch) -> Tensor:
            with torch.no_grad():
                q = teacher(batch.x, batch.extras).softmax(1)
            return soft_cross_entropy(module.network(batch.x, batch.extras), q, self.temperature)

        return self._fit(training, start, purpose="student", loss=loss).network

    def _start(self, training: Training) -> Mapping[str, Tensor]:
        """The weights that teacher and student begin with."""
        network = training.build()
        if self.warm_start:
            recipe = training.recipe.model_copy(update={"epochs": self.warm_start})
            network = training.fit(network, purpose="warm start", recipe=recipe)
        return network.state_dict()

    def _fit(self, training: Training, start: Mapping[str, Tensor], **how: Any) -> Tempered:
        network = training.build()
        network.load_state_dict(start)
        fitted = training.fit(Tempered(network, self.temperature), **how)
        assert isinstance(fitted, Tempered)
        return fitted
