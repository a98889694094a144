"""Filtering, moving and drawing of images in Fourier space.

All of it in float64 and in chunks of one size, so that what comes out for a sample does not depend on its company.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 8
"""Samples that are transformed at once."""


def frequencies(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cycles per pixel along rows (2h, 1) and columns (w + 1), float64, of images of twice the sides."""
    down = torch.fft.fftfreq(2 * height, dtype=torch.float64, device=device)
    right = torch.fft.rfftfreq(2 * width, dtype=torch.float64, device=device)
    return down[:, None], right


def phase(height: int, width: int, down: Tensor, right: Tensor) -> Tensor:
    """What moves an image ``down`` and to the ``right`` by pixels, each (...): complex (..., 2h, w + 1).

    At the highest frequency of an axis, where a shift has no sign, the mean of both signs.
    """
    factors = []
    for size, axis, steps in zip((height, width), frequencies(height, width, down.device), (down, right)):
        turn = -2 * math.pi * axis.flatten() * steps.double()[..., None]
        sine = torch.where(torch.arange(len(axis.flatten()), device=axis.device) == size, 0.0, turn.sin())
        factors.append(torch.complex(turn.cos(), sine))
    return factors[0][..., :, None] * factors[1][..., None, :]


def filtered(x: Tensor, response: Callable[..., Tensor], *draws: Tensor) -> Tensor:
    """Images (b, c, h, w) filtered by ``response(*draws)``, broadcast against (b, c, 2h, w + 1); float64.

    Beyond its borders an image is its own reflection about the edge of the last pixel, so that a symmetric filter
    with response 1 at no frequency keeps the sum over all pixels. ``draws`` have one row per sample.
    """
    height, width = x.shape[-2:]

    def part(images: Tensor, *draws: Tensor) -> Tensor:
        tall = torch.cat([images, images.flip(-2)], -2)
        whole = torch.cat([tall, tall.flip(-1)], -1)
        return _cropped(torch.fft.rfft2(whole) * response(*draws), height, width)

    return in_chunks(part, x.double(), *draws)


def drawn(height: int, width: int, spectrum: Callable[..., Tensor], *draws: Tensor) -> Tensor:
    """Images (b, c, h, w) float64 with the transforms ``spectrum(*draws)`` (b, c, 2h, w + 1).

    ``draws`` have one row per sample. What leaves the image by more than its own size comes back.
    """
    return in_chunks(lambda *draws: _cropped(spectrum(*draws), height, width), *draws)


def in_chunks(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function`` of inputs with one row per sample, `CHUNK` at a time; the last chunk repeats its last sample."""
    parts = []
    for start in range(0, len(inputs[0]), CHUNK):
        chunk = torch.arange(start, start + CHUNK, device=inputs[0].device).clamp_max(len(inputs[0]) - 1)
        parts.append(function(*(one[chunk] for one in inputs)))
    return torch.cat(parts)[: len(inputs[0])] if parts else inputs[0].clone()


def _cropped(spectrum: Tensor, height: int, width: int) -> Tensor:
    image: Tensor = torch.fft.irfft2(spectrum, s=(2 * height, 2 * width))
    return image[..., :height, :width]
