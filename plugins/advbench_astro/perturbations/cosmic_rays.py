"""Cosmic rays: charge along straight tracks through the detector."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from torch import Tensor

from advbench.api import Rng, Tags, param
from advbench_astro.perturbations.base import SurveyPerturbation, View
from advbench_astro.perturbations.fourier import in_chunks
from advbench_astro.perturbations.tracks import streak, turned

SPREAD = 0.6
"""Standard deviation of the charge about a track, in pixels."""
LONGEST = 6.0
"""Longest track, in mean lengths."""


def charge(height: int, width: int, draw: Tensor, *, length: float) -> Tensor:
    """Charge of tracks, each of total 1, added up: (b, c, h, w) float64.

    Uniform draws (b, c, n, 4) of n tracks: place of the middle, direction, and length, which is exponential with the
    mean ``length`` in pixels, up to `LONGEST` times that. What falls beside the image is lost.
    """

    def part(draw: Tensor) -> Tensor:
        total = draw.new_zeros(*draw.shape[:2], height, width).double()
        for row, column, turn, long in draw.double().permute(2, 3, 0, 1):  # one track of each image at a time
            place = row * height - 0.5, column * width - 0.5
            along, across = turned(height, width, *place, turn * math.pi)
            extent = (-length * (1 - long).clamp_min(1e-9).log()).clamp_max(LONGEST * length)
            total += streak(along, across, extent, SPREAD)
        return total

    return in_chunks(part, draw)


class CosmicRays(SurveyPerturbation):
    """Tracks of charged particles, independent in each band; Groom 2002, Experimental Astronomy 14, 45.

    Every track has the same charge whatever its length, spread over somewhat more than a pixel across.
    """

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="energy_e", unit="e-")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"energy_e": 1000, "conditions": {"exposure_s": 552.0}},
        {"energy_e": 1000, "count": 1, "per_band": False, "conditions": {"exposure_s": 552.0}},
    )

    energy_e: float = param(20000.0, "electrons that a track sets free; 0 changes nothing", unit="e-", ge=0)
    count: int = param(3, "tracks per image", ge=0, le=1000)
    length: float = param(8.0, "mean length of a track", unit="pixel", ge=0)
    per_band: bool = param(True, "each band has its own, or all have the same")

    def wants(self) -> Collection[str]:
        """The exposure, over which the charge is averaged."""
        return ("exposure_s",)

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """``flux + energy / t * charge``."""
        if self.count == 0:
            return flux
        draw = rng.uniform(flux.shape[1] if self.per_band else 1, self.count, 4).to(flux.device)
        tracks = charge(flux.shape[-2], flux.shape[-1], draw, length=self.length).to(flux)
        return flux + tracks * (self.energy_e / view.of("exposure_s", flux))
