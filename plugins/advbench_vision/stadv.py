"""Networks A, B and C of the spatially transformed adversarial examples."""

from __future__ import annotations

from torch import nn

from advbench.api import InputSpace, Model, Recipe, Tags, Task, param
from advbench_vision.geometry import flat_size, too_small

REFERENCE = "https://arxiv.org/abs/1801.02612"
RECIPE = Recipe(lr=1e-3, batch_size=64, epochs=3, weight_decay=0.0)


class StadvA(Model):
    """Network A of stAdv, two 5x5 convolutions, 3,382,346 parameters on MNIST; Xiao et al. 2018, https://arxiv.org/abs/1801.02612.

    Conv 64 5x5, conv 64 5x5, dropout 0.25, dense 128, dropout 0.5, output; ReLU, valid padding. The output is
    logits, not probabilities: with probabilities the attack's loss saturates.
    """

    tags = Tags(reference=REFERENCE)
    recipe: Recipe = param(RECIPE, "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images of at least 9x9 pixels."""
        return too_small(space, (5, 5))

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; logits (b, K)."""
        return nn.Sequential(
            *_conv(space.shape[0], 64, 5),
            *_conv(64, 64, 5),
            nn.Dropout(0.25),
            *_dense_head(flat_size(space.shape, (5, 5), 64), task.outputs),
        )


class StadvB(Model):
    """Network B of stAdv, all convolutions, 893,258 parameters on MNIST; Xiao et al. 2018, https://arxiv.org/abs/1801.02612.

    Conv 64 8x8, dropout 0.2, conv 128 6x6, conv 128 5x5, dropout 0.5, output; ReLU, valid padding, logits.
    """

    tags = Tags(reference=REFERENCE)
    recipe: Recipe = param(RECIPE, "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images of at least 17x17 pixels."""
        return too_small(space, (8, 6, 5))

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; logits (b, K)."""
        return nn.Sequential(
            *_conv(space.shape[0], 64, 8),
            nn.Dropout(0.2),
            *_conv(64, 128, 6),
            *_conv(128, 128, 5),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(flat_size(space.shape, (8, 6, 5), 128), task.outputs),
        )


class StadvC(Model):
    """Network C of stAdv, two 3x3 convolutions, 4,795,082 parameters on MNIST; Xiao et al. 2018, https://arxiv.org/abs/1801.02612.

    Conv 128 3x3, conv 64 3x3, dropout 0.25, dense 128, dropout 0.5, output; ReLU, valid padding, logits.
    """

    tags = Tags(reference=REFERENCE)
    recipe: Recipe = param(RECIPE, "how it is trained")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images of at least 5x5 pixels."""
        return too_small(space, (3, 3))

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; logits (b, K)."""
        return nn.Sequential(
            *_conv(space.shape[0], 128, 3),
            *_conv(128, 64, 3),
            nn.Dropout(0.25),
            *_dense_head(flat_size(space.shape, (3, 3), 64), task.outputs),
        )


def _conv(inputs: int, outputs: int, kernel: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel), nn.ReLU()


def _dense_head(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Flatten(), nn.Linear(inputs, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, outputs)
