"""Faults of a detector: dead and hot pixels, bad columns, and what stands in the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.graded import Graded

Kind = Literal["dead", "hot", "both"]


def broken_pixels(
    x: Tensor, lower: Tensor, upper: Tensor, draw: Tensor, *, fraction: float, kind: str
) -> Tensor:
    """Images (b, c, h, w) in which the pixels with a uniform ``draw`` (b, 1, h, w) below ``fraction`` are broken.

    In all channels: dead ones are at ``lower``, hot ones at ``upper``; of ``"both"`` each is half.
    """
    hot_below = {"dead": 0.0, "hot": fraction, "both": fraction / 2}[kind]
    return torch.where(draw < hot_below, upper, torch.where(draw < fraction, lower, x))


def broken_lines(x: Tensor, lower: Tensor, upper: Tensor, draw: Tensor, *, count: int, kind: str) -> Tensor:
    """Images (b, c, h, w) in which ``count`` columns are broken: those with the smallest ``draw`` (b, w)."""
    rank = draw.argsort(dim=1, stable=True).argsort(dim=1)[:, None, None]
    hot = {"dead": rank < 0, "hot": rank >= 0, "both": rank % 2 == 0}[kind]
    return torch.where(rank < count, torch.where(hot, upper, lower), x)


def occlude(x: Tensor, draw: Tensor, *, fraction: float, value: Tensor) -> Tensor:
    """Images (b, c, h, w) behind a rectangle of their own shape and ``fraction`` of their area.

    Uniform draws (b, 2) place it; with the same draws a smaller one lies within a larger one. ``value``
    broadcasts against ``x``.
    """
    inside = []
    for axis, size in enumerate(x.shape[-2:]):
        side = min(size, math.floor(size * math.sqrt(fraction) + 0.5))
        start = (draw[:, axis].double() * (size - side + 1)).floor()[:, None]
        pixel = torch.arange(size, device=x.device)
        inside.append((pixel >= start) & (pixel < start + side))
    covered = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(covered, value, x)


class BadPixels(Graded):
    """Dead and hot pixels: at the lower or upper bound in all channels."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="fraction", unit="pixels")
    needs_images: ClassVar[str] = "bad pixels"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"fraction": (0.005, 0.01, 0.03, 0.06, 0.12)}

    fraction: float = param(0.02, "expected fraction of the pixels", ge=0, le=1)
    fault: Kind = param("both", "dead, hot, or each with equal chance")

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`broken_pixels` at the bounds of the input space."""
        draw = rng.uniform(1, *x.shape[-2:]).to(x)
        return broken_pixels(x, *space.bounds_like(x), draw, fraction=self.fraction, kind=self.fault)


class BadColumns(Graded):
    """Bad columns (or rows): at the lower or upper bound from end to end, in all channels.

    There is at least one, so that on fewer than 26 columns severities 1 and 2 are the same.
    """

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="fraction", unit="columns")
    needs_images: ClassVar[str] = "bad columns"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"fraction": (0.01, 0.04, 0.08, 0.14, 0.25)}
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"fraction": 0.25}, {"severity": 3})

    fraction: float = param(0.04, "fraction of the columns, rounded up to whole ones", ge=0, le=1)
    fault: Kind = param("both", "dead, hot, or in turn")
    axis: Literal["columns", "rows"] = param("columns", "which lines are bad")

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`broken_lines` at the bounds of the input space."""
        image = x if self.axis == "columns" else x.transpose(-1, -2)
        lines = image.shape[-1]
        count = min(lines, math.ceil(self.fraction * lines - 1e-9))
        draw = rng.uniform(lines).to(x.device)
        found = broken_lines(image, *space.bounds_like(x), draw, count=count, kind=self.fault)
        return found if self.axis == "columns" else found.transpose(-1, -2).contiguous()


class Occlusion(Graded):
    """A rectangle hides part of the image."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="fraction", unit="of the area")
    needs_images: ClassVar[str] = "an occlusion"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"fraction": (0.02, 0.05, 0.1, 0.2, 0.35)}

    fraction: float = param(0.1, "fraction of the area that is hidden, to whole pixels", ge=0, le=1)
    value: Literal["lower", "middle", "upper"] = param("middle", "what is seen there, between the bounds")

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`occlude` with this fraction."""
        lower, upper = space.bounds_like(x)
        value = {"lower": lower, "middle": (lower + upper) / 2, "upper": upper}[self.value]
        return occlude(x, rng.uniform(2).to(x), fraction=self.fraction, value=value)
