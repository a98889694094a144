"""Inputs as the libraries want them, between 0 and 1, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advbench.api import Budget, InputSpace, ball_norm, clip, project

COUNTS = ("l0", "pixels")
ROUNDING = 2.0**-22
"""What a value between 0 and 1 may move by rounding on its way there and back."""


def size_in_unit(norm: str, eps: Budget | None, space: InputSpace) -> float | None:
    """The budget of the libraries, one number for inputs between 0 and 1; None without a budget.

    Raises
    ------
    ValueError
        If one number cannot say it, because channels have bounds of different widths.
    """
    if norm in COUNTS:
        return None if eps is None else eps.values[0]
    widths = [high - low for low, high in zip(space.lower, space.upper)]
    if eps is None:
        sizes, what = widths, "a distance"
    else:
        values = eps.values if len(eps.values) > 1 else eps.values * len(widths)
        sizes, what = [value / width for value, width in zip(values, widths)], "the budget"
    if max(sizes) - min(sizes) > 1e-6 * max(sizes):
        raise ValueError(f"between 0 and 1, where the library works, {what} is not the same for all channels")
    return None if eps is None else sizes[0]


class _Settle(torch.autograd.Function):
    """Another value of nearly the same point, with the gradient passed straight through."""

    @staticmethod
    def forward(ctx: Any, point: Tensor, settled: Tensor) -> Tensor:
        """The other value."""
        return settled.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient, unchanged."""
        return gradients[0], None


@dataclass(frozen=True)
class Unit:
    """One sample ``x`` (1, c, ...) of an input space, which is ``start`` between 0 and 1, and its threat model."""

    x: Tensor
    start: Tensor
    bounds: tuple[Tensor, Tensor]
    mask: Tensor | None
    norm: str
    eps: Budget | None

    @classmethod
    def around(cls, x: Tensor, space: InputSpace, mask: Tensor | None, norm: str, eps: Budget | None) -> Unit:
        """The map around this sample; only what the ``mask`` (1, c, ...) allows changes."""
        lower, upper = space.bounds_like(x)
        return cls(x, ((x - lower) / (upper - lower)).clamp(0, 1), (lower, upper), mask, norm, eps)

    def restore(self, unit: Tensor) -> Tensor:
        """Points (m, c, ...) between 0 and 1 in the input space, differentiable; `start` is the sample bit for bit.

        What the mask forbids is left as it is, so that a library searches within a mask that it does not know.
        What only rounding had brought beyond bounds or budget is brought back, as if it had not happened; what
        goes further is a defect of the library, and the harness shall see it.
        """
        point = self.x + (unit - self.start) * (self.bounds[1] - self.bounds[0])
        if self.mask is not None:
            point = torch.where(self.mask, point, self.x)
        settled: Tensor = _Settle.apply(point, self._settled(point.detach()))  # type: ignore[no-untyped-call]
        return settled

    def _settled(self, point: Tensor) -> Tensor:
        clipped = clip(point, *self.bounds)
        if self.eps is None or self.norm in COUNTS:
            return clipped
        eps = self.eps.like(point)
        size = ball_norm(clipped.double() - self.x.double(), self.norm, eps)
        width = (self.bounds[1] - self.bounds[0]).expand_as(self.x)
        slack = ball_norm(ROUNDING * width, self.norm, eps)
        nearly = ((size > 1) & (size <= 1 + slack)).view(-1, *(1,) * (point.dim() - 1))
        return torch.where(nearly, project(clipped, self.x, self.norm, eps, *self.bounds), clipped)


class InUnit(nn.Module):
    """A network for inputs between 0 and 1."""

    def __init__(self, network: nn.Module, unit: Unit) -> None:
        super().__init__()
        self.network, self._unit = network, unit
        self.eval()

    def forward(self, unit: Tensor) -> Tensor:
        """Outputs (m, k)."""
        output: Tensor = self.network(self._unit.restore(unit))
        return output
