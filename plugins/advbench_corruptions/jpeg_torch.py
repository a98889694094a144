"""JPEG in torch: batched, differentiable, and equal to libjpeg.

ITU-T T.81 with the conventions of libjpeg-turbo, which Pillow uses: its quantisation tables and their scaling by
quality, integer YCbCr of BT.601, chroma averaged over 2 x 2 pixels and interpolated linearly ("fancy
upsampling"), padding by the last pixel, and the fixed-point arithmetic of its "slow" cosine transform.
Huffman coding is lossless, so it is left out.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Rounding = Literal["hard", "straight-through", "soft"]

LEVELS = 255
CENTRE = 128
BLOCK = 8
AT_ONCE = 8

_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Tables K.1 and K.2 of the standard."""

_FORWARD = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_INVERSE = ((1.0, 0.0, 1.402), (1.0, -0.34414, -0.71414), (1.0, 1.772, 0.0))
"""RGB to YCbCr (chroma about 0) and back, BT.601."""

_HALVES_OF_CHROMA = torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1)
"""Luma rounds halves up and chroma down: by so many units of 2^-16."""

_COSINES = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
"""sqrt(2) cos((2 j + 1) k pi / 16) for j < 4 (1 for k = 0) in units of 2^-13, the other half follows by symmetry.

Last digits are those that the sums of 13-bit constants in the transform of Loeffler et al. 1989 come to.
"""

_HALVED = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""Rows and columns of pixels for one sample of chroma."""


def jpeg_torch(
    x: Tensor,
    quality: int,
    *,
    lower: Tensor | float = 0.0,
    upper: Tensor | float = 1.0,
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:2:0",
    rounding: Rounding = "straight-through",
) -> Tensor:
    """Images (b, c, h, w) after JPEG compression, in their own units; differentiable with respect to ``x``.

    Parameters
    ----------
    x
        Images; three channels are compressed together as RGB, any other number one by one as grey images.
    quality
        libjpeg's quality, 1 to 100.
    lower, upper
        Values of the 8-bit levels 0 and 255, broadcast against ``x``.
    subsampling
        Chroma subsampling of RGB images.
    rounding
        How gradients pass: ``"hard"`` (they are zero, as they are), ``"straight-through"`` (as if nothing were
        rounded; same values), or ``"soft"``: coefficients become ``[v] + (v - [v])^3``, Shin and Song 2017,
        whose values are no longer those of libjpeg.
    """
    step = _Steps(rounding)
    levels = step.nearest((x - lower) / (upper - lower) * LEVELS).clamp(0, LEVELS)
    # A few at a time, so that what lies between stays in the processor's cache.
    parts = [_coded(part.double(), quality, subsampling, step).to(x) for part in torch.split(levels, AT_ONCE)]
    return lower + torch.cat(parts) / LEVELS * (upper - lower)


def _coded(levels: Tensor, quality: int, subsampling: str, step: _Steps) -> Tensor:
    """Levels (b, c, h, w), in float64, coded and decoded."""
    if levels.shape[1] == 3:
        return _colour(levels, quality, subsampling, step)
    return _plane(levels, _table(_LUMA, quality), step)


class _Steps:
    """The step functions, with the gradients that are wanted."""

    def __init__(self, rounding: Rounding) -> None:
        self.rounding = rounding

    def nearest(self, value: Tensor) -> Tensor:
        return self._passed(value, value.detach().round())

    def scaled(self, value: Tensor, bits: int) -> Tensor:
        """``value / 2^bits``, halves rounded up."""
        value = value / 2**bits
        return self._passed(value, (value.detach() + 0.5).floor())

    def floor(self, value: Tensor, bits: int) -> Tensor:
        """``value / 2^bits``, rounded down."""
        return self._passed(value / 2**bits, (value.detach() / 2**bits).floor())

    def coefficient(self, value: Tensor) -> Tensor:
        """To the nearest integer, halves away from zero."""
        plain = value.detach()
        whole = plain.sign() * (plain.abs() + 0.5).floor()
        return whole + (value - whole) ** 3 if self.rounding == "soft" else self._passed(value, whole)

    def _passed(self, value: Tensor, stepped: Tensor) -> Tensor:
        passes = value.requires_grad and self.rounding != "hard"
        return stepped + (value - value.detach()) if passes else stepped


def _table(base: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Quantisation table (8, 8) float64 for a quality, as libjpeg scales it."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * scale + 50) // 100).clamp(1, LEVELS).double()


@functools.cache
def _cosines() -> Tensor:
    """The cosine transform of 8 values, (8, 8) float64 integers in units of 2^-13; its rows have length sqrt(8)."""
    half = torch.tensor(_COSINES, dtype=torch.float64)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(BLOCK // 2)[:, None]
    return torch.cat([half, sign * half.flip(1)], 1)


def _plane(levels: Tensor, table: Tensor, step: _Steps) -> Tensor:
    """Planes (b, c, h, w) of 8-bit levels coded and decoded: transform, quantise, and back.

    Integers in float64, so that every sum is exact, in whatever order it is done.
    """
    height, width = levels.shape[-2:]
    padded = F.pad(levels, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate") - CENTRE
    cosines = _cosines().to(padded.device)
    quantum = 8 * table.to(padded.device).repeat(1, padded.shape[-1] // BLOCK)
    rows = step.scaled(_along_rows(padded, cosines.T), 11)
    spectrum = step.scaled(cosines @ rows.view(*rows.shape[:2], -1, BLOCK, rows.shape[-1]), 15)
    found = step.coefficient(spectrum / quantum) * (quantum / 8)
    columns = step.scaled(cosines.T @ found, 11).flatten(-3, -2)
    image = step.scaled(_along_rows(columns, cosines), 18) + CENTRE
    return image[..., :height, :width].clamp(0, LEVELS)


def _along_rows(x: Tensor, matrix: Tensor) -> Tensor:
    """Each 8 values along the last axis times a matrix (8, 8)."""
    return torch.matmul(x.reshape(*x.shape[:-1], -1, BLOCK), matrix).view(x.shape)


def _colour(levels: Tensor, quality: int, subsampling: str, step: _Steps) -> Tensor:
    """RGB (b, 3, h, w) through YCbCr with subsampled chroma."""
    height, width = levels.shape[-2:]
    planes = step.scaled(_mixed(levels, _FORWARD) - _HALVES_OF_CHROMA.to(levels), 16)
    luma = _plane(planes[:, :1], _table(_LUMA, quality), step)
    chroma = _subsample(planes[:, 1:] + CENTRE, subsampling, step)
    chroma = _plane(chroma, _table(_CHROMA, quality), step)
    within = -(-width // _HALVED[subsampling][1])
    full = _upsample(chroma[..., :within], subsampling, step)[..., :height, :width]
    return step.scaled(_mixed(torch.cat([luma, full - CENTRE], 1), _INVERSE), 16).clamp(0, LEVELS)


def _mixed(x: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Colours (b, 3, h, w) in another system, in units of 2^-16."""
    weights = (x.new_tensor(matrix) * 2**16).round()
    return torch.cat([(row.view(3, 1, 1) * x).sum(1, keepdim=True) for row in weights], 1)


def _subsample(x: Tensor, subsampling: str, step: _Steps) -> Tensor:
    """Means of neighbours, rounded by turns down and up from left to right; columns fill up whole blocks."""
    if subsampling == "4:4:4":
        return x
    height, width = x.shape[-2:]
    x = F.pad(x, (0, -width % (2 * BLOCK), 0, height % _HALVED[subsampling][0]), mode="replicate")
    turn = torch.arange(x.shape[-1] // 2, device=x.device) % 2
    across = x[..., ::2] + x[..., 1::2]
    if subsampling == "4:2:2":
        return step.floor(across + turn, 1)
    return step.floor(across[..., ::2, :] + across[..., 1::2, :] + 1 + turn, 2)


def _upsample(x: Tensor, subsampling: str, step: _Steps) -> Tensor:
    """Linear interpolation at the quarters between samples, rounded by turns up and down."""
    if subsampling == "4:4:4":
        return x
    if subsampling == "4:2:0":
        x = _interleaved(x.transpose(-1, -2)).transpose(-1, -2)
    x = _interleaved(x)
    turn = torch.arange(x.shape[-1], device=x.device) % 2
    return step.floor(x + 1 + turn, 2) if subsampling == "4:2:2" else step.floor(x + 8 - turn, 4)


def _interleaved(x: Tensor) -> Tensor:
    """Each sample of the last axis becomes ``3 x + previous`` and ``3 x + next``, at the ends with itself."""
    before, after = torch.cat([x[..., :1], x[..., :-1]], -1), torch.cat([x[..., 1:], x[..., -1:]], -1)
    return torch.stack([3 * x + before, 3 * x + after], -1).flatten(-2)
