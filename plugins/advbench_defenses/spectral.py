"""Largest singular values of the linear layers of a network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

EXACT = 1024
"""Largest smaller side of a matrix whose singular values are all computed."""
LARGE = 2**16
"""Values of an input from which on convolutions are done in float32, ten times as fast."""
MOST_STEPS, SPAN = 300, 10
SMALL = 1e-4
"""Growth of the singular value over ``SPAN`` steps, as a share of it, at which it is taken."""
TINY = 1e-7
"""Residual, as a share of the largest eigenvalue, below which the vectors span all that the start reaches."""


def matrix_norm(matrix: Tensor) -> float:
    """Largest singular value of a matrix (m, n), in float64."""
    double = matrix.detach().double()
    if min(double.shape) <= EXACT:
        return float(torch.linalg.matrix_norm(double, 2))
    return operator_norm(lambda x: double @ x, double.new_zeros(double.shape[1]))


def convolution_norm(layer: Convolution, shape: Sequence[int], scale: Tensor | None = None) -> float:
    """Norm of a convolution's linear map at one input size, its stride, padding and borders included.

    Parameters
    ----------
    layer
        The convolution; its bias plays no role.
    shape
        Shape (1, c, ...) of its input.
    scale
        Factor of each output channel, (c_out,): a batch normalisation that follows. Not for transposed ones.
    """
    dtype = torch.float64 if math.prod(shape) <= LARGE else torch.float32
    own = copy.deepcopy(layer).requires_grad_(False).to(dtype)
    own.bias = None
    if scale is not None:
        own.weight.mul_(scale.to(own.weight).view(-1, *(1,) * (own.weight.dim() - 1)))
    return operator_norm(own, own.weight.new_zeros(tuple(shape)))


def average_norm(
    pool: Callable[..., Tensor], sides: Sequence[int], settings: Sequence[Sequence[Any]]
) -> float:
    """Norm of average pooling, the product over its axes.

    Parameters
    ----------
    pool
        The pooling of one axis, ``avg_pool1d`` or ``adaptive_avg_pool1d`` of `torch.nn.functional`.
    sides
        Size of the input along each axis.
    settings
        What ``pool`` takes besides its input, for each axis.
    """
    norm = 1.0
    for side, values in zip(sides, settings, strict=True):
        norm *= matrix_norm(pool(torch.eye(side, dtype=torch.float64)[:, None], *values)[:, 0])
    return norm


def operator_norm(apply: Callable[[Tensor], Tensor], zero: Tensor) -> float:
    """Largest singular value of a linear map, by the Lanczos method on the map followed by its adjoint.

    It has the power iteration in it but needs far fewer steps, and like it approaches the value from below. The
    starting vector is always the same.

    Parameters
    ----------
    apply
        The linear map, differentiable.
    zero
        Zero of its domain, any shape; float32 is good enough for what is taken.
    """
    pull: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(apply, zero)[1]
    generator = torch.Generator().manual_seed(0)
    before, vector = zero, torch.randn(zero.shape, generator=generator, dtype=zero.dtype).to(zero.device)
    vector = vector / vector.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    found: list[float] = []
    while len(found) < MOST_STEPS:
        (following,) = pull(apply(vector))
        diagonal.append(float((vector * following).sum()))
        found.append(_largest(diagonal, beside))
        following = following - diagonal[-1] * vector - (beside[-1] if beside else 0.0) * before
        length = float(following.norm())
        grown = found[-1] - found[-1 - SPAN] if len(found) > SPAN else math.inf
        if length <= TINY * found[-1] ** 2 or grown <= SMALL * found[-1]:
            break
        beside.append(length)
        before, vector = vector, following / length
    return found[-1]


def _largest(diagonal: Sequence[float], beside: Sequence[float]) -> float:
    """Root of the largest eigenvalue of a tridiagonal matrix."""
    last = len(diagonal) - 1
    values: Any = eigh_tridiagonal(diagonal, beside, eigvals_only=True, select="i", select_range=(last, last))
    return math.sqrt(max(float(values[0]), 0.0))
