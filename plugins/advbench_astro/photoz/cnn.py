"""The small network that the Inception is compared with, Campagne 2020, https://arxiv.org/abs/2002.10154."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from advbench.api import InputSpace, Tags, param
from advbench_astro.photoz.layers import convolution, halve
from advbench_astro.photoz.network import PhotozModel

CHANNELS = (64, 92, 128)
KERNELS = (5, 3, 3)
PADDING = 2
HIDDEN = 1024


class PhotozCNN(PhotozModel):
    """Three convolutions, each padded by 2 and halved, and one hidden layer; Campagne 2020, https://arxiv.org/abs/2002.10154.

    12,800 flat features for 5x64x64 images, 12,801 with reddening. No activation follows the last layer. Weights are
    drawn by Glorot & Bengio 2010, biases begin at 0.1.
    """

    tags: ClassVar[Tags] = Tags(tasks={"regression"}, reference="https://arxiv.org/abs/2002.10154")
    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"width": 0.1, "ebv": False},
        {"width": 0.1, "ebv": False, "head": "bins", "bins": 12},
    )

    ebv: bool = param(False, "whether the reddening E(B-V), the extra input ebv, joins the flat features")
    slope: float = param(0.25, "slope of PReLU below zero before training", ge=0, le=1)

    def trunk(self, space: InputSpace) -> tuple[nn.Module, tuple[int, ...]]:
        """The convolutions."""
        channels, layers = space.shape[0], list[nn.Module]()
        for kernel, size in zip(KERNELS, CHANNELS):
            layers += [convolution(channels, self.scaled(size), kernel, self.slope, PADDING), halve()]
            channels = self.scaled(size)
        return nn.Sequential(*layers), (self.scaled(HIDDEN),)
