"""Blur by point-spread functions that are no product of two profiles: defocus, motion, Moffat.

All kernels sum to 1. With reflecting borders disk and Moffat profiles keep the flux of the whole image; trails,
which are no mirror image of themselves, keep it but for what lies in a corner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.graded import Graded
from advbench_corruptions.kernels import convolve

SUBPIXELS = 16
"""Sub-pixels per side at which a disk is sampled."""

STEPS_PER_PIXEL = 8
"""Points per pixel of a trail."""

MOFFAT_EXTENT = 5.0
"""Radius of a Moffat kernel in FWHM; beyond lie 0.5 % of the flux for beta = 2.5, 3e-5 of it for beta = 4.765."""


def disk_kernel(radius: float) -> Tensor:
    """A uniform disk of ``radius`` pixels, (k, k) float64: the fraction of each pixel that it covers, normalised."""
    reach = max(0, math.ceil(radius - 0.5))
    fine = torch.arange((2 * reach + 1) * SUBPIXELS, dtype=torch.float64)
    place = (fine + 0.5) / SUBPIXELS - reach - 0.5
    inside = (place[:, None].square() + place.square() <= radius * radius).double()
    inside[inside.sum() == 0] = 1.0  # smaller than a sub-pixel: a point
    cover = inside.view(2 * reach + 1, SUBPIXELS, 2 * reach + 1, SUBPIXELS).sum((1, 3))
    return cover / cover.sum()


def moffat_kernel(fwhm: float, beta: float) -> Tensor:
    """``(1 + (r / r0)^2)^-beta`` at the centres of pixels, (k, k) float64, normalised; Moffat 1969.

    The scale is ``r0 = fwhm / (2 sqrt(2^(1 / beta) - 1))``, in pixels.
    """
    scale = fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))
    reach = math.ceil(MOFFAT_EXTENT * fwhm)
    place = torch.arange(-reach, reach + 1).double()
    profile = (1 + (place[:, None].square() + place.square()) / scale**2) ** -beta
    return profile / profile.sum()


def trail_kernels(length: float, angle: Tensor) -> Tensor:
    """Straight trails of ``length`` pixels, one for each ``angle`` (b,) in radians, (b, 1, k, k) float64.

    Points along the trail are spread bilinearly over the four nearest pixels; angles are counter-clockwise
    from the direction of the rows.
    """
    reach = math.ceil(length / 2)
    points = STEPS_PER_PIXEL * (2 * reach) + 1
    along = torch.linspace(-length / 2, length / 2, points, dtype=torch.float64, device=angle.device)
    pixel = torch.arange(-reach, reach + 1, dtype=torch.float64, device=angle.device)
    rows, columns = (
        (1 - (pixel[:, None] - side[:, None, None] * along).abs()).clamp_min(0)
        for side in (-angle.double().sin(), angle.double().cos())
    )
    # No matrix product: it would be rounded otherwise in other company.
    kernel = (rows[:, None, :, None] * columns[:, None, None]).sum(-1) / points
    return (kernel + kernel.flip(-1, -2)) / 2  # a mirror image of itself, to the last bit


def defocus_blur(x: Tensor, *, radius: float) -> Tensor:
    """Images (b, c, h, w) convolved with a disk of ``radius`` pixels; up to 0.5 it is nearly a point."""
    return x.clone() if radius == 0 else convolve(x, disk_kernel(radius))


def moffat_blur(x: Tensor, *, fwhm: float, beta: float) -> Tensor:
    """Images (b, c, h, w) convolved with a Moffat profile."""
    return x.clone() if fwhm == 0 else convolve(x, moffat_kernel(fwhm, beta))


def motion_blur(x: Tensor, *, length: float, angle: Tensor) -> Tensor:
    """Images (b, c, h, w) drawn out over ``length`` pixels in the direction ``angle`` (b,), in radians."""
    return x.clone() if length == 0 else convolve(x, trail_kernels(length, angle))


class DefocusBlur(Graded):
    """Blur by a uniform disk, as of a camera out of focus; reflecting borders."""

    tags: ClassVar[Tags] = Tags(strength="radius", unit="pixel", reference="https://arxiv.org/abs/1903.12261")
    needs_images: ClassVar[str] = "a blur"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"radius": (1.0, 1.5, 2.0, 3.0, 4.0)}

    radius: float = param(2.0, "radius of the disk; 0 changes nothing", unit="pixel", ge=0)

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`defocus_blur` with this ``radius``."""
        return defocus_blur(x, radius=self.radius)


class MoffatBlur(Graded):
    """Blur by a Moffat profile, as of seeing with its wide wings; reflecting borders.

    Moffat 1969, A&A 3, 455. The default ``beta`` is that of Kolmogorov turbulence, 4.765; 2.5 is usual where
    the optics add to the wings. The profile is sampled at the centres of pixels and cut at 5 FWHM.
    """

    tags: ClassVar[Tags] = Tags(
        strength="fwhm", unit="pixel", reference="https://ui.adsabs.harvard.edu/abs/1969A%26A.....3..455M"
    )
    needs_images: ClassVar[str] = "a blur"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"fwhm": (1.5, 2.0, 3.0, 4.0, 6.0)}

    fwhm: float = param(2.0, "full width at half maximum; 0 changes nothing", unit="pixel", ge=0)
    beta: float = param(4.765, "exponent: lower has wider wings", gt=1, le=100)

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`moffat_blur` with this profile."""
        return moffat_blur(x, fwhm=self.fwhm, beta=self.beta)


class MotionBlur(Graded):
    """Blur by straight uniform motion, as of a trailed exposure; reflecting borders."""

    tags: ClassVar[Tags] = Tags(
        stochastic=True, strength="length", unit="pixel", reference="https://arxiv.org/abs/1903.12261"
    )
    needs_images: ClassVar[str] = "a blur"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"length": (2.0, 4.0, 6.0, 9.0, 13.0)}

    length: float = param(5.0, "length of the trail; 0 changes nothing", unit="pixel", ge=0)
    angle: float | None = param(
        None, "direction, counter-clockwise from the rows; drawn for each sample unless given", unit="degree"
    )

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`motion_blur` in this direction, or one for each sample."""
        degrees = 180 * rng.uniform() if self.angle is None else x.new_full((len(x),), self.angle)
        return motion_blur(x, length=self.length, angle=degrees.to(x.device).double().deg2rad())
