"""Where minimum-norm attacks begin: the nearest boundary of the network's linearisation at the input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from advbench.api import Regression, Rng, Target, ball_norm, clip
from advbench_attacks.hyperplane import nearest_step
from advbench_attacks.l1 import column
from advbench_attacks.nearest import ROUNDING

OVERSHOOT = 1.002
"""How far beyond the estimated boundary the start lies; the search takes it back."""


class Start(NamedTuple):
    """Where the search begins, for the samples ``rows`` of the batch that are not adversarial as they are."""

    rows: Tensor  # (a,)
    point: Tensor  # (a, c, ...)
    spent: int  # gradients, per sample


def first_order_start(
    x: Tensor, y: Tensor, target: Target, rng: Rng, *, norm: str, sides: int, untargeted: bool
) -> Start:
    """The nearest of the boundaries of the network's linearisation at ``x`` (b, c, ...), and a little beyond it.

    Untargeted attacks compare ``sides`` of them: those of the classes with the largest logits, as DeepFool does
    (Moosavi-Dezfooli et al. 2016, https://arxiv.org/abs/1511.04599), or of the outputs of a regressor, each upwards
    and downwards. Each costs a forward and a backward pass; the point itself is not judged yet. Where the gradient
    vanishes it lies in a random direction, at about a hundredth of the bounds' range.
    """
    _, gradient, output = target.evaluate(x, y)
    rows = torch.nonzero(~target.is_adversarial(output, y))[:, 0]
    if not len(rows):
        return Start(rows, x[rows], 1)
    x, y, target, rng = x[rows], y[rows], target.take(rows), rng.take(rows)
    output, gradient = output[rows], gradient[rows]
    shortest, spent = _Shortest(x, norm, target), 1
    if untargeted and isinstance(target.task, Regression):
        spent += _compare_outputs(shortest, output, y, target, sides)
    else:
        shortest.offer(gradient, target.margin(output, y) + ROUNDING * output.abs().amax(1))
        if untargeted:
            spent += _compare_classes(shortest, output, y, target, sides)
    return Start(rows, shortest.point(rng), spent)


class _Shortest:
    """The shortest of the steps that were offered, for each sample."""

    def __init__(self, x: Tensor, norm: str, target: Target) -> None:
        self.x, self.norm, self.mask = x, norm, target.mask
        self.bounds = target.space.bounds_like(x)
        self.step = torch.zeros_like(x)
        self.size = x.new_full((len(x),), torch.inf, dtype=torch.float64)
        self.reaches = torch.zeros_like(self.size, dtype=torch.bool)

    def offer(self, gradient: Tensor, gap: Tensor) -> None:
        """The step that gains ``gap`` (b,) along the gradient (b, c, ...); one that the box cuts short is second."""
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        gap = gap.double().nan_to_num(0.0, 0.0, 0.0)
        wanted = gap if self.norm == "l0" else gap * OVERSHOOT
        step = nearest_step(self.x, gradient, wanted, self.norm, *self.bounds)
        size = ball_norm(step, self.norm)
        gain = (gradient.double() * step).flatten(1).cumsum(1)[:, -1]  # a sum would depend on the batch size
        reaches = gain >= gap * (1 - 1e-6)
        better = (reaches & ~self.reaches) | ((reaches == self.reaches) & (size < self.size))
        better &= size > 0
        self.step = torch.where(column(better, step), step, self.step)
        self.size = torch.where(better, size, self.size)
        self.reaches |= better & reaches

    def point(self, rng: Rng) -> Tensor:
        """The points (b, c, ...)."""
        lower, upper = self.bounds
        lost = self.size.isinf()
        if bool(lost.any()):
            draw = (upper - lower) * rng.normal(*self.x.shape[1:]) / 100
            draw = draw if self.mask is None else draw * self.mask
            self.step = torch.where(column(lost, draw), draw, self.step)
        return clip(self.x + self.step, lower, upper)


def _compare_classes(shortest: _Shortest, output: Tensor, y: Tensor, target: Target, sides: int) -> int:
    """Offer the boundaries to the classes behind the runner-up; returns how many."""
    others = output.scatter(1, y[:, None], -torch.inf)
    order = others.topk(min(sides, output.shape[1] - 1), dim=1).indices
    for rank in range(1, order.shape[1]):
        pair = torch.stack([order[:, rank], y], 1)
        gain, gradient, _ = target.evaluate(shortest.x, pair, _difference)
        shortest.offer(gradient, ROUNDING * output.abs().amax(1) - gain)
    return order.shape[1] - 1


def _difference(output: Tensor, pair: Tensor) -> Tensor:
    first, second = output.gather(1, pair).unbind(1)
    return first - second


def _compare_outputs(shortest: _Shortest, output: Tensor, y: Tensor, target: Target, sides: int) -> int:
    """Offer the tolerance of each output of a regressor, upwards and downwards; returns how many outputs."""
    assert isinstance(target.task, Regression)
    wanted = y.view_as(output)
    scale = (1 + wanted).abs() if target.task.relative else torch.ones_like(wanted)
    reach = scale * target.task.tolerance + ROUNDING * output.abs().amax(1, keepdim=True)
    count = min(sides, output.shape[1])
    for j in range(count):
        gradient = target.input_gradient(shortest.x, y, lambda output, _, j=j: output[:, j])
        error = (output - wanted)[:, j]
        shortest.offer(gradient, reach[:, j] - error)
        shortest.offer(-gradient, reach[:, j] + error)
    return count
