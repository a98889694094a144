"""Smoothing as purification."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import avg_pool2d

from advbench.api import Defense, InputSpace, Rng, Tags, Task, param


class Smoothing(Defense):
    """The network sees the mean over a square window around each pixel."""

    tags = Tags(purifies=True)

    size: Literal[3, 5, 7] = param(3, "side of the window", unit="pixel")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Only images have neighbouring pixels."""
        return None if len(space.shape) == 3 else "needs images (c, h, w)"

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Local means (b, c, h, w)."""
        return avg_pool2d(x, self.size, stride=1, padding=self.size // 2, count_include_pad=False)

    def surrogate(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """The same: it is differentiable, so adaptive attacks see the true gradient."""
        return self.purify(x, space, rng)
