"""Lossy compression of FITS images, as archives and pipelines use it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from astropy.io import fits
from numpy.typing import NDArray
from torch import Tensor

from advbench.api import Rng, Tags, param
from advbench_astro.perturbations.base import SurveyPerturbation, View

SEEDS = 10_000
"""Dither seeds of the FITS standard: 1 to 10,000."""


def compressed(image: NDArray[np.float32], *, quantize_level: float, seed: int | None) -> NDArray[np.float32]:
    """An image (..., h, w) after a write and a read as a tile-compressed FITS file: RICE_1, a tile per row.

    Values become multiples of the noise in their tile over ``quantize_level``, with subtractive dithering from this
    ``seed`` in [1, 10000], or without if it is None.
    """
    dither = {"quantize_method": -1} if seed is None else {"quantize_method": 1, "dither_seed": seed}
    tile = (1,) * (image.ndim - 1) + image.shape[-1:]
    hdu = fits.CompImageHDU(
        image, compression_type="RICE_1", tile_shape=tile, quantize_level=quantize_level, **dither
    )
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    buffer.seek(0)
    with fits.open(buffer) as written:
        return np.array(written[1].data, dtype=np.float32)


class FitsCompression(SurveyPerturbation):
    """Tile compression of floating-point FITS images: quantised to a fraction of the noise, then Rice coded.

    Pence et al. 2010, https://arxiv.org/abs/1007.1179, by astropy. Rice coding itself loses nothing; a row of an
    image without noise is not quantised. All bands of a sample are one file.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True,
        strength="quantize_level",
        unit="steps per noise",
        stronger="lower",
        reference="https://arxiv.org/abs/1007.1179",
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"quantize_level": 1}, {"dither": False})

    quantize_level: float = param(
        1.0, "quantisation steps in a standard deviation of the noise; fewer are coarser", gt=0
    )
    dither: bool = param(True, "subtractive dithering, with a seed drawn for each sample")

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """`compressed`, a file for each sample."""
        seeds = (1 + rng.integers(SEEDS)).tolist()
        cubes = flux.detach().cpu().float().numpy()
        found = [
            compressed(cube, quantize_level=self.quantize_level, seed=seed if self.dither else None)
            for cube, seed in zip(cubes, seeds, strict=True)
        ]  # one after the other: astropy holds the lock of the interpreter, and reading is not safe for threads
        stacked = np.stack(found) if found else cubes
        return torch.from_numpy(stacked).to(flux)
