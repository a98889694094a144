"""Networks whose distance to the boundary is known in closed form, for tests of minimum-norm attacks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advbench.api import Classification, Regression, ball_norm
from advbench.testing.stage import Stage, a_stage
from advbench_attacks.hyperplane import nearest_step

from .stand_in import KinkedFirstPixel, classes, linear, random_tensor, small_network, space_of

SHAPE = (3, 4, 4)
BANDS = ((-4.0, 0.0, -100.0), (50.0, 1.0, -99.0))
"""Bounds with a range of their own in every band."""


def a_linear_stage(count: int, lower=-100.0, upper=100.0, samples: int = 12) -> Stage:
    """A linear classifier of values relative to their bounds; with the default ones no test meets a bound."""
    space = space_of(SHAPE, lower, upper)
    low, high = (torch.tensor(value).repeat_interleave(16) for value in (space.lower, space.upper))
    weight = random_tensor(count, 48, seed=count, low=-1) / (high - low)
    # Boundaries through the middle of the box, so that bounds matter and every class is near.
    bias = -(weight * (low + high) / 2).sum(1) + random_tensor(count, seed=3, low=-0.3, high=0.3)
    return a_stage(space, classes(count), count=samples, module=linear(weight, bias))


def a_regression_stage(samples: int = 12) -> Stage:
    """A linear regressor, inputs in [-4, 50], and errors of any sign, one of them 0."""
    space = space_of(SHAPE, -4.0, 50.0)
    module = linear(random_tensor(1, 48, seed=5, low=-1) / 54)
    task = Regression(("z",), tolerance=0.4)
    stage = a_stage(space, task, count=samples, module=module)
    error = random_tensor(samples, seed=6, low=-0.3, high=0.3)
    error[0] = 0.0
    return a_stage(space, task, module=module, x=stage.samples.x, y=stage.output()[:, 0] - error)


def a_smooth_stage(samples: int = 12, scale: float = 1.0) -> Stage:
    """A small curved network of four classes, five bands of different range, inputs in the middle of their bounds."""
    space = space_of((5, 6, 6), (-4.0, 0.0, 2.0, -1.0, 10.0), (50.0, 1.0, 3.0, 1.0, 40.0))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_network(5, 4)
            self.low, self.high = (
                torch.tensor(value).view(1, 5, 1, 1) for value in (space.lower, space.upper)
            )

        def forward(self, x: Tensor) -> Tensor:
            return scale * self.inner((x - self.low) / (self.high - self.low) - 0.5)

    return a_stage(space, classes(4), count=samples, module=Scaled())


class Flat(nn.Module):
    """Two logits that do not depend on the input, with a gradient of zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]) + 0 * x.flatten(1)[:, :2]


def a_flat_stage() -> Stage:
    """Nothing can be reached here."""
    return a_stage(space_of(SHAPE), classes(2), module=Flat())


def a_kinked_stage() -> Stage:
    """The derivative for the first pixel is not a number; the second and third decide."""
    x = random_tensor(6, 1, 2, 2, low=0.3, high=0.7)
    return a_stage(space_of((1, 2, 2), -5.0, 5.0), classes(2), module=KinkedFirstPixel(), x=x)


def sizes(stage: Stage, crafted: Tensor, norm: str, goal: str = "untargeted") -> Tensor:
    """Norms of what the attack found (b,), inf where the goal is not reached."""
    output, y = stage.output(crafted), stage.samples.y
    if isinstance(stage.task, Classification):
        reached = output.argmax(1) != y
    else:
        error = output[:, 0] - y
        signed = {"untargeted": error.abs(), "up": error, "down": -error}[goal]
        reached = signed > stage.task.tolerance
    return torch.where(reached, ball_norm(crafted - stage.samples.x, norm), torch.inf)


def distances(stage: Stage, norm: str, allowed: Tensor | None = None) -> Tensor:
    """Distance (b,) of a linear classifier's samples to the nearest other class; inf where none can be reached.

    A success is judged beyond the rounding of the logits, 1e-5 of them, and so is the distance. Only values
    ``allowed`` (1, c, h, w) may change.
    """
    y, output, weight = stage.samples.y, stage.output(), stage.network.module[1].weight
    mask = 1.0 if allowed is None else allowed.float().flatten(1)
    certain = 1e-5 * output.abs().amax(1, keepdim=True)
    best = torch.full((len(y),), torch.inf, dtype=torch.float64)
    for other in range(output.shape[1]):
        gap = output.gather(1, y[:, None]) - output[:, [other]] + certain
        size = _across(stage, norm, (weight[other] - weight[y]) * mask, gap)
        best = torch.where(y == other, best, torch.minimum(best, size))
    return best


def regression_distances(stage: Stage, norm: str, goal: str) -> Tensor:
    """Distance (b,) of a linear regressor's samples to the tolerance."""
    error = stage.output() - stage.samples.y[:, None]
    weight = stage.network.module[1].weight.expand(len(error), -1)
    tolerance = stage.task.tolerance + 1e-5 * stage.output().abs()
    up = _across(stage, norm, weight, tolerance - error)
    down = _across(stage, norm, -weight, tolerance + error)
    return {"up": up, "down": down, "untargeted": torch.minimum(up, down)}[goal]


def _across(stage: Stage, norm: str, slope: Tensor, gap: Tensor) -> Tensor:
    x = stage.samples.x
    slope, gap = slope.view_as(x), gap[:, 0].clamp_min(0)
    step = nearest_step(x, slope, gap, norm, *stage.space.bounds_like(x))
    reached = (slope.double() * step).flatten(1).sum(1) >= gap * (1 - 1e-5)
    return torch.where(reached, ball_norm(step, norm), torch.inf)
