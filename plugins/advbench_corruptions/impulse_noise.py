"""Impulse noise: single values are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.graded import Graded


def impulse_noise(
    x: Tensor, lower: Tensor, upper: Tensor, rng: Rng, *, fraction: float, uniform: bool = False
) -> Tensor:
    """Values of ``x`` (b, c, ...) replaced with probability ``fraction``, each by itself.

    By ``lower`` or ``upper``, which broadcast against ``x`` and are equally likely, or else by a ``uniform``
    draw between them. With the same draws a larger fraction replaces the same values and more.
    """
    draw = rng.uniform(*x.shape[1:]).to(x)
    if uniform:
        return torch.where(draw < fraction, lower + (upper - lower) * rng.uniform(*x.shape[1:]).to(x), x)
    return torch.where(draw < fraction / 2, lower, torch.where(draw >= 1 - fraction / 2, upper, x))


class ImpulseNoise(Graded):
    """Salt and pepper: values replaced by one of the bounds, or by anything between them.

    Severities are those of ImageNet-C, Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True, strength="fraction", unit="values", reference="https://arxiv.org/abs/1903.12261"
    )
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"fraction": (0.03, 0.06, 0.09, 0.17, 0.27)}

    fraction: float = param(0.05, "expected fraction of the values that are replaced", ge=0, le=1)
    value: Literal["bounds", "uniform"] = param("bounds", "by a bound (salt and pepper) or a uniform draw")

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`impulse_noise` between the bounds of the input space."""
        uniform = self.value == "uniform"
        return impulse_noise(x, *space.bounds_like(x), rng, fraction=self.fraction, uniform=uniform)
