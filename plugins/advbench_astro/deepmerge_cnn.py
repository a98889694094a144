"""The network of the studies of merging galaxies."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from advbench.api import InputSpace, Model, Recipe, Tags, Task, param
from advbench_astro.blocks import pooled_blocks

WIDTHS = (8, 16, 32)
KERNELS = (5, 3, 3)
HIDDEN = (64, 32)


class DeepMergeCNN(Model):
    """Three convolutions and three linear layers; Ciprijanovic et al. 2020, https://arxiv.org/abs/2004.11981.

    Convolution, batch norm, ReLU and 2x2 max pooling, three times (5x5 to 8, 3x3 to 16, 3x3 to 32 channels); the 2592
    features of 75x75 pixels are what comes out, flattened. Linear layers of 64, 32 and K outputs follow, with ReLU
    between them. 174,626 parameters for two classes of 3x75x75 images.
    """

    tags: ClassVar[Tags] = Tags(reference="https://arxiv.org/abs/2004.11981")
    version: ClassVar[int] = 1

    recipe: Recipe = param(Recipe(lr=1e-3, epochs=12, weight_decay=1e-3), "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Why the network cannot be built for these inputs, or None."""
        if len(space.shape) != 3:
            return f"takes images (channels, height, width), not inputs of shape {space.shape}"
        if min(space.shape[1:]) < 2 ** len(WIDTHS):
            return f"pools three times: needs at least 8x8 pixels, not {space.shape[1]}x{space.shape[2]}"
        return None

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; its output is ``(features (b, 2592), logits (b, K))`` for 75x75 pixels."""
        return DeepMergeModule(space.shape, task.outputs)


class DeepMergeModule(nn.Module):
    """Inputs (b, c, h, w) to features (b, f) and outputs (b, k)."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.blocks, inputs = pooled_blocks(shape, KERNELS, WIDTHS)
        layers: list[nn.Module] = []
        for hidden in HIDDEN:
            layers += [nn.Linear(inputs, hidden), nn.ReLU()]
            inputs = hidden
        self.head = nn.Sequential(*layers, nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (b, f) and outputs (b, k)."""
        features = torch.flatten(self.blocks(x), 1)
        return features, self.head(features)
