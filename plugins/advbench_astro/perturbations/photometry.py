"""Errors of the photometric calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from advbench.api import Rng, Tags, param
from advbench_astro.perturbations.base import Numbers, SurveyPerturbation, View, per_band


def fainter(flux: Tensor, magnitudes: Tensor) -> Tensor:
    """``flux * 10^(-0.4 m)`` for fluxes (b, c, h, w); ``magnitudes`` broadcast against them."""
    return flux * (10 ** (-0.4 * magnitudes.double())).to(flux)


class ZeroPoint(SurveyPerturbation):
    """An error of the photometric zero point that all bands share: everything is fainter by so many magnitudes."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="offset_mag", unit="mag")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"scatter": True})

    offset_mag: float = param(
        0.1, "magnitudes that everything becomes fainter; 0 changes nothing", unit="mag"
    )
    scatter: bool = param(False, "it is the standard deviation of offsets that are drawn for each sample")

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """`fainter`, by the same for all bands."""
        draw = rng.normal(1, 1, 1).to(flux) if self.scatter else flux.new_ones(1, 1, 1, 1)
        return fainter(flux, draw.double() * self.offset_mag)


class BandOffset(SurveyPerturbation):
    """Errors of the zero point of each band, which change colours."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="offset_mag", unit="mag")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"scatter": False})

    offset_mag: Numbers = param(
        0.05,
        "magnitudes that bands become fainter, one number or one per band; 0 changes nothing",
        unit="mag",
    )
    scatter: bool = param(
        True, "they are standard deviations of offsets that are drawn for each sample and band"
    )

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """`fainter`, by something else in each band."""
        draw = rng.normal(flux.shape[1], 1, 1).to(flux) if self.scatter else flux.new_ones(1, 1, 1, 1)
        return fainter(flux, draw.double() * per_band(self.offset_mag, flux))
