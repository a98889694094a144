"""How images were taken: what a survey perturbation must know besides the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from advbench.api import InputSpace


@dataclass(frozen=True)
class Conditions:
    """Observing conditions of images whose fluxes are count rates in e-/s, one number per band where it says so."""

    pixel_scale_arcsec: float
    exposure_s: tuple[float, ...]  # per band
    sky_rate: tuple[float, ...]  # e-/s and pixel, subtracted from the images; per band
    psf_fwhm_arcsec: tuple[float, ...]  # per band
    zero_point_mag: tuple[float, ...]  # AB magnitude of 1 e-/s, per band
    read_noise_e: float = 0.0  # electrons per pixel and readout

    def facts(self) -> Mapping[str, tuple[float, ...]]:
        """As `InputSpace.facts`."""
        return {name: value if isinstance(value, tuple) else (value,) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, space: InputSpace) -> Conditions | None:
        """Those of the data, or None where the data set does not tell."""
        facts, count = space.facts, space.shape[0]
        if not set(cls.__dataclass_fields__) <= set(facts):
            return None

        def per_band(name: str) -> tuple[float, ...]:
            return facts[name] if len(facts[name]) == count else facts[name] * count

        return cls(
            facts["pixel_scale_arcsec"][0],
            per_band("exposure_s"),
            per_band("sky_rate"),
            per_band("psf_fwhm_arcsec"),
            per_band("zero_point_mag"),
            facts["read_noise_e"][0],
        )
