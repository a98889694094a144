"""Steps and projections in l1: sparse ascent, and the nearest point of ball and box together."""

from __future__ import annotations

import torch
from torch import Tensor

from advbench.api import ball_norm, project


def column(value: Tensor, like: Tensor) -> Tensor:
    """One number or truth value for each sample (b,), shaped to broadcast against ``like`` (b, c, ...)."""
    return value.view((-1,) + (1,) * (like.dim() - 1))


def sparse_step(
    point: Tensor, gradient: Tensor, alpha: Tensor, count: Tensor, bounds: tuple[Tensor, Tensor]
) -> Tensor:
    """A step of l1 norm ``alpha`` that moves the ``count`` coordinates of the largest gradients by equal parts.

    The sparse step of Tramer and Boneh 2019, section 3 (https://arxiv.org/abs/1904.13000): the steepest direction
    of the l1 ball, one coordinate, overfits that coordinate. Coordinates on a bound that the gradient pushes
    outwards are passed over. Coordinates of equal gradient move together; zero gradients do not move.

    Parameters
    ----------
    point, gradient
        (b, c, ...); finite.
    alpha
        Length of the step, broadcast against ``point``.
    count
        Coordinates to move, at least 1, for each sample (b,) int64.
    bounds
        Lower and upper bounds, broadcast against ``point``.
    """
    stuck = torch.where(gradient > 0, point >= bounds[1], point <= bounds[0])
    score = (gradient * alpha).abs_().masked_fill_(stuck, 0.0)
    least = score.flatten(1).topk(int(count.max()), dim=1).values.gather(1, count[:, None] - 1)
    chosen = (score >= column(least, score)) & (score > 0)
    share = chosen.flatten(1).sum(1).clamp_min_(1).to(gradient)
    return gradient.sign() * chosen * (alpha / column(share, gradient))


def onto_ball_and_box(
    point: Tensor, x: Tensor, eps: Tensor, bounds: tuple[Tensor, Tensor], iterations: int = 40
) -> Tensor:
    """The point nearest to ``point`` (b, c, ...) within the l1 ball around ``x`` and the bounds, at once.

    Projecting on the ball first and clipping then would waste budget on what is clipped (Croce and Hein 2021,
    https://arxiv.org/abs/2103.01208, Proposition 2.1). With ``u = (point - x) / eps`` and the room ``r`` that the
    bounds leave, it is ``sign(u) min(max(|u| - shift, 0), r)``; the shift that makes the norm 1 is found by Newton
    steps, safeguarded by bisection, for each sample on its own. Near is meant in units of ``eps``.
    """
    delta = point - x
    scaled = torch.where(eps > 0, delta / eps, 0.0)
    room = torch.where(delta > 0, bounds[1] - x, x - bounds[0]) / eps.clamp_min(torch.finfo(x.dtype).tiny)
    size, sign = scaled.abs(), scaled.sign()
    shift = _shift(size, room, iterations)
    kept = torch.minimum((size - column(shift, size).to(size)).clamp_min_(0.0), room)
    return project(x + sign * kept * eps, x, "l1", eps, *bounds)


def _shift(size: Tensor, room: Tensor, iterations: int) -> Tensor:
    """The smallest shift (b,) >= 0, float64, for which ``min(max(size - shift, 0), room)`` sums to 1 or less."""
    low = torch.zeros(len(size), dtype=torch.float64, device=size.device)
    high = size.flatten(1).amax(1).double()
    shift, done = low, torch.zeros_like(low, dtype=torch.bool)
    for _ in range(iterations):
        rest = size - column(shift, size).to(size)
        total = ball_norm(torch.minimum(rest.clamp_min(0.0), room), "l1")
        # A row that is done stays as it is: when the others are done must not matter.
        done = done | ((total <= 1) & ((shift == 0) | (total > 1 - 1e-5))) | (high - low <= 1e-7 * high)
        if bool(done.all()):
            break
        over = total > 1
        low, high = (
            torch.where(over & ~done, shift, low),
            torch.where(over | done, high, shift),
        )
        moving = ((rest > 0) & (rest < room)).flatten(1).sum(1)
        newton = shift + (total - (1 - 5e-6)) / moving
        inside = (newton > low) & (newton < high)
        shift = torch.where(done, shift, torch.where(inside, newton, (low + high) / 2))
    return torch.where(done, shift, high)
