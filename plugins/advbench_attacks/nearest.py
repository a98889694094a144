"""What minimum-norm attacks share: the nearest adversarial point so far, how norms change, a last line search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.api import Target, ball_norm
from advbench_attacks.l1 import column

ROUNDING = 2e-5
"""Share of the largest output by which a margin must be negative to be judged adversarial, and some more."""


@dataclass
class Nearest:
    """The nearest adversarial point so far of every sample; the sample itself where none was found."""

    norm: str
    x: Tensor  # (b, c, ...)
    point: Tensor  # (b, c, ...)
    size: Tensor  # (b,) float64, norm of point - x; inf where none was found

    @classmethod
    def none(cls, x: Tensor, norm: str) -> Nearest:
        """Nothing found yet."""
        return cls(norm, x, x, x.new_full((len(x),), torch.inf, dtype=torch.float64))

    @property
    def found(self) -> Tensor:
        """Bool (b,)."""
        return self.size.isfinite()

    def take(self, index: Tensor) -> Nearest:
        """Those of some samples."""
        return Nearest(self.norm, self.x[index], self.point[index], self.size[index])

    def update(self, point: Tensor, adversarial: Tensor) -> Tensor:
        """Judged points (b, c, ...); returns their norms (b,), float64."""
        size = ball_norm(point - self.x, self.norm)
        better = adversarial & (size < self.size)
        self.point = torch.where(column(better, point), point, self.point)
        self.size = torch.where(better, size, self.size)
        return size


def farthest(x: Tensor, norm: str, target: Target) -> Tensor:
    """Norm (b,) of the largest change that bounds and mask allow."""
    lower, upper = target.space.bounds_like(x)
    room = torch.maximum(x - lower, upper - x)
    return ball_norm(room if target.mask is None else room * target.mask, norm)


def finite(gradient: Tensor) -> Tensor:
    """A contiguous copy; an entry that is not finite says nothing, and is 0."""
    return gradient.nan_to_num(0.0, 0.0, 0.0).contiguous()


def annealed(first: float, last: float, share: float) -> float:
    """Cosine schedule from ``first`` (share 0) to ``last`` (share 1)."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def next_norm(
    eps: Tensor, size: Tensor, gap: Tensor, slope: Tensor, adversarial: Tensor, found: Tensor, gamma: float
) -> Tensor:
    """Norm (b,) of the next iterate: ``gamma`` smaller or larger, or more where the linearisation says so.

    Parameters
    ----------
    eps, size
        Norm that the iterate was meant to have, and norm that it has within the bounds, (b,).
    gap, slope
        What is missing to the boundary, negative beyond it, and dual norm of the gradient, (b,). The boundary
        is estimated at ``size + gap / slope``. It is approached from outside by half at most, and from inside
        only until an adversarial point was found: then it is near.
    adversarial, found
        Whether the iterate is adversarial, and whether any so far was, (b,).
    gamma
        Smallest relative change.
    """
    estimate = torch.where(slope > 0, size + gap / slope.clamp_min(1e-300), 0.0).nan_to_num(0.0)
    smaller = torch.minimum(eps * (1 - gamma), torch.maximum(estimate, size / 2))
    larger = eps * (1 + gamma)
    larger = torch.where(found, larger, torch.maximum(estimate, larger))
    return torch.where(adversarial, smaller, larger)


def shrink(nearest: Nearest, y: Tensor, target: Target, *, passes: int) -> None:
    """Move the found points towards ``x`` while they stay adversarial, by so many forward passes.

    The boundary on the segment between ``x`` and the point is bracketed by false position;
    for l0 the number of changes that are kept is bisected, those of the least effect go first.
    """
    rows = torch.nonzero(nearest.found & (nearest.size > 0))[:, 0]
    if not passes or not len(rows):
        return
    some = nearest.take(rows)
    search = _shrink_count if nearest.norm == "l0" else _shrink_segment
    search(some, y[rows], target.take(rows), passes)
    nearest.point = nearest.point.index_copy(0, rows, some.point)
    nearest.size = nearest.size.index_copy(0, rows, some.size)


def _shrink_segment(nearest: Nearest, y: Tensor, target: Target, passes: int) -> None:
    whole = (nearest.point - nearest.x).double()
    low, high = torch.zeros_like(nearest.size), torch.ones_like(nearest.size)
    at_low, at_high = (_level(target.output(point), y, target) for point in (nearest.x, nearest.point))
    for _ in range(passes - 2):
        # A tenth of the way back from the estimate, as what is closer but not adversarial gains nothing.
        share = (at_low / (at_low - at_high)).nan_to_num(0.5, 0.5, 0.5).clamp(0.0, 1.0)
        middle = low + (high - low) * (0.9 * share + 0.1)
        point = (nearest.x + column(middle, whole) * whole).to(nearest.x)
        output = target.output(point)
        adversarial = target.is_adversarial(output, y)
        nearest.update(point, adversarial)
        level = _level(output, y, target)
        at_low, at_high = torch.where(adversarial, at_low, level), torch.where(adversarial, level, at_high)
        low, high = torch.where(adversarial, low, middle), torch.where(adversarial, middle, high)


def _level(output: Tensor, y: Tensor, target: Target) -> Tensor:
    """The margin (b,), its zero moved to where a success is certain."""
    return (target.margin(output, y) + ROUNDING * output.abs().amax(1)).double()


def _shrink_count(nearest: Nearest, y: Tensor, target: Target, passes: int) -> None:
    whole, x = nearest.point, nearest.x
    gradient = target.input_gradient(whole, y).nan_to_num(0.0, 0.0, 0.0)
    effect = (gradient.double() * (whole - x)).masked_fill(whole == x, -torch.inf).flatten(1)
    rank = effect.argsort(dim=1, descending=True, stable=True).argsort(dim=1).view_as(x)
    few, many = torch.zeros_like(nearest.size), nearest.size
    for _ in range(passes - 2):
        kept = torch.div(few + many, 2, rounding_mode="floor")
        point = torch.where(rank < column(kept, x), whole, x)
        adversarial = target.is_adversarial(target.output(point), y)
        nearest.update(point, adversarial)
        few, many = torch.where(adversarial, few, kept), torch.where(adversarial, kept, many)
