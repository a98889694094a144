"""What the two networks for photometric redshifts share: the choice of head, reddening and width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import Self

from advbench.api import Classification, InputSpace, Model, PluginError, Recipe, Tags, Task, param
from advbench_astro.photoz.layers import Dense, Head, bin_centres


class PhotozModule(nn.Module):
    """Convolutions, then `Dense`: inputs (b, c, h, w) and extras to (features (b, w), predictions (b, t)).

    Extra inputs that it was not built for are ignored.
    """

    def __init__(self, blocks: nn.Module, dense: Dense) -> None:
        super().__init__()
        self.blocks, self.dense = blocks, dense

    def forward(self, x: Tensor, **extras: Tensor) -> tuple[Tensor, Tensor]:
        """Features (b, w) and predictions (b, t)."""
        found: tuple[Tensor, Tensor] = self.dense(torch.flatten(self.blocks(x), 1), extras)
        return found

    def scores(self, x: Tensor, **extras: Tensor) -> Tensor:
        """Output of the last layer: (b, t), or the logits of the bins (b, k)."""
        return self.dense.scores(torch.flatten(self.blocks(x), 1), extras)[1]

    def bin_loss(self, x: Tensor, y: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the bins."""
        return self.dense.bin_loss(torch.flatten(self.blocks(x), 1), y, extras)


class PhotozModel(Model):
    """A network for one redshift; see its subclasses."""

    tags: ClassVar[Tags] = Tags(tasks={"regression"})

    head: Head = param(
        "regression", "squared error of one output, or the mean of a distribution over bins, by cross-entropy"
    )
    bins: int = param(180, "bins of redshift", ge=2)
    z_range: tuple[float, float] = param((0.0, 0.4), "lowest and highest redshift of the bins")
    ebv: bool = param(True, "whether the reddening E(B-V), the extra input ebv, joins the flat features")
    width: float = param(
        1.0, "factor on the numbers of channels and hidden units; small for a CPU", gt=0, le=4
    )
    recipe: Recipe = param(Recipe(lr=1e-3, epochs=20, batch_size=128, weight_decay=0.0), "how it is trained")

    @model_validator(mode="after")
    def _bins_have_a_width(self) -> Self:
        if self.z_range[0] >= self.z_range[1]:
            raise ValueError(f"z_range: {list(self.z_range)} must rise")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Why the network cannot be built for these inputs, or None."""
        if isinstance(task, Classification):
            return "predicts numbers, not classes"
        if len(space.shape) != 3:
            return f"takes images (channels, height, width), not inputs of shape {space.shape}"
        if min(space.shape[1:]) < 8:
            return f"pools three times: needs at least 8x8 pixels, not {space.shape[1]}x{space.shape[2]}"
        if self.head == "bins" and task.outputs != 1:
            return f"head: bins is for one target, not {task.outputs}"
        return None

    def loss(self, module: nn.Module, x: Tensor, y: Tensor, extras: Mapping[str, Tensor]) -> Tensor | None:
        """Cross-entropy of the bins, or None: the squared error."""
        if self.head == "regression":
            return None
        if not isinstance(module, PhotozModule):
            raise PluginError(f"expected a PhotozModule, got {type(module).__name__}")
        return module.bin_loss(x, y, extras)

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network; its output is ``(features, predictions (b, t))``."""
        blocks, hidden = self.trunk(space)
        with torch.no_grad():
            features = blocks(torch.zeros(1, *space.shape)).numel()
        centres = bin_centres(self.bins, self.z_range) if self.head == "bins" else None
        return PhotozModule(blocks, Dense(features, hidden, task.outputs, ebv=self.ebv, centres=centres))

    def trunk(self, space: InputSpace) -> tuple[nn.Module, tuple[int, ...]]:
        """Convolutions for these inputs, and the sizes of the hidden layers."""
        raise NotImplementedError

    def scaled(self, size: int) -> int:
        """A number of channels or hidden units at this width."""
        return max(1, round(size * self.width))
