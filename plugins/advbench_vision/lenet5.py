"""The LeNet-5 variant whose MNIST robustness is published."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advbench.api import InputSpace, Model, Recipe, Tags, Task, param
from advbench_vision.geometry import flat_size, too_small

LAYERS = ("pool", "pool")


class LeNet5Network(nn.Module):
    """Features (b, 200) and logits (b, outputs) of images (b, c, h, w); the defaults are those of MNIST.

    Its state dict names ``conv1, conv2, linear1, linear2`` are those of advertorch's LeNet5, so that weights
    trained there can be loaded (``own/module`` with ``factory: "advbench_vision.lenet5:LeNet5Network"``).
    """

    def __init__(self, shape: tuple[int, int, int] = (1, 28, 28), outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(flat_size(shape, LAYERS, 64), 200)
        self.linear2 = nn.Linear(200, outputs)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(features, logits)``; ``x`` is not normalised."""
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        features = torch.relu(self.linear1(x.flatten(1)))
        return features, self.linear2(features)


class LeNet5(Model):
    """LeNet-5 as in advertorch, two padded 3x3 convolutions and 200 hidden units; Ding et al. 2019, https://arxiv.org/abs/1902.07623.

    Conv 32 3x3, max-pooling, conv 64 3x3, max-pooling, dense 200, output; ReLU. 648,226 parameters on MNIST. Inputs are
    not normalised.
    """

    tags = Tags(reference="https://arxiv.org/abs/1902.07623")
    recipe: Recipe = param(Recipe(lr=2e-3, batch_size=64, epochs=6, weight_decay=0.0), "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images of at least 4x4 pixels."""
        return too_small(space, LAYERS)

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; features (b, 200) and logits (b, K)."""
        channels, height, width = space.shape
        return LeNet5Network((channels, height, width), task.outputs)

    def normalisation(self) -> str:
        """None: the published weights take pixels in [0, 1]."""
        return "none"
