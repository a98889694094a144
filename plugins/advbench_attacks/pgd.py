"""Projected gradient descent, Madry et al. 2018, https://arxiv.org/abs/1706.06083."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Budget, Classification, Rng, Tags, Target, param, steepest_step
from advbench_attacks.search import Active, Ball, Best


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
    loss: str = "margin",
    stop_on_success: bool = True,
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
        ``"linf"`` or ``"l2"``.
    eps, alpha
        Radius and step in units of ``x``, broadcast against it: (1, 1, 1, 1), (1, c, 1, 1) or (b, 1, 1, 1).
    steps
        Steps of one run.
    random_start
        Whether a run starts uniformly in the ball or at ``x``.
    restarts
        Number of runs.
    loss
        What is ascended, see `Target.evaluate`.
    stop_on_success
        Keep the first point that is misclassified and spend no further pass on that sample. Otherwise,
        and always for a regressor, all steps of all runs are done and the point with the smallest margin
        is kept.
    """
    stop = stop_on_success and isinstance(target.task, Classification)
    alpha = alpha.expand(len(x), *alpha.shape[1:])
    everyone = torch.arange(len(x), device=x.device)
    batch = Active(everyone, y, target, Ball.around(x, norm, eps, target), alpha)
    best = Best.start(x)
    for _ in range(restarts):
        left = everyone[~best.found] if stop else everyone
        if not len(left):
            break
        active = batch.take(left)
        start = active.ball.draw(rng.take(left)) if random_start else active.ball.x
        _ascend(start, active, best, steps=steps, loss=loss, stop=stop)
    return best.point


def _ascend(point: Tensor, active: Active, best: Best, *, steps: int, loss: str, stop: bool) -> None:
    """One run; with ``stop`` samples leave as soon as they are wrong."""
    for _ in range(steps):
        _, gradient, output = active.target.evaluate(point, active.y, loss)
        wrong = best.update(active, point, output)
        if stop and bool(wrong.any()):
            keep = torch.nonzero(~wrong)[:, 0]
            if not len(keep):
                return
            point, gradient, active = point[keep], gradient[keep], active.take(keep)
        # An entry of the gradient that is not finite says nothing: it moves nowhere.
        step = steepest_step(gradient.nan_to_num(0.0, 0.0, 0.0), active.ball.norm, active.alpha)
        point = active.ball.project(step.add_(point))
    best.update(active, point, active.target.output(point))


class PGD(Attack):
    """Projected gradient descent, Madry et al. 2018, https://arxiv.org/abs/1706.06083.

    Steepest ascent of the loss within the ball, projected after every step. Samples leave the batch once
    they are misclassified; a run on a sample that resists takes ``steps + 1`` forward passes. The plain
    attack of the paper on MNIST is ``eps: 0.3, alpha: 0.01, steps: 40, loss: ce``.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2"),
        needs_gradient=True,
        targeted=True,
        stochastic=True,
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/1706.06083",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"steps": 10},
        {"norm": "l2", "eps": 0.5, "steps": 10, "restarts": 2},
    )

    norm: Literal["linf", "l2"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    steps: int = param(40, "gradient steps of one run", ge=1)
    alpha: Budget | None = param(None, "length of a step; 2.5 eps / steps unless given", unit="input units")
    random_start: bool = param(True, "start uniformly in the ball instead of at the input")
    restarts: int = param(1, "number of runs, each with its own random start", ge=1)
    loss: Literal["margin", "ce", "dlr"] = param(
        "margin", "what is increased: the negative logit margin, cross-entropy or the ratio of logits"
    )
    stop_on_success: bool = param(
        True, "stop at the first misclassified point instead of the smallest margin"
    )

    @model_validator(mode="after")
    def _runs_differ(self) -> PGD:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts > 1 without random_start would repeat the same run")
        return self

    def passes(self) -> int:
        """A forward and a backward pass for each step, and a forward pass to judge the last point of a run."""
        return self.restarts * (2 * self.steps + 1)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`pgd` with these parameters."""
        eps = self.eps.like(x)
        alpha = eps * (2.5 / self.steps) if self.alpha is None else self.alpha.like(x)
        options = self.model_dump(
            include={"norm", "steps", "random_start", "restarts", "loss", "stop_on_success"}
        )
        return pgd(x, y, target, rng, eps=eps, alpha=alpha, **options)
