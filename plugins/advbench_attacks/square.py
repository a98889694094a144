"""Square attack, Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import Attack, Budget, Classification, InputSpace, Rng, Tags, Target, Task, param
from advbench_attacks.search import Ball

HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the changed share of the image is halved, of 10,000 in all."""
BLOCK = 50
"""Proposals whose random numbers are drawn at once."""


def square(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    queries: int = 5000,
    p: float = 0.8,
) -> Tensor:
    """Random search over squares at the border of the ball; the best point of each sample.

    A proposal replaces what is in a random square, and stays if the margin falls. linf (algorithm 2): each channel
    of the square goes to plus or minus ``eps``, from a start of vertical stripes. l2 (algorithm 3): a second square
    is emptied and its share of the budget spent on a pattern (eq. 2) in the first.

    Parameters
    ----------
    x, y
        Inputs (b, c, h, w) in the input space, within its bounds, and their true targets.
    target
        What is attacked. One forward pass for each query; classified samples leave once they are adversarial.
    rng
        Draws of the start, then of the squares.
    norm
        ``"linf"`` or ``"l2"``.
    eps
        Radius in units of ``x``, broadcast against it: (1, 1, 1, 1), (1, c, 1, 1) or (b, 1, 1, 1).
    queries
        Most queries of a sample, the start included.
    p
        Share of the image that a square covers at first; it is halved nine times.
    """
    ball = Ball.around(x, norm, eps, target)
    field = Field.of(x, target.mask)
    found = x.clone()
    rows = torch.arange(len(x), device=x.device)
    propose = _linf_proposal if norm == "linf" else _l2_proposal
    point = _stripes(ball, field, rng) if norm == "linf" else _tiles(ball, field, rng)
    state = State(y, target, ball, point, x.new_full((len(x),), torch.inf))
    draws = rng.uniform(BLOCK, 5 + x.shape[1])
    for query in range(queries):
        turn = query % BLOCK
        if query and not turn:
            draws = rng.uniform(BLOCK, 5 + x.shape[1])
        side = field.side(p, query, queries)
        candidate = propose(state, field, side, draws[:, turn]) if query else point
        state, wrong = state.better(candidate)
        if isinstance(target.task, Classification) and bool(wrong.any()):
            found[rows[wrong]] = state.point[wrong]
            keep = torch.nonzero(~wrong)[:, 0]
            if not len(keep):
                return found
            state, rng, rows, draws = state.take(keep), rng.take(keep), rows[keep], draws[keep]
    found[rows] = state.point
    return found


@dataclass(frozen=True)
class State:
    """The samples that are still attacked, their best points and the margins of these."""

    y: Tensor
    target: Target
    ball: Ball
    point: Tensor  # (b, c, h, w)
    margin: Tensor  # (b,)

    def take(self, index: Tensor) -> State:
        """Some of them."""
        return State(
            self.y[index],
            self.target.take(index),
            self.ball.take(index),
            self.point[index],
            self.margin[index],
        )

    def better(self, candidate: Tensor) -> tuple[State, Tensor]:
        """With the candidates (b, c, h, w) that have a smaller margin; and which samples are adversarial, (b,)."""
        output = self.target.output(candidate)
        wrong = self.target.is_adversarial(output, self.y)
        margin = self.target.margin(output, self.y).to(self.margin)
        margin = margin.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        closer = (margin < self.margin) | wrong
        point = torch.where(closer.view(-1, 1, 1, 1), candidate, self.point)
        return replace(self, point=point, margin=torch.where(closer, margin, self.margin)), wrong


@dataclass(frozen=True)
class Field:
    """The rectangle of an image that squares lie in; all of it, or the box around the mask."""

    top: int
    left: int
    height: int
    width: int
    channels: Tensor  # bool (1, c, 1, 1): those that may change

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None) -> Field:
        """For images (b, c, h, w)."""
        if mask is None:
            every = torch.ones((1, x.shape[1], 1, 1), dtype=torch.bool, device=x.device)
            return cls(0, 0, x.shape[2], x.shape[3], every)
        pixels = mask[0].any(0)
        rows, columns = (torch.nonzero(pixels.any(axis))[:, 0].tolist() for axis in (1, 0))
        return cls(
            rows[0],
            columns[0],
            rows[-1] - rows[0] + 1,
            columns[-1] - columns[0] + 1,
            mask.any(3, keepdim=True).any(2, keepdim=True),
        )

    def side(self, p: float, query: int, queries: int) -> int:
        """Side of the squares, in pixels."""
        halvings = sum(query / queries * 10_000 > at for at in HALVED_AT)
        side = round(math.sqrt(p * 0.5**halvings * self.height * self.width))
        return min(max(side, 1), self.height, self.width)

    def corner(self, draws: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """First row and column (b,) of a square, from uniform draws (b, 2)."""
        room = draws.new_tensor((self.height - side + 1, self.width - side + 1))
        place = torch.minimum((draws * room).long(), room.long() - 1)
        return place[:, 0] + self.top, place[:, 1] + self.left


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, 1.0, -1.0)


def _masked(point: Tensor, ball: Ball) -> Tensor:
    return point if ball.mask is None else torch.where(ball.mask, point, ball.x)


def _stripes(ball: Ball, field: Field, rng: Rng) -> Tensor:
    """Vertical stripes, one pixel wide, of plus or minus eps in each channel."""
    channels, width = ball.x.shape[1], ball.x.shape[3]
    signs = _signs(rng.uniform(channels, 1, width)).to(ball.x)
    return _masked(ball.project(ball.x + ball.eps * signs), ball)


def _linf_proposal(state: State, field: Field, side: int, draws: Tensor) -> Tensor:
    """The points with one square at plus or minus eps, another sign in each channel."""
    ball = state.ball
    assert ball.box is not None
    row, column = field.corner(draws[:, :2], side)
    up = (draws[:, 5:] < 0.5)[:, :, None, None]
    rows, columns = (_between(first, side, count) for first, count in zip((row, column), ball.x.shape[2:]))
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    if ball.mask is not None:
        inside = inside & ball.mask
    return torch.where(inside, torch.where(up, ball.box[1], ball.box[0]), state.point)


def _between(first: Tensor, count: int, size: int) -> Tensor:
    """Whether each of ``size`` places is one of ``count`` from ``first`` (b,) on, bool (b, size)."""
    place = torch.arange(size, device=first.device)
    return (place >= first[:, None]) & (place < first[:, None] + count)


def _tiles(ball: Ball, field: Field, rng: Rng) -> Tensor:
    """A grid of the patterns of l2 squares, five to a side or more, with random signs, at the border of the ball."""
    x, side = ball.x, max(1, min(field.height, field.width) // 5)
    down, across = field.height // side, field.width // side
    signs = _signs(rng.uniform(x.shape[1], down, across)).to(x)
    tiles = signs.repeat_interleave(side, 2).repeat_interleave(side, 3) * pattern(side).to(x).repeat(
        down, across
    )
    top, left = field.top + (field.height - down * side) // 2, field.left + (field.width - across * side) // 2
    unit = torch.zeros_like(x)
    unit[:, :, top : top + down * side, left : left + across * side] = tiles
    unit = unit * (field.channels & (ball.eps > 0))
    length = _energy(unit.flatten(1)).sqrt().clamp_min(1e-12)
    return _masked(ball.project(x + ball.eps * unit / length.view(-1, 1, 1, 1)), ball)


def _l2_proposal(state: State, field: Field, side: int, draws: Tensor) -> Tensor:
    """The points with the budget of two squares, and what is unused, spent in the first of them."""
    ball, count = state.ball, len(state.point)
    # As in the authors' code: the pattern wants a middle and a slope.
    side = min(max(side, 3) | 1, field.height, field.width)
    eps = ball.eps * field.channels
    unit = torch.where(eps > 0, (state.point - ball.x) / eps.clamp_min(1e-38), 0.0).flatten(2)
    used = _energy(unit.flatten(1))
    width = ball.x.shape[3]
    ours, theirs = (_places(field.corner(part, side), side, width) for part in (draws[:, :2], draws[:, 2:4]))
    ours, theirs = (place[:, None].expand(-1, unit.shape[1], -1) for place in (ours, theirs))
    old = unit.gather(2, ours)
    unit = unit.scatter(2, ours, 0.0)
    available = _energy(old) + _energy(unit.gather(2, theirs))
    unit = unit.scatter(2, theirs, 0.0)
    live = (eps > 0).expand(count, unit.shape[1], 1, 1).flatten(1)
    unused = (1 - used).clamp_min(0.0) / live.sum(1).clamp_min(1)
    flat = pattern(side).to(unit)
    upright = (draws[:, 4] < 0.5)[:, None]
    star = torch.where(upright, flat.flatten(), flat.T.flatten())
    star = star / flat.square().sum().sqrt()
    signs = _signs(draws[:, 5:]).to(unit)[:, :, None]
    fresh = signs * star[:, None] + old / _energy(old).sqrt().clamp_min(1e-12)[..., None]
    fresh = fresh / _energy(fresh).sqrt().clamp_min(1e-12)[..., None]
    fresh = fresh * ((available + unused[:, None]).sqrt() * live)[..., None]
    unit = unit.scatter(2, ours, fresh).view_as(ball.x)
    return _masked(ball.project(ball.x + eps * unit), ball)


def _places(corner: tuple[Tensor, Tensor], side: int, width: int) -> Tensor:
    """Flat places (b, side * side) of the pixels of a square."""
    offset = torch.arange(side, device=corner[0].device)
    row, column = (first[:, None] + offset for first in corner)
    return (row[:, :, None] * width + column[:, None, :]).flatten(1)


def _energy(values: Tensor) -> Tensor:
    """Sum of squares over the last axis. A lone row is summed twice, or threads would share it (see `ball_norm`)."""
    if values[..., 0].numel() > 1:
        return values.square().sum(-1)
    return values.expand(2, *values.shape[1:]).square().sum(-1)[:1]


def pattern(side: int) -> Tensor:
    """Eq. 2: two pyramids side by side, one upwards and one downwards, (side, side)."""
    half = side // 2
    return torch.cat([_pyramid(side, half), -_pyramid(side, side - half)], 1)


def _pyramid(height: int, width: int) -> Tensor:
    """Steps of 1 / (n + 1 - k)^2 towards the middle of (height, width), n half the height."""
    half = height // 2
    row, column = torch.arange(height) - half, torch.arange(width) - width // 2
    distance = torch.maximum(row.abs()[:, None], column.abs()[None, :])
    steps = (1 / (half + 1 - torch.arange(half + 1)).float().square()).cumsum(0)
    return steps[(half - distance).clamp_min(0)]


class Square(Attack):
    """Square attack, Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049.

    Score-based random search over squares whose size shrinks on the paper's schedule, scaled to the number of
    queries. ``p: 0.8`` is AutoAttack's; the paper has 0.05 (linf) and 0.1 (l2) for ImageNet, 0.8 for linf on MNIST.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2"),
        targeted=True,
        audit="black-box",
        stochastic=True,
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/1912.00049",
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"queries": 60},
        {"norm": "l2", "eps": 0.5, "queries": 60},
    )

    norm: Literal["linf", "l2"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    queries: int = param(5000, "most forward passes of a sample", ge=1)
    p: float = param(0.8, "share of the image that a square covers at first", gt=0, le=1)

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Only images have squares."""
        if len(space.shape) != 3:
            return f"needs images (c, h, w), not inputs of shape {space.shape}"
        return super().supports(space, task)

    def passes(self) -> int:
        """The queries."""
        return self.queries

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`square` with these parameters."""
        eps = self.eps.like(x)
        return square(x, y, target, rng, norm=self.norm, eps=eps, queries=self.queries, p=self.p)
