"""What brings two domains together, each as a module that makes terms of a loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from advbench_defenses.adversary import Conditioned, DomainNet, domain_loss, reversed_gradient, strength_at
from advbench_defenses.coral import coral
from advbench_defenses.mmd import mmd
from advbench_defenses.universal import Memory, clustering, separation


class Domains(NamedTuple):
    """A batch of the source and one of the target, as the network sees them."""

    features: Tensor  # (b + m, d), those of the source first
    output: Tensor  # (b + m, k)
    y: Tensor  # (b,) classes, or (b, t) targets, of the source
    rows: Tensor  # (m,) int64, places of the target samples in their split
    progress: float  # share of the training that is done

    @property
    def source(self) -> Tensor:
        """Features (b, d) of the source."""
        return self.features[: len(self.y)]

    @property
    def target(self) -> Tensor:
        """Features (m, d) of the target."""
        return self.features[len(self.y) :]

    @property
    def target_output(self) -> Tensor:
        """Outputs (m, k) for the target."""
        return self.output[len(self.y) :]


class Alignment(nn.Module):
    """Terms of a loss: ``alignment``, which is weighted, and others that are only told."""

    def forward(self, seen: Domains) -> dict[str, Tensor]:
        """The terms, each a scalar."""
        raise NotImplementedError


class Statistic(Alignment):
    """A distance of the two sets of features."""

    def __init__(self, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._distance = distance

    def forward(self, seen: Domains) -> dict[str, Tensor]:
        """The distance."""
        return {"alignment": self._distance(seen.source, seen.target).to(seen.features)}


def by_mmd(kernel: Literal["fixed", "median"], floor: float) -> Statistic:
    """Maximum mean discrepancy."""
    return Statistic(partial(mmd, kernel=kernel, floor=floor))


def by_coral() -> Statistic:
    """Correlation alignment."""
    return Statistic(coral)


class Adversary(Alignment):
    """A domain network, which learns to tell the domains apart while the features learn that it cannot.

    Parameters
    ----------
    width
        Features d.
    condition
        Joins features and class probabilities into what the domain network sees, which is else the features.
    scheduled
        Whether the reversed gradient rises with the training, or has the factor 1 from the start.
    """

    def __init__(self, width: int, condition: Conditioned | None, scheduled: bool) -> None:
        super().__init__()
        self.condition = condition
        self.domains = DomainNet(width if condition is None else condition.width)
        self._scheduled = scheduled

    def forward(self, seen: Domains) -> dict[str, Tensor]:
        """Loss and accuracy of the domain network, and the factor of the reversed gradient."""
        strength = strength_at(seen.progress) if self._scheduled else 1.0
        features = seen.features
        if self.condition is not None:
            features = self.condition(features, seen.output.detach().softmax(1))
        loss, accuracy = domain_loss(self.domains(reversed_gradient(features, strength)), len(seen.y))
        return {"alignment": loss, "domain_accuracy": accuracy, "reversal": torch.tensor(strength)}


class Universal(Alignment):
    """Neighbourhood clustering and entropy separation of the target alone, so that classes of its own may stay apart.

    Parameters
    ----------
    memory
        Where features are kept.
    temperature
        Of the similarities.
    threshold, margin
        Of the entropies, in nat.
    rising
        Whether the terms count in proportion to the share of the training that is done. A network that begins with
        random weights is unsure of everything, and separation alone would keep it so.
    """

    def __init__(
        self, memory: Memory, temperature: float, threshold: float, margin: float, rising: bool
    ) -> None:
        super().__init__()
        self.memory = memory
        self._temperature, self._threshold, self._margin = temperature, threshold, margin
        self._rising = rising

    def forward(self, seen: Domains) -> dict[str, Tensor]:
        """Both terms, and what of their sum counts; then the memory has what was seen."""
        self.memory.learn_classes(seen.source.detach(), seen.y)
        near = clustering(self.memory.similarities(seen.target, seen.rows), self._temperature)
        apart = separation(seen.target_output, self._threshold, self._margin)
        self.memory.remember(seen.target.detach(), seen.rows)
        share = seen.progress if self._rising else 1.0
        return {"alignment": share * (near + apart), "clustering": near, "separation": apart}
