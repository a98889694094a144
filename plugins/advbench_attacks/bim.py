"""Basic iterative method, Kurakin et al. 2016, https://arxiv.org/abs/1607.02533."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from advbench.api import Attack, Budget, Rng, Tags, Target, param
from advbench_attacks.odds import LOSSES
from advbench_attacks.pgd import pgd
from advbench_attacks.search import Loss


def bim(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    alpha: Tensor,
    steps: int,
    loss: Loss = "odds",
    stop_on_success: bool = True,
) -> Tensor:
    """`pgd` that starts at the input: ``x_0 = x, x_{k+1} = P(x_k + alpha * steepest(d loss / d x_k))`` (section 2.2).

    Parameters are those of `pgd`; nothing is drawn.
    """
    return pgd(
        x, y, target, rng, norm=norm, eps=eps, alpha=alpha, steps=steps, random_start=False, loss=loss,
        stop_on_success=stop_on_success,
    )  # fmt: skip


class BIM(Attack):
    """Basic iterative method, Kurakin et al. 2016, https://arxiv.org/abs/1607.02533.

    Iterated gradient steps from the input itself, each projected into the ball. The paper takes steps of one grey
    level and 1.25 times as many as the budget has levels (up to 16), so a step is 1.25 eps / steps; the default is
    its attack at a budget of 8 grey levels. The paper's loss is ``ce``.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2"),
        needs_gradient=True,
        targeted=True,
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/1607.02533",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"norm": "l2", "eps": 0.5})

    norm: Literal["linf", "l2"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    steps: int = param(10, "gradient steps", ge=1)
    alpha: Budget | None = param(None, "length of a step; 1.25 eps / steps unless given", unit="input units")
    loss: Literal["odds", "margin", "ce", "dlr"] = param("odds", LOSSES)
    stop_on_success: bool = param(
        True, "stop at the first misclassified point instead of the smallest margin"
    )

    def passes(self) -> int:
        """A forward and a backward pass for each step, and a forward pass to judge the last point."""
        return 2 * self.steps + 1

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`bim` with these parameters."""
        eps = self.eps.like(x)
        alpha = eps * (1.25 / self.steps) if self.alpha is None else self.alpha.like(x)
        options = self.model_dump(include={"norm", "steps", "loss", "stop_on_success"})
        return bim(x, y, target, rng, eps=eps, alpha=alpha, **options)
