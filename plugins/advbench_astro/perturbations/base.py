"""What survey perturbations share: how the images were taken, and the way to the fluxes and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator
from torch import Tensor

from advbench.api import Corruption, InputSpace, Rng, Task, UserError, param

Number = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Gt(0)]
NotNegative = Annotated[float, Strict(), Ge(0)]
Numbers = Number | Annotated[tuple[Number, ...], MinLen(1)]
Positives = Positive | Annotated[tuple[Positive, ...], MinLen(1)]
NotNegatives = NotNegative | Annotated[tuple[NotNegative, ...], MinLen(1)]
"""One number, or one per band."""

ELECTRONS = "e-/s"
COUNTED = frozenset({"exposure_s", "sky_rate"})
"""What only makes sense for fluxes that are count rates."""


class Given(BaseModel):
    """How the images were taken, where the data do not say or shall be contradicted; one number, or one per band."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pixel_scale_arcsec: Positive | None = Field(None, description="side of a pixel in arcsec")
    exposure_s: Positives | None = Field(None, description="total exposure in seconds")
    sky_rate: NotNegatives | None = Field(None, description="e-/s per pixel of the sky that was subtracted")
    psf_fwhm_arcsec: Positives | None = Field(None, description="full width at half maximum of the PSF")
    zero_point_mag: Numbers | None = Field(None, description="AB magnitude of one unit of flux")
    read_noise_e: NotNegative | None = Field(None, description="electrons per pixel and readout")


@dataclass(frozen=True)
class View:
    """How the images were taken, as tensors and numbers; each fact has one entry, or one per band."""

    facts: Mapping[str, tuple[float, ...]]

    def of(self, name: str, x: Tensor) -> Tensor:
        """A fact shaped to broadcast against ``x`` (b, c, h, w): (1, c, 1, 1) or (1, 1, 1, 1)."""
        return per_band(self.facts[name], x)

    @property
    def pixel_scale(self) -> float:
        """Arcsec per pixel."""
        return self.facts["pixel_scale_arcsec"][0]

    def sky_sigma(self, x: Tensor) -> Tensor:
        """Standard deviation of sky and read noise (one readout) per pixel, e-/s, broadcast against ``x``."""
        exposure, read = self.of("exposure_s", x), self.of("read_noise_e", x)
        return (self.of("sky_rate", x) / exposure + (read / exposure).square()).sqrt()

    def flux(self, magnitude: float | tuple[float, ...], x: Tensor) -> Tensor:
        """Flux of an AB magnitude, ``10^(-0.4 (m - zero point))``, broadcast against ``x``."""
        brighter = self.of("zero_point_mag", x).double() - per_band(magnitude, x).double()
        return (10 ** (0.4 * brighter)).to(x)


def per_band(value: float | tuple[float, ...], x: Tensor) -> Tensor:
    """One number, or one per band, shaped to broadcast against ``x`` (b, c, h, w)."""
    return x.new_tensor(entries(value)).view(1, -1, 1, 1)


def entries(value: float | tuple[float, ...]) -> tuple[float, ...]:
    """As a tuple: one entry, or one per band."""
    return value if isinstance(value, tuple) else (value,)


class SurveyPerturbation(Corruption):
    """A change of the flux. Subclasses write `change`, and `wants` where they need to know how the data were taken.

    Without a link to fluxes the inputs themselves are taken for fluxes, in e-/s where that matters, if parameters say
    all that the perturbation needs to know.
    """

    version: ClassVar[int] = 1

    instead: ClassVar[tuple[str, str]] = ("", "")
    """A parameter that may be given in place of the one that ``tags.strength`` names (which is then None), its unit."""

    conditions: Given = param(
        Given(), "how the images were taken, where the data do not tell or are overruled"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_strength(cls, values: Any) -> Any:
        """Giving the other parameter alone takes the default of the first away."""
        first, (other, _) = cls.tags.strength, cls.instead
        if not other or not isinstance(values, Mapping):
            return values
        if values.get(other) is None:
            if first in values and values[first] is None:
                raise ValueError(f"give {first} or {other}")
            return values
        if values.get(first) is not None:
            raise ValueError(f"give {first} or {other}, not both")
        return {**values, first: None}

    def strength(self) -> float | None:
        """The parameter that says how strong it is, whichever was given."""
        other = getattr(self, self.instead[0], None) if self.instead[0] else None
        return float(other) if isinstance(other, (int, float)) else super().strength()

    def strength_unit(self) -> str:
        """Its unit."""
        given = self.instead[0] and getattr(self, self.instead[0]) is not None
        return self.instead[1] if given else self.tags.unit

    def wants(self) -> Collection[str]:
        """The facts (fields of `Given`) that it cannot do without."""
        return ()

    def change(self, flux: Tensor, view: View, rng: Rng) -> Tensor:
        """Changed fluxes, same shape as ``flux`` (b, c, h, w), float64, which is not changed in place."""
        raise NotImplementedError

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images, and all that it needs to know about them; numbers per band must fit the bands."""
        if len(space.shape) != 3:
            return "a survey perturbation needs images (c, h, w)"
        own = {name: getattr(self, name) for name in type(self).model_fields}
        for name, value in {**own, **self._given()}.items():
            if isinstance(value, tuple) and len(value) not in (1, space.shape[0]):
                return f"{name} has {len(value)} entries for {space.shape[0]} bands"
        missing = sorted(set(self.wants()) - set(self._given()) - set(space.facts))
        if missing:
            return (
                f"the data do not tell {' and '.join(missing)}; give what they were taken with by"
                f" `conditions: {{{missing[0]}: ...}}`"
            )
        unit = ELECTRONS if space.link is None else space.link.unit
        if unit != ELECTRONS and COUNTED & set(self.wants()):
            return f"the fluxes are in {unit}; electrons can be counted in {ELECTRONS} only"
        return None

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`change` of the fluxes; inputs whose flux stays the same stay the same."""
        view, link = self.view(space), space.link
        if link is None:
            unknown = sorted(set(self.wants()) - set(self._given()))
            if unknown:
                raise UserError(
                    "the data have no link to fluxes; to take the inputs for fluxes, say by"
                    f" `conditions` what they were taken with: {', '.join(unknown)}"
                )
            return self.change(x.double(), view, rng).to(x)
        if link.unit != ELECTRONS and COUNTED & set(self.wants()):
            raise UserError(f"the fluxes are in {link.unit}; electrons can be counted in {ELECTRONS} only")
        # float64: rounding of float32 functions depends on where in memory a value stands
        flux = link.to_physical(x.double())
        changed = self.change(flux, view, rng).to(flux)
        return torch.where(changed == flux, x, link.from_physical(changed).to(x))

    def view(self, space: InputSpace) -> View:
        """The facts of the data, completed and overruled by ``conditions``."""
        given = {name: entries(value) for name, value in self._given().items()}
        return View({"read_noise_e": (0.0,), **space.facts, **given})

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.conditions if value is not None}
