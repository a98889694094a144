"""The Inception network for photometric redshifts, Pasquet et al. 2019, https://arxiv.org/abs/1806.06607."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advbench.api import InputSpace, Tags, param
from advbench_astro.photoz.layers import convolution, halve, neighbour_mean
from advbench_astro.photoz.network import PhotozModel

STEM = 64
NARROW = (48, 64, 92, 92, 92)
WIDE = (64, 92, 128, 128, 128)
"""Channels of the five modules inside and out."""
HALVED_AFTER = (1, 3)
HIDDEN = (1096, 1096)


class Inception(nn.Module):
    """Four views of the same image side by side: 1x1; 1x1 then 5x5; 1x1 then 3x3; 1x1 then the mean of 2x2.

    ``(b, channels, h, w)`` to ``(b, 3 wide + narrow, h, w)``, without 5x5 to ``(b, 2 wide + narrow, h, w)``.
    """

    def __init__(self, channels: int, narrow: int, wide: int, *, with_5x5: bool, slope: float) -> None:
        super().__init__()
        self.point = convolution(channels, wide, 1, slope)
        self.five = _two(channels, narrow, wide, 5, slope) if with_5x5 else None
        self.three = _two(channels, narrow, wide, 3, slope)
        self.pooled = convolution(channels, narrow, 1, slope)
        self.out_channels = (3 if with_5x5 else 2) * wide + narrow

    def forward(self, x: Tensor) -> Tensor:
        """The views, joined along the channels."""
        five = [] if self.five is None else [self.five(x)]
        return torch.cat([self.point(x), *five, self.three(x), neighbour_mean(self.pooled(x))], dim=1)


def _two(channels: int, narrow: int, wide: int, kernel: int, slope: float) -> nn.Sequential:
    return nn.Sequential(convolution(channels, narrow, 1, slope), convolution(narrow, wide, kernel, slope))


class PhotozInception(PhotozModel):
    """Five Inception modules and two hidden layers, Pasquet et al. 2019, https://arxiv.org/abs/1806.06607.

    The last module has no 5x5. 27,596,372 parameters with 180 bins for 5x64x64 images with reddening, of which 93.5 %
    are fully connected. Outputs are plain sums: no activation follows the last layer. Slopes of PReLU begin at 0 as in
    the authors' code; other ports take PyTorch's 0.25. Weights are drawn by Glorot & Bengio 2010, biases begin at 0.1.
    """

    tags: ClassVar[Tags] = Tags(tasks={"regression"}, reference="https://arxiv.org/abs/1806.06607")
    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"width": 0.1, "ebv": False},
        {"width": 0.1, "ebv": False, "head": "bins", "bins": 12},
    )

    slope: float = param(0.0, "slope of PReLU below zero before training", ge=0, le=1)

    def trunk(self, space: InputSpace) -> tuple[nn.Module, tuple[int, ...]]:
        """A 5x5 convolution and the modules, each pooling halves the image."""
        channels = self.scaled(STEM)
        layers: list[nn.Module] = [convolution(space.shape[0], channels, 5, self.slope), halve()]
        for number, (narrow, wide) in enumerate(zip(NARROW, WIDE)):
            last = number == len(NARROW) - 1
            module = Inception(
                channels, self.scaled(narrow), self.scaled(wide), with_5x5=not last, slope=self.slope
            )
            layers += [module, halve()] if number in HALVED_AFTER else [module]
            channels = module.out_channels
        return nn.Sequential(*layers), tuple(self.scaled(size) for size in HIDDEN)
