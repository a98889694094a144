"""Errors of the sky subtraction: what is left of the sky, or too little of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import Rng, Tags, param
from advbench_astro.perturbations.base import SurveyPerturbation, View

EXAMPLES = (
    {"conditions": {"exposure_s": 552.0, "sky_rate": 30.0}},
    {"amount": 0.02, "per": "sky", "conditions": {"sky_rate": [30.0]}},
)


def plane(height: int, width: int, angle: Tensor) -> Tensor:
    """Tilted planes (b, 1, h, w) float64 that rise in the direction ``angle`` (b,), radians from the rows.

    Mean zero; from the lowest to the highest point of the image's outline they rise by 1.
    """
    up, right = (
        (torch.arange(size, dtype=torch.float64, device=angle.device) - (size - 1) / 2) / size
        for size in (height, width)
    )
    sin, cos = (turn[:, None, None, None] for turn in (angle.double().sin(), angle.double().cos()))
    return (right * cos - up[:, None] * sin) / (sin.abs() + cos.abs())


class _Sky(SurveyPerturbation):
    """A residue of the sky, in units of its noise or of itself."""

    per: Literal["sigma", "sky"] = param(
        "sigma", "unit of the amount: standard deviation of the sky and read noise of a pixel, or the sky"
    )

    def strength_unit(self) -> str:
        """Standard deviations of the noise, or the sky."""
        return "sky noise" if self.per == "sigma" else "sky"

    def wants(self) -> Collection[str]:
        """The sky, and the exposure where its noise matters."""
        return ("sky_rate", "exposure_s") if self.per == "sigma" else ("sky_rate",)

    def _unit(self, flux: Tensor, view: View) -> Tensor:
        return view.sky_sigma(flux) if self.per == "sigma" else view.of("sky_rate", flux)


class SkyLevel(_Sky):
    """A constant residue of the sky in each band: too little was subtracted, or too much."""

    tags: ClassVar[Tags] = Tags(strength="amount", unit="sky noise")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = EXAMPLES

    amount: float = param(0.5, "residue of the sky; negative where too much was subtracted")

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """``flux + amount * unit``."""
        return flux + self.amount * self._unit(flux, view)


class SkyGradient(_Sky):
    """A sky that rises across the image, as near the Moon or a bright star; its mean is subtracted."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="amount", unit="sky noise")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (*EXAMPLES, {**EXAMPLES[0], "angle": 45})

    amount: float = param(2.0, "rise from the darkest point of the outline to the brightest", ge=0)
    angle: float | None = param(
        None,
        "where it rises to, counter-clockwise from the rows; drawn for each sample unless given",
        unit="degree",
    )

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """``flux + amount * unit * plane``."""
        degrees = 360 * rng.uniform() if self.angle is None else flux.new_full((len(flux),), self.angle)
        rise = plane(flux.shape[-2], flux.shape[-1], degrees.to(flux.device).double().deg2rad()).to(flux)
        return flux + self.amount * self._unit(flux, view) * rise
