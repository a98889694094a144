"""Feature squeezing, Xu et al. 2018, https://arxiv.org/abs/1704.01155."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from advbench.api import Defense, InputSpace, Rng, Tags, Task, param


def reduce_bit_depth(x: Tensor, lower: Tensor, upper: Tensor, *, bits: int) -> Tensor:
    """``x`` (b, c, ...) rounded to the nearest of ``2**bits`` levels from ``lower`` to ``upper``."""
    steps: int = 2**bits - 1
    levels = ((x - lower) / (upper - lower) * steps).round().clamp(0, steps)
    return lower + levels / steps * (upper - lower)


def median_filter(x: Tensor, *, size: int) -> Tensor:
    """Running median of images (b, c, h, w) over ``size`` x ``size`` pixels, differentiable.

    Equals ``scipy.ndimage.median_filter`` with its default border (reflected about the edge of the last
    pixel), for even sizes too: there the window reaches one pixel further to the top left, and the larger
    of the two middle values is taken.
    """
    padded = _reflected(_reflected(x, -2, size), -1, size)
    if size == 2:
        return _second_of_four(padded)
    if size == 3:
        return _fifth_of_nine(padded)
    windows = padded.unfold(-2, size, 1).unfold(-2, size, 1).flatten(-2)
    middle: Tensor = windows.kthvalue(size * size // 2 + 1).values
    return middle


def resample(x: Tensor, *, scale: float) -> Tensor:
    """Images (b, c, h, w) resized bilinearly to ``scale`` times their size and back, as by Pillow."""
    height, width = x.shape[-2:]
    rows, columns = (_filled(_there_and_back(size, scale).to(x)) for size in (height, width))
    return (rows @ _filled(x) @ columns.T)[..., :height, :width]


def _filled(x: Tensor) -> Tensor:
    """Zeros added until both sides are multiples of 16: where a row lies in memory decides how a product rounds."""
    return F.pad(x, (0, -x.shape[-1] % 16, 0, -x.shape[-2] % 16))


class FeatureSqueezing(Defense):
    """Feature squeezing as purification, Xu et al. 2018, https://arxiv.org/abs/1704.01155.

    The network sees the squeezed image. Squeezers that are not null follow each other in the order of the
    parameters. The default is what the paper joins for ImageNet, 5 bits and a 2x2 median (without its
    non-local means); for MNIST it takes ``bit_depth: 1`` with the same median. The paper applies each
    squeezer to the input itself and compares outputs in order to *detect*.
    """

    tags: ClassVar[Tags] = Tags(purifies=True, reference="https://arxiv.org/abs/1704.01155")

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"bit_depth": 1, "median": 3, "resample": 0.5},
    )

    bit_depth: int | None = param(
        5, "bits per value between the bounds; null leaves them", unit="bit", ge=1, le=16
    )
    median: int | None = param(2, "side of the median window; null for no median", unit="pixel", ge=2)
    resample: float | None = param(
        None, "size of the intermediate image over that of the input; null for none", gt=0, lt=1
    )

    @model_validator(mode="after")
    def _squeezes(self) -> FeatureSqueezing:
        if self.bit_depth is None and self.median is None and self.resample is None:
            raise ValueError("at least one of bit_depth, median and resample must be given")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Median and resampling need images."""
        spatial = self.median is not None or self.resample is not None
        return "median and resample need images (c, h, w)" if spatial and len(space.shape) != 3 else None

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Squeezed inputs."""
        if self.bit_depth is not None:
            x = reduce_bit_depth(x, *space.bounds_like(x), bits=self.bit_depth)
        return self._smooth(x)

    def surrogate(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """The same values; the gradient passes straight through the rounding, truly through the others."""
        if self.bit_depth is not None:
            rounded = reduce_bit_depth(x.detach(), *space.bounds_like(x), bits=self.bit_depth)
            x = x + (rounded - x.detach())
        return self._smooth(x)

    def _smooth(self, x: Tensor) -> Tensor:
        if self.median is not None:
            x = median_filter(x, size=self.median)
        return x if self.resample is None else resample(x, scale=self.resample)


def _reflected(x: Tensor, dim: int, size: int) -> Tensor:
    """``x`` with the pixels that a window of ``size`` needs beyond both borders along ``dim``."""
    length = x.shape[dim]
    before = size // 2
    place = torch.arange(-before, length + size - 1 - before, device=x.device).remainder(2 * length)
    return x.index_select(dim, torch.minimum(place, 2 * length - 1 - place))


def _there_and_back(size: int, scale: float) -> Tensor:
    small = max(1, int(size * scale + 0.5))
    return _resize_matrix(small, size) @ _resize_matrix(size, small)


def _resize_matrix(old: int, new: int) -> Tensor:
    """Bilinear resizing as a matrix (new, old): triangles, wider when the image shrinks."""
    step = old / new
    centre = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * step
    distance = (torch.arange(old, dtype=torch.float64) + 0.5 - centre).abs()
    weight = (1 - distance / max(step, 1.0)).clamp_min(0)
    return weight / weight.sum(1, keepdim=True)


def _second_of_four(x: Tensor) -> Tensor:
    low, high = _sort2(x[..., :-1, :], x[..., 1:, :])
    top = torch.minimum(high[..., :-1], high[..., 1:])
    return torch.maximum(top, torch.maximum(low[..., :-1], low[..., 1:]))


def _fifth_of_nine(x: Tensor) -> Tensor:
    """Sort the columns, which neighbouring windows share; the median is a median of three (Paeth 1990)."""
    low, middle, high = _sort3(x[..., :-2, :], x[..., 1:-1, :], x[..., 2:, :])
    lows, middles, highs = ((v[..., :-2], v[..., 1:-1], v[..., 2:]) for v in (low, middle, high))
    largest = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
    smallest = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
    return _middle(largest, _middle(*middles), smallest)


def _sort2(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.minimum(a, b), torch.maximum(a, b)


def _sort3(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b = _sort2(a, b)
    b, c = _sort2(b, c)
    a, b = _sort2(a, b)
    return a, b, c


def _middle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    low, high = _sort2(a, b)
    return torch.maximum(low, torch.minimum(high, c))
