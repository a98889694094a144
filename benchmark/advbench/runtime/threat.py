"""Threat models: norms, balls, projections, random starts, steepest steps.

Shapes: inputs are (b, c, ...); ``eps`` broadcasts against them, e.g. (1, 1, 1, 1), (1, c, 1, 1) per channel or
(b, 1, 1, 1) per sample. A ball is ``{delta: norm(delta / eps) <= 1}``, which for one number is the usual one.
``l0`` counts changed values and ``pixels`` changed positions over all channels; there ``eps`` is the count.

Everything ends inside the ball *after* rounding to float32: for data far from 0 one rounding step of ``x + delta``
is larger than 1e-6 of a small budget.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advbench.components.protocols import Rng

COUNTS = ("l0", "pixels")


def _rows(value: Tensor) -> Tensor:
    return value.flatten(1)


def column(value: Tensor, like: Tensor) -> Tensor:
    """One value for each sample (b,), shaped to broadcast against ``like`` (b, c, ...)."""
    return value.view((-1,) + (1,) * (like.dim() - 1))


def ball_norm(delta: Tensor, norm: str, eps: Tensor | None = None) -> Tensor:
    """Norm of ``delta`` (b, c, ...), or of ``delta / eps``, as float64 (b,).

    Where eps is 0 a changed value has an infinite norm. For the counting norms the count is divided by eps (b or 1).
    """
    if norm in COUNTS:
        changed = delta != 0
        count = _rows(changed).sum(1) if norm == "l0" else _rows(changed.any(1)).sum(1)
        total = count.double()
        return total if eps is None else _ratio(total, _rows(eps.double()).amax(1).expand_as(total))
    value = delta  # summed in float64, without a copy
    if eps is not None:
        value = _ratio(delta.double(), eps.double().expand_as(delta))
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
    return _length(value, order)


def _length(value: Tensor, order: float) -> Tensor:
    """Norm of every row (b,) in float64.

    A lone row is measured twice: torch splits one long reduction over its threads, and its last bits would
    depend on how many rows there are.
    """
    rows = _rows(value)
    twice = rows.expand(2, -1) if len(rows) == 1 else rows
    size: Tensor = torch.linalg.vector_norm(twice, ord=order, dim=1, dtype=torch.float64)
    return size[: len(rows)]


def _ratio(value: Tensor, scale: Tensor) -> Tensor:
    ratio = value / scale
    return torch.where(scale == 0, torch.where(value == 0, 0.0, math.inf).to(ratio), ratio)


def clip(x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Clip to the bounds, per channel."""
    return torch.minimum(torch.maximum(x, lower), upper)


def linf_box(x: Tensor, eps: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of the linf ball around ``x`` within the bounds, rounded inwards, each shaped like ``x``.

    Clipping to them is the exact projection, and one operation per step.
    """
    low, high = (x.double() - eps.double()), (x.double() + eps.double())
    low32, high32 = low.to(x.dtype), high.to(x.dtype)
    infinity = torch.full_like(x, math.inf)
    low32 = torch.where(low32.double() < low, torch.nextafter(low32, infinity), low32)
    high32 = torch.where(high32.double() > high, torch.nextafter(high32, -infinity), high32)
    return torch.maximum(low32, lower.expand_as(x)), torch.minimum(high32, upper.expand_as(x))


def project(y: Tensor, x: Tensor, norm: str, eps: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The point of the ball around ``x`` and of the bounds that ``y`` is brought to; all shaped (b, c, ...).

    linf: the nearest point. l2: along the ray from ``x``, then clipped. l1: nearest in the ball (Duchi et al. 2008,
    https://doi.org/10.1145/1390156.1390191), then clipped. l0, pixels: the largest changes are kept. Clipping
    keeps the ball because ``x`` lies within the bounds. Points inside are returned bit for bit.
    """
    if norm == "linf":
        low, high = linf_box(x, eps, lower, upper)
        return torch.minimum(torch.maximum(y, low), high)
    if norm in COUNTS:
        return clip(_keep_largest(y, x, norm, eps), lower, upper)
    inside = torch.maximum(y, lower)
    torch.minimum(inside, upper, out=inside)
    delta = torch.empty_like(inside)
    # Rounding of x + delta can leave the ball by an ulp, so what is stored is measured, and aimed further inside
    # each time: a change of delta that is too small rounds to none. All of it in two buffers: large temporaries
    # cost more than what is computed in them.
    for attempt in range(8):
        radius = 1 - 2.0 ** (2 * attempt - 21)
        size = _scaled_length(torch.sub(inside, x, out=delta), norm, eps)
        over = size > 1
        if not bool(over.any()):
            return inside
        if norm == "l1":
            delta = _onto_ball(delta, eps, size, radius)
        else:
            delta *= column(radius / size, x).to(x)
        closer = delta.add_(x)
        torch.minimum(torch.maximum(closer, lower, out=closer), upper, out=closer)
        inside, delta = (closer, inside) if bool(over.all()) else (_choose_(over, closer, inside), delta)
    return torch.where(column(_scaled_length(inside - x, norm, eps) > 1, x), x, inside)


def _choose_(where: Tensor, those: Tensor, others: Tensor) -> Tensor:
    """``others``, overwritten by the rows ``where`` (b,) of ``those``."""
    rows = torch.nonzero(where)[:, 0]
    return others.index_copy_(0, rows, those[rows])


def _scaled_length(delta: Tensor, norm: str, eps: Tensor) -> Tensor:
    order = {"l2": 2, "l1": 1}[norm]
    if eps[0].numel() == 1:  # one number for each sample: no copy of delta is needed
        return _ratio(_length(delta, order), eps.double().flatten().expand(len(delta)))
    return _length(_ratio(delta, eps.expand_as(delta)), order)


def _onto_ball(delta: Tensor, eps: Tensor, size: Tensor, radius: float) -> Tensor:
    """The nearest point of the l1 ball; just outside, where only rounding is to be undone, the ray will do."""
    ray = delta * column(radius / size.clamp_min(radius), delta).to(delta)
    far = size > 1 + 1e-5
    if not bool(far.any()):
        return ray
    scaled = _ratio(delta.double(), eps.double().expand_as(delta)).nan_to_num(0.0, 0.0, 0.0)
    return torch.where(column(far, delta), (_onto_simplex(scaled, radius) * eps).to(delta), ray)


def _onto_simplex(scaled: Tensor, radius: float) -> Tensor:
    magnitude = _rows(scaled).abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - radius
    index = torch.arange(1, ordered.shape[1] + 1, device=scaled.device, dtype=scaled.dtype)
    count = (ordered * index > excess).sum(1, keepdim=True).clamp_min(1)
    shift = (excess.gather(1, count - 1) / count).clamp_min(0.0)
    return (_rows(scaled).sign() * (magnitude - shift).clamp_min(0.0)).view_as(scaled)


def _keep_largest(y: Tensor, x: Tensor, norm: str, eps: Tensor) -> Tensor:
    change = (y - x).abs()
    score = _rows(change) if norm == "l0" else _rows(change.sum(1))
    count = _rows(eps).amax(1).long().clamp(0, score.shape[1]).expand(len(score))
    rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    keep = rank < count[:, None]
    mask = keep.view_as(x) if norm == "l0" else keep.view((len(x), 1, *x.shape[2:]))
    return torch.where(mask, y, x)


def random_in_ball(x: Tensor, norm: str, eps: Tensor, lower: Tensor, upper: Tensor, rng: Rng) -> Tensor:
    """``x`` plus a draw uniform in the ball, brought into the bounds; shaped like ``x`` (b, c, ...).

    Counting norms: as many random positions as the budget allows, with values uniform within the bounds.
    """
    shape = x.shape[1:]
    if norm == "linf":
        start = x + eps * rng.uniform(*shape, low=-1.0, high=1.0)
    elif norm in COUNTS:
        fresh = lower + (upper - lower) * rng.uniform(*shape)
        places = shape if norm == "l0" else (1, *shape[1:])
        order = _rows(rng.uniform(*places)).argsort(dim=1).argsort(dim=1)
        count = _rows(eps).amax(1).long().expand(len(x))
        start = torch.where((order < count[:, None]).view(len(x), *places), fresh, x)
    else:
        start = x + eps * _uniform_direction(norm, shape, rng)
    return project(start, x, norm, eps, lower, upper)


def _uniform_direction(norm: str, shape: torch.Size, rng: Rng) -> Tensor:
    size = shape.numel()
    if norm == "l2":
        normal = rng.normal(*shape)
        radius = rng.uniform().double().pow(1 / size) / _length(normal, 2)
        return normal * column(radius, normal).to(normal)
    # Uniform in the l1 ball: d of d+1 exponentials over their sum, with random signs.
    signed = rng.uniform(*shape, low=-1.0, high=1.0)
    exponential = -torch.log1p(-signed.abs().clamp_max(1 - 2**-24))
    last = -torch.log1p(-rng.uniform())
    return signed.sign() * exponential / column(_rows(exponential).sum(1) + last, signed)


def steepest_step(gradient: Tensor, norm: str, eps: Tensor) -> Tensor:
    """The point of the ball of radius ``eps`` with the largest inner product with ``gradient`` (b, c, ...).

    linf: ``eps * sign``; l2: the gradient scaled to the ball; l1: the largest coordinate. Zero where the gradient is.
    """
    if norm == "linf":
        return eps * gradient.sign()
    scaled = gradient * eps
    if norm == "l2":
        # Divide by the largest entry first: squares of a nearly saturated network's gradient underflow in float32.
        largest = _rows(scaled).abs().amax(1)  # ten times as fast as the norm of order inf
        unit = scaled.div_(column(torch.where(largest > 0, largest, 1.0), scaled))
        length = _length(unit, 2)
        return unit.mul_(eps / column(torch.where(length > 0, length, 1.0), unit).to(unit))
    if norm == "l1":
        flat = _rows(scaled)
        place = flat.abs().argmax(1, keepdim=True)
        one = torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign())
        return eps * one.view_as(gradient)
    raise ValueError(f"no steepest step for the norm {norm!r}")
