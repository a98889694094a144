"""What perturbations that add light share: its photons."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from advbench.api import Rng, param
from advbench_astro.perturbations.base import SurveyPerturbation, View


class AddedLight(SurveyPerturbation):
    """Light on top of what is there. Subclasses write `light` and extend `wants`."""

    photon_noise: bool = param(
        False, "the added light comes in photons: Poisson counts in the whole exposure"
    )

    def wants(self) -> Collection[str]:
        """Pixel scale, PSF and zero point; the exposure for photon noise."""
        known = ("pixel_scale_arcsec", "psf_fwhm_arcsec", "zero_point_mag")
        return (*known, "exposure_s") if self.photon_noise else known

    def light(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """The added flux, of the shape of ``flux`` (b, c, h, w) or broadcast against it."""
        raise NotImplementedError

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """``flux + light``, or ``flux + Poisson(light * t) / t``."""
        light = self.light(flux, view, rng).to(flux).expand_as(flux)
        if self.photon_noise:
            exposure = view.of("exposure_s", flux)
            light = rng.poisson((light * exposure).clamp_min(0)).to(flux) / exposure
        return flux + light
