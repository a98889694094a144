"""Flow fields: where each pixel of an image takes its value from.

A flow (b, 2, h, w) is in pixels, ``flow[:, 0]`` down and ``flow[:, 1]`` to the right, and is shared by all bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from advbench_attacks.lbfgs import row_sum

Neighbours = Literal["axis", "diagonal", "all"]

Place = tuple[EllipsisType, slice, slice]

OFFSETS: dict[str, tuple[tuple[int, int], ...]] = {
    "axis": ((1, 0), (0, 1)),
    "diagonal": ((1, 1), (1, -1)),
    "all": ((1, 0), (0, 1), (1, 1), (1, -1)),
}
"""One half of each neighbourhood, (rows, columns); the other half is its mirror image."""


class Warped(NamedTuple):
    """A warped image and its derivatives by the flow, each (b, c, h, w)."""

    image: Tensor
    by_row: Tensor  # d image / d flow[:, 0], per pixel
    by_column: Tensor  # d image / d flow[:, 1], per pixel

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Gradient (b, 2, h, w) by the flow of what has this ``gradient`` (b, c, h, w) by the image."""
        gradient = gradient.contiguous()
        return torch.stack([(gradient * self.by_row).sum(1), (gradient * self.by_column).sum(1)], 1)


class _Axis(NamedTuple):
    """Where the flow points along one axis: between the pixels ``near`` and ``far``; each (b, h, w)."""

    near: Tensor  # int64
    far: Tensor  # int64
    fraction: Tensor  # of the way from near to far
    inside: Tensor  # bool: the flow does not leave the image


def warp(x: Tensor, flow: Tensor) -> Warped:
    """``image(p) = x(p + flow(p))``, bilinear between pixels and the edge's value beyond it.

    Spatial transformer of Xiao et al. 2018, eq. 1 (https://arxiv.org/abs/1801.02612). A zero flow gives ``x`` bit
    for bit, and values stay between those of the four pixels around. At whole pixels the derivatives are those to
    the right and below; outside the image they are 0.

    Parameters
    ----------
    x
        Images (b, c, h, w).
    flow
        Flow (b, 2, h, w) in pixels, finite.
    """
    height, width = x.shape[-2:]
    rows = _along(flow[:, 0], torch.arange(height, device=x.device)[:, None], height)
    columns = _along(flow[:, 1], torch.arange(width, device=x.device), width)
    pixels = x.flatten(2)

    def corner(row: Tensor, column: Tensor) -> Tensor:
        place = (row * width + column).flatten(1)[:, None]
        return pixels.gather(2, place.expand(-1, x.shape[1], -1)).view_as(x)

    right, down = columns.fraction[:, None], rows.fraction[:, None]
    top = corner(rows.near, columns.near), corner(rows.near, columns.far)
    bottom = corner(rows.far, columns.near), corner(rows.far, columns.far)
    upper, lower = torch.lerp(*top, right), torch.lerp(*bottom, right)
    slope = torch.lerp(top[1] - top[0], bottom[1] - bottom[0], down)
    return Warped(
        torch.lerp(upper, lower, down),
        (lower - upper) * rows.inside[:, None],
        slope * columns.inside[:, None],
    )


def _along(flow: Tensor, position: Tensor, size: int) -> _Axis:
    # Relative to its own pixel a small flow keeps all its digits, and a zero flow is exactly the pixel.
    inside = torch.minimum(torch.maximum(flow, -position.to(flow)), (size - 1 - position).to(flow))
    whole = inside.floor()
    near = position + whole.long()
    return _Axis(near, (near + 1).clamp_max(size - 1), inside - whole, inside == flow)


def smoothness(flow: Tensor, neighbours: Neighbours = "axis", rounding: float = 0.0) -> tuple[Tensor, Tensor]:
    """How much neighbouring pixels flow apart, and its gradient by the flow (b, 2, h, w).

    Xiao et al. 2018, eq. 4: ``sum_p sum_{q in N(p)} ||flow(p) - flow(q)||_2``, in pixels, (b,). Beyond the edge the
    flow goes on as at the edge, so that a uniform flow has 0.

    Parameters
    ----------
    flow
        Flow (b, 2, h, w) in pixels.
    neighbours
        N(p): the four along the ``axis``, the four on the ``diagonal``, or ``all`` eight. Along the diagonals alone
        a chequered flow costs nothing.
    rounding
        Length in pixels below which a difference counts by its square: ``sqrt(d^2 + r^2) - r``.
    """
    total, gradient = flow.new_zeros(len(flow)), torch.zeros_like(flow)
    for one, other in _pairs(neighbours, *flow.shape[-2:]):
        apart = flow[one] - flow[other]
        length = (apart.square().sum(1, keepdim=True) + rounding**2).sqrt()
        total = total + 2 * row_sum((length - rounding).flatten(1))
        pull = torch.where(length > 0, 2 * apart / length, 0.0)
        gradient[one] += pull
        gradient[other] -= pull
    return total, gradient


def _pairs(neighbours: Neighbours, height: int, width: int) -> Iterator[tuple[Place, Place]]:
    """Index of all pixels that have a neighbour at an offset, and of these neighbours."""
    for down, right in OFFSETS[neighbours]:
        left = max(-right, 0), width - max(right, 0)
        here = (..., slice(0, height - down), slice(*left))
        there = (..., slice(down, height), slice(left[0] + right, left[1] + right))
        yield here, there


def mean_flow(flow: Tensor) -> Tensor:
    """Mean length of the flow (b, 2, h, w) over all pixels, in pixels, (b,)."""
    return row_sum(torch.linalg.vector_norm(flow, dim=1).flatten(1)) / flow[0, 0].numel()
