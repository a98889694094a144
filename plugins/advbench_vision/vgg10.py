"""The VGG of ten weight-bearing layers that Animals-10 is classified with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advbench.api import InputSpace, Model, Recipe, Task, param
from advbench_vision.geometry import flat_size, too_small

WIDTHS = (32, 64, 128, 128, 128)
LAYERS = ("pool",) * len(WIDTHS)
HIDDEN = 4096


class Vgg10LighterNetwork(nn.Module):
    """Features (b, 4096) and logits (b, outputs) of images (b, c, h, w) of at least 32x32 pixels."""

    def __init__(self, shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs = shape[0]
        for width in WIDTHS:
            blocks += [*_convolution(inputs, width), *_convolution(width, width), nn.MaxPool2d(2)]
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.hidden = nn.Sequential(
            nn.Linear(flat_size(shape, LAYERS, inputs), HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.5),
        )
        self.head = nn.Linear(HIDDEN, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(features, logits)``."""
        features = self.hidden(torch.flatten(self.blocks(x), 1))
        return features, self.head(features)


class Vgg10Lighter(Model):
    """VGG with five light blocks and three dense layers, 43,395,754 parameters on 224x224 colour images.

    Each block is twice a padded 3x3 convolution, batch norm and ReLU, then 2x2 max-pooling; 32, 64, 128, 128, 128
    channels. Then dense 4096, 4096 (ReLU, dropout 0.5; the features) and the output: 98 % of the parameters are
    there. After Simonyan and Zisserman 2015 (https://arxiv.org/abs/1409.1556). The recipe is that of the
    Animals-10 studies, Adam at 1e-4 with class weights, but for its learning rate, which falls as half a cosine
    and not to a tenth after the tenth of 15 epochs.
    """

    recipe: Recipe = param(
        Recipe(
            lr=1e-4,
            weight_decay=0.0,
            batch_size=32,
            epochs=15,
            patience=15,
            schedule="cosine",
            class_weights=True,
        ),
        "how it is trained",
    )

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images of at least 32x32 pixels."""
        return too_small(space, LAYERS)

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; features (b, 4096) and logits (b, K)."""
        channels, height, width = space.shape
        return Vgg10LighterNetwork((channels, height, width), task.outputs)


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
