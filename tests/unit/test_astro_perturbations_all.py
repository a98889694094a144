"""What all survey perturbations promise: any bands, any company, unchanged inputs, clear reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.oracle.stand_in import classes
from tests.oracle.survey import draws, inputs, random_flux, survey_space

from advbench.api import UserError
from advbench.components.loader import Plugins
from advbench_astro.conditions import Conditions
from advbench_astro.perturbations.base import Given
from advbench_astro.perturbations.exposure import Exposure
from advbench_astro.perturbations.photometry import ZeroPoint
from advbench_astro.perturbations.pixel_scale import PixelScale
from advbench_astro.perturbations.psf import PSF
from advbench_astro.perturbations.sky import SkyLevel

TASK = classes(3)
MODULES = "advbench_astro.perturbations."


def everything() -> list[object]:
    """Every registered survey perturbation, by its id."""
    registry = Plugins.discover().registry()
    return [
        pytest.param(entry, id=entry.id)
        for entry in registry
        if entry.namespace == "astro"
        and entry.kind == "perturbation"
        and entry.load().__module__.startswith(MODULES)
    ]


EVERYTHING = everything()


def test_all_are_registered() -> None:
    assert len(EVERYTHING) == 16


@pytest.mark.parametrize("entry", EVERYTHING)
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_any_number_of_bands_alone_or_in_company(entry, bands: int) -> None:
    perturbation = entry.load()()
    space = survey_space(bands, 24, 21, reach=100.0)
    assert perturbation.supports(space, TASK) is None
    x = inputs(space, random_flux(11, bands, 24, 21))
    before = x.clone()
    together = perturbation.corrupt(x, space, draws(11))
    assert torch.equal(x, before)
    assert together.shape == x.shape
    assert together.isfinite().all()
    assert not torch.equal(together, x)
    streams = draws(11)
    for rows in ([3], [10, 0], [7, 2, 5, 1, 9, 8, 4, 6]):
        index = torch.tensor(rows)
        assert torch.equal(perturbation.corrupt(x[index], space, streams.take(index)), together[index])


@pytest.mark.parametrize("entry", EVERYTHING)
def test_64_samples_at_once_are_64_samples_alone(entry) -> None:
    perturbation = entry.load()()
    space = survey_space(2, 16, 16, reach=100.0)
    x = inputs(space, random_flux(64, 2, 16, 16))
    streams = draws(64)
    alone = [
        perturbation.corrupt(x[i : i + 1], space, streams.take(torch.tensor([i]))) for i in range(0, 64, 9)
    ]
    assert torch.equal(torch.cat(alone), perturbation.corrupt(x, space, draws(64))[::9])


@pytest.mark.parametrize("entry", EVERYTHING)
def test_it_says_what_it_must_know(entry) -> None:
    perturbation = entry.load()()
    blind = survey_space(facts=False)
    reason = perturbation.supports(blind, TASK)
    wanted = sorted(perturbation.wants())
    if not wanted:
        assert reason is None
        return
    assert reason is not None
    assert all(name in reason for name in wanted)
    assert "\n" not in reason
    known = {name: value for name, value in LSST_GIVEN.items() if name in wanted}
    assert perturbation.model_copy(update={"conditions": Given(**known)}).supports(blind, TASK) is None
    flat = replace(blind, shape=(3,))
    assert perturbation.supports(flat, TASK) == "a survey perturbation needs images (c, h, w)"


LSST_GIVEN = {
    "pixel_scale_arcsec": 0.2,
    "exposure_s": 552.0,
    "sky_rate": 30.0,
    "psf_fwhm_arcsec": 0.8,
    "zero_point_mag": 28.0,
    "read_noise_e": 5.0,
}


def test_conditions_have_the_names_of_the_facts() -> None:
    assert set(Given.model_fields) == set(Conditions.__dataclass_fields__) == set(LSST_GIVEN)


def test_parameters_overrule_the_data() -> None:
    space, x = survey_space(2), inputs(survey_space(2), torch.zeros(2, 2, 32, 32))
    told = SkyLevel(amount=1.0, per="sky").corrupt(x, space, draws(2))
    given = SkyLevel(amount=1.0, per="sky", conditions={"sky_rate": [9.7, 50.0]}).corrupt(x, space, draws(2))
    assert torch.equal(told[:, 0], given[:, 0])
    assert space.link.to_physical(given[0, 1, 0, 0]).item() == pytest.approx(50.0, rel=1e-4)
    wrong = SkyLevel(conditions={"sky_rate": [1.0, 2.0, 3.0]}).supports(space, TASK)
    assert wrong == "sky_rate has 3 entries for 2 bands"


@pytest.mark.parametrize(
    "wrong", [{"sky_rate": -1.0}, {"exposure_s": 0}, {"exposure_s": []}, {"sky": 3}, {"sky_rate": True}]
)
def test_impossible_conditions_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Exposure(conditions=wrong)


def test_without_a_link_inputs_are_fluxes_only_if_all_is_said() -> None:
    space = replace(survey_space(2), link=None)
    x = random_flux(2, 2)
    with pytest.raises(UserError, match=r"no link to fluxes.*exposure_s, sky_rate"):
        SkyLevel().corrupt(x, space, draws(2))
    complete = SkyLevel(amount=2.0, per="sky", conditions={"sky_rate": 3.0})
    assert torch.allclose(complete.corrupt(x, space, draws(2)), x + 6.0)
    assert torch.allclose(ZeroPoint(offset_mag=2.5).corrupt(x, space, draws(2)), x / 10)


def test_either_of_two_parameters_is_the_strength() -> None:
    for perturbation, strength, unit in (
        (Exposure(), 0.1, "exposure"),
        (Exposure(exposure_s=30), 30.0, "s"),
        (PSF(fwhm_arcsec=1.1), 1.1, "arcsec"),
        (PSF(fwhm_arcsec=[1.1, 1.2]), None, "arcsec"),
        (PixelScale(scale_arcsec=0.3), 0.3, "arcsec/pixel"),
        (SkyLevel(amount=0.3, per="sky"), 0.3, "sky"),
    ):
        assert (perturbation.strength(), perturbation.strength_unit()) == (strength, unit)
        again = type(perturbation)(**perturbation.model_dump(mode="json"))
        assert again == perturbation


def test_electrons_are_not_counted_in_other_units() -> None:
    space = survey_space(2)
    maggies = replace(space, link=replace(space.link, unit="nanomaggies"))
    x = inputs(space, random_flux(2, 2))
    assert (
        Exposure().supports(maggies, TASK)
        == "the fluxes are in nanomaggies; electrons can be counted in e-/s only"
    )
    with pytest.raises(UserError, match="nanomaggies"):
        Exposure().corrupt(x, maggies, draws(2))
    assert ZeroPoint().supports(maggies, TASK) is None
    assert (
        Exposure().supports(replace(space, link=None), TASK) is None
    )  # a plan knows the facts, not the link
