"""A small network for any image size."""

from __future__ import annotations

from torch import Tensor, nn

from advbench.api import InputSpace, Model, Recipe, Task, param

SMALLEST = 8


class SmallCnnNetwork(nn.Module):
    """Features (b, d) and logits (b, outputs) of images (b, c, h, w) of at least 8x8 pixels."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, side = shape[0], min(shape[1:])
        for block in range(blocks):
            channels = width * 2**block
            layers += [
                nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            if side >= SMALLEST:  # pooling ends at maps of 4 to 7 pixels, which the mean over positions needs
                layers.append(nn.MaxPool2d(2))
                side //= 2
            inputs = channels
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(features, logits)``."""
        features = self.body(x)
        return features, self.head(features)


class SmallCnn(Model):
    """Small convolutional network with batch norm and global average pooling, for images of any size from 8x8.

    ``blocks`` times: 3x3 convolution of ``width``, twice, four times ... as many channels, batch norm, ReLU, and 2x2
    max-pooling while the map is at least 8 pixels wide. Then the mean over positions (the features) and one
    dense layer. 24,058 parameters for one channel and ten classes.
    """

    width: int = param(16, "channels of the first block", ge=1)
    blocks: int = param(3, "number of blocks, each with twice the channels of the one before", ge=1, le=8)
    recipe: Recipe = param(Recipe(lr=3e-3, batch_size=32, epochs=30), "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images of at least 8x8 pixels."""
        if len(space.shape) != 3:
            return f"needs images (c, h, w), not inputs of shape {space.shape}"
        if min(space.shape[1:]) >= SMALLEST:
            return None
        return f"needs images of at least {SMALLEST} x {SMALLEST} pixels, not {space.shape[1]} x {space.shape[2]}"

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; features (b, width * 2^(blocks-1)) and logits (b, K)."""
        channels, height, width = space.shape
        return SmallCnnNetwork((channels, height, width), task.outputs, self.width, self.blocks)
