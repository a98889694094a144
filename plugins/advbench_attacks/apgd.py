"""Auto-PGD, Croce and Hein 2020, https://arxiv.org/abs/2003.01690, and 2021 for l1, https://arxiv.org/abs/2103.01208."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Budget, Rng, Tags, Target, param
from advbench_attacks.l1 import column
from advbench_attacks.odds import LOSSES, resolved
from advbench_attacks.search import Active, Ball, Best, Loss, from_input, runs, stops, uniform

MOMENTUM = 0.75
"""Weight of the gradient step against the step before, alpha in Algorithm 1."""
RISES = 0.75
"""Share of a window's steps that must increase the loss, rho in condition 1."""


def apgd(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    steps: int,
    random_start: bool = True,
    restarts: int = 1,
    loss: Loss = "odds",
    stop_on_success: bool = True,
) -> Tensor:
    """Projected gradient ascent that chooses its steps itself; the best iterate of each sample.

    ``z = P(x_k + eta * steepest(d loss / d x_k))``, ``x_{k+1} = P(x_k + .75 (z - x_k) + .25 (x_k - x_{k-1}))``
    with ``eta = 2 eps`` at first. At checkpoints a sample whose loss has stalled goes back to its best point with
    half the step (2020, Algorithm 1). In l1 there is no momentum, ``eta = eps`` at first, a step moves a fraction of
    the values only, and the checkpoints set this fraction too (2021, Algorithm 1; its warm start in larger balls
    is left out).

    Parameters
    ----------
    x, y
        Inputs (b, c, ...) in the input space, within its bounds, and their true targets.
    target
        What is attacked. A sample that is attacked to the end costs ``steps + 1`` forward and ``steps``
        backward passes per run.
    rng
        Draws of the random starts, one per run and sample.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    eps
        Radius in units of ``x``, broadcast against it: (1, 1, 1, 1), (1, c, 1, 1) or (b, 1, 1, 1).
    steps
        Steps of one run.
    random_start, restarts, stop_on_success
        As for `pgd`.
    loss
        What is ascended, see `Target.evaluate`; ``"odds"`` is `log_odds`, or the margin of a regressor.
    """
    stop = stops(target, stop_on_success)
    batch, loss = resolved(Active.all(x, y, target, norm, eps, eps), loss)
    best = Best.start(x)
    draw = uniform if random_start else from_input
    for active, start in runs(batch, best, rng, draw, count=restarts, stop=stop):
        ascend(start, active, best, steps=steps, loss=loss, stop=stop)
    return best.point


def checkpoints(steps: int) -> list[int]:
    """Evaluations after which progress is judged: ``p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06)`` of the steps."""
    percent = [0, 22]
    while percent[-1] < 100:
        percent.append(percent[-1] + max(percent[-1] - percent[-2] - 3, 6))
    return sorted({-(-share * steps // 100) for share in percent[1:] if share < 100})


@dataclass
class Run:
    """Where one run stands; the first axis of everything is the samples that are still attacked."""

    before: Tensor  # (a, c, ...) the point before the current one
    value: Tensor  # (a,) loss at the current point
    top: Tensor  # (a, c, ...) the point with the largest loss so far,
    top_value: Tensor  # (a,) its loss
    top_gradient: Tensor  # (a, c, ...) and its gradient
    eta: Tensor  # (a,) step in units of eps
    rises: Tensor  # (a,) int64 steps since the last checkpoint that increased the loss
    mark: Tensor  # (a,) `top_value` at the last checkpoint
    changed: Tensor  # (a,) bool: `eta` was changed there
    share: Tensor  # (a,) l1: share of the values that a step moves
    support: Tensor  # (a,) int64 l1: values that were changed in the best point at the last checkpoint

    @classmethod
    def start(cls, point: Tensor, value: Tensor, gradient: Tensor, ball: Ball) -> Run:
        """Begin at a point (a, c, ...) with this loss and gradient."""
        ones = torch.ones_like(value)
        zeros, no = torch.zeros_like(value, dtype=torch.int64), torch.zeros_like(value, dtype=torch.bool)
        eta = ones * (1.0 if ball.norm == "l1" else 2.0)
        return cls(
            point, value, point.clone(), value, gradient.clone(), eta, zeros, value, no,
            0.2 * ones, zeros + ball.values,
        )  # fmt: skip

    def take(self, index: Tensor) -> Run:
        """Some of the samples."""
        return Run(*(getattr(self, field.name)[index] for field in fields(self)))

    def observe(self, point: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Take the current point into account."""
        self.rises = self.rises + (value > self.value)
        self.value = value
        better = torch.nonzero(value > self.top_value)[:, 0]
        self.top[better], self.top_gradient[better] = point[better], gradient[better]
        self.top_value = torch.where(value > self.top_value, value, self.top_value)

    def halve(self, window: int) -> Tensor:
        """Checkpoint for linf and l2: halve the step where the loss has stalled; returns where, (a,)."""
        stalled = (self.rises < RISES * window) | (~self.changed & (self.top_value <= self.mark))
        self.eta = torch.where(stalled, self.eta / 2, self.eta)
        self.changed, self.mark, self.rises = stalled, self.top_value, torch.zeros_like(self.rises)
        return stalled

    def thin(self, ball: Ball) -> Tensor:
        """Checkpoint for l1: a new share and step; returns where the best point has become sparser, (a,)."""
        support = (self.top != ball.x).flatten(1).sum(1)
        sparser = support < 0.95 * self.support
        self.eta = torch.where(sparser, 1.0, (self.eta / 1.5).clamp_min(0.1))
        self.share, self.support = support / (1.5 * ball.values), support
        return sparser


def ascend(point: Tensor, active: Active, best: Best, *, steps: int, loss: Loss, stop: bool) -> None:
    """One run; with ``stop`` samples leave as soon as they are wrong."""
    sparse = active.ball.norm == "l1"
    period = max(int(0.04 * steps), 1)
    marks = list(range(period, steps, period)) if sparse else checkpoints(steps)
    run, last = None, 0
    for k in range(steps):
        value, gradient, output = active.evaluate(point, loss)
        value = value.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        wrong = best.update(active, point, output)
        if stop and bool(wrong.any()):
            keep = torch.nonzero(~wrong)[:, 0]
            if not len(keep):
                return
            point, value, gradient, active = point[keep], value[keep], gradient[keep], active.take(keep)
            run = None if run is None else run.take(keep)
        if run is None:
            run = Run.start(point, value, gradient, active.ball)
        else:
            run.observe(point, value, gradient)
        if k in marks:
            back = run.thin(active.ball) if sparse else run.halve(k - last)
            point, gradient = _return(back, run, point, gradient)
            last = k
        point = _step(run, point, gradient, active, momentum=k > 0 and not sparse)
    best.update(active, point, active.target.output(point))


def _return(back: Tensor, run: Run, point: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Best point and its gradient for the samples ``back`` (a,), the current ones for the others."""
    where = column(back, point)
    run.value = torch.where(back, run.top_value, run.value)
    return torch.where(where, run.top, point), torch.where(where, run.top_gradient, gradient)


def _step(run: Run, point: Tensor, gradient: Tensor, active: Active, *, momentum: bool) -> Tensor:
    ahead = active.ball.climb(point, gradient, active.alpha * column(run.eta, point), run.share)
    before, run.before = run.before, point
    if not momentum:
        return ahead
    # Differences, so that a value that does not move stays as it is to the last bit.
    moved = ahead.sub_(point).mul_(MOMENTUM).add_(point - before, alpha=1 - MOMENTUM).add_(point)
    return active.ball.project(moved)


class APGD(Attack):
    """Auto-PGD, Croce and Hein 2020, https://arxiv.org/abs/2003.01690.

    Gradient ascent with momentum that halves its step and returns to its best point wherever a sample's loss
    has stalled, so that only the number of steps is left to choose. In l1 the sparse variant of Croce and Hein
    2021, https://arxiv.org/abs/2103.01208.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2", "l1"),
        needs_gradient=True,
        targeted=True,
        stochastic=True,
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/2003.01690",
    )

    version: ClassVar[int] = 2

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"steps": 10},
        {"norm": "l2", "eps": 0.5, "steps": 10, "restarts": 2, "loss": "ce"},
        {"norm": "l1", "eps": 10, "steps": 10},
    )

    norm: Literal["linf", "l2", "l1"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    steps: int = param(100, "gradient steps of one run", ge=1)
    random_start: bool = param(True, "start uniformly in the ball instead of at the input")
    restarts: int = param(1, "number of runs, each with its own random start", ge=1)
    loss: Literal["odds", "margin", "ce", "dlr"] = param("odds", LOSSES)
    stop_on_success: bool = param(
        True, "stop at the first misclassified point instead of the smallest margin"
    )

    @model_validator(mode="after")
    def _runs_differ(self) -> APGD:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts > 1 without random_start would repeat the same run")
        return self

    def passes(self) -> int:
        """A forward and a backward pass for each step, and a forward pass to judge the last point of a run."""
        return self.restarts * (2 * self.steps + 1)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`apgd` with these parameters."""
        options = self.model_dump(
            include={"norm", "steps", "random_start", "restarts", "loss", "stop_on_success"}
        )
        return apgd(x, y, target, rng, eps=self.eps.like(x), **options)
