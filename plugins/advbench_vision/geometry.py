"""Sizes of feature maps, by arithmetic, so that `supports` needs no network."""

from __future__ import annotations

from collections.abc import Sequence

from advbench.api import InputSpace

Layer = int | str
"""A kernel size of a convolution with valid padding and stride 1, or ``"pool"`` for 2x2 max-pooling."""


def shrink(side: int, layers: Sequence[Layer]) -> int:
    """Side of the feature map after ``layers``; not positive if the input is too small."""
    for layer in layers:
        side = side // 2 if isinstance(layer, str) else side - layer + 1
    return side


def flat_size(shape: Sequence[int], layers: Sequence[Layer], channels: int) -> int:
    """Values in the last feature map of ``channels`` for inputs of ``shape`` (c, h, w)."""
    return channels * shrink(shape[1], layers) * shrink(shape[2], layers)


def too_small(space: InputSpace, layers: Sequence[Layer]) -> str | None:
    """Why these layers do not fit the inputs, or None."""
    if len(space.shape) != 3:
        return f"needs images (c, h, w), not inputs of shape {space.shape}"
    if min(shrink(side, layers) for side in space.shape[1:]) >= 1:
        return None
    least = next(side for side in range(1, 10_000) if shrink(side, layers) >= 1)
    return f"needs images of at least {least} x {least} pixels, not {space.shape[1]} x {space.shape[2]}"
