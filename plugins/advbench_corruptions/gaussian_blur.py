"""Gaussian blur, exact to the border, as two matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.graded import Graded
from advbench_corruptions.kernels import reflected, separable

TRUNCATE = 4.0
"""Standard deviations at which the kernel ends, as in ``scipy.ndimage.gaussian_filter``."""


def blur_matrix(size: int, sigma: float) -> Tensor:
    """The blur of ``size`` pixels as a matrix (size, size), float64; its rows sum to 1.

    Beyond the border the image is reflected about the edge of its last pixel (d c b a | a b c d | d c b a),
    scipy's ``reflect``, which keeps the sum over all pixels.
    """
    radius = int(TRUNCATE * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset.double() / sigma).square())
    source = reflected(torch.arange(size)[:, None] + offset, size)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, source, (weight / weight.sum()).expand(size, -1).contiguous())


def gaussian_blur(x: Tensor, *, sigma: float) -> Tensor:
    """Images (b, c, h, w) convolved with a Gaussian of ``sigma`` pixels, as scipy's ``gaussian_filter``."""
    if sigma == 0:
        return x.clone()
    rows, columns = (blur_matrix(size, sigma) for size in x.shape[-2:])
    return separable(x, rows, columns)


class GaussianBlur(Graded):
    """Gaussian blur of every channel, as by a Gaussian point-spread function; reflecting borders."""

    tags: ClassVar[Tags] = Tags(
        strength="sigma",
        unit="pixel",
        reference="https://docs.scipy.org/doc/scipy/reference/generated/scipy.ndimage.gaussian_filter.html",
    )
    needs_images: ClassVar[str] = "a blur"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"sigma": (0.5, 1.0, 1.5, 2.0, 3.0)}

    sigma: float = param(
        1.0, "standard deviation of the kernel (FWHM / 2.355); 0 changes nothing", unit="pixel", ge=0
    )

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`gaussian_blur` with this ``sigma``."""
        return gaussian_blur(x, sigma=self.sigma)
