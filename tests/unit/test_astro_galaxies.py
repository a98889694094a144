"""Galaxies: rendering against GalSim, encounters against mechanics, classes against what defines them."""

import subprocess
import sys

import galsim
import numpy as np
import pytest

from advbench_astro.encounter import encounter
from advbench_astro.factory import Galaxies, fill
from advbench_astro.morphology import CLASSES, elliptical, merger, spiral
from advbench_astro.population import MAG_I_RANGE, SIZE_RANGE_ARCSEC, Appearance, draw_appearance
from advbench_astro.rendering import Light, render, sky_grid
from advbench_astro.scene import USUAL
from advbench_astro.survey import BANDS, FILTERS, psf

RATES = np.array([50.0, 100.0, 200.0, 300.0, 400.0, 500.0])  # e-/s in u, g, r, i, z, y


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[17, seed]))


@pytest.mark.parametrize("n", [1.0, 4.0])
def test_a_profile_is_drawn_as_galsim_draws_it(n: float) -> None:
    body = galsim.Sersic(n=n, half_light_radius=1.1).shear(q=0.6, beta=30 * galsim.degrees).shift(1.3, -0.7)
    ours = render(Light([(body, RATES)], []))
    for band, image in zip(BANDS, ours):
        seen = galsim.Convolve(body, psf(band)) * RATES[FILTERS.index(band)]
        theirs = seen.drawImage(nx=100, ny=100, scale=0.2).array
        assert np.abs(image - theirs).max() < 5e-3 * theirs.max()  # GalSim's own folding threshold


def test_a_sheet_is_drawn_as_the_same_profile() -> None:
    x, y = sky_grid()
    scale = 1.0
    sheet = np.exp(-np.hypot(x, y / 0.7) / scale)
    profile = galsim.Exponential(scale_radius=scale * np.sqrt(0.7)).shear(q=0.7, beta=0 * galsim.degrees)
    sampled, exact = render(Light([], [(sheet, RATES)])), render(Light([(profile, RATES)], []))
    assert np.abs(sampled - exact).max() < 0.01 * exact.max()


def test_light_is_conserved() -> None:
    compact = galsim.Exponential(half_light_radius=0.8)
    total = render(Light([(compact, RATES)], [])).sum(axis=(1, 2))
    assert total == pytest.approx(RATES[1:4], rel=0.01)  # Kolmogorov wings reach beyond the stamp
    look = Appearance(mag_i=20.0, radius_arcsec=1.0, reddening=0.0)
    assert look.rates("old", 0.25)[3] == pytest.approx(0.25 * 32.36 * 10**1.6)
    parts = sum((look.rates("disc", part) for part in (0.2, 0.3, 0.5)), np.zeros(6))
    assert parts == pytest.approx(look.rates("disc", 1.0))


def test_population_stays_in_its_limits_and_its_old_stars_are_red() -> None:
    looks = [draw_appearance(generator(i), spheroid=bool(i % 2)) for i in range(400)]
    mags = np.array([look.mag_i for look in looks])
    sizes = np.array([look.radius_arcsec for look in looks])
    assert MAG_I_RANGE[0] <= mags.min()
    assert mags.max() <= MAG_I_RANGE[1]
    assert SIZE_RANGE_ARCSEC[0] <= sizes.min()
    assert sizes.max() <= SIZE_RANGE_ARCSEC[1]
    assert (mags > np.mean(MAG_I_RANGE)).mean() > 0.6  # counts rise towards the faint end
    assert np.corrcoef(mags, np.log(sizes))[0, 1] < -0.3
    ratio = {
        stars: np.divide(*looks[0].rates(stars, 1.0)[[1, 3]]) for stars in ("old", "disc", "arms", "young")
    }
    assert ratio["old"] < ratio["disc"] < ratio["arms"] < ratio["young"]


def test_the_centre_of_mass_rests_and_tails_grow() -> None:
    def remains(time: float) -> tuple[float, float]:
        found = encounter(
            generator(3), mass_ratio=0.8, pericentre=0.7, eccentricity=0.9, time=time, stars=600
        )
        weights = found.mass / found.mass.sum()
        own = found.nuclei[found.owner]
        return float(np.abs(weights @ found.nuclei).max()), float(np.hypot(*(found.stars - own).T).max())

    drift_early, reach_early = remains(-1.0)
    drift_late, reach_late = remains(3.0)
    assert max(drift_early, drift_late) < 1e-3
    assert reach_early < 1.5 < 2.0 < reach_late


def test_a_disc_left_alone_stays_a_disc() -> None:
    far = encounter(generator(4), mass_ratio=0.3, pericentre=500.0, eccentricity=1.0, time=3.0, stars=500)
    reach = np.hypot(*(far.stars - far.nuclei[far.owner]).T)
    assert reach[far.owner == 0].max() < 1.05
    assert reach[far.owner == 1].max() < 1.05 * np.sqrt(0.3)


def asymmetry(light: Light) -> float:
    """Share of the light that is not where a half turn puts it."""
    stamp = render(light).sum(axis=0)
    return float(np.abs(stamp - stamp[::-1, ::-1]).sum() / (2 * stamp.sum()))


def test_classes_differ_in_what_defines_them() -> None:
    count = 25
    round_ones = [asymmetry(elliptical(generator(i))) for i in range(count)]
    disturbed = [asymmetry(merger(generator(i))) for i in range(count)]
    assert max(round_ones) < 1e-4  # a Sersic profile is symmetric
    assert np.median(disturbed) > 0.2
    contrast = []
    for i in range(count):
        light = spiral(generator(i))
        disc, ridge = (sheet for sheet, _ in light.sheets[:2])
        ring = (disc > 0.1) & (disc < 0.14)  # a narrow range of radii in the plane of the disc
        contrast.append(np.std(ridge[ring]) / np.mean(ridge[ring]))
    assert min(contrast) > 0.3  # arms: the light changes along the ring, that of the disc alone does not


def test_every_galaxy_is_finite_and_fits_its_stamp() -> None:
    for index in range(60):
        stamp = render(USUAL.galaxy(5, index))
        assert stamp.dtype == np.float32
        assert stamp.shape == (3, 100, 100)
        assert np.isfinite(stamp).all()
        assert stamp.min() > -1e-3 * stamp.max()
        assert stamp[:, 20:80, 20:80].sum() > 0.4 * stamp.sum(), CLASSES[index % 3]


def test_the_number_of_processes_changes_nothing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    told: list[int] = []
    fill(tmp_path / "one.npy", 210, Galaxies(1), told.append, processes=1)
    fill(tmp_path / "two.npy", 210, Galaxies(1), lambda _: None, processes=2)
    one, two = np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy")
    assert np.array_equal(one, two)
    assert np.array_equal(one[137], Galaxies(1)(137))
    assert sum(told) == 210
    assert not np.array_equal(one[:3], [Galaxies(2)(row) for row in range(3)])


def test_workers_import_no_torch() -> None:
    code = "import sys, advbench_astro.factory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
