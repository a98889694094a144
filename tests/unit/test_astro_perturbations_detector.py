"""Faults of detectors, cosmic rays, trails: pixels and electrons that were asked for."""

from __future__ import annotations

import math

import galsim
import pytest
import torch
from tests.oracle.stand_in import classes
from tests.oracle.survey import changed_flux, draws, inputs, random_flux, survey_space

from advbench_astro.perturbations.bleed_trail import BleedTrail, trail_mask
from advbench_astro.perturbations.cosmic_rays import CosmicRays, charge
from advbench_astro.perturbations.detector import BadColumns, BadPixels
from advbench_astro.perturbations.satellite_trail import SatelliteTrail
from advbench_astro.perturbations.tracks import moffat_line, streak, turned

TASK = classes(3)
SPACE = survey_space(3, 40, 31)


def changes(perturbation, count: int = 5, space=SPACE) -> tuple[torch.Tensor, torch.Tensor]:
    """Which inputs change, (b, c, h, w), and by how much flux."""
    flux = random_flux(count, *space.shape)
    x = inputs(space, flux)
    found = perturbation.corrupt(x, space, draws(count))
    link = space.link
    return found != x, link.to_physical(found.double()) - link.to_physical(x.double())


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("per_band", [False, True])
def test_as_many_pixels_break_as_asked_for(fraction: float, per_band: bool) -> None:
    broken, _ = changes(BadPixels(fraction=fraction, fault="dead", per_band=per_band))
    expected = math.floor(fraction * 40 * 31 + 0.5)
    assert (broken.sum((2, 3)) == expected).all()
    if expected not in (0, 40 * 31):
        assert torch.equal(broken[:, 0], broken[:, 2]) == (not per_band)
        assert not torch.equal(broken[0], broken[1])


def test_dead_pixels_lose_the_sky_and_hot_ones_gain_electrons() -> None:
    flux = random_flux(3, 3, 40, 31)
    dead = changed_flux(BadPixels(fraction=1.0, fault="dead"), SPACE, flux)
    sky, seconds = (
        torch.tensor(SPACE.facts[name]).double().view(1, 3, 1, 1) for name in ("sky_rate", "exposure_s")
    )
    assert torch.allclose(dead, -sky.expand_as(dead), rtol=1e-4)
    hot = changed_flux(BadPixels(fraction=1.0, fault="hot", hot_e=5e5), SPACE, flux)
    assert torch.allclose(hot - flux, (5e5 / seconds).expand_as(hot), rtol=1e-3)
    _, change = changes(BadPixels(fraction=0.1, hot_e=5e5))
    assert ((change > 50).sum((2, 3)) == 62).all()
    assert ((change < -5).sum((2, 3)) == 62).all()


@pytest.mark.parametrize(("axis", "lines"), [("columns", 31), ("rows", 40)])
def test_as_many_lines_break_as_asked_for(axis: str, lines: int) -> None:
    broken, change = changes(BadColumns(fraction=0.1, axis=axis))
    across, along = (2, 3) if axis == "columns" else (3, 2)
    assert (broken.all(across).sum(-1) == math.ceil(lines * 0.1)).all()
    assert torch.equal(broken.all(across), broken.any(across))
    assert ((change > 0).all(across).sum(-1) == 2).all()
    none, _ = changes(BadColumns(fraction=0.0, axis=axis))
    assert not none.any()
    assert along != across


def test_fewer_faults_are_among_the_many() -> None:
    for few, many in (
        (BadPixels(fraction=0.02), BadPixels(fraction=0.2)),
        (BadColumns(fraction=0.1), BadColumns(fraction=0.4)),
    ):
        some, more = changes(few)[0], changes(many)[0]
        assert some.any()
        assert (more | ~some).all()


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, 1.4])
@pytest.mark.parametrize("length", [0.0, 0.7, 9.3])
def test_a_streak_has_charge_length_and_width(angle: float, length: float) -> None:
    along, across = turned(61, 61, *(torch.tensor(value) for value in (29.7, 30.2, angle)))
    image = streak(along, across, torch.tensor(length), 0.6)
    assert image.sum().item() == pytest.approx(1.0, abs=0.003)
    variance = (image * along.square()).sum(), (image * across.square()).sum()
    assert variance[0].item() == pytest.approx(length**2 / 12 + 0.36, rel=0.02)
    assert variance[1].item() == pytest.approx(0.36, rel=0.02)


def test_directions_are_counter_clockwise_from_the_rows() -> None:
    along, across = turned(5, 5, *(torch.tensor(value) for value in (2.0, 2.0, math.pi / 2)))
    assert torch.allclose(along[:, 0], torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0]).double(), atol=1e-7)
    assert torch.allclose(across[0], torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).double(), atol=1e-6)


def test_cosmic_rays_have_the_energy_asked_for() -> None:
    space = survey_space(2, 100, 100, reach=1000.0)
    blank = torch.zeros(40, 2, 100, 100)
    rays = CosmicRays(energy_e=8e5, count=4, length=3.0)
    electrons = changed_flux(rays, space, blank).sum((2, 3)) * torch.tensor(space.facts["exposure_s"])
    # Of some the border cuts a part off.
    assert electrons.max().item() == pytest.approx(4 * 8e5, rel=0.01)
    assert electrons.mean().item() == pytest.approx(4 * 8e5, rel=0.05)
    assert torch.allclose(electrons.median(), torch.tensor(4 * 8e5).double(), rtol=0.01)


def test_lengths_of_cosmic_rays_are_exponential() -> None:
    draw = torch.full((400, 1, 1, 4), 0.5)
    draw[:, 0, 0, 2] = 0.0
    draw[:, 0, 0, 3] = (torch.arange(400) + 0.5) / 400
    tracks = charge(15, 151, draw, length=10.0)[:, 0]
    along = torch.arange(151).double() - 75
    lengths = (12 * ((tracks.sum(1) * along.square()).sum(1) - 0.36)).clamp_min(0).sqrt()
    assert lengths.mean().item() == pytest.approx(10.0, rel=0.03)
    assert lengths.median().item() == pytest.approx(10 * math.log(2), rel=0.03)


def test_bands_are_hit_independently_or_together() -> None:
    apart, together = (changes(CosmicRays(energy_e=1e7, per_band=flag))[1] for flag in (True, False))
    seconds = torch.tensor(SPACE.facts["exposure_s"]).view(1, 3, 1, 1)
    apart, together = apart * seconds, together * seconds
    assert (together[:, 0] - together[:, 2]).abs().max() < 0.01 * together.max()
    assert (apart[:, 0] - apart[:, 2]).abs().max() > 0.5 * apart.max()
    for nothing in (CosmicRays(energy_e=0.0), CosmicRays(count=0)):
        assert not changes(nothing)[0].any()


def test_a_line_through_a_moffat_psf_is_galsims() -> None:
    """The sum over the columns of a star is the profile across a line of stars."""
    star = galsim.Moffat(beta=4.765, fwhm=4.0).drawImage(nx=201, ny=201, scale=1.0, method="no_pixel").array
    across = torch.arange(-100, 101).double()
    found = moffat_line(across, torch.tensor(4.0).double(), 4.765)
    assert torch.allclose(found, torch.from_numpy(star.sum(0)).double(), atol=2e-5)
    assert found.sum().item() == pytest.approx(1.0, abs=1e-4)


def test_a_trail_has_the_magnitude_place_and_width_asked_for() -> None:
    space = survey_space(3, 61, 81, reach=1000.0)
    trail = SatelliteTrail(magnitude=[19.0, 20.0, 21.0], angle=90.0, distance_arcsec=2.0)
    found = changed_flux(trail, space, torch.zeros(2, 3, 61, 81))[0]
    for band, magnitude in enumerate((19.0, 20.0, 21.0)):
        rate = 10 ** (-0.4 * (magnitude - space.facts["zero_point_mag"][band]))  # per arcsec
        assert (found[band].sum(1) / 0.2).tolist() == pytest.approx([rate] * 61, rel=0.01)
        assert found[band].argmax(1).tolist() == [50] * 61  # 10 pixels to the right of the middle
        above = (found[band, 30] > found[band, 30].max() / 2).sum() * 0.2
        # Across a line a Moffat profile is 6 % wider than across a star.
        assert above == pytest.approx(1.06 * space.facts["psf_fwhm_arcsec"][band], abs=0.2)
    along = changed_flux(SatelliteTrail(angle=0.0, distance_arcsec=0.0), space, torch.zeros(1, 3, 61, 81))
    assert along[0, 0].argmax(0).tolist() == [30] * 81


def test_trails_are_drawn_through_the_image() -> None:
    space = survey_space(1, 40, 40)
    found = changed_flux(SatelliteTrail(magnitude=16.0), space, torch.zeros(30, 1, 40, 40))
    peaks = found.amax((1, 2, 3))
    assert (peaks > 0.9 * peaks.max()).all()
    assert len({tuple(image.flatten().argsort()[-5:].tolist()) for image in found}) > 25


@pytest.mark.parametrize(("length", "columns", "core"), [(7, 1, 0.0), (8, 3, 0.0), (1, 1, 2.0), (11, 2, 3.0)])
def test_a_bleed_trail_covers_the_pixels_asked_for(length: int, columns: int, core: float) -> None:
    mask = trail_mask(
        50, 40, torch.tensor([25]), torch.tensor([20]), length=length, columns=columns, core=core
    )[0, 0]
    disk = sum((r * r + c * c <= core * core) for r in range(-4, 5) for c in range(-4, 5))
    if core == 0:
        assert mask.sum() == length * columns
        assert mask.any(1).sum() == length
        assert mask.any(0).sum() == columns
    elif length == 1:
        assert mask.sum() == disk
    else:
        assert max(disk, length * columns) < mask.sum() < disk + length * columns
    assert mask[25, 20]


def test_bleeding_pixels_are_at_full_well() -> None:
    bleed = BleedTrail(length=9, columns=1, core=0.0, full_well_e=90000.0)
    broken, _ = changes(bleed, 20)
    count = broken.sum((1, 2, 3))
    assert (count <= 27).all()  # nine in each of three bands, less where the border cuts
    assert count.max() == 27
    assert torch.equal(broken[:, 0], broken[:, 2])
    values = changed_flux(bleed, SPACE, random_flux(20, 3, 40, 31)).amax((2, 3))
    expected = 90000.0 / 30.0 - torch.tensor(SPACE.facts["sky_rate"]).double()
    assert torch.allclose(values, expected.expand_as(values), rtol=1e-4)
    assert not changes(BleedTrail(length=0))[0].any()
    stack = changed_flux(BleedTrail(visit_s=None, full_well_e=5e6), SPACE, torch.zeros(2, 3, 40, 31)).amax(
        (2, 3)
    )
    seconds = torch.tensor(SPACE.facts["exposure_s"]).double()
    wanted = 5e6 / seconds - torch.tensor(SPACE.facts["sky_rate"])
    assert torch.allclose(stack, wanted.expand_as(stack), rtol=1e-4)


@pytest.mark.parametrize(
    ("perturbation", "missing"),
    [
        (BadPixels(), "exposure_s and sky_rate"),
        (BadPixels(fault="dead"), "sky_rate"),
        (BadColumns(fault="hot"), "exposure_s"),
        (CosmicRays(), "exposure_s"),
        (SatelliteTrail(), "pixel_scale_arcsec and psf_fwhm_arcsec and zero_point_mag"),
        (BleedTrail(), "sky_rate"),
    ],
)
def test_what_is_missing_is_named(perturbation, missing: str) -> None:
    assert f"do not tell {missing};" in (perturbation.supports(survey_space(facts=False), TASK) or "")
    assert perturbation.supports(SPACE, TASK) is None
