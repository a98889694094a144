"""What an attack or corruption returns is checked here, never believed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from advbench.errors import PluginError
from advbench.evidence.protocol import BUDGET_TOLERANCE
from advbench.runtime.threat import ball_norm, clip, column, project
from advbench.values import Constraint, InputSpace


class Verified(NamedTuple):
    """Inputs that keep the threat model, and who had to be brought back to it."""

    x: Tensor  # (b, c, ...)
    violation: Tensor  # bool (b,)


def verify(
    candidate: object,
    clean: Tensor,
    space: InputSpace,
    constraint: Constraint | None,
    name: str,
    mask: Tensor | None = None,
) -> Verified:
    """Clip to the bounds, project what exceeds the budget, and undo what is not finite or not allowed to change.

    Clipping is a service (an attack may return ``x + eps * sign``); a value that is not finite, a change outside
    ``mask`` (1, c, ...) and a budget exceeded by more than 1e-6 beyond the rounding of the stored inputs are
    violations.

    Raises
    ------
    PluginError
        If it is no tensor of the shape of ``clean`` (b, c, ...).
    """
    if not isinstance(candidate, Tensor):
        raise PluginError(f"{name} returned {type(candidate).__name__}, not a tensor")
    if candidate.shape != clean.shape:
        raise PluginError(
            f"{name} returned shape {tuple(candidate.shape)} for inputs of shape {tuple(clean.shape)}"
        )
    if not candidate.is_floating_point():
        raise PluginError(f"{name} returned {candidate.dtype}, not floating point")
    x = candidate.detach().to(clean)
    broken = ~torch.isfinite(x).flatten(1).all(1)
    x = torch.where(column(broken, x), clean, x)
    lower, upper = space.bounds_like(x)
    x = clip(x, lower, upper)
    if mask is not None:
        forbidden = ~mask & (x != clean)
        x, broken = torch.where(forbidden, clean, x), broken | forbidden.flatten(1).any(1)
    if constraint is None:
        return Verified(x, broken)
    eps = constraint.eps.like(x)
    over = _exceeds(x, clean, constraint.norm, eps)
    if bool(over.any()):
        x = torch.where(column(over, x), project(x, clean, constraint.norm, eps, lower, upper), x)
    return Verified(x, broken | over)


def _exceeds(x: Tensor, clean: Tensor, norm: str, eps: Tensor) -> Tensor:
    """Whether the budget is exceeded by more than the tolerance, (b,); storing x cost up to half an ulp per value."""
    delta = (x.double() - clean.double()).abs()
    size = ball_norm(delta, norm, eps)
    if not bool((size > 1).any()) or norm in ("l0", "pixels"):
        return size > 1
    magnitude = x.abs()
    ulp = torch.nextafter(magnitude, torch.full_like(magnitude, torch.inf)).double() - magnitude.double()
    return ball_norm((delta - ulp / 2).clamp_min(0), norm, eps) > 1 + BUDGET_TOLERANCE
