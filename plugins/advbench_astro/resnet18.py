"""The larger network of the galaxy-morphology studies."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from advbench.api import InputSpace, Model, Recipe, Tags, Task, param

WIDTHS = (64, 128, 256, 512)


class ResNet18(Model):
    """Residual network of 18 layers with dropout and a 256-feature bottleneck; He et al. 2016, https://arxiv.org/abs/1512.03385.

    The variant of Ciprijanovic et al. 2022 (https://arxiv.org/abs/2112.14299): dropout between the last residual
    stage and the average pooling, and two linear layers with nothing between them. 11,308,611 parameters for
    three classes of three-channel images. Convolutions start from He's initialisation, linear layers keep PyTorch's.
    """

    tags: ClassVar[Tags] = Tags(reference="https://arxiv.org/abs/1512.03385")
    version: ClassVar[int] = 1

    features: int = param(256, "width of the bottleneck", ge=1)
    dropout: float = param(
        0.5, "probability of dropping an activation of the last stage in training", ge=0, lt=1
    )
    recipe: Recipe = param(Recipe(lr=1e-3, epochs=4, weight_decay=1e-4), "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Why the network cannot be built for these inputs, or None."""
        if len(space.shape) != 3:
            return f"takes images (channels, height, width), not inputs of shape {space.shape}"
        if min(space.shape[1:]) < 32:
            return f"shrinks its inputs 32 times: needs at least 32x32 pixels, not {space.shape[1]}x{space.shape[2]}"
        return None

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; its output is ``(features (b, 256), logits (b, K))``."""
        return ResNet18Module(space.shape[0], self.features, task.outputs, self.dropout)


class ResNet18Module(nn.Module):
    """Inputs (b, c, h, w) to features (b, f) and outputs (b, k)."""

    def __init__(self, channels: int, features: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, WIDTHS[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(WIDTHS[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        stages: list[nn.Module] = []
        before = WIDTHS[0]
        for width in WIDTHS:
            stages += [
                BasicBlock(before, width, stride=1 if width == before else 2),
                BasicBlock(width, width, stride=1),
            ]
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1))
        self.bottleneck = nn.Linear(before, features)
        self.head = nn.Linear(features, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (b, f) and outputs (b, k)."""
        features = self.bottleneck(torch.flatten(self.pool(self.stages(self.stem(x))), 1))
        return features, self.head(features)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is carried, through a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.carry: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.carry = nn.Sequential(
                nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(b, before, h, w) to (b, width, h / stride, w / stride)."""
        return torch.relu(self.change(x) + self.carry(x))
