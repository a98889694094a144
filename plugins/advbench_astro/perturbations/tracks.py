"""Straight tracks of light on a grid of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def turned(height: int, width: int, row: Tensor, column: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of every pixel along and across a direction, in pixels from a point; each (..., h, w) float64.

    ``angle`` is in radians counter-clockwise from the rows; all three have shape (...).
    """
    down = (
        torch.arange(height, dtype=torch.float64, device=angle.device)[:, None]
        - row.double()[..., None, None]
    )
    right = torch.arange(width, dtype=torch.float64, device=angle.device) - column.double()[..., None, None]
    sin, cos = (turn[..., None, None] for turn in (angle.double().sin(), angle.double().cos()))
    return right * cos - down * sin, right * sin + down * cos


def streak(along: Tensor, across: Tensor, length: Tensor, sigma: float) -> Tensor:
    """A line of this ``length`` and total 1, convolved with a round Gaussian; lengths in pixels.

    Its values at the centres of pixels add up to 1 within 2 exp(-2 (pi sigma)^2): 0.2 % for ``sigma`` = 0.6.
    """
    length = length.double().clamp_min(1e-3)[..., None, None]
    root = math.sqrt(2) * sigma
    profile = torch.erf((along + length / 2) / root) - torch.erf((along - length / 2) / root)
    return profile / (2 * length) * (-(across / root).square()).exp() / (root * math.sqrt(math.pi))


def moffat_line(across: Tensor, fwhm: Tensor, beta: float) -> Tensor:
    """Profile across an endless line seen through a Moffat PSF of this ``fwhm``; its integral over ``across`` is 1.

    The integral of ``(1 + (x^2 + t^2) / r0^2)^-beta`` over t: a Moffat profile again, with exponent beta - 1/2.
    """
    scale = fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))
    norm = math.exp(math.lgamma(beta - 0.5) - math.lgamma(beta - 1)) / math.sqrt(math.pi)
    return norm / scale * (1 + (across / scale).square()) ** (0.5 - beta)
