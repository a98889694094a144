"""Non-local means, Buades et al. 2005, https://doi.org/10.1109/CVPR.2005.38."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from advbench.api import param
from advbench_defenses.squeezers import reflected


def non_local_means(
    x: Tensor, lower: Tensor, upper: Tensor, *, search: int, template: int, strength: float
) -> Tensor:
    """Every pixel of images (b, c, h, w) as the mean of those around it that look alike, differentiable.

    ``u(p) = sum_q w(p, q) x(q) / sum_q w(p, q)`` over the ``search`` x ``search`` pixels q around p, with
    ``w = exp(-d^2 / strength^2)``. ``d^2`` is the mean squared difference of the ``template`` x ``template``
    pixels around p and q over all channels, which share their weights. Windows reach beyond the border by
    reflection about the last pixel. These are the conventions of OpenCV's ``fastNlMeansDenoising``, which also
    rounds to 8 bits and drops weights below 0.001.

    Parameters
    ----------
    x
        Images.
    lower, upper
        Bounds, broadcast against ``x``; differences are in units of the range between them.
    search, template
        Sides of the windows in pixels, odd.
    strength
        The paper's h, in units of the range between the bounds.
    """
    width = upper - lower
    reach, half = search // 2, template // 2
    padded = reflected(x / width, reach + half, reach + half, repeat_edge=False)
    height = x.shape[-2] + 2 * half
    centre = padded[..., reach : reach + height, reach : padded.shape[-1] - reach]
    change, total = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for top in range(search):
        # A row of the window at a time is computed again on the way back: all of it would not fit in memory.
        band = padded[..., top : top + height, :]
        part, weight = checkpoint(
            _one_row, centre, band, search, template, strength, use_reentrant=False, preserve_rng_state=False
        )
        change, total = change + part, total + weight
    return x + width * change / total


def _one_row(
    centre: Tensor, band: Tensor, search: int, template: int, strength: float
) -> tuple[Tensor, Tensor]:
    """Over one row of the search window: sum of weighted differences (b, c, h, w), and of weights (b, 1, h, w)."""
    half, width = template // 2, centre.shape[-1]
    inner = (..., slice(half, centre.shape[-2] - half), slice(half, width - half))
    parts = []
    for left in range(search):
        difference = band[..., left : left + width] - centre
        distance = F.avg_pool2d(difference.square().mean(1, keepdim=True), template, 1)
        weight = torch.exp(-distance / strength**2)
        parts.append((weight * difference[inner], weight))
    changes, weights = zip(*parts)
    return sum(changes[1:], changes[0]), sum(weights[1:], weights[0])


class NonLocalMeans(BaseModel):
    """Parameters of `non_local_means`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: int = param(13, "side of the window of pixels that are averaged, odd", unit="pixel", ge=1, le=51)
    template: int = param(3, "side of the windows that are compared, odd", unit="pixel", ge=1, le=15)
    strength: float = param(
        2 / 255, "difference that still counts as alike, over the range between the bounds", ge=1e-6
    )

    @field_validator("search", "template")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"the window has a middle pixel: expected an odd number, got {value}")
        return value

    def smooth(self, x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """`non_local_means` with these parameters."""
        return non_local_means(x, lower, upper, **self.model_dump())
