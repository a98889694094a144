"""Additive Gaussian noise."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from advbench.api import Budget, Corruption, InputSpace, Rng, Tags, Task, param


def gaussian_noise(x: Tensor, rng: Rng, *, sigma: Tensor) -> Tensor:
    """``x + sigma * n`` with independent standard normal ``n``, shaped like ``x`` (b, c, ...).

    ``sigma``, in units of ``x``, broadcasts against it.
    """
    return x + sigma * rng.normal(*x.shape[1:]).to(x)


class GaussianNoise(Corruption):
    """Independent Gaussian noise of one standard deviation, or one per channel."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="sigma", unit="input units")

    sigma: Budget = param(0.1, "standard deviation, one number or one per channel", unit="input units")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """The number of entries of ``sigma`` must fit the channels."""
        entries, channels = len(self.sigma.values), space.shape[0]
        return None if entries in (1, channels) else f"sigma has {entries} entries for {channels} channels"

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`gaussian_noise` with this ``sigma``."""
        return gaussian_noise(x, rng, sigma=self.sigma.like(x))
