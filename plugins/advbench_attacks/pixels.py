"""Candidates that change a few pixels: from genes in [0, 1] to places and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advbench.api import PhysicalLink, Target

Values = Literal["data", "unit", "physical"]
"""Which values a pixel may take: all within the bounds, those in [0, 1], or evenly in physical units from 0 up."""


@dataclass(frozen=True)
class Places:
    """Rows (r,) and columns (k,) of the pixels that may change."""

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None) -> Places:
        """Those of images (b, c, h, w) where the mask, bool (1, c, h, w), allows any change."""
        height, width = x.shape[2:]
        if mask is None:
            return cls(torch.arange(height, device=x.device), torch.arange(width, device=x.device))
        pixels = mask[0].any(0)
        return cls(torch.nonzero(pixels.any(1))[:, 0], torch.nonzero(pixels.any(0))[:, 0])

    def at(self, genes: Tensor) -> Tensor:
        """Row and column int64 (..., p, 2) of genes (..., p, 2); the p places differ from each other."""
        shape = (len(self.rows), len(self.columns))
        row, column = ((genes[..., axis] * n).long().clamp_max(n - 1) for axis, n in enumerate(shape))
        place = _apart(row * shape[1] + column, shape[0] * shape[1])
        return torch.stack([self.rows[place // shape[1]], self.columns[place % shape[1]]], -1)


def _apart(place: Tensor, count: int) -> Tensor:
    """Places (..., p) of ``count``; one that is taken by an earlier one moves on to the next free place."""
    place = place.clone()
    for later in range(1, place.shape[-1]):
        for _ in range(later):  # each earlier place can be in the way once
            taken = (place[..., :later] == place[..., later : later + 1]).any(-1)
            place[..., later] = (place[..., later] + taken) % count
    return place


@dataclass(frozen=True)
class Palette:
    """Values that genes stand for, per channel (1, c, 1, 1): ``lowest`` at 0, ``highest`` at 1."""

    lowest: Tensor
    highest: Tensor
    bounds: tuple[Tensor, Tensor]
    link: PhysicalLink | None

    @classmethod
    def of(cls, x: Tensor, target: Target, values: Values) -> Palette:
        """For images (b, c, h, w) in the target's input space."""
        lower, upper = bounds = target.space.bounds_like(x)
        link = target.space.link
        if values == "unit":
            return cls(torch.zeros_like(lower), torch.ones_like(upper), bounds, None)
        if values == "data" or link is None:
            return cls(lower, upper, bounds, None)
        low, high = link.to_physical(lower), link.to_physical(upper)
        return cls(torch.where(high > 0, low.clamp_min(0.0), low), high, bounds, link)

    def values(self, genes: Tensor) -> Tensor:
        """Values (..., c) within the bounds of genes (..., c)."""
        flat = genes.flatten(0, -2)[:, :, None, None]
        value = self.lowest + (self.highest - self.lowest) * flat
        if self.link is not None:
            value = self.link.from_physical(value)
        return torch.minimum(torch.maximum(value, self.bounds[0]), self.bounds[1]).view(genes.shape)


def unmasked(x: Tensor, positions: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Values (b, m, p, c) at positions (b, m, p, 2), but those of ``x`` where the mask forbids a change."""
    if mask is None:
        return values
    row, column = positions.unbind(3)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    allowed = mask[0].permute(1, 2, 0)[row, column]
    return torch.where(allowed, values, x.permute(0, 2, 3, 1)[image, row, column])


def put(x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Images (b, c, h, w) with the pixels at (b, p, 2) set to (b, p, c)."""
    changed = x.clone()
    image = torch.arange(len(x), device=x.device)
    for pixel in range(positions.shape[1]):
        changed[image, :, positions[:, pixel, 0], positions[:, pixel, 1]] = values[:, pixel]
    return changed
