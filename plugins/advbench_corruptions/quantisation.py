"""Rounding to a coarse grid: so many bits between the bounds, or a step of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from advbench.api import Budget, InputSpace, Rng, Tags, Task, param
from advbench_corruptions.graded import Graded, fits_channels, in_input_units


def reduce_bit_depth(x: Tensor, lower: Tensor, upper: Tensor, *, bits: int) -> Tensor:
    """``x`` (b, c, ...) rounded to the nearest of ``2**bits`` levels from ``lower`` to ``upper``."""
    scale = (2**bits - 1) / (upper - lower)
    return (x - lower).mul_(scale).round_().div_(scale).add_(lower)


def quantise(x: Tensor, *, step: Tensor, zero: Tensor, dither: Tensor | None = None) -> Tensor:
    """``x`` (b, c, ...) rounded to the nearest ``zero + k * step``; a step of 0 leaves the values.

    With uniform draws ``dither`` in [0, 1), shaped like ``x``, the grid is shifted by a random part of a step at
    every value (subtractive dithering, White and Greenfield 2012, arXiv:1201.1340): the error is then uniform
    and independent of the signal.
    """
    width = step.where(step > 0, step.new_ones(()))
    shift = 0.0 if dither is None else dither - 0.5
    rounded = ((x - zero) / width + shift).round_().sub_(shift).mul_(width).add_(zero)
    return rounded.where(step > 0, x)


class BitDepth(Graded):
    """Fewer bits per value: the nearest of 2^bits levels between the bounds."""

    tags: ClassVar[Tags] = Tags(strength="bits", unit="bit", stronger="lower")
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"bits": (5, 4, 3, 2, 1)}

    bits: int = param(4, "bits per value; fewer are stronger", unit="bit", ge=1, le=16)

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`reduce_bit_depth` between the bounds of the input space."""
        return reduce_bit_depth(x, *space.bounds_like(x), bits=self.bits)


class Quantisation(Graded):
    """Scaled quantisation: the nearest multiple of a step above the lower bound, as when images are packed.

    With dithering as in fpack, White and Greenfield 2012, https://arxiv.org/abs/1201.1340, whose step is a
    fraction (1/4 by default) of the noise in the image.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True, strength="step", unit="range", reference="https://arxiv.org/abs/1201.1340"
    )
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {
        "step": (0.04, 0.08, 0.16, 0.3, 0.5),
        "relative": (True,) * 5,
    }

    step: Budget = param("1/16", "distance of the levels, one number or one per channel", unit="range")
    relative: bool = param(True, "the step is in units of the range between the bounds, not in input units")
    dither: bool = param(False, "shift the levels at random at every value, and back (subtractive dithering)")

    def strength_unit(self) -> str:
        """The range between the bounds, or input units."""
        return self.tags.unit if self.relative else "input units"

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """The number of entries of ``step`` must fit the channels."""
        return fits_channels("step", self.step, space)

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`quantise` from the lower bound up."""
        draws = rng.uniform(*x.shape[1:]).to(x) if self.dither else None
        step = in_input_units(self.step, self.relative, x, space)
        return quantise(x, step=step, zero=space.bounds_like(x)[0], dither=draws)
