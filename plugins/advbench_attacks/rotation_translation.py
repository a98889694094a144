"""Rotations and translations on a grid, Engstrom et al. 2019, https://arxiv.org/abs/1712.02779."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Classification, InputSpace, Rng, Tags, Target, Task, param
from advbench_attacks.flow import warp
from advbench_attacks.idle import refuse_idle


class Motion(NamedTuple):
    """A rotation about the middle of the image, then a translation."""

    angle: float  # degrees, counter-clockwise
    down: float  # pixels
    right: float  # pixels


def motions(max_angle: float, angles: int, max_shift: float, shifts: int) -> list[Motion]:
    """All combinations of evenly spaced angles and shifts, the smallest first.

    The size of a motion is its largest entry as a share of that entry's range, then the sum of the shares.
    """
    turns, moves = _evenly(max_angle, angles), _evenly(max_shift, shifts)

    def size(motion: Motion) -> tuple[float, float]:
        shares = [abs(one) / (most or 1) for one, most in zip(motion, (max_angle, max_shift, max_shift))]
        return max(shares), sum(shares)

    return sorted((Motion(*entry) for entry in product(turns, moves, moves)), key=size)


def _evenly(most: float, count: int) -> list[float]:
    return [most * (2 * i / (count - 1) - 1) for i in range(count)] if count > 1 and most > 0 else [0.0]


def move(x: Tensor, motion: Motion, fill: Tensor | None = None) -> Tensor:
    """Images (b, c, h, w) after a motion, bilinear between pixels.

    Beyond the border they go on as at their edge, or with ``fill``, which broadcasts to (1, c, 1, 1).
    """
    if fill is None:
        return warp(x, _flow(motion, *x.shape[2:]).to(x).expand(len(x), -1, -1, -1)).image
    # Within a frame of one pixel the edge's value is the fill.
    height, width = x.shape[-2] + 2, x.shape[-1] + 2
    framed = fill.to(x).expand(*x.shape[:2], height, width).clone()
    framed[..., 1:-1, 1:-1] = x
    return move(framed, motion)[..., 1:-1, 1:-1].contiguous()


def _flow(motion: Motion, height: int, width: int) -> Tensor:
    """Where every pixel comes from, relative to itself, (1, 2, h, w) float64."""
    row = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    column = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    cosine, sine = math.cos(math.radians(motion.angle)), math.sin(math.radians(motion.angle))
    down, right = row - motion.down, column - motion.right
    return torch.stack([right * sine + down * cosine - row, right * cosine - down * sine - column])[None]


def rotation_translation(
    x: Tensor,
    y: Tensor,
    target: Target,
    grid: list[Motion],
    *,
    fill: Tensor | None = None,
    stop_on_success: bool = True,
) -> Tensor:
    """The worst of a grid of motions for each sample, shaped like ``x``.

    Parameters
    ----------
    x, y
        Images (b, c, h, w) in the input space and their true targets.
    target
        What is attacked, as a black box. Costs one forward pass per sample and motion.
    grid
        Motions in the order in which they are tried.
    fill
        See `move`.
    stop_on_success
        Keep the first motion that reaches the goal and try no further one on that sample. Otherwise, and always
        for a regressor, all are tried and the one with the smallest margin is kept.
    """
    stop = stop_on_success and isinstance(target.task, Classification)
    best, margins = x.clone(), x.new_full((len(x),), torch.inf)
    rows = torch.arange(len(x), device=x.device)
    for motion in grid:
        moved = move(x[rows], motion, fill)
        output = target.output(moved)
        margin, found = target.margin(output, y), target.is_adversarial(output, y)
        better = ~(margin >= margins[rows])  # a NaN too: let the judge decide
        best[rows[better]], margins[rows[better]] = moved[better], margin[better]
        if stop and bool(found.any()):
            left = torch.nonzero(~found)[:, 0]
            if not len(left):
                break
            rows, y, target = rows[left], y[left], target.take(left)
    return best


class RotationTranslation(Attack):
    """Rotations and translations on a grid, Engstrom et al. 2019, https://arxiv.org/abs/1712.02779.

    A black box suffices. Every image keeps the smallest motion of the grid that reaches the goal, or the one that
    comes closest. The paper's grid for small images is the default: 31 angles within 30 degrees and 5 shifts each
    way within 3 pixels, with constant borders.
    """

    tags: ClassVar[Tags] = Tags(
        targeted=True,
        strength="max_angle",
        unit="degree",
        reference="https://arxiv.org/abs/1712.02779",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"angles": 5, "shifts": 3},
        {"angles": 3, "shifts": 3, "padding": "constant"},
    )

    max_angle: float = param(30.0, "largest rotation, either way", unit="degree", ge=0, le=180)
    angles: int = param(31, "angles on the grid; an odd number includes 0", ge=1)
    max_shift: float = param(3.0, "largest translation, each way", unit="pixel", ge=0)
    shifts: int = param(5, "shifts on the grid, along each axis", ge=1)
    padding: Literal["replicate", "constant"] = param(
        "constant", "beyond the border: the edge goes on, or the value of fill"
    )
    fill: float | None = param(
        None, "value beyond the border; each channel's lower bound unless given", unit="input units"
    )
    stop_on_success: bool = param(
        True, "stop at the smallest motion that succeeds, not at the smallest margin"
    )

    @model_validator(mode="after")
    def _the_grid_and_its_border_have_an_effect(self) -> RotationTranslation:
        if self.angles == 1:
            refuse_idle(self, "with one angle, which is 0", "max_angle", off=0)
        if self.shifts == 1:
            refuse_idle(self, "with one shift, which is 0", "max_shift", off=0)
        if self.padding != "constant":
            refuse_idle(self, f"with padding {self.padding}", "fill")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images, without a mask; the fill must lie within the bounds."""
        if len(space.shape) != 3:
            return "a rotation needs images (c, h, w)"
        if self.mask is not None:
            return "a motion moves all pixels, so no mask is kept"
        if self.fill is not None and not max(space.lower) <= self.fill <= min(space.upper):
            return f"fill {self.fill} is outside the bounds of the data"
        return super().supports(space, task)

    def passes(self) -> int:
        """One forward pass for every motion."""
        return self.angles * self.shifts**2

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`rotation_translation` with these parameters."""
        lower = target.space.bounds_like(x)[0]
        fill = lower if self.fill is None else torch.full_like(lower, self.fill)
        return rotation_translation(
            x,
            y,
            target,
            motions(self.max_angle, self.angles, self.max_shift, self.shifts),
            fill=fill if self.padding == "constant" else None,
            stop_on_success=self.stop_on_success,
        )
