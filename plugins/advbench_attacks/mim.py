"""Momentum iterative method, Dong et al. 2018, https://arxiv.org/abs/1710.06081."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Budget, Rng, Tags, Target, param
from advbench_attacks.odds import LOSSES
from advbench_attacks.pgd import pgd
from advbench_attacks.search import Loss


def momentum_pgd(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    alpha: Tensor,
    steps: int,
    decay: float = 1.0,
    random_start: bool = False,
    restarts: int = 1,
    loss: Loss = "odds",
    stop_on_success: bool = True,
) -> Tensor:
    """``g_{k+1} = mu g_k + d / |d|_1`` with ``d = d loss / d x_k``, ``x_{k+1} = P(x_k + alpha * steepest(g_{k+1}))``.

    Algorithm 1 of the paper: `pgd` along an accumulated gradient; ``decay`` is ``mu``, the other parameters are
    those of `pgd`.
    """
    return pgd(
        x, y, target, rng, norm=norm, eps=eps, alpha=alpha, steps=steps, random_start=random_start,
        restarts=restarts, loss=loss, stop_on_success=stop_on_success, decay=decay,
    )  # fmt: skip


class MomentumPGD(Attack):
    """Momentum iterative method, Dong et al. 2018, https://arxiv.org/abs/1710.06081.

    Gradients, each divided by its l1 norm, are accumulated with the decay ``mu``; the accumulated direction is
    steadier and carries over better to other networks. The defaults are the paper's (10 steps of eps / steps from
    the input, ``mu`` 1), with log-odds for a loss; the paper's is ``ce``.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2"),
        needs_gradient=True,
        targeted=True,
        stochastic=True,
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/1710.06081",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"norm": "l2", "eps": 0.5, "random_start": True})

    norm: Literal["linf", "l2"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    steps: int = param(10, "gradient steps of one run", ge=1)
    alpha: Budget | None = param(None, "length of a step; eps / steps unless given", unit="input units")
    decay: float = param(1.0, "decay mu of the accumulated gradient; 0 follows the current one alone", ge=0)
    random_start: bool = param(False, "start uniformly in the ball instead of at the input")
    restarts: int = param(1, "number of runs, each with its own random start", ge=1)
    loss: Literal["odds", "margin", "ce", "dlr"] = param("odds", LOSSES)
    stop_on_success: bool = param(
        True, "stop at the first misclassified point instead of the smallest margin"
    )

    @model_validator(mode="after")
    def _runs_differ(self) -> MomentumPGD:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts > 1 without random_start would repeat the same run")
        return self

    def passes(self) -> int:
        """A forward and a backward pass for each step, and a forward pass to judge the last point of a run."""
        return self.restarts * (2 * self.steps + 1)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`momentum_pgd` with these parameters."""
        eps = self.eps.like(x)
        alpha = eps / self.steps if self.alpha is None else self.alpha.like(x)
        options = self.model_dump(
            include={"norm", "steps", "decay", "random_start", "restarts", "loss", "stop_on_success"}
        )
        return momentum_pgd(x, y, target, rng, eps=eps, alpha=alpha, **options)
