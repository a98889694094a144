"""Factories to start from: a data set for `own/dataset` and a network for `own/module`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


def stripes(count: int = 300, side: int = 16, contrast: float = 0.3, seed: int = 0) -> TensorDataset:
    """Noisy grey images of stripes: across (class 0), along (1) or diagonal (2).

    Parameters
    ----------
    count
        Number of images.
    side
        Their side in pixels.
    contrast
        Amplitude of the stripes; the noise has a standard deviation of 0.1.
    seed
        Seed of the noise.

    Returns
    -------
    TensorDataset
        Items ``(x, y)``: x float32 (1, side, side) in [0, 1], y int64.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = torch.stack([rows, columns, (rows + columns) / 2]).mul(torch.pi / 2).sin()
    y = torch.arange(count) % 3
    noise: Tensor = 0.1 * torch.randn(count, 1, side, side, generator=generator)
    x = (0.5 + contrast * waves[y][:, None] + noise).clamp(0, 1)
    return TensorDataset(x, y)


def small_network(channels: int = 1, outputs: int = 3, width: int = 16) -> nn.Module:
    """Logits (b, outputs) of images (b, channels, h, w): two convolutions, a mean over positions, a dense layer."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, outputs),
    )
