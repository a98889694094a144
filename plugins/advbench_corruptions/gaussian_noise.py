"""Additive Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from advbench.api import Budget, InputSpace, Rng, Tags, Task, param
from advbench_corruptions.graded import Graded, fits_channels, in_input_units


def gaussian_noise(x: Tensor, rng: Rng, *, sigma: Tensor) -> Tensor:
    """``x + sigma * n`` with independent standard normal ``n``, shaped like ``x`` (b, c, ...).

    ``sigma``, in units of ``x``, broadcasts against it.
    """
    return rng.normal(*x.shape[1:]).to(x).mul_(sigma).add_(x)


class GaussianNoise(Graded):
    """Independent Gaussian noise of one standard deviation, or one per channel.

    Severities are those of ImageNet-C, Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
    """

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="sigma", unit="input units")
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {
        "sigma": (0.08, 0.12, 0.18, 0.26, 0.38),
        "relative": (True,) * 5,
    }

    sigma: Budget = param(0.1, "standard deviation, one number or one per channel", unit="input units")
    relative: bool = param(False, "sigma is in units of the range between the bounds, not in input units")

    def strength_unit(self) -> str:
        """Input units, or the range between the bounds."""
        return "range" if self.relative else self.tags.unit

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """The number of entries of ``sigma`` must fit the channels."""
        return fits_channels("sigma", self.sigma, space)

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`gaussian_noise` with this ``sigma``."""
        return gaussian_noise(x, rng, sigma=in_input_units(self.sigma, self.relative, x, space))
