"""Images for the eye: any bands to red, green and blue, fluxes stretched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.api import InputSpace, UserError

SOFTENING = 8.0
"""Q of the stretch: the larger, the more of the range is logarithmic."""

PERCENTILE = 99.5
NOISE = 15.0
"""Standard deviations of the noise that the bright end is at least: noise is to be seen, not to outshine."""

SPECTRUM = "ugrizy"
"""Bands of optical surveys by rising wavelength."""


def colour_bands(space: InputSpace, bands: Sequence[str] | None = None) -> list[int]:
    """Which bands are red, green and blue; one index three times for grey.

    Raises
    ------
    UserError
        If a band that is asked for does not exist.
    """
    names = space.channels
    if bands is not None:
        missing = [band for band in bands if band not in names]
        if missing or len(bands) not in (1, 3):
            raise UserError(f"bands: needs one or three of {', '.join(names)}, not {', '.join(bands)}")
        chosen = [names.index(band) for band in bands]
        return chosen if len(chosen) == 3 else chosen * 3
    if len(names) < 3:
        return [0, 0, 0]
    by_wavelength = space.link is not None or set(names) <= set(SPECTRUM)
    if not by_wavelength:
        return [0, 1, 2]
    first = 1 if len(names) > 4 else 0  # the bluest of many bands is mostly noise
    return [first + 2, first + 1, first]


def visible(
    x: Tensor, like: Tensor, space: InputSpace, bands: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """Inputs (n, c, h, w) as colours (n, h, w, 3) in [0, 1].

    Fluxes, where the space has a link to them, by the arcsinh stretch of the mean of three bands that keeps colours
    (Lupton et al. 2004, https://arxiv.org/abs/astro-ph/0312483), scaled for each sample by the bright end of ``like``
    (n, c, h, w); other inputs as they lie between their bounds. The same ``like`` gives the same stretch.
    """
    chosen = colour_bands(space, bands)
    x, like = x.detach().cpu().float(), like.detach().cpu().float()
    if space.link is None:
        lower, upper = space.bounds_like(x)
        scaled = ((x - lower) / (upper - lower))[:, chosen]
    else:
        flux, bright = (space.link.to_physical(one)[:, chosen] for one in (x, like))
        # One scale for all bands: what is cut off at the upper bound in each of them is then white.
        top = _bright_end(bright.mean(1).flatten(1))[:, None, None, None]
        scaled = _lupton(flux / top)
    return np.asarray(scaled.nan_to_num(0).clamp(0, 1).permute(0, 2, 3, 1).numpy(), dtype=np.float32)


def _bright_end(values: Tensor) -> Tensor:
    """For each sample the bright end of its pixels (n, h * w), well above their noise: (n,)."""
    middle = values.median(1, keepdim=True).values
    noise = 1.4826 * (values - middle).abs().median(1).values
    return torch.quantile(values, PERCENTILE / 100, dim=1).maximum(NOISE * noise).clamp_min(1e-30)


def _lupton(scaled: Tensor) -> Tensor:
    """Fluxes (n, 3, h, w) in units of the bright end, to colours."""
    mean = scaled.mean(1, keepdim=True).clamp_min(1e-6)
    stretched = torch.asinh(SOFTENING * mean) / float(np.arcsinh(SOFTENING))
    found = scaled * (stretched / mean)
    # What is too bright loses its brightness, not its colour.
    return found / found.amax(1, keepdim=True).clamp_min(1)


def visible_change(
    x: Tensor, perturbed: Tensor, space: InputSpace, bands: Sequence[str] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Changes of inputs (n, c, h, w) as colours (n, h, w, 3), grey where there is none, and the largest ones (n,).

    The largest change of each sample in the bands shown is black or white.
    """
    chosen = colour_bands(space, bands)
    delta = (perturbed - x).detach().cpu().float()[:, chosen]
    largest = delta.abs().flatten(1).amax(1)
    scaled = 0.5 + 0.5 * delta / largest.clamp_min(1e-30)[:, None, None, None]
    return np.asarray(scaled.permute(0, 2, 3, 1).numpy()), np.asarray(largest.numpy())
