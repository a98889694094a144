"""The smallest budget with which an attack succeeds, by bisection for each sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Rng, Tags, Target, ball_norm, param, project
from advbench_attacks.apgd import apgd
from advbench_attacks.fgsm import fgsm
from advbench_attacks.idle import refuse_idle
from advbench_attacks.l1 import column
from advbench_attacks.nearest import farthest
from advbench_attacks.pgd import pgd

FixedBudget: TypeAlias = Callable[[Tensor, Tensor, Target, Rng, Tensor], Tensor]
"""An attack ``(x, y, target, rng, eps)`` with one budget per sample, eps (b, 1, 1, 1); returns points like ``x``."""

DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}

OVERSHOOT = 1.02
"""How far beyond the estimated boundary the first try goes."""


class Smallest(NamedTuple):
    """The nearest adversarial points that were found."""

    eps: Tensor  # (b,) float64, norm of the change; inf where none was found
    point: Tensor  # (b, c, ...); the input where none was found


def bisect(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    attack: FixedBudget,
    *,
    norm: str,
    search_steps: int,
    eps_max: Tensor | None = None,
) -> Smallest:
    """The smallest budget with which ``attack`` succeeds, for each sample on its own.

    The first try goes just beyond the boundary of the network's linearisation. It is doubled until the attack
    succeeds, then the interval between the largest budget that failed and the smallest change that succeeded is
    halved. What the attack returns is brought into the ball, measured, and judged by a pass of its own.

    Parameters
    ----------
    x, y
        Inputs (b, c, ...) in the input space, within its bounds, and their true targets.
    target
        What is attacked. Costs one evaluation, and in every search step a forward pass and those of the attack.
    rng
        Handed to the attack.
    attack
        Any attack with a fixed budget.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    search_steps
        How often the attack is run on each sample.
    eps_max
        Largest budget, (b,) or a single number; as far as the bounds (and the mask) reach unless given.
    """
    reach = farthest(x, norm, target)
    reach = reach if eps_max is None else torch.minimum(reach, eps_max.to(reach))
    trial, clean = _first_order(x, y, target, norm)
    trial = torch.minimum(OVERSHOOT * trial, reach)
    low = torch.zeros_like(reach)
    size, point = torch.where(clean, 0.0, torch.inf).to(reach), x.clone()
    open_ = ~clean & (reach > 0)
    for _ in range(search_steps):
        rows = torch.nonzero(open_)[:, 0]
        if not len(rows):
            break
        eps = column(trial[rows], x).to(x)
        found, reached = _attempt(x[rows], y[rows], target.take(rows), rng.take(rows), attack, norm, eps)
        better = torch.nonzero(reached < size[rows])[:, 0]
        point[rows[better]] = found[better]
        size[rows] = torch.minimum(size[rows], reached)
        low[rows] = torch.where(reached.isinf(), trial[rows], low[rows])
        # An attack that fails with more than it needs elsewhere: what failed says nothing.
        low = torch.where(low < size, low, 0.0)
        open_ = open_ & (size.isfinite() | (trial < reach))
        trial = torch.where(size.isfinite(), (low + size) / 2, torch.minimum(2 * trial, reach))
    return Smallest(size, point)


def _first_order(x: Tensor, y: Tensor, target: Target, norm: str) -> tuple[Tensor, Tensor]:
    """Margin over the dual norm of its gradient, (b,) float64, and which samples have reached the goal as they are."""
    _, gradient, output = target.evaluate(x, y)
    margin = target.margin(output, y).double()
    slope = ball_norm(gradient.nan_to_num(0.0, 0.0, 0.0), DUAL[norm])
    distance = (margin / slope).nan_to_num(nan=torch.inf)
    return distance.clamp_min(0.0), target.is_adversarial(output, y)


def _attempt(
    x: Tensor, y: Tensor, target: Target, rng: Rng, attack: FixedBudget, norm: str, eps: Tensor
) -> tuple[Tensor, Tensor]:
    """Points of the balls, and the norms (b,) of their changes: inf where the point is not adversarial."""
    found = project(attack(x, y, target, rng, eps), x, norm, eps, *target.space.bounds_like(x))
    adversarial = target.is_adversarial(target.output(found), y)
    return found, torch.where(adversarial, ball_norm(found - x, norm), torch.inf)


class Bisection(Attack):
    """The smallest budget with which an attack succeeds, by bisection for each sample.

    Turns an attack with a fixed budget into one of minimum norm: one run gives the whole curve of accuracy over
    budget. Steps are in proportion to each sample's budget; ``eps`` of the attack is the only thing that changes.
    What it finds is an upper bound: with several classes the attack follows the runner-up, which need not be the
    nearest.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2", "l1"),
        needs_gradient=True,
        minimum_norm=True,
        targeted=True,
        stochastic=True,
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"steps": 8, "search_steps": 6},
        {"attack": "apgd", "norm": "l2", "steps": 8, "search_steps": 6},
        {"attack": "fgsm", "norm": "linf", "search_steps": 8},
        {"norm": "l1", "steps": 8, "search_steps": 6},
    )

    attack: Literal["fgsm", "pgd", "apgd"] = param("pgd", "the attack that is run with every budget")
    norm: Literal["linf", "l2", "l1"] = param("l2", "norm that is made small")
    steps: int = param(40, "gradient steps of each run; fgsm has one", ge=1)
    search_steps: int = param(12, "budgets that are tried on each sample", ge=1)
    eps_max: float | None = param(
        None, "largest budget; as far as the bounds reach unless given", unit="input units", gt=0
    )
    random_start: bool = param(False, "start pgd and apgd uniformly in the ball instead of at the input")
    loss: Literal["margin", "ce", "dlr"] = param(
        "margin", "what is increased: the negative logit margin, cross-entropy or the ratio of logits"
    )

    @model_validator(mode="after")
    def _fgsm_is_linf(self) -> Bisection:
        if self.attack == "fgsm" and self.norm != "linf":
            raise ValueError(f"norm: fgsm takes a step in linf, not in {self.norm}")
        return self

    @model_validator(mode="after")
    def _fgsm_is_one_step(self) -> Bisection:
        if self.attack == "fgsm":
            refuse_idle(self, "on fgsm, one step from the input", "steps", "random_start")
        return self

    def passes(self) -> int:
        """The first estimate, and for each budget the attack and a forward pass that judges it."""
        attack = 2 if self.attack == "fgsm" else 2 * self.steps + 1
        return 2 + self.search_steps * (attack + 1)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`bisect` with these parameters."""
        eps_max = None if self.eps_max is None else x.new_tensor(self.eps_max, dtype=torch.float64)
        return bisect(
            x, y, target, rng, self._run, norm=self.norm, search_steps=self.search_steps, eps_max=eps_max
        ).point

    def _run(self, x: Tensor, y: Tensor, target: Target, rng: Rng, eps: Tensor) -> Tensor:
        if self.attack == "fgsm":
            return fgsm(x, y, target, eps=eps, loss=self.loss)
        options = self.model_dump(include={"norm", "steps", "random_start", "loss"})
        if self.attack == "pgd":
            return pgd(x, y, target, rng, eps=eps, alpha=eps * (2.5 / self.steps), **options)
        return apgd(x, y, target, rng, eps=eps, **options)
