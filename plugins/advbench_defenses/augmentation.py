"""Training on corrupted samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advbench.api import Batch, Defense, Tags, Training, Use, param
from advbench_defenses.adversarial_training import mixed, part


class Augmentation(Defense):
    """Training on a mix of clean and corrupted samples.

    A share of each batch is corrupted, each sample by one of the perturbations, all equally likely. The default is
    the Gaussian noise of Ford et al. 2019 (https://arxiv.org/abs/1901.10513), with one standard deviation of a tenth of
    the range between the bounds.
    """

    tags: ClassVar[Tags] = Tags(trains=True, reference="https://arxiv.org/abs/1901.10513")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"perturbations": [{"use": "corruptions/gaussian-noise", "params": {"sigma": 0.1}}]},
    )

    perturbations: tuple[Use, ...] = param(
        (Use(use="corruptions/gaussian-noise", params={"sigma": 0.1, "relative": True}),),
        "what samples are perturbed by",
        min_length=1,
    )
    fraction: float = param(0.5, "share of each batch that is perturbed; the rest stays clean", gt=0, le=1)

    def uses(self) -> Sequence[Use]:
        """The perturbations."""
        return self.perturbations

    def train(self, training: Training) -> nn.Module:
        """A network trained by the recipe."""

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            x = mixed(batch, self.fraction, lambda some: self._perturbed(training, module, some))
            return training.loss(module, batch._replace(x=x))

        return training.fit(training.build(), loss=loss, validation=loss, purpose="augmentation")

    def _perturbed(self, training: Training, module: nn.Module, batch: Batch) -> Tensor:
        drawn = batch.rng.integers(len(self.perturbations))
        x = batch.x.clone()
        for k, use in enumerate(self.perturbations):
            rows = torch.nonzero(drawn == k)[:, 0]
            if len(rows):
                x[rows] = training.perturb(use, module, part(batch, rows))
        return x
