"""What searches within a ball share: the ball, the samples that are still attacked, the best point of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.api import Rng, Target, linf_box, project, random_in_ball


@dataclass(frozen=True)
class Ball:
    """The balls around the samples ``x`` (b, c, ...), within the bounds; ``eps`` has one row per sample."""

    norm: str
    x: Tensor
    eps: Tensor
    bounds: tuple[Tensor, Tensor]
    box: tuple[Tensor, Tensor] | None
    mask: Tensor | None

    @classmethod
    def around(cls, x: Tensor, norm: str, eps: Tensor, target: Target) -> Ball:
        """Balls of radius ``eps`` (1 or b, 1 or c, 1, 1) in the target's input space and within its mask."""
        bounds = target.space.bounds_like(x)
        eps = eps.expand(len(x), *eps.shape[1:])
        box = linf_box(x, eps, *bounds) if norm == "linf" else None
        return cls(norm, x, eps, bounds, box, target.mask)

    def take(self, index: Tensor) -> Ball:
        """The balls of some samples."""
        box = None if self.box is None else (self.box[0][index], self.box[1][index])
        return Ball(self.norm, self.x[index], self.eps[index], self.bounds, box, self.mask)

    def project(self, point: Tensor) -> Tensor:
        """The projection; ``point`` may be overwritten. Gradients are zero outside the mask, so it is kept."""
        if self.box is not None:
            return point.clamp_(*self.box)
        return project(point, self.x, self.norm, self.eps, *self.bounds)

    def draw(self, rng: Rng) -> Tensor:
        """Points uniform in the balls; where the mask forbids a change, as they were."""
        start = random_in_ball(self.x, self.norm, self.eps, *self.bounds, rng)
        return start if self.mask is None else torch.where(self.mask, start, self.x)


@dataclass(frozen=True)
class Active:
    """The samples that are still attacked; ``rows`` (a,) are their places in the batch."""

    rows: Tensor
    y: Tensor
    target: Target
    ball: Ball
    alpha: Tensor

    def take(self, index: Tensor) -> Active:
        """Some of the active samples."""
        ball, target = self.ball.take(index), self.target.take(index)
        return Active(self.rows[index], self.y[index], target, ball, self.alpha[index])


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
        better = margin < self.margin[active.rows]
        self.point[active.rows[better]] = point[better]
        self.margin[active.rows[better]] = margin[better]
        self.found[active.rows] |= found
        return found
