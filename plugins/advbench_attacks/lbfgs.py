"""L-BFGS on many independent problems at once.

Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116, with the weak Wolfe line search of Lewis and Overton
2013, https://doi.org/10.1007/s10107-012-0514-2, whose bisection also works where a function has kinks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``objective(points (a, n), rows (a,))`` gives values (a,) and gradients (a, n); ``rows`` are the problems asked."""

DECREASE = 1e-4
"""Share of the decrease that the slope promises which a step must bring (first Wolfe condition)."""

FLATTENING = 0.9
"""Share of the slope that may be left at the end of a step (second Wolfe condition)."""

PATIENCE = 5
"""Step of a line search from which on any lower point will do: at a kink the slope does not flatten."""

TRIALS = 20
"""Steps that it tries before its problem ends."""


class Minima(NamedTuple):
    """The lowest points that were found; first axis = problems."""

    point: Tensor  # (b, n)
    value: Tensor  # (b,)
    evaluations: Tensor  # (b,) int64: how often the objective was asked


class Pair(NamedTuple):
    """Step and change of gradient of the problems that moved; all zeros, weight too, for the others."""

    step: Tensor  # (a, n)
    change: Tensor  # (a, n)
    weight: Tensor  # (a,) 1 / (step . change)


def row_sum(value: Tensor) -> Tensor:
    """Sum of every row of (b, n).

    A lone row is summed twice: torch splits one long reduction over its threads, and its last bits would depend on
    how many rows there are.
    """
    rows = value.expand(2, -1) if len(value) == 1 else value
    return rows.sum(1)[: len(value)]


def two_loop(gradient: Tensor, pairs: Sequence[Pair], scale: Tensor) -> Tensor:
    """Inverse Hessian times ``gradient`` (a, n); ``pairs`` from old to new, ``scale`` (a,) of the first guess."""
    q, shares = gradient, []
    for pair in reversed(pairs):
        shares.append(pair.weight * row_sum(pair.step * q))
        q = torch.addcmul(q, pair.change, shares[-1][:, None], value=-1)
    q = q * scale[:, None]
    for pair, share in zip(pairs, reversed(shares)):
        back = pair.weight * row_sum(pair.change * q)
        q = torch.addcmul(q, pair.step, (share - back)[:, None])
    return q


@dataclass
class Searches:
    """Line searches of the problems that go on; first axis = these problems."""

    rows: Tensor  # (a,) their places in the batch
    point: Tensor  # (a, n) where the search starts
    value: Tensor  # (a,)
    gradient: Tensor  # (a, n)
    direction: Tensor  # (a, n)
    slope: Tensor  # (a,) gradient . direction; only negative ones are followed
    scale: Tensor  # (a,) first guess of the inverse Hessian
    step: Tensor  # (a,) to be tried next, in units of the direction
    low: Tensor  # (a,) too short
    high: Tensor  # (a,) too long
    trials: Tensor  # (a,) of this line search
    pairs: list[Pair] = field(default_factory=list)

    @classmethod
    def start(cls, point: Tensor, value: Tensor, gradient: Tensor, first_step: float) -> Searches:
        """Along the gradient; ``first_step`` is the largest change of a variable."""
        rows, zero = torch.arange(len(point), device=point.device), torch.zeros_like(value)
        largest = gradient.abs().amax(1)
        scale = first_step / largest
        direction = -first_step * torch.where(largest[:, None] > 0, gradient / largest[:, None], 0.0)
        slope = row_sum(gradient * direction)
        infinity = torch.full_like(zero, torch.inf)
        return cls(
            rows, point, value, gradient, direction, slope, scale, zero + 1, zero, infinity, zero.clone()
        )

    def take(self, index: Tensor) -> Searches:
        """Some of the problems."""
        pairs = [Pair(*(part[index] for part in pair)) for pair in self.pairs]
        columns = {name: getattr(self, name)[index] for name in COLUMNS}
        return Searches(**columns, pairs=pairs)

    def advance(
        self, trial: Tensor, value: Tensor, gradient: Tensor, history: int, tolerance: float
    ) -> Tensor:
        """Take the step that was tried, or shorten or lengthen it; returns which problems are at their end, (a,)."""
        self.trials += 1
        lower = value <= self.value + DECREASE * self.step * self.slope
        flat = row_sum(gradient * self.direction) >= FLATTENING * self.slope
        move = lower & (flat | (self.trials >= PATIENCE))
        self.low = torch.where(lower, self.step, self.low)
        self.high = torch.where(lower, self.high, self.step)
        self.step = torch.where(self.high.isinf(), 2 * self.low, (self.low + self.high) / 2)
        settle = (self.trials >= PATIENCE - 1) & (self.low > 0)
        self.step = torch.where(settle, self.low, self.step)
        idle = move & ~(self.value - value > tolerance * self.value.abs())
        self._remember(trial - self.point, gradient - self.gradient, move, history)
        self.point = torch.where(move[:, None], trial, self.point)
        self.gradient = torch.where(move[:, None], gradient, self.gradient)
        self.value = torch.where(move, value, self.value)
        self._turn(move)
        return idle | (self.trials >= TRIALS) | ~(self.slope < 0)

    def _remember(self, step: Tensor, change: Tensor, move: Tensor, history: int) -> None:
        """Append a pair: an empty one for those that did not move, so that nobody's memory depends on others."""
        curvature, square = row_sum(step * change), row_sum(change * change)
        weight, sizes = 1 / curvature, (row_sum(step * step) * square).sqrt()
        usable = move & (curvature > torch.finfo(step.dtype).eps * sizes) & weight.isfinite()
        kept = usable[:, None]
        pair = Pair(
            torch.where(kept, step, 0.0), torch.where(kept, change, 0.0), torch.where(usable, weight, 0.0)
        )
        self.pairs = [*self.pairs, pair][-history:]
        self.scale = torch.where(usable, curvature / square, self.scale)

    def _turn(self, move: Tensor) -> None:
        """New directions for those that moved; the first step to try along them is 1."""
        direction = -two_loop(self.gradient, self.pairs, self.scale)
        self.direction = torch.where(move[:, None], direction, self.direction)
        self.slope = torch.where(move, row_sum(self.gradient * direction), self.slope)
        self.step = torch.where(move, 1.0, self.step)
        self.low = torch.where(move, 0.0, self.low)
        self.high = torch.where(move, torch.inf, self.high)
        self.trials = torch.where(move, 0.0, self.trials)


COLUMNS = tuple(entry.name for entry in fields(Searches) if entry.name != "pairs")


def lbfgs(
    start: Tensor,
    objective: Objective,
    *,
    evaluations: int,
    history: int = 10,
    first_step: float = 1.0,
    tolerance: float = 1e-9,
) -> Minima:
    """Minimise ``b`` functions of ``n`` variables, each on its own.

    Every call of the objective serves all problems that go on, wherever each is in its own line search: it tries
    one more step, or moves and takes its next direction. No number of a problem depends on the others.

    Parameters
    ----------
    start
        Where to start, (b, n), float32 or float64.
    objective
        See `Objective`. Where a value is NaN or infinite the step was too long.
    evaluations
        Most evaluations of one problem, the one at the start included.
    history
        Evaluations that the approximate Hessian remembers.
    first_step
        Largest change of a variable in the first step that is tried.
    tolerance
        A problem ends when a step lowers its value by less than this share of it.
    """
    everyone = torch.arange(len(start), device=start.device)
    value, gradient = objective(start, everyone)
    best = Minima(start.clone(), value.clone(), torch.ones_like(everyone))
    going = Searches.start(start, value, gradient, first_step)
    ended = ~(going.slope < 0)
    for _ in range(evaluations - 1):
        if bool(ended.any()):
            going = going.take(torch.nonzero(~ended)[:, 0])
            if not len(going.rows):
                break
        trial = torch.addcmul(going.point, going.direction, going.step[:, None])
        value, gradient = objective(trial, going.rows)
        ended = going.advance(trial, value, gradient, history, tolerance)
        best.point[going.rows], best.value[going.rows] = going.point, going.value
        best.evaluations[going.rows] += 1
    return best
