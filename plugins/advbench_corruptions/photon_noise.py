"""Noise that follows the signal: photon counts, and speckle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.graded import Graded

SHOTS = "https://arxiv.org/abs/1903.12261"


def poisson_noise(x: Tensor, rng: Rng, *, zero: Tensor, photons: Tensor, background: float = 0.0) -> Tensor:
    """``x + (N - rate) / photons`` with ``N ~ Poisson(rate)``, ``rate = photons * (x - zero) + background``.

    The mean stays ``x`` and the variance is ``rate / photons^2``.

    Parameters
    ----------
    x
        Inputs (b, c, ...).
    zero
        Value of no light, broadcast against ``x``; values below it (less the background) collect no photon
        and stay as they are.
    photons
        Photons for one unit of ``x``, broadcast against it.
    background
        Photons in every pixel of a background that was subtracted from ``x``.
    """
    rate = ((x - zero) * photons + background).clamp_min_(0)
    return x + (rng.poisson(rate).to(x) - rate) / photons


def speckle_noise(x: Tensor, rng: Rng, *, zero: Tensor, sigma: float) -> Tensor:
    """``x + sigma * (x - zero) * n`` with independent standard normal ``n``, shaped like ``x`` (b, c, ...)."""
    return x + (x - zero) * rng.normal(*x.shape[1:]).to(x).mul_(sigma)


class PoissonNoise(Graded):
    """Photon (shot) noise: values are counts of few photons, with a subtracted background if there was one.

    Severities are those of ImageNet-C, Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True, strength="photons", unit="photons", stronger="lower", reference=SHOTS
    )
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {
        "photons": (60.0, 25.0, 12.0, 5.0, 3.0),
        "per": ("range",) * 5,
    }

    photons: float = param(25.0, "expected photons; fewer are stronger", unit="photons", gt=0)
    per: Literal["range", "unit"] = param(
        "range", "signal that they are for: the range between the bounds, or one input unit"
    )
    zero: float | None = param(None, "value of no light; the lower bound unless given", unit="input units")
    background: float = param(
        0.0, "photons per pixel of a background that was subtracted", unit="photons", ge=0
    )

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`poisson_noise` with these photons."""
        lower, upper = space.bounds_like(x)
        photons = self.photons / (upper - lower) if self.per == "range" else x.new_tensor(self.photons)
        zero = lower if self.zero is None else x.new_tensor(self.zero)
        return poisson_noise(x, rng, zero=zero, photons=photons, background=self.background)


class SpeckleNoise(Graded):
    """Multiplicative Gaussian noise: its standard deviation is a fraction of the signal.

    Severities are those of ImageNet-C, Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261.
    """

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="sigma", unit="signal", reference=SHOTS)
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"sigma": (0.15, 0.2, 0.35, 0.45, 0.6)}

    sigma: float = param(0.2, "standard deviation as a fraction of the signal", unit="signal", ge=0)
    zero: float | None = param(None, "value of no signal; the lower bound unless given", unit="input units")

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`speckle_noise` with this ``sigma``."""
        zero = space.bounds_like(x)[0] if self.zero is None else x.new_tensor(self.zero)
        return speckle_noise(x, rng, zero=zero, sigma=self.sigma)
