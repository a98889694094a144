"""The sky knows no up: quarter turns and mirror images as a train-time transform."""

from __future__ import annotations

import torch
from torch import Tensor


def turn_and_mirror(x: Tensor, draws: Tensor) -> Tensor:
    """One of the eight symmetries of a square for each image; square images (b, c, h, h), draws (b, 16) in [0, 1)."""
    turns, mirrored = (draws[:, 0] * 4).long(), draws[:, 1] < 0.5
    out = x.clone()
    for turn in range(4):
        picked = turns == turn
        out[picked] = torch.rot90(x[picked], turn, (2, 3))
    out[mirrored] = out[mirrored].flip(3)
    return out
