"""Fast minimum-norm attack, Pintor et al. 2021, https://arxiv.org/abs/2102.12827."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Rng, Tags, Target, ball_norm, clip, param, project, steepest_step
from advbench_attacks.first_order import first_order_start
from advbench_attacks.idle import refuse_idle
from advbench_attacks.l1 import column
from advbench_attacks.nearest import (
    Nearest,
    annealed,
    farthest,
    finite,
    next_norm,
    shrink,
)

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


def fmn(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    steps: int = 100,
    gamma: float = 0.05,
    gamma_final: float = 0.001,
    alpha: float = 1.0,
    alpha_final: float = 0.01,
    scale_free: bool = True,
    sides: int = 9,
    line_search: int = 4,
    untargeted: bool = True,
) -> Tensor:
    """``delta <- P_eps(delta + alpha g / |g|_2)``; ``eps`` falls if adversarial and grows if not.

    Algorithm 1 of the paper. Returns the nearest adversarial iterate of each sample, or the sample where there is
    none.

    Parameters
    ----------
    x, y
        Inputs (b, c, ...) in the input space, within its bounds, and their true targets.
    target
        What is attacked. Costs ``steps`` forward and backward passes per sample, one forward pass that judges the
        last iterate, and ``line_search`` more. A sample that is adversarial as it is costs one of each.
    rng
        A random direction where the gradient at the input vanishes.
    norm
        ``"linf"``, ``"l2"``, ``"l1"`` or ``"l0"`` (changed values).
    steps
        Gradients per sample, those of the start included.
    gamma, gamma_final
        Relative change of the norm ``eps`` per step, annealed by a cosine; for l0 at least by one value.
    alpha, alpha_final
        Length of a gradient step, annealed by a cosine: in units that suit the ball (`_reach`), or of the bounds'
        range if not ``scale_free``.
    scale_free
        Start at the nearest boundary of the linearisation and follow its estimates of the distance from both sides.
        Otherwise as published: start at the input, and follow them until the first success.
    sides
        Boundaries that the start compares, at most a tenth of ``steps``.
    line_search
        Passes that move the result towards ``x`` for as long as it is adversarial.
    untargeted
        Whether the goal is that of an untargeted attack.
    """
    rows, point, inputs = torch.arange(len(x), device=x.device), x, x
    if scale_free:
        sides = min(sides, max(1, steps // 10))
        start = first_order_start(x, y, target, rng, norm=norm, sides=sides, untargeted=untargeted)
        rows, point, steps = start.rows, start.point, steps - start.spent
        if not len(rows):
            return x
        inputs, y, target = x[rows], y[rows], target.take(rows)
    best, limit = Nearest.none(inputs, norm), farthest(inputs, norm, target)
    eps = ball_norm(point - inputs, norm)
    bounds = target.space.bounds_like(x)
    for k in range(steps):
        evaluation = target.evaluate(point, y)
        adversarial = target.is_adversarial(evaluation.output, y)
        size = best.update(point, adversarial)
        gradient = finite(evaluation.gradient)
        rate = annealed(gamma, gamma_final, k / steps)
        if norm == "l0":
            eps = _next_count(eps, size, adversarial, rate)
        else:
            gap, slope = -evaluation.loss.double(), ball_norm(gradient, DUAL[norm])
            near = next_norm(eps, size, gap, slope, adversarial, best.found, rate)
            eps = (
                near
                if scale_free
                else torch.where(adversarial, torch.minimum(eps * (1 - rate), best.size), near)
            )
        eps = torch.minimum(eps, limit)
        length = annealed(alpha, alpha_final, k / steps)
        reach = length * (
            _reach(norm, eps, inputs, bounds, target.mask) if scale_free else bounds[1] - bounds[0]
        )
        point = clip(steepest_step(gradient, "l2", reach).add_(point), *bounds)
        point = _onto_ball(point, inputs, norm, eps, bounds)
    best.update(point, target.is_adversarial(target.output(point), y))
    shrink(best, y, target, passes=line_search)
    return x.index_copy(0, rows, best.point)


def _next_count(eps: Tensor, size: Tensor, adversarial: Tensor, gamma: float) -> Tensor:
    """The number of values that may change (b,), section 2.2 of the paper: at least one less or more each time."""
    fewer = torch.minimum(eps, size)
    fewer = torch.minimum(fewer - 1, (fewer * (1 - gamma)).floor())
    more = torch.maximum(eps + 1, (eps * (1 + gamma)).floor())
    return torch.where(adversarial, fewer, more).clamp_min(1)


def _reach(norm: str, eps: Tensor, x: Tensor, bounds: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
    """Length in l2 of the first steps, (b, 1 or c, 1, ...): about what moves from one side of the ball to the other.

    linf: half a diagonal of the cube; l2: the radius; l1: a third of it, as its balls are thin; l0: three times the
    range for each value that may change, so that a few of them meet their bounds.
    """
    if norm == "l0":
        return 3 * column(eps.sqrt(), x).to(x) * (bounds[1] - bounds[0])
    if norm == "linf":
        dimensions = eps.new_tensor(x[0].numel()) if mask is None else mask.sum()
        return column(dimensions.double().sqrt() * eps, x).to(x)
    return column(eps if norm == "l2" else 0.3 * eps, x).to(x)


def _onto_ball(point: Tensor, x: Tensor, norm: str, eps: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    radius = column(eps, x).to(x)
    if norm != "l0":
        return project(point, x, norm, radius, *bounds)
    # Which changes are the largest is a question of the range of their channel.
    share = (point - x) / (bounds[1] - bounds[0])
    kept = project(share, torch.zeros_like(x), norm, radius, -torch.ones_like(x), torch.ones_like(x))
    return torch.where(kept != 0, point, x)


class FMN(Attack):
    """Fast minimum-norm attack, Pintor et al. 2021, https://arxiv.org/abs/2102.12827.

    The smallest perturbation in linf, l2, l1 or l0: gradient steps of the logit margin, projected onto a ball whose
    radius follows the estimated distance to the boundary. The paper's steps are in units of data in [0, 1] and begin
    at the input; here they are tied to the sample's own distance, by default. The published attack is
    ``scale_free: false, line_search: 0``.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2", "l1", "l0"),
        needs_gradient=True,
        minimum_norm=True,
        targeted=True,
        stochastic=True,
        reference="https://arxiv.org/abs/2102.12827",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        *({"norm": norm, "steps": 20} for norm in ("linf", "l2", "l1", "l0")),
        {"norm": "l2", "steps": 20, "scale_free": False, "line_search": 0},
    )

    norm: Literal["linf", "l2", "l1", "l0"] = param(
        "linf", "norm that is made small; l0 counts changed values"
    )
    steps: int = param(100, "gradients per sample", ge=2)
    gamma: float = param(0.05, "relative change of the norm at the first step", gt=0, lt=1)
    gamma_final: float = param(0.001, "relative change of the norm at the last step", gt=0, lt=1)
    alpha: float = param(
        1.0, "first step, relative to the ball, or in units of the bounds' range if not scale_free", gt=0
    )
    alpha_final: float = param(0.01, "last step, in the same units", gt=0)
    scale_free: bool = param(
        True, "start from and follow first-order estimates of the distance from both sides"
    )
    sides: int = param(9, "classes whose boundary is estimated at the start, at most steps / 10", ge=1)
    line_search: int = param(4, "passes of the line search at the end", ge=0)

    @model_validator(mode="after")
    def _start_has_an_effect(self) -> FMN:
        if not self.scale_free:
            refuse_idle(self, "without scale_free: the start is the input", "sides")
        elif self.goal != "untargeted":
            refuse_idle(self, "for one goal: only one boundary leads there", "sides")
        return self

    def passes(self) -> int:
        """A forward and a backward pass for each step, one to judge the last point, and those of the line search."""
        return 2 * self.steps + 1 + self.line_search

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`fmn` with these parameters."""
        options = self.model_dump(exclude={"goal", "mask"})
        return fmn(x, y, target, rng, untargeted=self.goal == "untargeted", **options)
