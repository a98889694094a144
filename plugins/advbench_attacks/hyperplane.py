"""The smallest step across a hyperplane within a box: where a linear network's boundary is nearest.

Closed forms of ``min norm(delta)`` subject to ``<g, delta> >= gap`` and ``lower <= x + delta <= upper`` (the
projections of Croce and Hein 2020, section 3.2, https://arxiv.org/abs/1907.02044, and a count for l0). With the
room ``r_i`` that the box leaves in the direction of ``g_i``, the step ``d_i = |delta_i|`` is

* linf: ``min(t, r_i)``, l2: ``min(t |g_i|, r_i)``, with the ``t`` that reaches the gap;
* l1: all of ``r_i`` where ``|g_i|`` is largest, and a part of it at one more place;
* l0: all of ``r_i`` where the gain ``|g_i| r_i`` is largest, at as few places as will do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advbench.api import ball_norm

NEWTON = 30
"""Most steps of Newton's method."""


def nearest_step(x: Tensor, gradient: Tensor, gap: Tensor, norm: str, lower: Tensor, upper: Tensor) -> Tensor:
    """The step ``delta``, shaped like ``x`` (b, c, ...); as far as the box allows where it cannot reach the gap.

    Parameters
    ----------
    x, gradient
        Points within the bounds and what ascends towards the boundary, (b, c, ...); finite.
    gap
        Increase that is wanted, (b,).
    norm
        ``"linf"``, ``"l2"``, ``"l1"`` or ``"l0"``.
    lower, upper
        Bounds, broadcast against ``x``.
    """
    room = torch.where(gradient > 0, upper - x, x - lower).double().flatten(1)
    # The step does not depend on the length of the gradient: a unit largest entry keeps squares from underflowing.
    slope = gradient.double().abs().flatten(1)
    largest = slope.amax(1, keepdim=True).clamp_min(1e-300)
    slope, wanted = slope / largest, gap.double()[:, None] / largest
    room = torch.where(slope > 0, room, 0.0)
    if norm in ("linf", "l2"):
        step = _level(slope, room, wanted, torch.ones_like(slope) if norm == "linf" else slope)
    else:
        step = _greedy(slope, room, wanted, norm)
    return (step.view_as(x) * gradient.sign()).to(x)


def _level(slope: Tensor, room: Tensor, wanted: Tensor, speed: Tensor) -> Tensor:
    """``min(t speed, room)`` with the smallest ``t`` whose gain ``<slope, step>`` is the one wanted.

    The gain is concave and made of straight pieces, so Newton's method from ``t = 0`` rises to the solution and
    is there when it reaches the last piece, mostly after a few steps. A sample that is there stays as it is.
    """
    t = torch.zeros_like(wanted[:, 0])
    for _ in range(NEWTON):
        step = t[:, None] * speed
        free = step < room
        step = torch.where(free, step, room)
        missing = wanted[:, 0] - ball_norm(slope * step, "l1")  # a plain sum would depend on the batch size
        rate = ball_norm(torch.where(free, slope * speed, 0.0), "l1")
        short = (missing > 1e-9 * wanted[:, 0]) & (rate > 0)
        if not bool(short.any()):
            break
        t = torch.where(short, (t + missing / rate.clamp_min(1e-300)).clamp_max(1e150), t)
    return torch.minimum(t[:, None] * speed, room)


def _greedy(slope: Tensor, room: Tensor, wanted: Tensor, norm: str) -> Tensor:
    """As much as is needed of the best places, one after the other."""
    order = (slope if norm == "l1" else slope * room).argsort(dim=1, descending=True, stable=True)
    gain = (slope * room).gather(1, order)
    missing = (wanted - (gain.cumsum(1) - gain)).clamp_min(0.0)
    if norm == "l1":
        share = torch.where(gain > 0, (missing / gain.clamp_min(1e-300)).clamp_max(1.0), 0.0)
    else:
        share = (missing > 0).to(gain)
    return torch.zeros_like(room).scatter(1, order, share) * room
