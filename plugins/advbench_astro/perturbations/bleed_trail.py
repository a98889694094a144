"""Bleed trails: charge that a saturated star spills along its columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from advbench.api import Rng, Tags, param
from advbench_astro.perturbations.base import Positive, SurveyPerturbation, View


def trail_mask(
    height: int, width: int, row: Tensor, column: Tensor, *, length: int, columns: int, core: float
) -> Tensor:
    """The saturated pixels about stars at ``row`` and ``column``, each (b,): bool (b, 1, h, w).

    A bar of ``length`` rows and so many ``columns`` and a disk of radius ``core`` pixels, cut at the borders.
    """
    down = torch.arange(height, device=row.device)[:, None] - row[:, None, None, None]
    right = torch.arange(width, device=row.device) - column[:, None, None, None]
    top, left = -((length - 1) // 2), -((columns - 1) // 2)
    bar = (down >= top) & (down < top + length) & (right >= left) & (right < left + columns)
    return bar | (down.square() + right.square() <= core * core)


class BleedTrail(SurveyPerturbation):
    """A star that saturates the detector, somewhere in the image: its core and columns are at full well in all bands.

    Only saturated pixels change; add `astro/transient` for the light of the star about them.
    """

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="length", unit="pixel")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"length": 6, "conditions": {"sky_rate": 30.0}},
        {"length": 6, "visit_s": None, "core": 0, "conditions": {"sky_rate": 3, "exposure_s": 54}},
    )

    length: int = param(40, "length of the trail, core included; 0 changes nothing", unit="pixel", ge=0)
    columns: int = param(2, "columns that it covers", unit="pixel", ge=1)
    core: float = param(3.0, "radius of the saturated core", unit="pixel", ge=0)
    full_well_e: float = param(100000.0, "electrons of a saturated pixel at readout", unit="e-", gt=0)
    visit_s: Positive | None = param(
        30.0, "exposure of one readout; the whole exposure if none is given", unit="s"
    )

    def wants(self) -> Collection[str]:
        """The sky, which is subtracted; the exposure, unless that of a readout is given."""
        return ("sky_rate",) if self.visit_s is not None else ("sky_rate", "exposure_s")

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """Full well per exposure, less the sky, where it is above the flux."""
        if self.length == 0:
            return flux
        height, width = flux.shape[-2:]
        row, column = rng.integers(height).to(flux.device), rng.integers(width).to(flux.device)
        mask = trail_mask(
            height, width, row, column, length=self.length, columns=self.columns, core=self.core
        )
        seconds = view.of("exposure_s", flux) if self.visit_s is None else self.visit_s
        saturated = self.full_well_e / seconds - view.of("sky_rate", flux)
        return torch.where(mask, torch.maximum(flux, saturated.expand_as(flux)), flux)
