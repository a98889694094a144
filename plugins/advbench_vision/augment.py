"""The train-time transform of image folders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Flip = Literal["none", "horizontal", "both"]


@dataclass(frozen=True)
class Wiggle:
    """Random flips, a rotation and a shift of every image of a batch (an ``Augment``).

    One bilinear resampling with reflecting borders does all three, so that every value stays between the smallest and
    largest of its image.

    Parameters
    ----------
    flip
        Axes that are flipped with probability 1/2 each: none, horizontal or both.
    rotation_degrees
        Angles are uniform in plus or minus this.
    shift
        Shifts along each axis are uniform in plus or minus this fraction of the side.
    """

    flip: Flip
    rotation_degrees: float
    shift: float

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Images (b, c, h, w) and uniform draws (b, 16) in [0, 1) to images (b, c, h, w)."""
        mirrored = torch.where(draws[:, :2] < 0.5, -1.0, 1.0)
        across = mirrored[:, 0] if self.flip != "none" else torch.ones_like(mirrored[:, 0])
        along = mirrored[:, 1] if self.flip == "both" else torch.ones_like(mirrored[:, 1])
        angle = (2 * draws[:, 2] - 1) * math.radians(self.rotation_degrees)
        offset = (2 * draws[:, 3:5] - 1) * 2 * self.shift  # the grid runs from -1 to 1
        cos, sin, ratio = torch.cos(angle), torch.sin(angle), x.shape[2] / x.shape[3]
        # Output to input coordinates; the ratio keeps angles true for images that are not square.
        top = torch.stack([across * cos, -across * sin * ratio, offset[:, 0]], dim=1)
        bottom = torch.stack([along * sin / ratio, along * cos, offset[:, 1]], dim=1)
        grid = functional.affine_grid(
            torch.stack([top, bottom], dim=1).to(x), list(x.shape), align_corners=False
        )
        return functional.grid_sample(
            x, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
