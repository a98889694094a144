"""Random resizing and padding, Xie et al. 2018, https://arxiv.org/abs/1711.01991."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Defense, InputSpace, Rng, Tags, Task, param
from advbench_defenses.squeezers import filled, not_images


def placing_matrix(size: int, small: Tensor, offset: Tensor, *, repeat_edge: bool) -> Tensor:
    """Matrices (b, size, size) that shrink a line of pixels bilinearly and put it at an offset.

    Parameters
    ----------
    size
        Length of the lines.
    small, offset
        Length after shrinking and place of its first pixel, (b,) int64, for each sample.
    repeat_edge
        Continue with the outermost pixels instead of zeros.
    """
    index = torch.arange(size, dtype=torch.float64, device=small.device)
    count, first = small.double()[:, None], offset.double()[:, None]
    place = index - first
    inside = (place >= 0) & (place < count)
    place = torch.minimum(place.clamp_min(0), count - 1)
    step = size / count
    distance = (index[None, None] + 0.5 - ((place + 0.5) * step)[:, :, None]).abs()
    weight = (1 - distance / step[:, :, None]).clamp_min(0)
    weight = weight / weight.sum(2, keepdim=True)
    return weight if repeat_edge else weight * inside[:, :, None]


def resize_and_pad(
    x: Tensor, lower: Tensor, draws: Tensor, *, smallest: float, largest: float, repeat_edge: bool
) -> Tensor:
    """Images (b, c, h, w) shrunk by a factor of their own, at a place of their own in an image of the same size.

    Parameters
    ----------
    x
        Images.
    lower
        What surrounds them unless ``repeat_edge``, broadcast against ``x``.
    draws
        Uniform draws (b, 3) in [0, 1): factor, row and column.
    smallest, largest
        Limits of the factor.
    repeat_edge
        Surround them by their outermost pixels.
    """
    factor = smallest + (largest - smallest) * draws[:, 0].double()
    matrices = []
    for size, draw in zip(x.shape[-2:], draws[:, 1:].double().unbind(1)):
        small = (factor * size + 0.5).long().clamp(1, size)
        offset = torch.minimum((draw * (size - small + 1)).long(), size - small)
        matrix = placing_matrix(size, small, offset, repeat_edge=repeat_edge)
        matrices.append(filled(matrix[:, None].to(x)))
    rows, columns = matrices
    shrunk = rows @ filled(x - lower) @ columns.mT
    return lower + shrunk[..., : x.shape[-2], : x.shape[-1]]


class RandomResize(Defense):
    """Random resizing and padding, Xie et al. 2018, https://arxiv.org/abs/1711.01991.

    The paper enlarges the canvas from 299 to 331 pixels and puts an image of a random size between the two somewhere
    into it. Here the canvas keeps the size that the network was built for and the image shrinks, by default within the
    same ratio: 299 / 331 = 0.9. Adaptive attacks average the gradients of several draws.
    """

    tags: ClassVar[Tags] = Tags(purifies=True, stochastic=True, reference="https://arxiv.org/abs/1711.01991")

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"smallest": 0.5, "largest": 0.8, "padding": "edge"},
    )

    smallest: float = param(0.9, "smallest size over that of the input", gt=0, le=1)
    largest: float = param(1.0, "largest size over that of the input", gt=0, le=1)
    padding: Literal["lower", "edge"] = param(
        "lower", "what surrounds the image: the lower bound, or its outermost pixels"
    )

    @model_validator(mode="after")
    def _sizes_are_ordered(self) -> RandomResize:
        if self.smallest > self.largest:
            raise ValueError(f"smallest ({self.smallest}) is larger than largest ({self.largest})")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images alone."""
        return not_images(space, "random resizing")

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`resize_and_pad` with fresh draws."""
        return resize_and_pad(
            x,
            space.bounds_like(x)[0],
            rng.uniform(3),
            smallest=self.smallest,
            largest=self.largest,
            repeat_edge=self.padding == "edge",
        )

    def surrogate(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """The same with the draws of ``rng``, which are those of the value."""
        return self.purify(x, space, rng)
