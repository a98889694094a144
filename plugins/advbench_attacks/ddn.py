"""Decoupled direction and norm, Rony et al. 2019, https://arxiv.org/abs/1811.09600."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, InputSpace, Rng, Tags, Target, ball_norm, clip, param
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


def ddn(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    steps: int = 100,
    gamma: float = 0.05,
    gamma_final: float = 0.001,
    alpha: float = 1.0,
    alpha_final: float = 0.01,
    loss: str = "margin",
    scale_free: bool = True,
    init_norm: float = 1.0,
    sides: int = 9,
    line_search: int = 4,
    levels: int | None = None,
    untargeted: bool = True,
) -> Tensor:
    """``delta <- eps u, u = (delta + alpha g) / |delta + alpha g|``; ``eps`` falls if adversarial and grows if not.

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
    steps
        Gradients per sample, those of the start included.
    gamma, gamma_final
        Relative change of the norm ``eps`` per step, annealed by a cosine.
    alpha, alpha_final
        Length of a gradient step, annealed by a cosine: in units of ``eps``, or of the bounds' range if not
        ``scale_free``.
    loss
        What is ascended, see `Target.evaluate`.
    scale_free
        Start at the nearest boundary of the linearisation and follow its estimates of the distance. Otherwise
        as published: start at the input, with the norm ``init_norm``, in units of ``x``, and change it by ``gamma``.
    sides
        Boundaries that the start compares, at most a tenth of ``steps``.
    line_search
        Forward passes that move the result towards ``x`` for as long as it is adversarial.
    levels
        Round changed values to so many levels between the bounds (256 in the paper); no line search then.
    untargeted
        Whether the goal is that of an untargeted attack.
    """
    if scale_free:
        sides = min(sides, max(1, steps // 10))
        start = first_order_start(x, y, target, rng, norm="l2", sides=sides, untargeted=untargeted)
        rows, point, steps = start.rows, start.point, steps - start.spent
        if not len(rows):
            return x
        inputs, y, target = x[rows], y[rows], target.take(rows)
        eps = ball_norm(point - inputs, "l2")
    else:
        rows, point, inputs = torch.arange(len(x), device=x.device), x, x
        eps = x.new_full((len(x),), init_norm, dtype=torch.float64)
    best, limit = Nearest.none(inputs, "l2"), farthest(inputs, "l2", target)
    lower, upper = target.space.bounds_like(x)
    point = _quantised(point, inputs, target.space, levels)
    for k in range(steps):
        evaluation = target.evaluate(point, y, loss)
        adversarial = target.is_adversarial(evaluation.output, y)
        size = best.update(point, adversarial)
        gradient = finite(evaluation.gradient)
        slope = ball_norm(gradient, "l2")
        rate = annealed(gamma, gamma_final, k / steps)
        length = annealed(alpha, alpha_final, k / steps)
        if scale_free:
            eps = next_norm(eps, size, -evaluation.loss.double(), slope, adversarial, best.found, rate)
            reach = column(length * eps, x).to(x)
        else:
            eps = eps * torch.where(adversarial, 1 - rate, 1 + rate)
            reach = length * (upper - lower)
        eps = torch.minimum(eps, limit)
        unit = gradient.mul_(column(slope.clamp_min(1e-36).reciprocal(), x).to(x))
        delta = unit.mul_(reach).add_(point).sub_(inputs)
        delta *= column(eps / ball_norm(delta, "l2").clamp_min(1e-300), x).to(x)
        point = _quantised(clip(delta.add_(inputs), lower, upper), inputs, target.space, levels)
    best.update(point, target.is_adversarial(target.output(point), y))
    if levels is None:
        shrink(best, y, target, passes=line_search)
    return x.index_copy(0, rows, best.point)


def _quantised(point: Tensor, x: Tensor, space: InputSpace, levels: int | None) -> Tensor:
    """Changed values rounded to levels between the bounds; what was not changed stays as it is."""
    if levels is None:
        return point
    lower, upper = space.bounds_like(x)
    share = ((point - lower) / (upper - lower) * (levels - 1)).round() / (levels - 1)
    return torch.where(point == x, x, clip(lower + share * (upper - lower), lower, upper))


class DDN(Attack):
    """Decoupled direction and norm, Rony et al. 2019, https://arxiv.org/abs/1811.09600.

    The smallest l2 perturbation: gradient steps turn it, and its norm shrinks or grows with the success of the last
    iterate. The paper's steps are in units of data in [0, 1] and begin at norm 1; here both are tied to the sample's
    own distance, by default. The published attack is ``scale_free: false, loss: ce, gamma_final: 0.05, levels: 256,
    line_search: 0, steps: 1000``.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("l2",),
        needs_gradient=True,
        minimum_norm=True,
        targeted=True,
        stochastic=True,
        reference="https://arxiv.org/abs/1811.09600",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"steps": 20},
        {"steps": 20, "scale_free": False, "loss": "ce", "gamma_final": 0.05, "levels": 256},
    )

    steps: int = param(100, "gradients per sample", ge=2)
    gamma: float = param(0.05, "relative change of the norm at the first step", gt=0, lt=1)
    gamma_final: float = param(0.001, "relative change of the norm at the last step", gt=0, lt=1)
    alpha: float = param(
        1.0, "first step, in units of the norm, or of the bounds' range if not scale_free", gt=0
    )
    alpha_final: float = param(0.01, "last step, in the same units", gt=0)
    loss: Literal["margin", "ce", "dlr"] = param(
        "margin", "what is increased: the negative logit margin, cross-entropy or the ratio of logits"
    )
    scale_free: bool = param(True, "start from and follow first-order estimates of the distance")
    init_norm: float = param(1.0, "first norm if not scale_free", unit="input units", gt=0)
    sides: int = param(9, "classes whose boundary is estimated at the start, at most steps / 10", ge=1)
    line_search: int = param(4, "forward passes of the line search at the end", ge=0)
    levels: int | None = param(None, "round changed values to so many levels between the bounds", ge=2)

    @model_validator(mode="after")
    def _start_and_end_have_an_effect(self) -> DDN:
        if not self.scale_free:
            refuse_idle(self, "without scale_free: the start is the input", "sides")
        elif self.goal != "untargeted":
            refuse_idle(self, "for one goal: only one boundary leads there", "sides")
        if self.scale_free:
            refuse_idle(self, "with scale_free: the start has a norm of its own", "init_norm")
        if self.levels is not None:
            refuse_idle(self, "on values rounded to levels", "line_search", off=0)
        return self

    def passes(self) -> int:
        """A forward and a backward pass for each step, one to judge the last point, and those of the line search."""
        return 2 * self.steps + 1 + (self.line_search if self.levels is None else 0)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`ddn` with these parameters."""
        options = self.model_dump(exclude={"goal", "mask"})
        return ddn(x, y, target, rng, untargeted=self.goal == "untargeted", **options)
