"""Filters as purification: Gaussian and median blur, opening and closing. All have true gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from advbench.api import Defense, InputSpace, Rng, Tags, Task, param
from advbench_defenses.squeezers import median_filter, not_images, reflected


def gaussian_blur(x: Tensor, *, sigma: float) -> Tensor:
    """Images (b, c, h, w) blurred by a Gaussian of ``sigma`` pixels, cut off at 4 sigma.

    Equals ``scipy.ndimage.gaussian_filter`` with its defaults (reflected about the edge of the last pixel).
    """
    reach = int(4 * sigma + 0.5)
    heights = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-reach, reach + 1)]
    total = sum(heights)
    x = reflected(x, reach, reach)
    for dim in (-2, -1):
        length = x.shape[dim] - 2 * reach
        parts = [x.narrow(dim, place, length) * (height / total) for place, height in enumerate(heights)]
        x = sum(parts[1:], parts[0])
    return x


def dilation(x: Tensor, *, size: int, before: int) -> Tensor:
    """Largest of ``size`` x ``size`` pixels of images (b, c, h, w), ``before`` of them above and to the left."""
    return F.max_pool2d(reflected(x, before, size - 1 - before), size, 1)


def erosion(x: Tensor, *, size: int, before: int) -> Tensor:
    """Smallest of ``size`` x ``size`` pixels of images (b, c, h, w), ``before`` of them above and to the left."""
    return -dilation(-x, size=size, before=before)


def opening(x: Tensor, *, size: int) -> Tensor:
    """Images (b, c, h, w) eroded and dilated: what is bright and smaller than the window goes.

    Equals ``scipy.ndimage.grey_opening``; of even sizes the second window is the mirror image of the first.
    """
    before = size // 2
    return dilation(erosion(x, size=size, before=before), size=size, before=size - 1 - before)


def closing(x: Tensor, *, size: int) -> Tensor:
    """Images (b, c, h, w) dilated and eroded: what is dark and smaller than the window goes.

    Equals ``scipy.ndimage.grey_closing``.
    """
    before = size - 1 - size // 2
    return erosion(dilation(x, size=size, before=before), size=size, before=size - 1 - before)


class Filter(Defense):
    """Purification by a differentiable filter of images."""

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images alone."""
        return not_images(space, type(self).__name__)

    def filtered(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) after the filter, with gradients."""
        raise NotImplementedError

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Filtered inputs."""
        return self.filtered(x)

    def surrogate(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """The filter itself."""
        return self.filtered(x)


class GaussianBlur(Filter):
    """Blur by a Gaussian, each channel on its own."""

    tags: ClassVar[Tags] = Tags(purifies=True)

    sigma: float = param(1.0, "standard deviation of the Gaussian", unit="pixel", gt=0.01, le=50)

    def filtered(self, x: Tensor) -> Tensor:
        """`gaussian_blur`."""
        return gaussian_blur(x, sigma=self.sigma)


class MedianBlur(Filter):
    """Running median, each channel on its own, Xu et al. 2018, https://arxiv.org/abs/1704.01155."""

    tags: ClassVar[Tags] = Tags(purifies=True, reference="https://arxiv.org/abs/1704.01155")

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"size": 2})

    size: int = param(3, "side of the window", unit="pixel", ge=2, le=31)

    def filtered(self, x: Tensor) -> Tensor:
        """`median_filter`."""
        return median_filter(x, size=self.size)


class Opening(Filter):
    """Grey opening: removes what is bright and smaller than the window, each channel on its own.

    Serra 1982, Image Analysis and Mathematical Morphology, Academic Press.
    """

    tags: ClassVar[Tags] = Tags(purifies=True)

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"size": 2})

    size: int = param(3, "side of the window", unit="pixel", ge=2, le=31)

    def filtered(self, x: Tensor) -> Tensor:
        """`opening`."""
        return opening(x, size=self.size)


class Closing(Filter):
    """Grey closing: removes what is dark and smaller than the window, each channel on its own.

    Serra 1982, Image Analysis and Mathematical Morphology, Academic Press.
    """

    tags: ClassVar[Tags] = Tags(purifies=True)

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"size": 2})

    size: int = param(3, "side of the window", unit="pixel", ge=2, le=31)

    def filtered(self, x: Tensor) -> Tensor:
        """`closing`."""
        return closing(x, size=self.size)
