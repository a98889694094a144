"""Fourier transforms of round profiles of unit flux, and of their elliptical versions."""

from __future__ import annotations

import functools
import math
from typing import Literal

import galsim
import numpy as np
import torch
from scipy.special import gammaln, kve
from torch import Tensor

from advbench_astro.perturbations.fourier import frequencies

Seeing = Literal["kolmogorov", "moffat", "gaussian"]

KOLMOGOROV_FWHM = 0.9758634
"""FWHM of long-exposure Kolmogorov seeing in units of wavelength over Fried's r0."""
POINTS = 8192
REACH = 40.0
"""Tables end at this frequency times width, where every profile is dark."""


def stretched(
    height: int, width: int, *, ellipticity: float = 0.0, angle: Tensor | None = None, device: torch.device
) -> Tensor:
    """Frequency (2h, w + 1) in cycles per pixel, as a profile of this shape sees it; float64.

    An elliptical profile is the round one, drawn out by ``sqrt((1 + e) / (1 - e))`` in the direction ``angle``
    (b, 1), in radians counter-clockwise from the rows, and as much narrower across; then (b, 1, 2h, w + 1).
    """
    down, right = frequencies(height, width, device)
    if angle is None or ellipticity == 0:
        return (down.square() + right.square()).sqrt()
    cos, sin = (turn.double()[..., None, None] for turn in (angle.double().cos(), angle.double().sin()))
    longer = math.sqrt((1 + ellipticity) / (1 - ellipticity))
    along, across = right * cos - down * sin, right * sin + down * cos
    return ((along * longer).square() + (across / longer).square()).sqrt()


def log_transform(profile: Seeing, scaled: Tensor, beta: float) -> Tensor:
    """Logarithm of the transform at ``scaled``, frequency (cycles) times FWHM; unit flux.

    Kolmogorov: ``-3.44 (f lambda / r0)^(5/3)`` (Fried 1966, J. Opt. Soc. Am. 56, 1372); Moffat 1969, A&A 3, 455.
    """
    if profile == "gaussian":
        return -((math.pi * scaled).square()) / (4 * math.log(2))
    if profile == "kolmogorov":
        return -3.44194 * (scaled / KOLMOGOROV_FWHM) ** (5 / 3)
    return _read(_moffat(beta), scaled)


def sersic_transform(scaled: Tensor, index: float) -> Tensor:
    """Transform of a Sersic profile of unit flux at ``scaled``, frequency (cycles) times half-light radius."""
    return _read(_sersic(index), scaled).exp()


def pixel_response(height: int, width: int, device: torch.device) -> Tensor:
    """Transform of a square pixel, (2h, w + 1) float64."""
    down, right = frequencies(height, width, device)
    return torch.sinc(down) * torch.sinc(right)


def _read(table: Tensor, scaled: Tensor) -> Tensor:
    """Linear interpolation of a table that is even in the square root of its argument."""
    place = (scaled / REACH).sqrt().clamp_max(1.0) * (POINTS - 1)
    before = place.floor().clamp_max(POINTS - 2)
    table, index = table.to(scaled.device), before.long()
    return torch.lerp(table[index], table[index + 1], place - before)


def _places() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return REACH * np.linspace(0, 1, POINTS) ** 2


@functools.lru_cache(maxsize=32)
def _moffat(beta: float) -> Tensor:
    """``log(2 (u/2)^(beta-1) K_(beta-1)(u) / Gamma(beta-1))`` with ``u = 2 pi f r0``."""
    u = 2 * np.pi * _places()[1:] / (2 * math.sqrt(2 ** (1 / beta) - 1))
    order = beta - 1
    with np.errstate(over="ignore"):
        found = math.log(2) + order * np.log(u / 2) + np.log(kve(order, u)) - u - gammaln(order)
    # for high orders the Bessel function overflows where the transform is still 1
    return torch.from_numpy(np.concatenate([[0.0], np.where(np.isfinite(found), found, 0.0)]))


@functools.lru_cache(maxsize=32)
def _sersic(index: float) -> Tensor:
    profile = galsim.Sersic(n=index, half_light_radius=1.0)
    values = np.array([profile.kValue(2 * np.pi * place, 0.0).real for place in _places()])
    return torch.from_numpy(np.log(np.maximum(values, 1e-30)))
