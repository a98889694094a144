"""What the networks for photometric redshifts are made of."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench.api import UserError

SLACK = 1e-6
"""Targets at the very edge of the bins may be rounded beyond it."""

BIAS = 0.1
"""Biases begin here, weights as Glorot & Bengio 2010 draw them, uniformly."""

Head = Literal["regression", "bins"]


def convolution(
    channels: int, out: int, kernel: int, slope: float, padding: int | None = None
) -> nn.Sequential:
    """Convolution and PReLU with a slope for each channel; of the same size unless ``padding`` is given."""
    layer = nn.Conv2d(channels, out, kernel, padding=kernel // 2 if padding is None else padding)
    return nn.Sequential(_initialised(layer), nn.PReLU(out, init=slope))


def linear(features: int, out: int) -> nn.Linear:
    """A linear layer with the initialisation of these networks."""
    layer = nn.Linear(features, out)
    _initialised(layer)
    return layer


def halve() -> nn.AvgPool2d:
    """Mean of 2x2 pixels in steps of two; an odd last row or column is averaged over what there is."""
    return nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)


def neighbour_mean(x: Tensor) -> Tensor:
    """Mean of 2x2 pixels in steps of one, (b, c, h, w) to the same shape.

    Padded below and to the right like TensorFlow's "SAME", and like there the padding is no part of a mean.
    """
    return functional.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)[..., 1:, 1:]


def bin_centres(bins: int, z_range: tuple[float, float]) -> Tensor:
    """Centres of equal bins, (bins,)."""
    low, high = z_range
    return low + (high - low) * (torch.arange(bins) + 0.5) / bins


class Dense(nn.Module):
    """Two hidden layers, or one, and a head: flat features (b, f) to (features (b, w), prediction (b, t)).

    The prediction is the last layer's output, or the mean of the probability distribution over the bin centres. No
    activation follows the last layer.

    Parameters
    ----------
    features, hidden, outputs
        Sizes; the reddening is one feature more.
    ebv
        Whether the reddening E(B-V), the extra input ``ebv`` (b, 1), joins the flat features.
    centres
        Bin centres (k,), or None for plain regression of ``outputs`` targets.
    """

    centres: Tensor | None

    def __init__(
        self, features: int, hidden: tuple[int, ...], outputs: int, *, ebv: bool, centres: Tensor | None
    ) -> None:
        super().__init__()
        sizes = (features + ebv, *hidden)
        self.hidden = nn.ModuleList(linear(size, out) for size, out in pairwise(sizes))
        self.last = linear(sizes[-1], outputs if centres is None else len(centres))
        self.ebv = ebv
        self.register_buffer("centres", centres, persistent=False)

    def scores(self, flat: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features (b, w) and what the last layer makes of them: (b, t), or logits of the bins (b, k).

        Raises
        ------
        TypeError
            If it wants the reddening and there is none, as of any argument that is missing.
        """
        if self.ebv:
            if "ebv" not in extras:
                raise TypeError(
                    "the network wants the extra input ebv, which the data lack; build it with ebv: false"
                )
            flat = torch.cat([flat, extras["ebv"].reshape(len(flat), 1)], dim=1)
        for layer in self.hidden:
            flat = functional.relu(layer(flat))
        return flat, self.last(flat)

    def forward(self, flat: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Features (b, w) and predictions (b, t)."""
        features, scores = self.scores(flat, extras)
        if self.centres is None:
            return features, scores
        return features, (scores.float().softmax(1) @ self.centres)[:, None]

    def bin_loss(self, flat: Tensor, y: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the bins that the targets (b, 1) lie in.

        Raises
        ------
        UserError
            If a target lies beyond the bins: no prediction could ever reach it.
        """
        assert self.centres is not None
        width = self.centres[1] - self.centres[0]
        low, high = (
            round(float(c), 6) + 0.0 for c in (self.centres[0] - width / 2, self.centres[-1] + width / 2)
        )
        beyond = (y < low - SLACK) | (y > high + SLACK)
        if beyond.any():
            raise UserError(
                f"{int(beyond.sum())} of {len(y)} targets lie outside the bins, one at {float(y[beyond][0]):.4g}:"
                f" `z_range: [{low:.4g}, {high:.4g}]` has to hold them all"
            )
        index = torch.floor((y.reshape(-1) - self.centres[0]) / width + 0.5)
        index = index.clamp(0, len(self.centres) - 1).long()
        return functional.cross_entropy(self.scores(flat, extras)[1].float(), index)


def _initialised(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, BIAS)
    return layer
