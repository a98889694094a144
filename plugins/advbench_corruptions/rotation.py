"""Rotation about the centre of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.graded import Graded
from advbench_corruptions.warp import Border, pixels, warp


def rotate(
    x: Tensor,
    angle: Tensor,
    *,
    fill: Tensor,
    interpolation: str = "bilinear",
    border: str = "reflect",
) -> Tensor:
    """Images (b, c, h, w) turned counter-clockwise (as shown with row 0 on top) by ``angle`` (b,) in radians.

    See `warp` for ``interpolation``, ``border`` and ``fill``.
    """
    height, width = x.shape[-2:]
    row, column = pixels(height, width, x.device)
    up, right = (height - 1) / 2 - row, column - (width - 1) / 2
    turn = angle.double().view(-1, 1, 1)
    cos, sin = turn.cos(), turn.sin()
    place = torch.stack(
        [(height - 1) / 2 - (cos * up - sin * right), (width - 1) / 2 + (cos * right + sin * up)], 1
    )
    return warp(x, place, interpolation=interpolation, border=border, fill=fill)


class Rotation(Graded):
    """Rotation about the centre of the image by a fixed angle, to either side."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="angle", unit="degree")
    needs_images: ClassVar[str] = "a rotation"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"angle": (5.0, 10.0, 20.0, 30.0, 45.0)}

    angle: float = param(10.0, "angle of the rotation; 0 changes nothing", unit="degree", ge=0, le=180)
    sense: Literal["random", "left", "right"] = param(
        "random", "left is counter-clockwise; random per sample"
    )
    interpolation: Literal["bilinear", "bicubic"] = param("bilinear", "interpolation between pixels")
    border: Border = param(
        "reflect", "beyond the image: its reflection, its last pixels, or the lower bound (constant)"
    )

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`rotate` by this angle."""
        if self.angle == 0:
            return x.clone()
        left = rng.uniform() < 0.5 if self.sense == "random" else torch.full((len(x),), self.sense == "left")
        turn = x.new_tensor(self.angle, dtype=torch.float64).deg2rad()
        angle = torch.where(left.to(x.device), turn, -turn)
        fill = space.bounds_like(x)[0]
        return rotate(x, angle, fill=fill, interpolation=self.interpolation, border=self.border)
