"""The small network of the galaxy-morphology studies."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from advbench.api import InputSpace, Model, Recipe, Tags, Task, param
from advbench_astro.blocks import pooled_blocks

WIDTHS = (8, 16, 32)
KERNELS = (5, 3, 3)


class ConvNet(Model):
    """Three convolutions and a 256-feature bottleneck; Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299.

    Convolution, batch norm, ReLU and 2x2 max pooling, three times (5x5 to 8, 3x3 to 16, 3x3 to 32 channels), then
    two linear layers with nothing between them. 1,187,203 parameters for three classes of 3x100x100 images.
    Linear layers keep PyTorch's initialisation.
    """

    tags: ClassVar[Tags] = Tags(reference="https://arxiv.org/abs/2112.14299")
    version: ClassVar[int] = 1

    features: int = param(256, "width of the bottleneck", ge=1)
    recipe: Recipe = param(Recipe(lr=2e-3, epochs=12, weight_decay=1e-3), "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Why the network cannot be built for these inputs, or None."""
        if len(space.shape) != 3:
            return f"takes images (channels, height, width), not inputs of shape {space.shape}"
        if min(space.shape[1:]) < 2 ** len(WIDTHS):
            return f"pools three times: needs at least 8x8 pixels, not {space.shape[1]}x{space.shape[2]}"
        return None

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; its output is ``(features (b, 256), logits (b, K))``."""
        return ConvNetModule(space.shape, self.features, task.outputs)


class ConvNetModule(nn.Module):
    """Inputs (b, c, h, w) to features (b, f) and outputs (b, k)."""

    def __init__(self, shape: tuple[int, ...], features: int, outputs: int) -> None:
        super().__init__()
        self.blocks, flat = pooled_blocks(shape, KERNELS, WIDTHS)
        self.bottleneck = nn.Linear(flat, features)
        self.head = nn.Linear(features, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (b, f) and outputs (b, k)."""
        features = self.bottleneck(torch.flatten(self.blocks(x), 1))
        return features, self.head(features)
