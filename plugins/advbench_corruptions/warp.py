"""Resampling of images at displaced places."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["reflect", "edge", "constant"]

_PADDING = {"reflect": "reflection", "edge": "border", "constant": "zeros"}


def warp(x: Tensor, place: Tensor, *, interpolation: str, border: str, fill: Tensor) -> Tensor:
    """Images (b, c, h, w) read at other places.

    Parameters
    ----------
    x
        Images.
    place
        Row and column, in pixels, at which each output pixel is read, (b, 2, h, w).
    interpolation
        ``"bilinear"`` or ``"bicubic"`` (with a = -0.75; it may overshoot).
    border
        What lies beyond the image: its reflection about the edge of the last pixel, the last pixel repeated,
        or the constant ``fill``.
    fill
        Value beyond the border, broadcast against ``x``.
    """
    height, width = x.shape[-2:]
    size = place.new_tensor([height, width]).view(2, 1, 1)
    grid = ((2 * place + 1) / size - 1).flip(1).permute(0, 2, 3, 1).to(x)
    shifted = x - fill if border == "constant" else x
    found = F.grid_sample(shifted, grid, interpolation, _PADDING[border], align_corners=False)
    return found + fill if border == "constant" else found


def pixels(height: int, width: int, device: torch.device) -> Tensor:
    """Row and column of every pixel, (2, h, w), float64."""
    axes = [torch.arange(size, dtype=torch.float64, device=device) for size in (height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))
