"""Functions of images that several defenses share: bit depth, median, resampling, borders."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.api import InputSpace


def not_images(space: InputSpace, what: str) -> str | None:
    """Why ``what``, which needs images (c, h, w), does not fit the input space, or None."""
    return None if len(space.shape) == 3 else f"{what} needs images (c, h, w)"


def reduce_bit_depth(x: Tensor, lower: Tensor, upper: Tensor, *, bits: int) -> Tensor:
    """``x`` (b, c, ...) rounded to the nearest of ``2**bits`` levels from ``lower`` to ``upper``."""
    steps: int = 2**bits - 1
    levels = ((x - lower) / (upper - lower) * steps).round().clamp(0, steps)
    return lower + levels / steps * (upper - lower)


def round_straight(x: Tensor, lower: Tensor, upper: Tensor, *, bits: int) -> Tensor:
    """The values of `reduce_bit_depth` with the gradient of the identity."""
    return reduce_bit_depth(x.detach(), lower, upper, bits=bits) + (x - x.detach())


def median_filter(x: Tensor, *, size: int) -> Tensor:
    """Running median of images (b, c, h, w) over ``size`` x ``size`` pixels, differentiable.

    Equals ``scipy.ndimage.median_filter`` with its default border (reflected about the edge of the last
    pixel), for even sizes too: there the window reaches one pixel further to the top left, and the larger
    of the two middle values is taken.
    """
    before = size // 2
    padded = reflected(x, before, size - 1 - before)
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
    rows, columns = (filled(_there_and_back(size, scale).to(x)) for size in (height, width))
    return (rows @ filled(x) @ columns.T)[..., :height, :width]


def filled(x: Tensor) -> Tensor:
    """Zeros added until both sides are multiples of 16: where a row lies in memory decides how a product rounds."""
    return F.pad(x, (0, -x.shape[-1] % 16, 0, -x.shape[-2] % 16))


def reflected(x: Tensor, before: int, after: int, *, repeat_edge: bool = True) -> Tensor:
    """Images (b, c, h, w) with so many pixels more beyond the top and left, and the bottom and right border.

    They are reflected about the edge of the last pixel, or about its centre without ``repeat_edge``, and go
    to and fro where the image is smaller than the border.
    """
    for dim in (-2, -1):
        length = x.shape[dim]
        period = 2 * length if repeat_edge else max(2 * length - 2, 1)
        place = torch.arange(-before, length + after, device=x.device).remainder(period)
        x = x.index_select(dim, torch.minimum(place, period - int(repeat_edge) - place))
    return x


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
