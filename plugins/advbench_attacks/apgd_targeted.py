"""Targeted Auto-PGD, Croce and Hein 2020, https://arxiv.org/abs/2003.01690."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Budget, Classification, InputSpace, Rng, Tags, Target, Task, param
from advbench_attacks.apgd import ascend
from advbench_attacks.search import Active, Best, from_input, runs, uniform


def apgd_targeted(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    steps: int,
    classes: int = 9,
    random_start: bool = True,
    restarts: int = 1,
    loss: str = "margin",
    stop_on_success: bool = True,
) -> Tensor:
    """`apgd` towards each of the most likely other classes in turn; the best iterate of each sample.

    Parameters
    ----------
    x, y
        Inputs (b, c, ...) in the input space, within its bounds, and their true classes (b,).
    target
        A classifier, attacked untargeted: any wrong class is a success. A sample that is attacked to the end costs
        one forward pass, and ``steps + 1`` forward and ``steps`` backward passes per class and run.
    rng
        Draws of the random starts, one per run and sample.
    norm, eps, steps, random_start, restarts, stop_on_success
        As for `apgd`; ``restarts`` runs for each class.
    classes
        How many classes to try, as far as there are others: the K - 1 of a task with few.
    loss
        ``"margin"``, logit of the class minus that of ``y``, or ``"dlr"``, the same over the spread of the largest
        four (eq. 7 of the paper).
    """
    output = target.output(x)
    batch = Active.all(x, y, target, norm, eps, eps)
    best = Best.start(x)
    others = output.scatter(1, y[:, None], -torch.inf)
    likely = others.topk(min(classes, output.shape[1] - 1), dim=1).indices
    draw = uniform if random_start else from_input
    function = {"margin": difference, "dlr": targeted_dlr}[loss]
    for aim in likely.unbind(1):
        aimed = replace(batch, label=torch.stack([y, aim], 1))
        for active, start in runs(aimed, best, rng, draw, count=restarts, stop=stop_on_success):
            ascend(start, active, best, steps=steps, loss=function, stop=stop_on_success)
    return best.point


def difference(output: Tensor, pair: Tensor) -> Tensor:
    """Logit of the second class of each pair (b, 2) minus that of the first, (b,)."""
    own, wanted = output.gather(1, pair).unbind(1)
    return wanted - own


def targeted_dlr(output: Tensor, pair: Tensor) -> Tensor:
    """`difference` over the largest logit minus the mean of the third and the fourth, (b,)."""
    top = output.topk(4, dim=1).values
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return difference(output, pair) / torch.where(spread > 0, spread, 1.0)


class TargetedAPGD(Attack):
    """Targeted Auto-PGD, Croce and Hein 2020, https://arxiv.org/abs/2003.01690.

    Runs Auto-PGD towards each of the ``classes`` most likely other classes; whatever class a sample ends up in, it
    is finished then. With few classes there are fewer runs: one for two classes.
    """

    tags: ClassVar[Tags] = Tags(
        tasks=("classification",),
        norms=("linf", "l2", "l1"),
        needs_gradient=True,
        stochastic=True,
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/2003.01690",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"steps": 10},
        {"norm": "l2", "eps": 0.5, "steps": 8, "classes": 2},
        {"norm": "l1", "eps": 10, "steps": 8},
    )

    norm: Literal["linf", "l2", "l1"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    steps: int = param(100, "gradient steps of one run", ge=1)
    classes: int = param(9, "how many of the most likely other classes to try", ge=1)
    random_start: bool = param(True, "start uniformly in the ball instead of at the input")
    restarts: int = param(1, "number of runs for each class, each with its own random start", ge=1)
    loss: Literal["margin", "dlr"] = param(
        "margin", "what is increased: the logit of the class minus the true one's, or their ratio (K >= 4)"
    )
    stop_on_success: bool = param(
        True, "stop at the first misclassified point instead of the smallest margin"
    )

    @model_validator(mode="after")
    def _runs_differ(self) -> TargetedAPGD:
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts > 1 without random_start would repeat the same run")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """A ratio of logits needs four of them."""
        if self.loss == "dlr" and isinstance(task, Classification) and task.outputs < 4:
            return f"loss: dlr needs at least 4 classes, the data have {task.outputs}; use margin"
        return super().supports(space, task)

    def passes(self) -> int:
        """One forward pass to rank the classes, then the passes of `apgd` for each class and run."""
        return 1 + self.classes * self.restarts * (2 * self.steps + 1)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`apgd_targeted` with these parameters."""
        options = self.model_dump(
            include={"norm", "steps", "classes", "random_start", "restarts", "loss", "stop_on_success"}
        )
        return apgd_targeted(x, y, target, rng, eps=self.eps.like(x), **options)
