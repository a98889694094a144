"""Another pixel scale: the same sky on larger or smaller pixels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, Task, param
from advbench_astro.perturbations.base import Positive, SurveyPerturbation, View
from advbench_astro.perturbations.fourier import in_chunks

Border = Literal["sky", "reflect", "blank"]


def resampling(size: int, factor: float, device: torch.device) -> tuple[Tensor, int]:
    """What ``size`` pixels about the same centre see that are ``factor`` times as wide.

    Weights (size, size + 2 margin) float64 of the mean over each pixel, and the margin: how many pixels beyond each
    border are looked at. Wider pixels collect what their area covers (drizzling with whole pixels, Fruchter and Hook
    2002, https://arxiv.org/abs/astro-ph/9808087); narrower ones read the cubic convolution (Keys 1981, a = -1/2) at
    their centres. Factor 1 is the identity.
    """
    pixel = torch.arange(size, dtype=torch.float64, device=device)
    centre = (pixel - (size - 1) / 2) * factor + (size - 1) / 2
    margin = int(size * max(0.0, factor - 1) / 2 + 1e-6) + 2
    place = torch.arange(-margin, size + margin, device=device)
    distance = (centre[:, None] - place).abs()
    if factor >= 1:
        return ((factor + 1) / 2 - distance).clamp(0, 1) / factor, margin
    return _keys(distance), margin


def resampled(x: Tensor, factor: float, surrounding: Tensor | None) -> Tensor:
    """Surface brightnesses (b, c, h, w) on pixels ``factor`` times as wide, float64; see `resampling`.

    The image lies in the middle of its ``surrounding`` (b, c, h + 2 margin, w + 2 margin), or of its own reflection
    about the edge of the last pixel.
    """
    (rows, above), (columns, beside) = (resampling(size, factor, x.device) for size in x.shape[-2:])
    if surrounding is None:
        places = [
            torch.arange(-margin, size + margin, device=x.device).remainder(2 * size)
            for size, margin in zip(x.shape[-2:], (above, beside))
        ]
        down, right = (
            torch.minimum(place, 2 * size - 1 - place) for size, place in zip(x.shape[-2:], places)
        )
        return in_chunks(lambda part: rows @ (part[..., down[:, None], right] @ columns.T), x.double())
    whole = surrounding.clone()
    whole[..., above : above + x.shape[-2], beside : beside + x.shape[-1]] = x
    return in_chunks(lambda part: rows @ (part.double() @ columns.T), whole)


class PixelScale(SurveyPerturbation):
    """The same sky about the same centre on pixels of another size; as many of them.

    ``conserve: flux`` (the default) gives every pixel the light that falls on it, as another camera with the same
    light would: a source keeps its flux, a pixel gets ``factor^2`` times as much. ``surface-brightness`` keeps the
    values and with them the sky level. Noise of wider pixels averages, that of narrower ones becomes smooth. Wider
    pixels see what was beyond the border: by default a sky with the noise of the data and no source.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True,
        strength="factor",
        unit="pixel scale",
        reference="https://arxiv.org/abs/astro-ph/9808087",
    )
    instead: ClassVar[tuple[str, str]] = ("scale_arcsec", "arcsec/pixel")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"factor": 2, "conditions": {"sky_rate": 30.0, "exposure_s": 552.0}},
        {
            "scale_arcsec": 0.168,
            "conditions": {"pixel_scale_arcsec": 0.2},
            "conserve": "surface-brightness",
            "border": "reflect",
        },
    )

    factor: float | None = param(
        1.5, "width of the new pixels in old ones; below 1 they are finer, 1 changes nothing", ge=0.1, le=10
    )
    scale_arcsec: Positive | None = param(None, "width of the new pixels, instead of a factor", unit="arcsec")
    conserve: Literal["flux", "surface-brightness"] = param("flux", "what is conserved")
    border: Border = param(
        "sky", "what wider pixels see beyond the image: sky noise, the reflection of the image, or nothing"
    )

    def wants(self) -> Collection[str]:
        """The pixel scale, unless a factor is asked for; the sky, where it has to be drawn."""
        scale = ("pixel_scale_arcsec",) if self.factor is None else ()
        finer = self.factor is not None and self.factor <= 1
        return scale if finer or self.border != "sky" else (*scale, "sky_rate", "exposure_s")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """No camera is that much coarser or finer."""
        problem = super().supports(space, task)
        if problem or 0.1 <= self._factor(self.view(space)) <= 10:
            return problem
        return f"scale_arcsec {self.scale_arcsec:g} is more than ten times coarser or finer than the data"

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """`resampled`."""
        factor = self._factor(view)
        if factor == 1:
            return flux
        area = factor**2 if self.conserve == "flux" else 1.0
        return resampled(flux, factor, self._surrounding(flux, factor, view, rng)) * area

    def _surrounding(self, flux: Tensor, factor: float, view: View, rng: Rng) -> Tensor | None:
        """Sky or nothing about wider pixels; narrower ones look no further than the edge of the image."""
        if factor < 1 or self.border == "reflect":
            return None
        sides = [size + 2 * resampling(size, factor, flux.device)[1] for size in flux.shape[-2:]]
        if self.border == "blank":
            return flux.new_zeros(*flux.shape[:2], *sides)
        return rng.normal(flux.shape[1], *sides).to(flux) * view.sky_sigma(flux)

    def _factor(self, view: View) -> float:
        return self.factor if self.factor is not None else (self.scale_arcsec or 0.0) / view.pixel_scale


def _keys(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
