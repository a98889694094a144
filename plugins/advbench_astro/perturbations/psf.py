"""Broader seeing: images convolved with what turns their point-spread function into a wider one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, Task, param
from advbench_astro.perturbations.base import Positives, SurveyPerturbation, View, entries, per_band
from advbench_astro.perturbations.fourier import filtered
from advbench_astro.perturbations.profiles import Seeing, log_transform, stretched


class PSF(SurveyPerturbation):
    """Broader seeing: a point-spread function of this width and shape instead of that of the data.

    In Fourier space an image is multiplied by the ratio of the wanted transform (Kolmogorov, Moffat or Gaussian) to
    that of the data, cut at 1 so that no frequency and no noise is amplified; between profiles of one kind nothing is
    cut. The flux is kept; beyond its borders an image is its own reflection. An elliptical PSF has the geometric mean
    of its widths for its width.

    Noise that is there is blurred, too, which no seeing does: ``noise: kept`` adds what the sky noise has lost.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True,
        strength="factor",
        unit="of the FWHM",
        reference="https://ui.adsabs.harvard.edu/abs/1969A%26A.....3..455M",
    )
    instead: ClassVar[tuple[str, str]] = ("fwhm_arcsec", "arcsec")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"factor": 2, "conditions": {"psf_fwhm_arcsec": 0.8, "pixel_scale_arcsec": 0.2}},
        {
            "fwhm_arcsec": 1.4,
            "profile": "moffat",
            "ellipticity": 0.2,
            "conditions": {"psf_fwhm_arcsec": 0.8, "pixel_scale_arcsec": 0.2},
        },
    )

    factor: float | None = param(1.5, "how much broader than the PSF of the data; 1 changes nothing", ge=1)
    fwhm_arcsec: Positives | None = param(
        None, "full width at half maximum, one number or one per band, instead of a factor", unit="arcsec"
    )
    profile: Seeing = param("kolmogorov", "the wanted profile")
    beta: float = param(3.5, "exponent of a Moffat profile: lower has wider wings", gt=1, le=100)
    data_profile: Seeing = param("kolmogorov", "the profile of the data; a Moffat one has the same beta")
    ellipticity: float = param(0.0, "(a - b) / (a + b) of the wanted profile", ge=0, lt=1)
    angle: float | None = param(
        None,
        "of the long axis, counter-clockwise from the rows; drawn for each sample unless given",
        unit="degree",
    )
    noise: Literal["blurred", "kept"] = param("blurred", "the sky noise becomes smooth, or as it was")

    def wants(self) -> Collection[str]:
        """Width of the PSF and of a pixel; exposure and sky if the noise is kept."""
        kept = ("exposure_s", "sky_rate") if self.noise == "kept" else ()
        return ("pixel_scale_arcsec", "psf_fwhm_arcsec", *kept)

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """A PSF can only become broader, in all directions."""
        problem = super().supports(space, task)
        if problem:
            return problem
        zero = torch.zeros(1, *space.shape)
        before, after = self._widths(zero, self.view(space))
        narrowest = after * math.sqrt((1 - self.ellipticity) / (1 + self.ellipticity))
        if bool((narrowest < before * (1 - 1e-6)).any()):
            across = " across its long axis" if self.ellipticity else ""
            return (
                f"the PSF of the data, {before.max():.3g} arcsec, cannot be made narrower:"
                f" {narrowest.min():.3g} arcsec{across} is asked for"
            )
        return None

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """The ratio of the two transforms; see the class."""
        before, after = self._widths(flux, view)
        same = self.profile == self.data_profile and self.ellipticity == 0
        if same and torch.equal(before, after):
            return flux
        drawn = 180 * rng.uniform(1) if self.angle is None else flux.new_full((len(flux), 1), self.angle)
        height, width = flux.shape[-2:]
        scale = view.pixel_scale

        def response(degrees: Tensor) -> Tensor:
            angle = degrees.double().deg2rad()
            wanted = stretched(height, width, ellipticity=self.ellipticity, angle=angle, device=flux.device)
            there = stretched(height, width, device=flux.device)
            ratio = log_transform(self.profile, wanted * (after / scale), self.beta) - log_transform(
                self.data_profile, there * (before / scale), self.beta
            )
            return ratio.clamp_max(0).exp()

        angles = drawn.to(flux.device)
        blurred = filtered(flux, response, angles).to(flux)
        if self.noise == "blurred":
            return blurred
        lost = filtered(
            rng.normal(*flux.shape[1:]).to(flux), lambda one: (1 - response(one).square()).sqrt(), angles
        )
        return blurred + lost.to(flux) * view.sky_sigma(flux)

    def _widths(self, x: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """FWHM of the data and the wanted one in arcsec, (1, c, 1, 1) or (1, 1, 1, 1), float64."""
        before = view.of("psf_fwhm_arcsec", x.double())
        if self.factor is not None:
            return before, before * self.factor
        return before, per_band(entries(self.fwhm_arcsec or 0.0), x.double())
