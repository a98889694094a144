"""Universal adversarial perturbations, Moosavi-Dezfooli et al. 2017, https://arxiv.org/abs/1610.08401."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import (
    Attack,
    Budget,
    Rng,
    Tags,
    Target,
    clip,
    param,
    project,
    random_in_ball,
    steepest_step,
)
from advbench_attacks.l1 import column


def universal(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    steps: int,
    loss: str = "margin",
) -> Tensor:
    """One change (1, c, ...) that makes as many of the inputs as possible adversarial.

    Ascent of the mean loss over all inputs (Shafahi et al. 2020, https://arxiv.org/abs/1811.11304, Algorithm 1).
    An input that is adversarial already pulls no more, and all others pull equally hard: each gradient is scaled
    to length one, so that neither the scale of the logits nor a steep input decides alone. The change that
    fooled most inputs is kept; among equals the one with the smallest mean margin.

    Parameters
    ----------
    x, y
        Inputs (b, c, ...) to learn from, and their true targets.
    target
        What is attacked. Costs ``steps + 1`` forward and ``steps`` backward passes per input.
    rng
        Draws of the start.
    norm
        ``"linf"`` or ``"l2"``.
    eps
        Radius in units of ``x``: (1, 1, 1, 1) or (1, c, 1, 1).
    steps
        Number of steps; their length falls linearly from ``eps / 4`` to 0.
    loss
        What is ascended, see `Target.evaluate`.
    """
    lower, upper = target.space.bounds_like(x)
    origin = torch.zeros_like(x[:1])
    reach = (lower - upper, upper - lower)
    first = rng.take(torch.zeros(1, dtype=torch.int64, device=x.device))
    delta = random_in_ball(origin, norm, eps / 10, *reach, first)
    if target.mask is not None:
        delta = delta * target.mask
    best, best_score = origin, (-1, 0.0)
    for step in range(steps + 1):
        point = clip(x + delta, lower, upper)
        if step < steps:
            _, gradient, output = target.evaluate(point, y, loss)
        else:
            output = target.output(point)
        margin, fooled = target.margin(output, y), target.is_adversarial(output, y)
        score = (int(fooled.sum()), -float(margin.double().nan_to_num(0.0).mean()))
        if score > best_score:
            best, best_score = delta, score
        if step < steps:
            pull = _common_direction(gradient.nan_to_num(0.0, 0.0, 0.0), ~fooled)
            length = eps / 4 * (1 - step / steps)
            delta = project(delta + steepest_step(pull, norm, length), origin, norm, eps, *reach)
    return best


def _common_direction(gradient: Tensor, wanted: Tensor) -> Tensor:
    """Mean of the unit gradients of the inputs that are not fooled yet, of all once there is none, (1, c, ...)."""
    rows = gradient[wanted] if bool(wanted.any()) else gradient
    largest = rows.flatten(1).abs().amax(1).clamp_min(1e-38)
    rows = rows / column(largest, rows)  # squares of small entries underflow
    length = rows.flatten(1).norm(dim=1).clamp_min(1e-12)
    pull: Tensor = (rows / column(length, rows)).mean(0, keepdim=True)
    return pull


class Universal(Attack):
    """Universal perturbation: one change for all inputs, Moosavi-Dezfooli et al. 2017, https://arxiv.org/abs/1610.08401.

    It is learned on samples that are not evaluated. ``images: 1`` learns from a single one, which shows how far
    one image's perturbation carries over to the others. The columns of passes hold what the learning cost,
    divided by the number of evaluated samples.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2"),
        needs_gradient=True,
        targeted=True,
        universal=True,
        stochastic=True,
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/1610.08401",
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"steps": 5},
        {"norm": "l2", "eps": 0.5, "steps": 5, "images": 1},
    )

    norm: Literal["linf", "l2"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    steps: int = param(30, "steps over all inputs that it learns from", ge=1)
    images: int = param(200, "most inputs that it learns from", ge=1, le=500)
    loss: Literal["margin", "ce", "dlr"] = param(
        "margin", "what is increased: the negative logit margin, cross-entropy or the ratio of logits"
    )

    def universal(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`universal` with these parameters, on the first inputs."""
        some = torch.arange(min(self.images, len(x)), device=x.device)
        return universal(
            x[some], y[some], target.take(some), rng.take(some),
            norm=self.norm, eps=self.eps.like(x), steps=self.steps, loss=self.loss,
        )  # fmt: skip
