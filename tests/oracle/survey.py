"""Images with a link to fluxes and with facts, for tests of survey perturbations."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advbench.runtime.rng import SampleRng
from advbench_astro.conditions import Conditions
from advbench_astro.stretch import ArcsinhStretch

# Ten years of LSST in g, r, i; two more bands for five.
LSST = Conditions(
    pixel_scale_arcsec=0.2,
    exposure_s=(2400.0, 5520.0, 5520.0, 5520.0, 2400.0),
    sky_rate=(9.7, 23.1, 32.5, 60.0, 3.0),
    psf_fwhm_arcsec=(0.81, 0.78, 0.75, 0.74, 0.9),
    zero_point_mag=(28.26, 28.10, 27.78, 27.4, 26.5),
)


def survey_space(
    bands: int = 3,
    height: int = 32,
    width: int = 32,
    *,
    facts: bool = True,
    reach: float = 1e4,
    **changes: object,
):
    """An input space whose link takes fluxes from minus to plus ``reach`` e-/s, with `LSST`'s facts or with changes."""
    wanted = replace(LSST, **changes)
    told = {name: fact[:bands] for name, fact in wanted.facts().items()}
    space = ArcsinhStretch(-reach, reach).space((bands, height, width), tuple("griuz"[:bands]))
    return replace(space, facts=told if facts else {})


def draws(count: int, seed: int = 0) -> SampleRng:
    """Random streams of so many samples."""
    return SampleRng(seed, "test", [f"s{i}" for i in range(count)], torch.device("cpu"))


def inputs(space, flux: Tensor) -> Tensor:
    """Fluxes as inputs."""
    return space.link.from_physical(flux.float())


def changed_flux(perturbation, space, flux: Tensor, rng: SampleRng | None = None) -> Tensor:
    """Fluxes after a perturbation of inputs, float64."""
    x = inputs(space, flux)
    found = perturbation.corrupt(x, space, rng or draws(len(x)))
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    return space.link.to_physical(found.double())


def random_flux(count: int, bands: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """A bright blob in the middle and noise, float32."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, bands, height, width, generator=generator)
    rows, columns = (torch.arange(size) - (size - 1) / 2 for size in (height, width))
    blob = torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * 3.0**2))
    return 20 * blob * (1 + torch.arange(count))[:, None, None, None] / count + 0.1 * noise
