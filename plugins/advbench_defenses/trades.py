"""TRADES, Zhang et al. 2019, https://arxiv.org/abs/1901.08573."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.api import Batch, Budget, Defense, InputSpace, Tags, Task, Training, linf_box, param
from advbench_defenses.adversarial_training import unfit_budget

START = 0.001  # standard deviation of the first step, in units of the range between the bounds


def divergence(z: Tensor, other: Tensor) -> Tensor:
    """``KL(softmax(z) || softmax(other))`` of logits (b, K), (b,)."""
    return F.kl_div(other.log_softmax(1), z.log_softmax(1), reduction="none", log_target=True).sum(1)


def ascend_divergence(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    *,
    eps: Tensor,
    step: Tensor,
    steps: int,
    bounds: tuple[Tensor, Tensor],
) -> Tensor:
    """``x' <- P(x' + step sign(d KL(f(x) || f(x')) / d x'))`` from ``start``: algorithm 1 of the paper.

    Parameters
    ----------
    logits
        ``f``, inputs (b, c, ...) to logits (b, K), each row by itself.
    x, start
        Inputs within the bounds and where the ascent starts, (b, c, ...). At ``x`` itself there is no gradient.
    eps, step
        Radius of the linf ball and length of a step in units of ``x``, broadcast against it.
    steps
        Gradient steps.
    bounds
        Lower and upper bounds, broadcast against ``x``.
    """
    low, high = linf_box(x, eps, *bounds)
    with torch.no_grad():
        clean = logits(x)
    point = torch.clamp(start, low, high)
    for _ in range(steps):
        point.requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(divergence(clean, logits(point)).sum(), point)
        point = torch.clamp(point.detach() + step * gradient.nan_to_num().sign(), low, high)
    return point


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for the block; every part of the module gets back the mode that it was in."""
    modes = [(one, one.training) for one in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for one, training in modes:
            one.training = training


class TRADES(Defense):
    """TRADES, Zhang et al. 2019, eq. 5, https://arxiv.org/abs/1901.08573.

    The loss is ``CE(f(x), y) + beta KL(f(x) || f(x'))``: clean accuracy, and that the output changes little within the
    ball. ``x'`` ascends the divergence in eval mode from ``x + 0.001 N(0, 1)``, in units of the range between the
    bounds. The default is the paper's for CIFAR-10; for MNIST it takes ``eps: 0.3, step: 0.01, steps: 40``.
    """

    tags: ClassVar[Tags] = Tags(
        tasks={"classification"}, trains=True, reference="https://arxiv.org/abs/1901.08573"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"eps": 0.1, "step": 0.05, "steps": 3},)

    beta: float = param(6.0, "weight of the divergence, 1 / lambda in the paper", ge=0)
    eps: Budget = param(0.031, "radius of the linf ball, one number or one per channel", unit="input units")
    step: Budget = param(0.007, "length of a step, one number or one per channel", unit="input units")
    steps: int = param(10, "gradient steps", ge=1)

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Budgets must fit the channels."""
        return unfit_budget(self, space)

    def train(self, training: Training) -> nn.Module:
        """A network trained by the recipe, with its class weights and label smoothing in the cross-entropy."""
        space = training.data.space

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            x, (lower, upper) = batch.x, space.bounds_like(batch.x)
            start = x + START * (upper - lower) * batch.rng.normal(*x.shape[1:]).to(x)
            size: dict[str, Any] = {"eps": self.eps.like(x), "step": self.step.like(x), "steps": self.steps}
            with evaluating(module):
                perturbed = ascend_divergence(
                    lambda point: module(point, batch.extras), x, start, bounds=(lower, upper), **size
                )
            clean = module(x, batch.extras)
            robust = divergence(clean, module(perturbed, batch.extras)).mean()
            return training.loss(module, batch, clean) + self.beta * robust

        return training.fit(training.build(), loss=loss, validation=loss, purpose="trades")
