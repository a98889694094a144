"""Spatially transformed adversarial examples, Xiao et al. 2018, https://arxiv.org/abs/1801.02612."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, InputSpace, Rng, Tags, Target, Task, param
from advbench_attacks.adam import adam
from advbench_attacks.flow import Neighbours, mean_flow, smoothness, warp
from advbench_attacks.idle import refuse_idle
from advbench_attacks.lbfgs import lbfgs

ROUNDING = 1e-2
"""Pixels below which a difference between neighbours counts by its square: L-BFGS needs a slope at no flow."""

FACTOR = 10.0
"""How far tau goes up or down until it has seen both a success and a failure."""

FIRST_STEP = 0.5
"""Largest change of the flow, in pixels, in the first step of L-BFGS."""


class Deformed(NamedTuple):
    """What the search found; first axis = samples."""

    image: Tensor  # (b, c, h, w)
    flow: Tensor  # (b, 2, h, w) in pixels, see `advbench_attacks.flow`
    found: Tensor  # (b,) bool: adversarial
    tau: Tensor  # (b,) weight of the smoothness at which it was found


def stadv(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    tau: float = 1e-3,
    kappa: float = 0.02,
    relative: bool = True,
    rounds: int = 5,
    steps: int = 50,
    neighbours: Neighbours = "axis",
    sigma: float = 0.0,
    optimiser: Literal["lbfgs", "adam"] = "lbfgs",
    learning_rate: float = 0.1,
) -> Deformed:
    """Minimise ``max(margin(warp(x, flow)), -kappa) + tau * smoothness(flow)`` over the flow; eq. 2 to 4.

    Of all flows that were tried the smoothest adversarial one is kept, or else the one with the smallest margin.
    From round to round tau grows tenfold after success and shrinks after failure, and once it has seen both it
    halves the range between them in the logarithm, for each sample on its own.

    Parameters
    ----------
    x, y
        Images (b, c, h, w) in the input space and their true targets.
    target
        What is attacked. A sample costs one forward pass and at most ``rounds * steps`` forward and backward passes;
        one that is adversarial as it is keeps a flow of zero.
    rng
        Draws of Gaussian starts.
    tau
        Weight of the smoothness in the first round, per pixel.
    kappa
        How far beyond the goal it pushes.
    relative
        Whether tau and kappa are in units of each sample's clean margin, so that a factor on the outputs changes
        nothing, or in units of the outputs, as in the paper (tau 0.05, kappa 0).
    rounds
        Values of tau.
    steps
        Evaluations in one round, line searches included.
    neighbours
        See `smoothness`.
    sigma
        Standard deviation of Gaussian starts, in pixels; 0 starts without a flow.
    optimiser, learning_rate
        L-BFGS, or Adam with this step in pixels.
    """
    output = target.output(x)
    found = target.is_adversarial(output, y)
    flow, weight = _no_flow(x), x.new_full((len(x),), tau)
    todo = torch.nonzero(~found)[:, 0]
    if len(todo):
        margin, largest = target.margin(output, y)[todo], output[todo].abs().amax(1)
        unit = torch.maximum(margin, 1e-3 * largest) if relative else torch.ones_like(margin)
        search = _Search(x[todo], y[todo], target.take(todo), neighbours, unit, kappa, weight[todo])
        minimise = _minimiser(optimiser, learning_rate)
        start = flow[todo].flatten(1)
        if sigma > 0:
            start = sigma * rng.take(todo).normal(start.shape[1]).to(x)
        for _ in range(rounds):
            minimise(start, search.objective, evaluations=steps)
            search.change_tau()
        flow[todo], found[todo], weight[todo] = search.flow, search.found, search.best_tau
    return Deformed(warp(x, flow).image, flow, found, weight)


def _no_flow(x: Tensor) -> Tensor:
    return x.new_zeros((len(x), 2, *x.shape[2:]))


class _Search:
    """The samples that are not adversarial to begin with, and their best flows; first axis = these samples."""

    def __init__(
        self, x: Tensor, y: Tensor, target: Target, neighbours: Neighbours, unit: Tensor,
        kappa: float, tau: Tensor,
    ) -> None:  # fmt: skip
        self.x, self.y, self.target = x, y, target
        self.neighbours, self.unit, self.kappa, self.tau = neighbours, unit, kappa, tau
        self.flow, self.best_tau = _no_flow(x), tau.clone()
        self.found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.won = self.found.clone()  # in this round
        self.margin, self.size = torch.full_like(unit, torch.inf), torch.full_like(unit, torch.inf)
        self.succeeded, self.failed = torch.zeros_like(tau), torch.full_like(tau, torch.inf)  # bracket of tau

    def objective(self, points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values (a,) and gradients (a, 2 h w) at the flows ``points`` of the samples ``rows``."""
        flow, y, target = points.view(-1, *self.flow.shape[1:]), self.y[rows], self.target.take(rows)
        warped = warp(self.x[rows], flow)
        size, pull = smoothness(flow, self.neighbours, ROUNDING)
        loss, gradient, output = target.evaluate(warped.image, y)
        self._judge(rows, flow, size, target.margin(output, y), target.is_adversarial(output, y))
        unit, tau = self.unit[rows], self.tau[rows]
        margin = -loss / unit
        push = torch.where(margin > -self.kappa, 1 / unit, 0.0)
        slope = warped.pull_back(gradient.nan_to_num(0.0, 0.0, 0.0))
        total = tau[:, None] * pull.flatten(1) - push[:, None] * slope.flatten(1)
        return margin.clamp_min(-self.kappa) + tau * size, total

    def _judge(self, rows: Tensor, flow: Tensor, size: Tensor, margin: Tensor, found: Tensor) -> None:
        usable = size.isfinite()  # a step far too long
        found = found & usable
        lower = usable & ~self.found[rows] & ~(margin >= self.margin[rows])
        better = torch.where(found, size < self.size[rows], lower)
        places = rows[better]
        self.flow[places], self.best_tau[places] = flow[better], self.tau[places]
        self.margin[places] = margin[better]
        self.size[rows] = torch.where(found & better, size, self.size[rows])
        self.found[rows] |= found
        self.won[rows] |= found

    def change_tau(self) -> None:
        """Another weight for every sample, by what the round just ended found."""
        self.succeeded = torch.where(self.won, self.tau, self.succeeded)
        self.failed = torch.where(self.won, self.failed, self.tau)
        beyond = torch.where(self.won, self.tau * FACTOR, self.tau / FACTOR)
        open_ended = (self.succeeded == 0) | self.failed.isinf()
        self.tau = torch.where(open_ended, beyond, (self.succeeded * self.failed).sqrt())
        self.won.fill_(False)


def _minimiser(optimiser: str, learning_rate: float) -> Callable[..., object]:
    if optimiser == "lbfgs":
        return partial(lbfgs, first_step=FIRST_STEP)
    return partial(adam, learning_rate=learning_rate)


class StAdv(Attack):
    """Spatially transformed adversarial examples, Xiao et al. 2018, https://arxiv.org/abs/1801.02612.

    A smooth flow field, shared by all bands, moves pixels by fractions of a pixel until the goal is reached; no
    norm of the change is bounded. Each image has its own L-BFGS and its own search of ``tau``. Beyond the border
    the image goes on as at its edge. Logits are needed: on probabilities the paper's weight (``tau: 0.05, kappa: 0,
    relative: false, rounds: 1``) holds every flow back.
    """

    tags: ClassVar[Tags] = Tags(
        needs_gradient=True,
        targeted=True,
        stochastic=True,
        size="mean flow (px)",
        reference="https://arxiv.org/abs/1801.02612",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"rounds": 2, "steps": 20},
        {"optimiser": "adam", "sigma": 0.1, "rounds": 2, "steps": 20},
    )

    tau: float = param(1e-3, "weight of the smoothness of the flow in the first round", unit="1/pixel", gt=0)
    kappa: float = param(0.02, "how far beyond the goal it pushes", ge=0)
    relative: bool = param(
        True, "tau and kappa in units of each image's clean margin, or else of the output as in the paper"
    )
    rounds: int = param(5, "values of tau that are tried for each image", ge=1)
    steps: int = param(50, "evaluations of the loss in one round, line searches included", ge=1)
    neighbours: Neighbours = param("axis", "which pixels a pixel shall flow along with")
    sigma: float = param(
        0.0, "standard deviation of Gaussian starts; 0 starts without flow", unit="pixel", ge=0
    )
    optimiser: Literal["lbfgs", "adam"] = param("lbfgs", "who minimises, each image on its own")
    learning_rate: float = param(0.1, "step of Adam; L-BFGS needs none", unit="pixel", gt=0)

    @model_validator(mode="after")
    def _lbfgs_finds_its_steps(self) -> StAdv:
        if self.optimiser == "lbfgs":
            refuse_idle(self, "on lbfgs, which finds its steps itself", "learning_rate")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images of at least 2x2 pixels, without a mask."""
        if len(space.shape) != 3 or min(space.shape[1:]) < 2:
            return "a flow needs images (c, h, w) of at least 2x2 pixels"
        if self.mask is not None:
            return "a flow moves pixels from anywhere, so no mask is kept"
        return super().supports(space, task)

    def passes(self) -> int:
        """A forward pass of the clean image; a forward and a backward pass for each evaluation."""
        return 1 + 2 * self.rounds * self.steps

    def deform(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Deformed:
        """`stadv` with these parameters: images (b, c, h, w) and their flows in pixels."""
        options = self.model_dump(exclude={"goal", "mask"})
        return stadv(x, y, target, rng, **options)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """The images of `deform`."""
        deformed = self.deform(x, y, target, rng)
        target.measure(mean_flow(deformed.flow))
        return deformed.image
