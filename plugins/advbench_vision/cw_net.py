"""The MNIST network of the defensive-distillation and C&W papers."""

from __future__ import annotations

from torch import nn

from advbench.api import InputSpace, Model, Recipe, Tags, Task, param
from advbench_vision.geometry import flat_size, too_small

LAYERS = (3, 3, "pool", 3, 3, "pool")


class CwNet(Model):
    """The MNIST network of C&W and distillation, 312,202 parameters; Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644.

    Twice two 3x3 convolutions (32, then 64 channels, valid padding) and 2x2 max-pooling, dense 200, dropout 0.5, dense
    200, output; ReLU, logits.
    """

    tags = Tags(reference="https://arxiv.org/abs/1608.04644")
    recipe: Recipe = param(Recipe(lr=2e-3, batch_size=64, epochs=8, weight_decay=0.0), "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images of at least 16x16 pixels."""
        return too_small(space, LAYERS)

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; logits (b, K)."""
        return nn.Sequential(
            *_block(space.shape[0], 32),
            *_block(32, 64),
            nn.Flatten(),
            nn.Linear(flat_size(space.shape, LAYERS, 64), 200),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(200, 200),
            nn.ReLU(),
            nn.Linear(200, task.outputs),
        )


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    first, second = nn.Conv2d(inputs, outputs, 3), nn.Conv2d(outputs, outputs, 3)
    return first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2)
