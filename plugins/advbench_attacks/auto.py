"""A parameter-free ensemble of attacks, after AutoAttack, Croce and Hein 2020, https://arxiv.org/abs/2003.01690."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Budget, Classification, Rng, Tags, Target, ball_norm, param
from advbench_attacks.apgd import apgd
from advbench_attacks.apgd_targeted import apgd_targeted
from advbench_attacks.fmn import fmn
from advbench_attacks.idle import refuse_idle
from advbench_attacks.l1 import column
from advbench_attacks.search import Loss
from advbench_attacks.square import square


@dataclass(frozen=True)
class Survivors:
    """The samples that no attack has broken yet; the first axis of everything is these samples."""

    x: Tensor  # (a, c, ...)
    y: Tensor
    target: Target
    rng: Rng
    eps: Tensor  # (a, 1 or c, 1, 1)

    def take(self, index: Tensor) -> Survivors:
        """Some of them."""
        return Survivors(
            self.x[index], self.y[index], self.target.take(index), self.rng.take(index), self.eps[index]
        )


Stage = Callable[[Survivors], Tensor]


def auto(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    steps: int = 100,
    queries: int = 5000,
    every_class: bool = True,
) -> Tensor:
    """The worst point that several different attacks find for each sample; each gets what the others left.

    Classifiers: Auto-PGD on the log-odds, targeted Auto-PGD on the logit margin, the fast minimum-norm attack where
    its result lies within the budget, and the Square attack, which needs no gradient. Regressors: Auto-PGD on
    the error, upwards and downwards, and the Square attack. Any number of classes and any bounds.

    Parameters
    ----------
    x, y
        Inputs (b, c, ...) in the input space, within its bounds, and their true targets.
    target
        What is attacked.
    rng
        Draws of starts and proposals.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"`` (there the Square attack is left out).
    eps
        Radius in units of ``x``: (1, 1, 1, 1), (1, c, 1, 1) or (b, 1, 1, 1).
    steps
        Steps of each gradient attack, and for each class.
    queries
        Forward passes of the Square attack.
    every_class
        Whether other classes are aimed at in turn; not where the goal is one class.
    """
    everyone = Survivors(x, y, target, rng, eps.expand(len(x), *eps.shape[1:]))
    best = x.clone()
    margin = x.new_full((len(x),), torch.inf)
    left = torch.arange(len(x), device=x.device)
    stages = _stages(target, norm, steps, queries, every_class)
    for stage in stages:
        some = everyone.take(left)
        point = stage(some)
        output = some.target.output(point)
        found = some.target.margin(output, some.y).to(margin).nan_to_num(nan=-torch.inf)
        better = torch.nonzero(found < margin[left])[:, 0]
        best[left[better]], margin[left[better]] = point[better], found[better]
        if isinstance(target.task, Classification):
            left = left[~some.target.is_adversarial(output, some.y)]
            if not len(left):
                break
    return best


def _stages(target: Target, norm: str, steps: int, queries: int, every_class: bool) -> Iterator[Stage]:
    if isinstance(target.task, Classification):
        yield _ascent(norm, steps, "odds")
        if every_class:
            yield lambda s: apgd_targeted(s.x, s.y, s.target, s.rng, norm=norm, eps=s.eps, steps=steps)
        else:
            yield _ascent(norm, steps, "margin")
        yield lambda s: _nearest_within(s, norm, steps, untargeted=every_class)
    else:
        for loss in ("margin", _above, _below):
            yield _ascent(norm, steps, loss)
    if norm != "l1":
        yield lambda s: square(s.x, s.y, s.target, s.rng, norm=norm, eps=s.eps, queries=queries)


def _ascent(norm: str, steps: int, loss: Loss) -> Stage:
    return lambda s: apgd(s.x, s.y, s.target, s.rng, norm=norm, eps=s.eps, steps=steps, loss=loss)


def _nearest_within(some: Survivors, norm: str, steps: int, *, untargeted: bool) -> Tensor:
    """The minimum-norm attack's points where they lie within the budget, else the inputs."""
    point = fmn(some.x, some.y, some.target, some.rng, norm=norm, steps=steps, untargeted=untargeted)
    inside = ball_norm(point - some.x, norm, some.eps) <= 1
    return torch.where(column(inside, point), point, some.x)


def _above(output: Tensor, y: Tensor) -> Tensor:
    return (output - y.view_as(output)).sum(1)


def _below(output: Tensor, y: Tensor) -> Tensor:
    return -_above(output, y)


class Auto(Attack):
    """Ensemble of attacks on the survivors, after AutoAttack, Croce and Hein 2020, https://arxiv.org/abs/2003.01690.

    Auto-PGD on the log-odds, targeted Auto-PGD, fast minimum-norm and Square, one after the other, each on the
    samples that are still right. There is nothing to tune; ``steps`` and ``queries`` only bound the cost. It is
    not the same as the original: no large scale of the logits can hide the gradients of its losses, the minimum-norm
    attack takes the place of FAB, and it runs for any number of classes, any bounds, and for regressors.
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
        {"steps": 5, "queries": 10},
        {"norm": "l2", "eps": 0.5, "steps": 5, "queries": 10},
        {"norm": "l1", "eps": 10, "steps": 5},
    )

    norm: Literal["linf", "l2", "l1"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    steps: int = param(100, "steps of each gradient attack, and for each class that it aims at", ge=1)
    queries: int = param(5000, "forward passes of the Square attack", ge=1)

    @model_validator(mode="after")
    def _queries_are_of_square(self) -> Auto:
        if self.norm == "l1":
            refuse_idle(self, "in l1, where the Square attack is left out", "queries")
        return self

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`auto` with these parameters."""
        return auto(
            x, y, target, rng,
            norm=self.norm, eps=self.eps.like(x), steps=self.steps, queries=self.queries,
            every_class=self.goal == "untargeted",
        )  # fmt: skip
