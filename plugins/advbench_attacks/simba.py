"""Simple black-box attack (SimBA), Guo et al. 2019, https://arxiv.org/abs/1905.07121."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Budget, Classification, InputSpace, Rng, Tags, Target, Task, param
from advbench_attacks.idle import refuse_idle
from advbench_attacks.search import Ball

Basis = Literal["pixel", "dct"]


def simba(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    step: Tensor,
    queries: int = 5000,
    basis: Basis = "pixel",
    low: float = 0.125,
) -> Tensor:
    """Algorithm 1, within a ball: plus or minus ``step`` along one random basis vector after the other.

    A step stays if the margin falls; the negative one is tried where the positive one does not. Each sample
    goes through the basis in an order of its own and, when it is through, once more.

    Parameters
    ----------
    x, y
        Inputs (b, c, h, w) in the input space, within its bounds, and their true targets.
    target
        What is attacked. One forward pass for ``x`` and one or two for each step; classified samples leave once
        they are adversarial.
    rng
        One draw per sample, for the order.
    norm
        ``"linf"`` or ``"l2"``; basis vectors have length 1 in it.
    eps, step
        Radius and step in units of ``x``, broadcast against it: (1, 1, 1, 1), (1, c, 1, 1) or (b, 1, 1, 1).
    queries
        Most forward passes of a sample.
    basis
        ``"pixel"``: single values; ``"dct"``: the cosines of one channel.
    low
        Share of the frequencies, along rows and columns, that come before all others (``"dct"``).
    """
    waves = Waves.of(x, basis, norm)
    order = _order(x, target.mask, rng, basis, low)[:, :queries]
    found, rows = x.clone(), torch.arange(len(x), device=x.device)
    walk = Walk.start(x, y, target, Ball.around(x, norm, eps, target), queries)
    step = step.expand(len(x), *step.shape[1:])
    walk.visit(x, rows)
    number = 0
    while True:
        done = walk.left <= 0
        if isinstance(target.task, Classification):
            done = done | walk.wrong
        if bool(done.any()):
            found[rows[done]] = walk.point[done]
            keep = torch.nonzero(~done)[:, 0]
            if not len(keep):
                return found
            walk, rows, order, step = walk.take(keep), rows[keep], order[keep], step[keep]
        move = step * waves.pick(order[:, number % order.shape[1]])
        refused = walk.move(move, torch.arange(len(rows), device=x.device))
        again = refused[walk.left[refused] > 0]
        if len(again):
            walk.move(-move, again)
        number += 1


@dataclass
class Walk:
    """The samples that are still attacked, their points, and what these are worth."""

    y: Tensor
    target: Target
    ball: Ball
    point: Tensor  # (b, c, h, w)
    margin: Tensor  # (b,)
    wrong: Tensor  # (b,) bool: adversarial
    left: Tensor  # (b,) queries

    @classmethod
    def start(cls, x: Tensor, y: Tensor, target: Target, ball: Ball, queries: int) -> Walk:
        """Nothing visited yet."""
        margin = x.new_full((len(x),), math.inf)
        wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return cls(
            y, target, ball, x.clone(), margin, wrong, torch.full_like(wrong, queries, dtype=torch.int64)
        )

    def take(self, index: Tensor) -> Walk:
        """Some of them."""
        return Walk(
            self.y[index],
            self.target.take(index),
            self.ball.take(index),
            self.point[index],
            self.margin[index],
            self.wrong[index],
            self.left[index],
        )

    def move(self, change: Tensor, some: Tensor) -> Tensor:
        """Try ``point + change`` for some samples (int64); returns those of them that it was no use to."""
        ball = self.ball.take(some)
        point = ball.project(self.point[some] + change[some])
        if ball.mask is not None:
            point = torch.where(ball.mask, point, ball.x)
        return self.visit(point, some)

    def visit(self, point: Tensor, some: Tensor) -> Tensor:
        """Judge points of some samples and keep the better ones; returns the samples where it is not."""
        target, y = self.target.take(some), self.y[some]
        output = target.output(point)
        wrong = target.is_adversarial(output, y)
        margin = target.margin(output, y).to(self.margin)
        margin = margin.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        better = (margin < self.margin[some]) | wrong
        kept = some[better]
        self.point[kept], self.margin[kept], self.wrong[kept] = point[better], margin[better], wrong[better]
        self.left[some] -= 1
        return some[~better]


@dataclass(frozen=True)
class Waves:
    """A basis of the images as products of vectors over rows (h, h) and columns (w, w), for each channel."""

    channels: int
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, x: Tensor, basis: Basis, norm: str) -> Waves:
        """For images (b, c, h, w); every product has length 1 in the norm."""
        made = []
        for size in x.shape[2:]:
            vectors = torch.eye(size) if basis == "pixel" else cosines(size)
            if norm == "linf":
                vectors = vectors / vectors.abs().amax(1, keepdim=True)
            made.append(vectors.to(x))
        return cls(x.shape[1], *made)

    def pick(self, number: Tensor) -> Tensor:
        """Basis vectors ``number`` (b,), counted by channel, row and column, as images (b, c, h, w)."""
        height, width = len(self.rows), len(self.columns)
        row, column = self.rows[number // width % height], self.columns[number % width]
        channel = torch.arange(self.channels, device=number.device) == (number // (height * width))[:, None]
        return channel[:, :, None, None] * row[:, None, :, None] * column[:, None, None, :]


def cosines(size: int) -> Tensor:
    """Orthonormal discrete cosine transform (DCT-II): one frequency in each row, (size, size)."""
    frequency, place = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size) + 0.5
    wave = torch.cos(math.pi / size * frequency * place) * math.sqrt(2 / size)
    wave[0] /= math.sqrt(2)
    return wave


def _order(x: Tensor, mask: Tensor | None, rng: Rng, basis: Basis, low: float) -> Tensor:
    """Numbers of basis vectors (b, n) in the order in which each sample tries them: those that may change it."""
    _, channels, height, width = x.shape
    key = rng.uniform(channels, height, width).to(x)
    if basis == "dct":
        first = (torch.arange(n, device=x.device) < math.ceil(low * n) for n in (height, width))
        rows, columns = first
        key = key + ~(rows[:, None] & columns)
    allowed = torch.ones_like(key[:1], dtype=torch.bool) if mask is None else mask
    if basis == "dct":
        allowed = allowed.any(3, keepdim=True).any(2, keepdim=True).expand(-1, -1, height, width)
    key = torch.where(allowed, key, math.inf)
    return key.flatten(1).argsort(dim=1, stable=True)[:, : int(allowed.sum())]


class SimBA(Attack):
    """Simple black-box attack (SimBA), Guo et al. 2019, https://arxiv.org/abs/1905.07121.

    Greedy steps along random vectors of an orthonormal basis, single values or cosines (low frequencies first),
    from nothing but the outputs. The paper has no ball, only steps of 0.2 in l2; here they end at ``eps``.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2"),
        targeted=True,
        stochastic=True,
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/1905.07121",
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"queries": 150, "eps": 0.1},
        {"norm": "l2", "eps": 0.5, "basis": "dct", "queries": 60},
    )

    norm: Literal["linf", "l2"] = param("l2", "norm of the ball")
    eps: Budget = param(0.5, "radius of the ball, one number or one per channel", unit="input units")
    step: Budget | None = param(
        None, "length of a step; eps in linf and eps / 8 in l2 unless given", unit="input units"
    )
    basis: Basis = param("pixel", "single values, or cosines over a channel (dct)")
    low: float = param(0.125, "share of the frequencies that come first (dct)", gt=0, le=1)
    queries: int = param(5000, "most forward passes of a sample", ge=1)

    @model_validator(mode="after")
    def _pixels_have_no_frequencies(self) -> SimBA:
        if self.basis == "pixel":
            refuse_idle(self, "on single values; only dct has frequencies", "low")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Only images."""
        if len(space.shape) != 3:
            return f"needs images (c, h, w), not inputs of shape {space.shape}"
        return super().supports(space, task)

    def passes(self) -> int:
        """The queries."""
        return self.queries

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`simba` with these parameters."""
        eps = self.eps.like(x)
        step = eps / (1 if self.norm == "linf" else 8) if self.step is None else self.step.like(x)
        options = self.model_dump(include={"norm", "queries", "basis", "low"})
        return simba(x, y, target, rng, eps=eps, step=step, **options)
