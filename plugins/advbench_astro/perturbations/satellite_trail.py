"""Trails of satellites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from advbench.api import Rng, Tags, param
from advbench_astro.perturbations.base import Numbers, View
from advbench_astro.perturbations.fourier import in_chunks
from advbench_astro.perturbations.light import AddedLight
from advbench_astro.perturbations.tracks import moffat_line, turned

BETA = 4.765
"""Moffat exponent closest to Kolmogorov seeing (Trujillo et al. 2001, https://arxiv.org/abs/astro-ph/0109067)."""


class SatelliteTrail(AddedLight):
    """A straight trail from border to border, as wide as the PSF of its band.

    It passes the centre at a distance that is drawn between minus and plus half the smaller side. Its brightness is
    that of the average over the exposure, per arcsec of its length.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True,
        strength="magnitude",
        unit="mag/arcsec",
        stronger="lower",
        reference="https://arxiv.org/abs/2006.12417",
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "magnitude": 28,
            "conditions": {"pixel_scale_arcsec": 0.2, "psf_fwhm_arcsec": 0.8, "zero_point_mag": 28.2},
        },
    )

    magnitude: Numbers = param(
        22.0, "AB magnitude of an arcsec of its length, one number or one per band", unit="mag"
    )
    angle: float | None = param(
        None, "direction, counter-clockwise from the rows; drawn for each sample unless given", unit="degree"
    )
    distance_arcsec: float | None = param(
        None,
        "how far from the centre it passes, to the right of its direction; drawn for each sample unless given",
        unit="arcsec",
    )

    def light(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """``rate per arcsec * pixel scale * moffat_line(distance in pixels)``."""
        height, width = flux.shape[-2:]
        draw = rng.uniform(1, 2).to(flux.device).double()
        degrees = 180 * draw[..., 0] if self.angle is None else draw[..., 0] * 0 + self.angle
        distance = (draw[..., 1] - 0.5) * min(height, width)
        if self.distance_arcsec is not None:
            distance = distance * 0 + self.distance_arcsec / view.pixel_scale
        middle = ((size - 1) / 2 for size in (height, width))
        fwhm = view.of("psf_fwhm_arcsec", flux).double() / view.pixel_scale

        def profile(angle: Tensor, distance: Tensor, row: Tensor, column: Tensor) -> Tensor:
            _, across = turned(height, width, row, column, angle)
            return moffat_line(across - distance[..., None, None], fwhm, BETA)

        places = (draw[..., 0] * 0 + at for at in middle)
        trail = in_chunks(profile, degrees.deg2rad(), distance, *places)
        return trail * view.pixel_scale * view.flux(self.magnitude, flux).double()
