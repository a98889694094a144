"""Faults of a detector, in electrons: dead and hot pixels and columns."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import Rng, Tags, param
from advbench_astro.perturbations.base import SurveyPerturbation, View

Fault = Literal["dead", "hot", "both"]
EXAMPLE = {"conditions": {"exposure_s": 552.0, "sky_rate": 30.0}}


def ranked(draw: Tensor) -> Tensor:
    """Rank of each draw along the last axis, 0 for the smallest; int64."""
    return draw.argsort(dim=-1, stable=True).argsort(dim=-1)


def faulty(flux: Tensor, rank: Tensor, *, count: int, fault: str, sky: Tensor, hot: Tensor) -> Tensor:
    """Fluxes (b, c, h, w) in which the places with a ``rank`` below ``count`` are broken.

    Dead ones collect nothing, so that ``-sky`` is left when the sky is subtracted; hot ones have ``hot`` e-/s more. Of
    ``"both"`` every other one is dead, the first one is hot.
    """
    is_hot = {"dead": torch.zeros_like(rank, dtype=torch.bool), "hot": rank >= 0, "both": rank % 2 == 0}[
        fault
    ]
    broken = torch.where(is_hot, flux + hot, -sky.expand_as(flux))
    return torch.where(rank < count, broken, flux)


class _Faults(SurveyPerturbation):
    """What faults of pixels and columns share."""

    fault: Fault = param("both", "dead, hot, or in turn")
    hot_e: float = param(20000.0, "electrons that a hot pixel adds in the whole exposure", unit="e-", ge=0)
    per_band: bool = param(False, "each band has its own, instead of the same in all")

    def wants(self) -> Collection[str]:
        """The sky of what is dead, the exposure of what is hot."""
        needed = {"dead": ("sky_rate",), "hot": ("exposure_s",), "both": ("exposure_s", "sky_rate")}
        return needed[self.fault]

    def _faulty(self, flux: Tensor, rank: Tensor, count: int, view: View) -> Tensor:
        zero = flux.new_zeros(1, 1, 1, 1)
        sky = view.of("sky_rate", flux) if "sky_rate" in self.wants() else zero
        hot = self.hot_e / view.of("exposure_s", flux) if "exposure_s" in self.wants() else zero
        return faulty(flux, rank, count=count, fault=self.fault, sky=sky, hot=hot)


class BadPixels(_Faults):
    """Dead and hot pixels at random places, as many as asked for in each image."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="fraction", unit="pixels")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {**EXAMPLE, "fraction": 0.1},
        {**EXAMPLE, "fraction": 0.1, "fault": "dead", "per_band": True},
    )

    fraction: float = param(0.005, "fraction of the pixels, rounded to whole ones", ge=0, le=1)

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """`faulty` where the smallest of uniform draws are."""
        bands, height, width = flux.shape[1:]
        count = math.floor(self.fraction * height * width + 0.5)
        draw = rng.uniform(bands if self.per_band else 1, height * width).to(flux.device)
        return self._faulty(flux, ranked(draw).view(*draw.shape[:2], height, width), count, view)


class BadColumns(_Faults):
    """Dead and hot columns (or rows) from end to end."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="fraction", unit="columns")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {**EXAMPLE, "fraction": 0.2},
        {**EXAMPLE, "fraction": 0.2, "axis": "rows", "fault": "hot"},
    )

    fraction: float = param(0.02, "fraction of the columns, rounded up to whole ones", ge=0, le=1)
    axis: Literal["columns", "rows"] = param("columns", "which lines are bad")

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """`faulty` where the smallest of uniform draws are."""
        lines = flux.shape[-1 if self.axis == "columns" else -2]
        count = min(lines, math.ceil(self.fraction * lines - 1e-9))
        draw = rng.uniform(flux.shape[1] if self.per_band else 1, lines).to(flux.device)
        rank = ranked(draw)
        rank = rank[..., None, :] if self.axis == "columns" else rank[..., None]
        return self._faulty(flux, rank, count, view)
