"""Loss of resolution: images made smaller and large again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.graded import Graded
from advbench_corruptions.kernels import separable

Filter = Literal["box", "bilinear", "bicubic", "lanczos"]


def block_matrix(size: int, block: int) -> Tensor:
    """The mean over blocks of ``block`` pixels, put in their place, (size, size) float64; the last may be short."""
    index = torch.arange(size) // block
    together = (index[:, None] == index).double()
    return together / together.sum(1, keepdim=True)


def resize_matrix(old: int, new: int, kind: str) -> Tensor:
    """Resizing from ``old`` to ``new`` pixels, (new, old) float64, as by Pillow.

    The filter is as many old pixels wide as a new one if the image shrinks, else one; its weights within the
    image sum to 1.
    """
    reach, kernel = _FILTERS[kind]
    step = old / new
    scale = max(step, 1.0)
    centre = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * step
    distance = (torch.arange(old, dtype=torch.float64) + 0.5 - centre) / scale
    weight = torch.where(distance.abs() <= reach, kernel(distance), 0.0)
    return weight / weight.sum(1, keepdim=True)


def pixelate(x: Tensor, *, size: int) -> Tensor:
    """Images (b, c, h, w) with every block of ``size`` x ``size`` pixels replaced by its mean."""
    return separable(x, *(block_matrix(length, size) for length in x.shape[-2:]))


def resample(x: Tensor, *, scale: float, down: str, up: str) -> Tensor:
    """Images (b, c, h, w) resized to ``scale`` times their size (at least a pixel) and back, by two filters."""
    matrices = []
    for length in x.shape[-2:]:
        small = max(1, math.floor(length * scale + 0.5))
        matrices.append(resize_matrix(small, length, up) @ resize_matrix(length, small, down))
    return separable(x, *matrices)


class Pixelate(Graded):
    """Square blocks of pixels replaced by their mean, from the top left corner on."""

    tags: ClassVar[Tags] = Tags(strength="size", unit="pixel", reference="https://arxiv.org/abs/1903.12261")
    needs_images: ClassVar[str] = "pixelation"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"size": (2, 3, 4, 6, 8)}

    size: int = param(2, "side of a block; 1 changes nothing", unit="pixel", ge=1)

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`pixelate` with blocks of this size."""
        return x.clone() if self.size == 1 else pixelate(x, size=self.size)


class Resample(Graded):
    """Coarser pixels: images resized to a fraction of their size and back, as by Pillow's filters."""

    tags: ClassVar[Tags] = Tags(
        strength="scale",
        unit="of the size",
        stronger="lower",
        reference="https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters",
    )
    needs_images: ClassVar[str] = "resampling"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"scale": (0.75, 0.5, 0.375, 0.25, 0.15)}

    scale: float = param(0.5, "size of the intermediate image; 1 changes nothing", gt=0, le=1)
    down: Filter = param("bilinear", "filter on the way down")
    up: Filter = param("bilinear", "filter on the way up")

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`resample` with this scale."""
        return x.clone() if self.scale == 1 else resample(x, scale=self.scale, down=self.down, up=self.up)


def _cubic(t: Tensor) -> Tensor:
    """Keys 1981 with a = -1/2."""
    t = t.abs()
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, far)


_FILTERS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "box": (0.5, lambda t: ((t > -0.5) & (t <= 0.5)).double()),
    "bilinear": (1.0, lambda t: 1 - t.abs()),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, lambda t: torch.sinc(t) * torch.sinc(t / 3)),
}
"""Half width and shape of the filters."""
