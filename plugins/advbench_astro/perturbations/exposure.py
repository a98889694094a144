"""A shorter exposure: the noise that the same sky would show then."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, Task, param
from advbench_astro.perturbations.base import (
    Positive,
    Positives,
    SurveyPerturbation,
    View,
    entries,
    per_band,
)


def shorter_exposure(
    flux: Tensor, rng: Rng, *, sky: Tensor, before: Tensor, after: Tensor, read_variance: Tensor
) -> Tensor:
    """Fluxes (b, c, h, w) in e-/s with the noise that an exposure ``after`` has more than one ``before``, in seconds.

    Photons: ``(N - rate) / t`` with ``N ~ Poisson(rate)``, ``rate = (sky + flux) t`` and ``1 / t = 1 / after -
    1 / before``, so that the variance grows by ``(sky + flux) (1 / after - 1 / before)``. Read noise: Gaussian, of
    ``read_variance`` in (e-/s)^2. Both are centred, and what is there already stays. All but ``flux`` broadcast
    against it; ``sky`` is in e-/s per pixel.
    """
    variance = (1 / after.double() - 1 / before.double()).clamp_min(0)  # per e-/s of light
    per_count = torch.where(variance > 0, variance, 1.0)
    rate = (flux + sky).clamp_min(0).double() / per_count
    photons = (rng.poisson(rate).to(rate) - rate) * variance
    noisy = flux + photons.to(flux)
    if bool((read_variance > 0).any()):
        noisy = noisy + rng.normal(*flux.shape[1:]).to(flux) * read_variance.clamp_min(0).sqrt().to(flux)
    return noisy


class Exposure(SurveyPerturbation):
    """A shorter exposure: more Poisson noise of sky and source, and more read noise.

    The noise already in the images is kept and only what lacks is added, so that a tenth of the exposure has ten
    times the variance of the sky. Photon noise follows the measured flux.
    """

    tags: ClassVar[Tags] = Tags(
        stochastic=True,
        strength="fraction",
        unit="exposure",
        stronger="lower",
        reference="https://arxiv.org/abs/0805.2366",
    )
    instead: ClassVar[tuple[str, str]] = ("exposure_s", "s")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"conditions": {"exposure_s": 5520.0, "sky_rate": 30.0}},
        {"exposure_s": 30, "conditions": {"exposure_s": 60, "sky_rate": 4, "read_noise_e": 9}, "visit_s": 30},
    )

    fraction: float | None = param(0.1, "fraction of the exposure that is kept", gt=0, le=1)
    exposure_s: Positives | None = param(
        None, "exposure that is left, one number or one per band, instead of a fraction", unit="s"
    )
    visit_s: Positive | None = param(
        None, "exposure of one readout; unless given, the whole is read out once", unit="s"
    )

    def wants(self) -> Collection[str]:
        """Exposure and sky; without a read noise there is none."""
        return ("exposure_s", "sky_rate")

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """An exposure can only become shorter."""
        problem = super().supports(space, task)
        if problem or self.exposure_s is None:
            return problem
        now, wanted = self.view(space).facts["exposure_s"], entries(self.exposure_s)
        count = space.shape[0]
        pairs = zip(now * (count // len(now)), wanted * (count // len(wanted)))
        longer = [(a, b) for a, b in pairs if b > a]
        return (
            f"exposure_s {longer[0][1]:g} is longer than that of the data, {longer[0][0]:g}"
            if longer
            else None
        )

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """`shorter_exposure`."""
        before = view.of("exposure_s", flux).double()
        after = before * self.fraction if self.fraction is not None else per_band(self.exposure_s or 0, flux)
        if bool((after >= before).all()):
            return flux
        read = view.of("read_noise_e", flux).double().square()
        return shorter_exposure(
            flux,
            rng,
            sky=view.of("sky_rate", flux),
            before=before,
            after=after,
            read_variance=read * (self._readouts(after) / after**2 - self._readouts(before) / before**2),
        )

    def _readouts(self, exposure: Tensor) -> Tensor:
        """How often an exposure is read out; a part of a visit is a part of a readout, but there is at least one."""
        return torch.ones_like(exposure) if self.visit_s is None else (exposure / self.visit_s).clamp_min(1)
