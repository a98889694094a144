"""What the small convolutional networks of the galaxy studies have in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def pooled_blocks(
    shape: tuple[int, ...], kernels: Sequence[int], widths: Sequence[int]
) -> tuple[nn.Sequential, int]:
    """Convolution, batch normalisation, ReLU and 2x2 maximum for each width, and the flat size (c h w) after them."""
    channels, height, width = shape
    blocks: list[nn.Module] = []
    for kernel, out in zip(kernels, widths):
        blocks += [
            nn.Conv2d(channels, out, kernel, padding=kernel // 2),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels, height, width = out, height // 2, width // 2
    return nn.Sequential(*blocks), channels * height * width
