"""The stretch between fluxes and inputs, in units of the sky noise of each band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from advbench.api import InputSpace, PhysicalLink

SIGMA_RANGE = (-20.0, 20000.0)
"""Fluxes beyond so many standard deviations of the sky are cut off."""


@dataclass(frozen=True)
class SkyUnits:
    """``x = arcsinh(flux / (softening * sigma))`` for each band, as the asinh magnitudes of Lupton, Gunn & Szalay 1999.

    ``sigma`` is the noise of an empty pixel. Up to ``softening`` times the noise an input is nearly linear in flux, and
    the noise of the sky is ``1 / softening`` in every band: a change by ``eps`` is ``softening * eps`` times the noise.
    https://arxiv.org/abs/astro-ph/9903081
    """

    sigma: tuple[float, ...]
    softening: float
    unit: str = "e-/s"

    def to_physical(self, x: Tensor) -> Tensor:
        """Inputs to fluxes, (..., c, h, w)."""
        return torch.sinh(x) * self._scale(x)

    def from_physical(self, value: Tensor) -> Tensor:
        """Fluxes to inputs, (..., c, h, w); what lies beyond `SIGMA_RANGE` is cut off."""
        low, high = (bound / self.softening for bound in SIGMA_RANGE)
        scaled = (value / self._scale(value)).clamp(low, high)
        # arcsinh, as precise here and seven times faster than torch's own on a CPU
        square, size = scaled * scaled, scaled.abs()
        return torch.log1p(size + square / (1 + torch.sqrt(1 + square))) * scaled.sign()

    def _scale(self, x: Tensor) -> Tensor:
        return (x.new_tensor(self.sigma) * self.softening)[:, None, None]

    def space(
        self, shape: tuple[int, ...], channels: Sequence[str], facts: dict[str, tuple[float, ...]]
    ) -> InputSpace:
        """Input space of images that went through this stretch."""
        count = len(channels)
        low, high = torch.tensor(SIGMA_RANGE, dtype=torch.float64).div(self.softening).asinh().tolist()
        return InputSpace(
            shape,
            (low,) * count,
            (high,) * count,
            tuple(channels),
            link=cast(PhysicalLink, self),
            facts=facts,
        )
