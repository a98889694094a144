"""What searches within a ball share: the ball, the samples that are still attacked, the best point of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advbench.api import Classification, Rng, Target, linf_box, project, random_in_ball, steepest_step
from advbench_attacks.l1 import onto_ball_and_box, sparse_step

Loss: TypeAlias = str | Callable[..., Any]
"""What is ascended, see `Target.evaluate`."""


@dataclass(frozen=True)
class Ball:
    """The balls around the samples ``x`` (b, c, ...), within the bounds; ``eps`` has one row per sample."""

    norm: str
    x: Tensor
    eps: Tensor
    bounds: tuple[Tensor, Tensor]
    box: tuple[Tensor, Tensor] | None
    mask: Tensor | None
    values: int  # how many values of a sample may change

    @classmethod
    def around(cls, x: Tensor, norm: str, eps: Tensor, target: Target) -> Ball:
        """Balls of radius ``eps`` (1 or b, 1 or c, 1, 1) in the target's input space and within its mask."""
        bounds = target.space.bounds_like(x)
        eps = eps.expand(len(x), *eps.shape[1:])
        box = linf_box(x, eps, *bounds) if norm == "linf" else None
        values = x[:1].numel() if target.mask is None else int(target.mask.sum())
        return cls(norm, x, eps, bounds, box, target.mask, values)

    def take(self, index: Tensor) -> Ball:
        """The balls of some samples."""
        box = None if self.box is None else (self.box[0][index], self.box[1][index])
        return replace(self, x=self.x[index], eps=self.eps[index], box=box)

    def project(self, point: Tensor) -> Tensor:
        """The projection; ``point`` may be overwritten. Gradients are zero outside the mask, so it is kept."""
        if self.box is not None:
            return point.clamp_(*self.box)
        if self.norm == "l1":
            return onto_ball_and_box(point, self.x, self.eps, self.bounds)
        return project(point, self.x, self.norm, self.eps, *self.bounds)

    def climb(self, point: Tensor, gradient: Tensor, alpha: Tensor, share: Tensor | float) -> Tensor:
        """A projected step of length ``alpha`` (b, 1 or c, 1, 1) along the steepest direction of the norm.

        In l1 it moves the ``share`` (a number or (b,)) of the values that have the largest gradients, at least one.
        ``gradient`` is overwritten; an entry of it that is not finite says nothing and moves nowhere.
        """
        gradient = gradient.nan_to_num_(0.0, 0.0, 0.0)
        if self.norm == "linf":
            step = gradient.sign_().mul_(alpha)
        elif self.norm == "l1":
            count = (self.values * torch.as_tensor(share, device=point.device)).long()
            count = count.clamp(1, max(self.values, 1)).expand(len(point))
            step = sparse_step(point, gradient, alpha, count, self.bounds)
        else:
            step = steepest_step(gradient, self.norm, alpha)
        return self.project(step.add_(point))

    def draw(self, rng: Rng) -> Tensor:
        """Points uniform in the balls; where the mask forbids a change, as they were."""
        return self._masked(random_in_ball(self.x, self.norm, self.eps, *self.bounds, rng))

    def corner(self, rng: Rng) -> Tensor:
        """Random corners of linf balls, brought into the bounds; where the mask forbids a change, as they were."""
        up = rng.uniform(*self.x.shape[1:]) < 0.5
        return self._masked(self.project(self.x + torch.where(up, self.eps, -self.eps)))

    def _masked(self, point: Tensor) -> Tensor:
        return point if self.mask is None else torch.where(self.mask, point, self.x)


@dataclass(frozen=True)
class Active:
    """The samples that are still attacked; ``rows`` (a,) are their places in the batch."""

    rows: Tensor
    y: Tensor
    target: Target
    ball: Ball
    alpha: Tensor
    label: Tensor | None = None
    """What a loss of its own is told instead of ``y``, (a, ...)."""

    @classmethod
    def all(cls, x: Tensor, y: Tensor, target: Target, norm: str, eps: Tensor, alpha: Tensor) -> Active:
        """The whole batch; ``eps`` and ``alpha`` broadcast against ``x``."""
        ball = Ball.around(x, norm, eps, target)
        rows = torch.arange(len(x), device=x.device)
        return cls(rows, y, target, ball, alpha.expand(len(x), *alpha.shape[1:]))

    def take(self, index: Tensor) -> Active:
        """Some of the active samples."""
        label = None if self.label is None else self.label[index]
        ball, target = self.ball.take(index), self.target.take(index)
        return Active(self.rows[index], self.y[index], target, ball, self.alpha[index], label)

    def evaluate(self, point: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, gradient and output at the current points (a, c, ...)."""
        return self.target.evaluate(point, self.y if self.label is None else self.label, loss)


@dataclass
class Best:
    """Best point so far of every sample of the batch, by the margin to the goal."""

    point: Tensor  # (b, c, ...)
    margin: Tensor  # (b,)
    found: Tensor  # (b,) bool: adversarial

    @classmethod
    def start(cls, x: Tensor) -> Best:
        """Nothing found yet."""
        found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return cls(x.clone(), x.new_full((len(x),), torch.inf), found)

    def update(self, active: Active, point: Tensor, output: Tensor) -> Tensor:
        """Judge the current points of the active samples; returns which of these are adversarial, (a,)."""
        found = active.target.is_adversarial(output, active.y)
        margin = active.target.margin(output, active.y).to(self.margin)
        margin = margin.nan_to_num(
            nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf
        )  # NaN: let the judge decide
        better = torch.nonzero(margin < self.margin[active.rows])[:, 0]
        rows = active.rows[better]
        self.point[rows] = point[better]
        self.margin[rows] = margin[better]
        self.found[active.rows] |= found
        return found


def stops(target: Target, stop_on_success: bool) -> bool:
    """Whether samples leave once they are adversarial: never for a regressor, whose error can always grow."""
    return stop_on_success and isinstance(target.task, Classification)


def runs(
    batch: Active, best: Best, rng: Rng, draw: Callable[[Ball, Rng], Tensor], *, count: int, stop: bool
) -> Iterator[tuple[Active, Tensor]]:
    """The samples to attack and their starts, run by run; with ``stop`` those for which nothing is found yet."""
    for _ in range(count):
        active, draws = batch, rng
        if stop:
            left = torch.nonzero(~best.found[batch.rows])[:, 0]
            if not len(left):
                return
            if len(left) < len(batch.rows):
                active, draws = batch.take(left), rng.take(left)
        yield active, draw(active.ball, draws)


def from_input(ball: Ball, rng: Rng) -> Tensor:
    """Start at the inputs themselves; nothing is drawn."""
    return ball.x


def uniform(ball: Ball, rng: Rng) -> Tensor:
    """Start uniformly in the balls."""
    return ball.draw(rng)
