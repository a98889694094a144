"""Shifts of the image by whole pixels or parts of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.graded import Graded
from advbench_corruptions.kernels import reflected, separable
from advbench_corruptions.warp import Border


def move(x: Tensor, down: Tensor, right: Tensor, *, border: str, fill: Tensor) -> Tensor:
    """Images (b, c, h, w) moved by whole pixels ``down`` and ``right``, each (b,).

    What comes in is the reflection of the image about the edge of its last pixel (``"reflect"``), its last
    pixels (``"edge"``) or the constant ``fill``, broadcast against ``x``.
    """
    places, known = [], []
    for size, steps in zip(x.shape[-2:], (down, right)):
        place = torch.arange(size, device=x.device) - steps.long()[:, None]
        known.append((place >= 0) & (place < size))
        places.append(reflected(place, size) if border == "reflect" else place.clamp(0, size - 1))
    sample, channel = (torch.arange(count, device=x.device) for count in x.shape[:2])
    rows, columns = places[0][:, None, :, None], places[1][:, None, None, :]
    moved = x[sample[:, None, None, None], channel[:, None, None], rows, columns]
    if border != "constant":
        return moved
    return torch.where(known[0][:, None, :, None] & known[1][:, None, None, :], moved, fill)


def shift_matrix(size: int, shift: Tensor, *, interpolation: str) -> Tensor:
    """Moves ``size`` pixels on by each ``shift`` (b,), as matrices (b, 1, size, size) float64.

    Positive shifts, in pixels, are towards larger indices; borders reflect. ``"bilinear"``, ``"bicubic"`` (Keys
    1981, a = -1/2) or ``"fourier"``: the trigonometric polynomial through the image and its reflection.
    """
    shift = shift.double().view(-1, 1, 1, 1)
    pixel = torch.arange(size, device=shift.device)
    if interpolation == "fourier":
        place = pixel[:, None] - shift
        return _dirichlet(place - pixel, size) + _dirichlet(place - (2 * size - 1 - pixel), size)
    whole = shift.floor()
    part = 1 - (shift - whole)  # from the pixel before the place that is read
    before = pixel[:, None] - whole.long() - 1
    if interpolation == "bilinear":
        weights = {0: 1 - part, 1: part}
    else:
        weights = {step: _keys(part - step) for step in (-1, 0, 1, 2)}
    taps = [weight * (reflected(before + step, size) == pixel) for step, weight in weights.items()]
    return torch.stack(taps).sum(0)


def subpixel_shift(x: Tensor, down: Tensor, right: Tensor, *, interpolation: str) -> Tensor:
    """Images (b, c, h, w) moved by any number of pixels ``down`` and ``right``, each (b,); see `shift_matrix`."""
    rows, columns = (
        shift_matrix(size, shift, interpolation=interpolation)
        for size, shift in zip(x.shape[-2:], (down, right))
    )
    return separable(x, rows, columns)


def towards(distance: float, angle: float | None, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """Steps down and to the right, each (b,) float64, of a move in a direction in degrees, or a random one."""
    degrees = 360 * rng.uniform() if angle is None else x.new_full((len(x),), angle)
    turn = degrees.to(x.device).double().deg2rad()
    return -distance * turn.sin(), distance * turn.cos()


class Translation(Graded):
    """Shift of the image by whole pixels, the nearest to a distance in one direction."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="distance", unit="pixel")
    needs_images: ClassVar[str] = "a translation"
    # White noise changes as much however far it is moved: the contract kit compares one pixel with none.
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"distance": 1}, {"severity": 3})
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"distance": (1.0, 2.0, 4.0, 6.0, 9.0)}

    distance: float = param(4.0, "how far; 0 changes nothing", unit="pixel", ge=0)
    angle: float | None = param(
        None, "direction, counter-clockwise from the rows; drawn for each sample unless given", unit="degree"
    )
    border: Border = param(
        "edge", "what comes in: the last pixels, the reflection, or the lower bound (constant)"
    )

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`move` to the nearest pixel."""
        down, right = (step.round() for step in towards(self.distance, self.angle, x, rng))
        return move(x, down, right, border=self.border, fill=space.bounds_like(x)[0])


class SubpixelShift(Graded):
    """Shift of the image by part of a pixel: an error of the astrometric registration."""

    tags: ClassVar[Tags] = Tags(stochastic=True, strength="distance", unit="pixel")
    needs_images: ClassVar[str] = "a shift"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"distance": (0.1, 0.2, 0.3, 0.5, 0.75)}

    distance: float = param(0.5, "how far; 0 changes nothing", unit="pixel", ge=0)
    angle: float | None = param(
        None, "direction, counter-clockwise from the rows; drawn for each sample unless given", unit="degree"
    )
    interpolation: Literal["fourier", "bicubic", "bilinear"] = param(
        "bicubic", "interpolation; fourier keeps all frequencies, bilinear blurs"
    )

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`subpixel_shift` in this direction, or one for each sample."""
        if self.distance == 0:
            return x.clone()
        down, right = towards(self.distance, self.angle, x, rng)
        return subpixel_shift(x, down, right, interpolation=self.interpolation)


def _keys(t: Tensor) -> Tensor:
    t = t.abs()
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def _dirichlet(t: Tensor, size: int) -> Tensor:
    """The sinc of the even period 2 * size."""
    t = t.remainder(2 * size)
    on_pixel = (t < 1e-9) | (t > 2 * size - 1e-9)
    tangent = (math.pi / (2 * size) * t).tan()
    return torch.where(on_pixel, 1.0, (math.pi * t).sin() / (2 * size * tangent.where(~on_pixel, 1.0)))
