"""Linear filters of images: separable ones as matrix products, others by the fast Fourier transform.

Beyond the border an image is reflected about the edge of its last pixel (d c b a | a b c d | d c b a), scipy's
``reflect``: under a symmetric kernel this keeps the sum over all pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

CHUNK = 16
"""Samples that are filtered at once."""

ALIGNED = 16
"""Values of float32 in a cache line."""


def reflected(place: Tensor, size: int) -> Tensor:
    """The pixel in ``[0, size)`` that stands at any integer ``place``, within the image or beyond its borders."""
    place = place.remainder(2 * size)
    return torch.minimum(place, 2 * size - 1 - place)


def in_chunks(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function`` of inputs with one row per sample, in chunks of one size; the last is filled up by repetition.

    Libraries choose how to do a product or a transform by how many there are, and round accordingly: this is
    what makes the result for a sample independent of its company, to the last bit.
    """
    parts = []
    for start in range(0, len(inputs[0]), CHUNK):
        part = [one[start : start + CHUNK] for one in inputs]
        missing = CHUNK - len(part[0])
        full = (
            [torch.cat([one, one[-1:].expand(missing, *one.shape[1:])]) for one in part] if missing else part
        )
        parts.append(function(*full)[: CHUNK - missing])
    return torch.cat(parts) if parts else inputs[0].clone()


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ x @ columns^T`` for images (b, c, h, w), in their dtype.

    ``rows`` (new h, h) and ``columns`` (new w, w), or (b, 1, ., .) with one matrix for each sample.
    """
    height, width = rows.shape[-2], columns.shape[-2]
    left, right = _filled(rows.to(x)), _filled(columns.to(x).transpose(-1, -2))

    def filtered(part: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return (left @ (_filled(part) @ right))[..., :height, :width]

    if rows.dim() == 2:
        return in_chunks(lambda part: filtered(part, left, right), x)
    return in_chunks(filtered, x, left, right)


def _filled(x: Tensor) -> Tensor:
    """Zeros added until both sides are multiples of `ALIGNED`: the place in memory decides about rounding, too."""
    return F.pad(x, (0, -x.shape[-1] % ALIGNED, 0, -x.shape[-2] % ALIGNED))


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Images (b, c, h, w) convolved with a ``kernel`` (k, k), k odd, or one (b, 1, k, k) for each sample."""
    radius = kernel.shape[-1] // 2
    places = [reflected(torch.arange(-radius, size + radius, device=x.device), size) for size in x.shape[-2:]]
    size = [ALIGNED * next_fast_len(-(-len(place) // ALIGNED), real=True) for place in places]
    kernel = kernel.to(x)

    def filtered(part: Tensor, response: Tensor) -> Tensor:
        padded = part[..., places[0][:, None], places[1]]
        found: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded, s=size) * response, s=size)
        return found[..., 2 * radius : 2 * radius + part.shape[-2], 2 * radius : 2 * radius + part.shape[-1]]

    if kernel.dim() == 2:
        shared = torch.fft.rfft2(kernel, s=size)
        return in_chunks(lambda part: filtered(part, shared), x)
    return in_chunks(lambda part, own: filtered(part, torch.fft.rfft2(own, s=size)), x, kernel)
