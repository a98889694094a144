"""Adversarial domain adaptation: a network that tells domains apart, and features that it cannot tell by.

Ganin et al. 2016, https://arxiv.org/abs/1505.07818, and Long et al. 2018, https://arxiv.org/abs/1705.10667.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 1024  # width of the two hidden layers
WIDEST = 4096  # entries of an outer product that is not replaced by a random one
SHARP = 10.0  # how fast the schedule rises


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradients[0], None


def reversed_gradient(x: Tensor, strength: float) -> Tensor:
    """``x``, with its gradient multiplied by ``-strength`` on the way back."""
    found: Tensor = _Reversal.apply(x, strength)  # type: ignore[no-untyped-call]
    return found


def strength_at(progress: float) -> float:
    """``2 / (1 + exp(-10 p)) - 1`` for the share p of the training that is done: 0 at first, 1 at last. Ganin et al."""
    return 2 / (1 + math.exp(-SHARP * progress)) - 1


class DomainNet(nn.Sequential):
    """Features (b, d) to the logit (b, 1) that a sample is of the source: d-1024-1024-1, ReLU, dropout 0.5.

    Weights begin as N(0, 0.01), those of the last layer as N(0, 0.3), biases as 0.
    """

    def __init__(self, features: int, hidden: int = HIDDEN) -> None:
        sizes = ((features, hidden, 0.01), (hidden, hidden, 0.01), (hidden, 1, 0.3))
        layers: list[nn.Module] = []
        for size, out, spread in sizes:
            linear = nn.Linear(size, out)
            nn.init.normal_(linear.weight, 0, spread)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU(), nn.Dropout(0.5)]
        super().__init__(*layers[:-2])


class Conditioned(nn.Module):
    """Features (b, d) and class probabilities (b, K) to their outer product (b, d K), flattened.

    Where that has more than 4096 entries it is a random one of 1024, eq. 8 of Long et al. 2018: the product of two
    projections with fixed normal weights, over the square root of their number.
    """

    first: Tensor | None
    second: Tensor | None

    def __init__(self, features: int, classes: int, seed: int) -> None:
        super().__init__()
        wide = features * classes > WIDEST
        self.width = HIDDEN if wide else features * classes
        generator = np.random.Generator(np.random.Philox(seed))
        for name, size in (("first", features), ("second", classes)):
            drawn = torch.from_numpy(generator.standard_normal((size, HIDDEN), dtype=np.float32))
            self.register_buffer(name, drawn if wide else None, persistent=False)

    def forward(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """The product (b, width)."""
        if self.first is None or self.second is None:
            return (features[:, :, None] * probabilities[:, None, :]).flatten(1)
        return (features @ self.first) * (probabilities @ self.second) / math.sqrt(self.width)


def domain_loss(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and accuracy of domain logits (n, 1) of which the first ``count`` are the source's."""
    source = (torch.arange(len(logits), device=logits.device) < count)[:, None]
    loss = F.binary_cross_entropy_with_logits(logits, source.to(logits))
    return loss, ((logits > 0) == source).double().mean()
