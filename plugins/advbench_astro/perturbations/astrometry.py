"""Errors of the astrometric registration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from torch import Tensor

from advbench.api import Rng, Tags, param
from advbench_astro.perturbations.base import SurveyPerturbation, View
from advbench_astro.perturbations.fourier import filtered, phase


def shifted(flux: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images (b, c, h, w) moved by any number of pixels, each (b, c) or (b, 1); float64.

    A phase in Fourier space, which keeps all frequencies and the noise as it is; borders reflect.
    """
    height, width = flux.shape[-2:]
    return filtered(flux, lambda rows, columns: phase(height, width, rows, columns), down, right)


class AstrometricShift(SurveyPerturbation):
    """A shift by part of a pixel: of the whole image, or of each band in its own direction (misregistration)."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="distance_arcsec", unit="arcsec")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"conditions": {"pixel_scale_arcsec": 0.2}},
        {"per_band": True, "conditions": {"pixel_scale_arcsec": 0.4}},
    )

    distance_arcsec: float = param(0.1, "how far; 0 changes nothing", unit="arcsec", ge=0)
    angle: float | None = param(
        None, "direction, counter-clockwise from the rows; drawn unless given", unit="degree"
    )
    per_band: bool = param(False, "each band has a direction of its own, unless it is given")

    def wants(self) -> Collection[str]:
        """The pixel scale."""
        return ("pixel_scale_arcsec",)

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """`shifted`."""
        if self.distance_arcsec == 0:
            return flux
        count = flux.shape[1] if self.per_band else 1
        draw = 360 * rng.uniform(count) if self.angle is None else flux.new_full((len(flux), 1), self.angle)
        angle = draw.to(flux.device).double().deg2rad()
        distance = self.distance_arcsec / view.pixel_scale
        return shifted(flux, -distance * angle.sin(), distance * angle.cos())
