"""Elastic deformation, Simard et al. 2003."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.gaussian_blur import blur_matrix
from advbench_corruptions.graded import Graded
from advbench_corruptions.kernels import separable
from advbench_corruptions.warp import Border, pixels, warp


def smooth_field(noise: Tensor, *, scale: float) -> Tensor:
    """White noise (b, n, h, w) of variance 1, smoothed by a Gaussian of ``scale`` pixels, of variance 1 again.

    The variance is 1 at every pixel, at the borders too.
    """
    rows, columns = (blur_matrix(size, scale) for size in noise.shape[-2:])
    return separable(
        noise, *(matrix / matrix.square().sum(1, keepdim=True).sqrt() for matrix in (rows, columns))
    )


def elastic(
    x: Tensor,
    noise: Tensor,
    *,
    amplitude: float,
    scale: float,
    fill: Tensor,
    interpolation: str = "bilinear",
    border: str = "reflect",
) -> Tensor:
    """Images (b, c, h, w) whose pixels are displaced by a smooth random field.

    Parameters
    ----------
    x
        Images.
    noise
        White noise of variance 1, (b, 2, h, w).
    amplitude
        Root mean square of the displacement along each axis, in pixels.
    scale
        Length over which it changes: standard deviation of the smoothing Gaussian, in pixels.
    fill, interpolation, border
        See `warp`.
    """
    field = smooth_field(noise.double(), scale=scale) * amplitude
    place = pixels(x.shape[-2], x.shape[-1], x.device) + field
    return warp(x, place, interpolation=interpolation, border=border, fill=fill)


class Elastic(Graded):
    """Elastic deformation by a smooth random displacement field.

    Simard, Steinkraus and Platt 2003, https://doi.org/10.1109/ICDAR.2003.1227801; here the amplitude is the
    root mean square displacement itself, not a factor on the smoothed noise.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True,
        strength="amplitude",
        unit="pixel",
        reference="https://doi.org/10.1109/ICDAR.2003.1227801",
    )
    needs_images: ClassVar[str] = "a deformation"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {
        "amplitude": (0.5, 1.0, 1.5, 2.0, 3.0),
        "scale": (4.0, 4.0, 5.0, 6.0, 8.0),
    }

    amplitude: float = param(
        1.0, "root mean square displacement per axis; 0 changes nothing", unit="pixel", ge=0
    )
    scale: float = param(4.0, "standard deviation of the smoothing Gaussian", unit="pixel", gt=0)
    interpolation: Literal["bilinear", "bicubic"] = param("bilinear", "interpolation between pixels")
    border: Border = param(
        "reflect", "beyond the image: its reflection, its last pixels, or the lower bound (constant)"
    )

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`elastic` with these lengths."""
        if self.amplitude == 0:
            return x.clone()
        noise = rng.normal(2, *x.shape[-2:]).to(x.device)
        options = self.model_dump(include={"amplitude", "scale", "interpolation", "border"})
        return elastic(x, noise, fill=space.bounds_like(x)[0], **options)
