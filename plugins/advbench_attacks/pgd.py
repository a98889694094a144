"""Projected gradient descent, Madry et al. 2018, https://arxiv.org/abs/1706.06083."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Budget, Rng, Tags, Target, ball_norm, param
from advbench_attacks.idle import refuse_idle
from advbench_attacks.l1 import column
from advbench_attacks.odds import LOSSES, resolved
from advbench_attacks.search import Active, Best, Loss, from_input, runs, stops, uniform


def pgd(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    alpha: Tensor,
    steps: int,
    random_start: bool = True,
    restarts: int = 1,
    loss: Loss = "odds",
    stop_on_success: bool = True,
    density: float = 0.01,
    decay: float = 0.0,
) -> Tensor:
    """``x_{k+1} = P(x_k + alpha * steepest(d loss / d x_k))``; the best iterate of each sample.

    Parameters
    ----------
    x, y
        Inputs (b, c, ...) in the input space, within its bounds, and their true targets.
    target
        What is attacked. A sample that is attacked to the end costs ``steps + 1`` forward and ``steps``
        backward passes per run: every iterate is judged, the last one too.
    rng
        Draws of the random starts, one per run and sample.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    eps, alpha
        Radius and step in units of ``x``, broadcast against it: (1, 1, 1, 1), (1, c, 1, 1) or (b, 1, 1, 1).
    steps
        Steps of one run.
    random_start
        Whether a run starts uniformly in the ball or at ``x``.
    restarts
        Number of runs.
    loss
        What is ascended, see `Target.evaluate`; ``"odds"`` is `log_odds`, or the margin of a regressor.
    stop_on_success
        Keep the first point that is misclassified and spend no further pass on that sample. Otherwise,
        and always for a regressor, all steps of all runs are done and the point with the smallest margin
        is kept.
    density
        l1 only: share of the values that a step moves (Tramer and Boneh 2019, https://arxiv.org/abs/1904.13000).
    decay
        Weight ``mu`` of the gradients before, each divided by its l1 norm (Dong et al. 2018, eq. 6,
        https://arxiv.org/abs/1710.06081). With 0 a step follows the current gradient alone.
    """
    stop = stops(target, stop_on_success)
    batch, loss = resolved(Active.all(x, y, target, norm, eps, alpha), loss)
    best = Best.start(x)
    draw = uniform if random_start else from_input
    for active, start in runs(batch, best, rng, draw, count=restarts, stop=stop):
        _ascend(start, active, best, steps=steps, loss=loss, stop=stop, density=density, decay=decay)
    return best.point


def _ascend(
    point: Tensor,
    active: Active,
    best: Best,
    *,
    steps: int,
    loss: Loss,
    stop: bool,
    density: float,
    decay: float,
) -> None:
    """One run; with ``stop`` samples leave as soon as they are wrong."""
    momentum = None
    for _ in range(steps):
        _, gradient, output = active.evaluate(point, loss)
        wrong = best.update(active, point, output)
        if stop and bool(wrong.any()):
            keep = torch.nonzero(~wrong)[:, 0]
            if not len(keep):
                return
            point, gradient, active = point[keep], gradient[keep], active.take(keep)
            momentum = None if momentum is None else momentum[keep]
        if decay:
            momentum = _accumulate(momentum, gradient, decay)
            gradient = momentum.clone()
        point = active.ball.climb(point, gradient, active.alpha, density)
    best.update(active, point, active.target.output(point))


def _accumulate(momentum: Tensor | None, gradient: Tensor, decay: float) -> Tensor:
    """``mu g + gradient / |gradient|_1``, each sample on its own."""
    gradient = gradient.nan_to_num_(0.0, 0.0, 0.0)
    length = column(ball_norm(gradient, "l1"), gradient)
    unit = torch.where(length > 0, gradient / length, 0.0).to(gradient)
    return unit if momentum is None else momentum.mul_(decay).add_(unit)


class PGD(Attack):
    """Projected gradient descent, Madry et al. 2018, https://arxiv.org/abs/1706.06083.

    Steepest ascent of the loss within the ball, projected after every step. Samples leave the batch once
    they are misclassified; a run on a sample that resists takes ``steps + 1`` forward passes. The plain
    attack of the paper on MNIST is ``eps: 0.3, alpha: 0.01, steps: 40, loss: ce``; ``odds`` are the cross-entropy at
    a scale of the logits at which all classes pull. In l1 a step moves the share ``density`` of the values, as in
    SLIDE (Tramer and Boneh 2019, https://arxiv.org/abs/1904.13000).
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2", "l1"),
        needs_gradient=True,
        targeted=True,
        stochastic=True,
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/1706.06083",
    )
    version: ClassVar[int] = 2

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"steps": 10},
        {"norm": "l2", "eps": 0.5, "steps": 10, "restarts": 2},
        {"norm": "l1", "eps": 10, "steps": 10, "density": 0.05},
    )

    norm: Literal["linf", "l2", "l1"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    steps: int = param(40, "gradient steps of one run", ge=1)
    alpha: Budget | None = param(
        None, "length of a step; unless given 2.5 eps / steps, in l2 at least eps / 4", unit="input units"
    )
    random_start: bool = param(True, "start uniformly in the ball instead of at the input")
    restarts: int = param(1, "number of runs, each with its own random start", ge=1)
    loss: Literal["odds", "margin", "ce", "dlr"] = param("odds", LOSSES)
    stop_on_success: bool = param(
        True, "stop at the first misclassified point instead of the smallest margin"
    )
    density: float = param(0.01, "share of the values that an l1 step moves", gt=0, le=1)

    @model_validator(mode="after")
    def _runs_differ(self) -> PGD:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts > 1 without random_start would repeat the same run")
        return self

    @model_validator(mode="after")
    def _density_is_of_l1(self) -> PGD:
        if self.norm != "l1":
            refuse_idle(self, f"on steps in {self.norm}; only an l1 step has a density", "density")
        return self

    def passes(self) -> int:
        """A forward and a backward pass for each step, and a forward pass to judge the last point of a run."""
        return self.restarts * (2 * self.steps + 1)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`pgd` with these parameters."""
        eps = self.eps.like(x)
        # In l2 a random start lies at the border, and short steps from there only turn around the ball.
        share = max(2.5 / self.steps, 0.25 if self.norm == "l2" else 0.0)
        alpha = eps * share if self.alpha is None else self.alpha.like(x)
        options = self.model_dump(
            include={"norm", "steps", "random_start", "restarts", "loss", "stop_on_success", "density"}
        )
        return pgd(x, y, target, rng, eps=eps, alpha=alpha, **options)
