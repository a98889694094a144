"""Changes of brightness, contrast, saturation and gamma; bounds and channels are those of the data.

All of them go two ways from the value that changes nothing. Severities, and what the tags call stronger, go one of
them: brighter, flatter, greyer, darker. The other is for sweeps, in which strengths of one side compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, Task, param
from advbench_corruptions.graded import Graded

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in ITU-R BT.601, as in Pillow's grey images."""

IMAGENET_C = "https://arxiv.org/abs/1903.12261"


def pixel_mean(x: Tensor) -> Tensor:
    """Mean over the pixels of each channel (b, c, 1, 1).

    Row by row: one long sum would be split over threads, and be rounded otherwise in other company.
    """
    return x.double().mean(-1, keepdim=True).mean(-2, keepdim=True).to(x)


def contrast(x: Tensor, *, factor: float) -> Tensor:
    """``mean + factor * (x - mean)`` with the mean over the pixels of each channel of images (b, c, h, w)."""
    mean = pixel_mean(x)
    return (x - mean).mul_(factor).add_(mean)


def saturation(x: Tensor, lower: Tensor, upper: Tensor, *, factor: float, weights: Tensor) -> Tensor:
    """``grey + factor * (x - grey)`` with grey = ``weights`` (c,) times the channels of ``x`` (b, c, ...).

    In units of the range between ``lower`` and ``upper``, so that channels of different ranges compare.
    """
    unit = (x - lower) / (upper - lower)
    share = weights.to(x).view(1, -1, *(1,) * (x.dim() - 2))
    grey = sum(unit[:, [i]] * share[:, [i]] for i in range(x.shape[1]))
    return lower + (grey + factor * (unit - grey)) * (upper - lower)


def gamma_correct(x: Tensor, lower: Tensor, upper: Tensor, *, gamma: float) -> Tensor:
    """``lower + range * u^gamma`` with ``u = (x - lower) / range``, clipped to [0, 1]."""
    unit = ((x - lower) / (upper - lower)).clamp(0, 1)
    # Not `pow`: its last bits depend on where in the batch a value stands.
    return lower + (gamma * unit.double().log()).exp().to(x) * (upper - lower)


class Brightness(Graded):
    """A constant added to all values: a brighter sky, or stray light; severities only add.

    Below 0 it is taken away, and the lower value is the stronger one.
    """

    tags: ClassVar[Tags] = Tags(strength="offset", unit="range", reference=IMAGENET_C)
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"offset": (0.1, 0.2, 0.3, 0.4, 0.5)}

    offset: float = param(0.2, "what is added, in units of the range between the bounds; below 0: taken away")

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """``x + offset * range``."""
        lower, upper = space.bounds_like(x)
        return x + self.offset * (upper - lower)


class Contrast(Graded):
    """Contrast about the mean of each channel: 1 changes nothing, 0 leaves the mean alone.

    Severities only lower it. Above 1 contrast is raised, and the higher factor is the stronger one.
    """

    tags: ClassVar[Tags] = Tags(strength="factor", stronger="lower", reference=IMAGENET_C)
    needs_images: ClassVar[str] = "contrast"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"factor": (0.75, 0.5, 0.3, 0.2, 0.1)}

    factor: float = param(0.5, "of all deviations from the mean; 1 changes nothing", ge=0)

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`contrast` with this factor."""
        return x.clone() if self.factor == 1 else contrast(x, factor=self.factor)


class Saturation(Graded):
    """Colour: differences between the channels of a pixel; 1 changes nothing, 0 leaves a grey image.

    Severities only fade it. Above 1 colours are more vivid, and the higher factor is the stronger one.
    """

    tags: ClassVar[Tags] = Tags(strength="factor", stronger="lower", reference=IMAGENET_C)
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"factor": (0.8, 0.6, 0.4, 0.2, 0.0)}

    factor: float = param(0.5, "of all deviations from grey; 1 changes nothing", ge=0)
    grey: Literal["mean", "luma"] = param(
        "mean", "what is grey: the mean of the channels, or Pillow's R, G, B"
    )

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """One channel has no colour, and luma is of three."""
        channels = space.shape[0]
        if self.grey == "luma" and channels != len(LUMA):
            return f"grey: luma is for {len(LUMA)} channels, not {channels}"
        return "one channel has no saturation" if channels == 1 else None

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`saturation` with this factor."""
        if self.factor == 1:
            return x.clone()
        channels = x.shape[1]
        weights = torch.tensor(LUMA if self.grey == "luma" else (1 / channels,) * channels)
        return saturation(x, *space.bounds_like(x), factor=self.factor, weights=weights)


class Gamma(Graded):
    """A power of the values between the bounds: above 1 darker, below 1 brighter.

    Severities only darken. Below 1 the lower exponent is the stronger one.
    """

    tags: ClassVar[Tags] = Tags(strength="gamma")
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"gamma": (1.2, 1.5, 2.0, 2.7, 4.0)}

    gamma: float = param(2.0, "exponent; 1 changes nothing", gt=0)

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`gamma_correct` between the bounds of the input space."""
        return x.clone() if self.gamma == 1 else gamma_correct(x, *space.bounds_like(x), gamma=self.gamma)
