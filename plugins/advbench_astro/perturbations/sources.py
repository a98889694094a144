"""Sources that were not there: a transient, and neighbouring galaxies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import Tensor
from typing_extensions import Self

from advbench.api import Rng, Tags, param
from advbench_astro.perturbations.base import Numbers, View
from advbench_astro.perturbations.fourier import drawn, phase
from advbench_astro.perturbations.light import AddedLight
from advbench_astro.perturbations.profiles import log_transform, pixel_response, sersic_transform, stretched

CONDITIONS = {"pixel_scale_arcsec": 0.2, "psf_fwhm_arcsec": 0.8, "zero_point_mag": 28.2}


def star_response(flux: Tensor, view: View) -> Tensor:
    """Transform of a star in the first pixel: Kolmogorov PSF times pixel, unit flux, (1, c, 2h, w + 1)."""
    height, width = flux.shape[-2:]
    widths = view.of("psf_fwhm_arcsec", flux).double() / view.pixel_scale
    seeing = log_transform("kolmogorov", stretched(height, width, device=flux.device) * widths, 0.0).exp()
    return seeing * pixel_response(height, width, flux.device)


def from_centre(flux: Tensor, distance: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column at a distance in pixels from the centre of images (b, c, h, w); angles in radians."""
    down, right = ((size - 1) / 2 for size in flux.shape[-2:])
    return down - distance * angle.sin(), right + distance * angle.cos()


class Transient(AddedLight):
    """A point source, a supernova say, as bright as asked for in each band and as wide as its PSF (Kolmogorov)."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="magnitude", unit="mag", stronger="lower")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"magnitude": 29, "distance_arcsec": 0.5, "conditions": CONDITIONS},
        {"magnitude": 29, "photon_noise": True, "conditions": {**CONDITIONS, "exposure_s": 552}},
    )

    magnitude: Numbers = param(22.0, "AB magnitude, one number or one per band", unit="mag")
    distance_arcsec: float = param(1.0, "distance from the centre of the image", unit="arcsec", ge=0)
    angle: float | None = param(
        None,
        "direction from there, counter-clockwise from the rows; drawn for each sample unless given",
        unit="degree",
    )

    def light(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """``10^(-0.4 (m - zero point))`` times the PSF at its place."""
        height, width = flux.shape[-2:]
        degrees = 360 * rng.uniform(1) if self.angle is None else flux.new_full((len(flux), 1), self.angle)
        angle = degrees.to(flux.device).double().deg2rad()
        place = from_centre(flux, angle * 0 + self.distance_arcsec / view.pixel_scale, angle)
        star = star_response(flux, view) * view.flux(self.magnitude, flux).double()
        return drawn(height, width, lambda down, right: star * phase(height, width, down, right), *place)


class Neighbours(AddedLight):
    """Galaxies beside the one in the middle, blended with it where they overlap: elliptical Sersic profiles.

    Places are drawn uniformly over a ring about the centre, position angles uniformly. Index 1 is an exponential
    disk, 4 a de Vaucouleurs profile, 0.5 a Gaussian; Graham and Driver 2005, https://arxiv.org/abs/astro-ph/0503176.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True, strength="count", unit="galaxies", reference="https://arxiv.org/abs/astro-ph/0503176"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"magnitude": 28, "outer_arcsec": 1.2, "inner_arcsec": 0.2, "conditions": CONDITIONS},
    )

    count: int = param(2, "number of neighbours; 0 changes nothing", ge=0, le=100)
    magnitude: Numbers = param(22.0, "AB magnitude of each, one number or one per band", unit="mag")
    half_light_arcsec: float = param(
        0.6, "half-light radius (of the geometric mean axis)", unit="arcsec", gt=0
    )
    sersic: float = param(1.0, "Sersic index", ge=0.5, le=6)
    ellipticity: float = param(0.2, "(a - b) / (a + b)", ge=0, lt=1)
    inner_arcsec: float = param(2.0, "smallest distance from the centre", unit="arcsec", ge=0)
    outer_arcsec: float = param(8.0, "largest distance from the centre", unit="arcsec", ge=0)

    @model_validator(mode="after")
    def _a_ring(self) -> Self:
        if self.inner_arcsec > self.outer_arcsec:
            raise ValueError("inner_arcsec must not be larger than outer_arcsec")
        return self

    def light(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """``10^(-0.4 (m - zero point))`` times profile and PSF, at each place."""
        if self.count == 0:
            return torch.zeros_like(flux)
        height, width = flux.shape[-2:]
        draw = rng.uniform(self.count, 3).to(flux.device).double()
        inner, outer = self.inner_arcsec**2, self.outer_arcsec**2
        distance = (inner + (outer - inner) * draw[..., 0]).sqrt() / view.pixel_scale
        place = from_centre(flux, distance, 2 * torch.pi * draw[..., 1])
        star = star_response(flux, view) * view.flux(self.magnitude, flux).double()

        def galaxies(down: Tensor, right: Tensor, turn: Tensor) -> Tensor:
            total = torch.zeros((), dtype=torch.complex128, device=flux.device)
            for i in range(self.count):
                angle = torch.pi * turn[:, i : i + 1]
                seen = stretched(height, width, ellipticity=self.ellipticity, angle=angle, device=flux.device)
                profile = sersic_transform(seen * (self.half_light_arcsec / view.pixel_scale), self.sersic)
                total = total + profile * phase(height, width, down[:, i : i + 1], right[:, i : i + 1])
            return star * total

        return drawn(height, width, galaxies, *place, draw[..., 2])
