"""Shifts of the mock survey: each knob changes its own statistic, as physics says, and leaves the others alone."""

from pathlib import Path
from typing import Any

import galsim
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from advbench.api import Data
from advbench.components.identity import Spec
from advbench.components.loader import Plugins
from advbench.runtime.data import Context, Environment
from advbench.store.artifacts import Store
from advbench_astro.conditions import Conditions
from advbench_astro.factory import Galaxies
from advbench_astro.lsst_mock import LsstMock
from advbench_astro.oddities import irregular, lens, lensed
from advbench_astro.rendering import Light, render, sky_grid
from advbench_astro.sample import Sample
from advbench_astro.scene import Scene
from advbench_astro.survey import LSST, View, observe, psf

Stamps = NDArray[np.float32]

# Retyped, not imported: g, r, i of the survey table, and the dust of the LSST camera's configuration.
SKY_RATES = np.array([50.70, 43.70, 32.36]) * 10 ** (0.4 * (24 - np.array([22.3, 21.2, 20.5]))) * 0.2**2
SECONDS = np.array([2400.0, 5520.0, 5520.0])
SEEING = np.array([0.73, 0.70, 0.67]) * 1.2**0.6
DUST = np.array([3.661, 2.701, 2.054])


def sample(**knobs: Any) -> Sample:
    return LsstMock(n=60, **knobs)._sample()


def noiseless(rows: int = 6, **knobs: Any) -> Stamps:
    """The first galaxies, below the dust."""
    one = sample(**knobs)
    dust = one.exposure.transmission(one.view)
    maker = Galaxies(one.seed, one.scene, one.view)
    return np.stack([maker(row) for row in range(rows)]) * dust


def blank_variance(count: int = 12, **knobs: Any) -> NDArray[np.float64]:
    """Variance per band of an empty field; 120,000 pixels know it to 0.4 %."""
    one = sample(**knobs)
    empty = np.zeros((len(one.view.filters), 100, 100), dtype=np.float32)
    fields = [observe(empty, one.exposure, f"blank{i}", 0, one.view) for i in range(count)]
    return np.var(np.array(fields, dtype=np.float64), axis=(0, 2, 3))


def star_widths(**knobs: Any) -> NDArray[np.float64]:
    """Full width at half maximum of a star in arcsec, per band, from the area above half maximum; pixels taken out."""
    view, finer = sample(**knobs).view, 8
    star = galsim.DeltaFunction().shift(0.03, -0.06)
    found = []
    for image in render(Light([(star, np.ones(6))], []), view):
        pixel = np.sinc(np.fft.fftfreq(len(image)))
        spectrum = np.fft.fftshift(np.fft.fft2(image) / (pixel * pixel[:, None]))
        padded = np.pad(spectrum, (finer - 1) * len(image) // 2)
        fine = np.fft.ifft2(np.fft.ifftshift(padded)).real
        found.append(2 * np.sqrt((fine > fine.max() / 2).sum() / np.pi) * view.pixel_scale / finer)
    return np.array(found)


USUAL = noiseless()
USUAL_VARIANCE = SKY_RATES / SECONDS


def same_galaxies(**knobs: Any) -> bool:
    return np.array_equal(noiseless(**knobs), USUAL)


def same_noise(**knobs: Any) -> bool:
    return blank_variance(**knobs) == pytest.approx(USUAL_VARIANCE, rel=0.03)


def same_stars(**knobs: Any) -> bool:
    return star_widths(**knobs) == pytest.approx(SEEING, rel=0.05)


def test_without_a_knob_all_is_as_the_survey_table_says() -> None:
    assert same_noise()
    assert same_stars()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 3.0])
def test_exposure_divides_the_variance_of_the_noise(fraction: float) -> None:
    assert blank_variance(exposure=fraction) == pytest.approx(USUAL_VARIANCE / fraction, rel=0.05)
    assert same_galaxies(exposure=fraction)
    assert same_stars(exposure=fraction)


def test_a_tenth_of_the_exposure_is_one_year() -> None:
    assert sample(exposure=0.1) == sample(depth="y1")
    assert blank_variance(depth="y1") / blank_variance() == pytest.approx(10.0, rel=0.05)


@pytest.mark.parametrize("factor", [0.7, 1.5, 2.0])
def test_psf_widens_stars_and_keeps_light_and_noise(factor: float) -> None:
    assert star_widths(psf=factor) == pytest.approx(SEEING * factor, rel=0.05)
    assert same_noise(psf=factor)
    seen = noiseless(psf=factor)
    assert not np.allclose(seen, USUAL, rtol=0.01)
    assert seen.sum(axis=(2, 3)) == pytest.approx(USUAL.sum(axis=(2, 3)), rel=0.03)  # wings leave the stamp


@pytest.mark.parametrize("scale", [0.12, 0.3, 0.35])  # in larger ones the image of a star is undersampled
def test_pixel_scale_changes_pixels_and_neither_seeing_nor_sky_brightness(scale: float) -> None:
    assert star_widths(pixel_scale=scale) == pytest.approx(SEEING, rel=0.05)
    area = (scale / 0.2) ** 2
    assert blank_variance(pixel_scale=scale) == pytest.approx(area * USUAL_VARIANCE, rel=0.05)


@pytest.mark.parametrize("scale", [0.12, 0.3, 0.45])
def test_pixels_of_any_size_are_those_that_galsim_draws(scale: float) -> None:
    body = galsim.Sersic(n=2.5, half_light_radius=1.1).shear(q=0.6, beta=30 * galsim.degrees).shift(1.3, -0.7)
    view = View(pixel_scale=scale)
    for band, image in zip(view.bands, render(Light([(body, np.full(6, 100.0))], []), view)):
        theirs = (galsim.Convolve(body, psf(band)) * 100.0).drawImage(nx=100, ny=100, scale=scale).array
        assert np.abs(image - theirs).max() < 5e-3 * theirs.max()  # GalSim's own folding threshold


def test_a_sheet_in_other_pixels_is_the_same_profile() -> None:
    x, y = sky_grid()
    sheet = np.exp(-np.hypot(x, y / 0.7))
    profile = galsim.Exponential(scale_radius=np.sqrt(0.7)).shear(q=0.7, beta=0 * galsim.degrees)
    for view in (View(pixel_scale=0.3), View(pixel_scale=20 / 75, side=75)):
        sampled = render(Light([], [(sheet, np.ones(6))]), view)
        exact = render(Light([(profile, np.ones(6))], []), view)
        assert np.abs(sampled - exact).max() < 0.01 * exact.max()


def test_larger_pixels_show_the_same_galaxies_and_more_sky() -> None:
    wide = View(pixel_scale=0.4)
    alone = Scene(company=False)
    for row in (0, 2, 3, 5):  # the wings of ellipticals are cut off at another radius
        near, far = Galaxies(0, alone, LSST)(row), Galaxies(0, alone, wide)(row)
        binned = near.reshape(3, 50, 2, 50, 2).sum(axis=(2, 4))
        inner = far[:, 25:75, 25:75]
        assert np.abs(inner - binned).max() < 0.05 * binned.max()  # a pixel is no sum of pixels, but nearly
        assert inner.sum() == pytest.approx(near.sum(), rel=0.01)
    one = Scene(("elliptical",))
    counts = [len(one.galaxy(0, i, 40.0).profiles) - len(one.galaxy(0, i).profiles) for i in range(300)]
    # 0.7 in 20 x 20 arcsec, on the three quarters that are new
    assert np.mean(counts) == pytest.approx(3 * 0.7, abs=4 * np.sqrt(2.1 / 300))


def test_other_filters_show_the_same_galaxies_in_other_colours() -> None:
    seen = noiseless(filters="riz")
    assert np.array_equal(seen[:, :2], USUAL[:, 1:])
    old = seen[1].sum(axis=(1, 2))  # an elliptical
    zero_points = np.array([43.70, 32.36, 22.68])
    colours = np.diff(-2.5 * np.log10(old / zero_points))  # i - r and z - i
    assert colours == pytest.approx(
        [-0.42, -0.24], abs=0.3
    )  # three deviations of r - i, and little neighbours
    assert star_widths(filters="riz")[2] == pytest.approx(0.65 * 1.2**0.6, rel=0.05)
    sky = 22.68 * 10 ** (0.4 * 4.4) * 0.2**2
    assert blank_variance(filters="riz")[2] == pytest.approx(sky / 4800, rel=0.05)


@pytest.mark.parametrize("magnitudes", [-1.0, 1.5])
def test_fainter_dims_the_galaxy_and_nothing_else(magnitudes: float) -> None:
    alone = np.stack([Galaxies(0, Scene(company=False))(row) for row in range(6)])
    others = USUAL - alone
    expected = alone * 10 ** (-0.4 * magnitudes) + others
    assert np.abs(noiseless(fainter=magnitudes) - expected).max() < 1e-4 * USUAL.max()
    assert same_noise(fainter=magnitudes)
    assert same_stars(fainter=magnitudes)


def test_sky_brightens_the_sky_alone() -> None:
    assert blank_variance(sky=1.0) == pytest.approx(USUAL_VARIANCE * 10**0.4, rel=0.05)
    assert same_galaxies(sky=1.0)
    assert same_stars(sky=1.0)


def test_dust_dims_and_reddens_what_lies_behind_it_and_not_the_sky() -> None:
    share = noiseless(ebv=0.2) / USUAL
    expected = 10 ** (-0.4 * DUST * 0.2)
    assert np.ptp(share, axis=(0, 2, 3)) == pytest.approx(0, abs=1e-5)
    assert share[0, :, 50, 50] == pytest.approx(expected, rel=1e-5)
    assert share[0, 0, 50, 50] < share[0, 1, 50, 50] < share[0, 2, 50, 50] < 1
    assert same_noise(ebv=0.2)
    one = sample(ebv=0.2)
    bright = np.full((3, 100, 100), 1000.0, dtype=np.float32)
    mean = observe(bright, one.exposure, "bright", 0, one.view).mean(axis=(1, 2))
    assert mean == pytest.approx(1000 * expected, rel=1e-3)


def test_neighbours_add_light_beside_the_same_galaxy() -> None:
    crowded = noiseless(neighbours=4.0)
    added = crowded - USUAL
    assert added.min() > -1e-3 * USUAL.max()  # ringing of a point source at most
    assert (added.sum(axis=(1, 2, 3)) > 0).sum() >= 5
    scenes = Scene(("elliptical",), neighbours=4.0), Scene(("elliptical",))
    counts = [len(scenes[0].galaxy(1, i).profiles) - len(scenes[1].galaxy(1, i).profiles) for i in range(400)]
    assert np.mean(counts) == pytest.approx(4.0, abs=4 * np.sqrt(4 / 400))
    assert np.var(counts) == pytest.approx(4.0, rel=0.3)
    assert same_noise(neighbours=4.0)


def load(cache: Path, source: Data | None = None, **knobs: Any) -> Data:
    environment = Environment(Plugins([]), Store(cache), (), False)
    spec = Spec("dataset", "astro/lsst-mock", "{}", 1)
    return LsstMock(n=60, **knobs).load(Context(environment, spec, source))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def usual(cache: Path) -> Data:
    return load(cache)


def test_class_mix_leaves_galaxies_out_and_moves_none(cache: Path, usual: Data) -> None:
    mixed = load(cache, usual, class_mix={"spiral": 3, "elliptical": 1, "merger": 2})
    for name, split in mixed.splits.items():
        whole = usual.splits[name]
        spiral, elliptical, other = np.bincount(split.y, minlength=3)
        assert spiral == np.bincount(whole.y)[0]
        assert abs(elliptical - spiral / 3) <= 0.5
        assert abs(other - spiral * 2 / 3) <= 0.5
        where = [whole.ids.tolist().index(one) for one in split.ids]
        assert np.array_equal(split.x[:], whole.x[np.array(where)])
        assert np.array_equal(split.y, whole.y[where])
    assert sum(map(len, mixed.splits.values())) < sum(map(len, usual.splits.values()))
    without = load(cache, usual, class_mix={"spiral": 1, "merger": 1})
    assert set(without.splits["test"].y.tolist()) == {0, 2}


def test_a_shifted_set_keeps_the_stretch_and_states_its_own_conditions(cache: Path, usual: Data) -> None:
    knobs = {"exposure": 0.1, "psf": 1.5, "sky": 1.0, "filters": "riz"}
    shifted = load(cache, usual, **knobs)
    assert shifted.space.link is usual.space.link
    assert (shifted.space.lower, shifted.space.upper) == (usual.space.lower, usual.space.upper)
    assert usual.space.channels == ("g", "r", "i")
    assert shifted.space.channels == ("r", "i", "z")
    before, after = Conditions.of(usual.space), Conditions.of(shifted.space)
    assert before is not None
    assert after is not None
    assert before.pixel_scale_arcsec == after.pixel_scale_arcsec == 0.2
    assert before.exposure_s == pytest.approx(SECONDS)
    assert after.exposure_s == pytest.approx([552.0, 552.0, 480.0])
    assert before.sky_rate == pytest.approx(SKY_RATES)
    assert after.sky_rate[:2] == pytest.approx(SKY_RATES[1:] * 10**0.4)
    assert after.psf_fwhm_arcsec[:2] == pytest.approx(1.5 * SEEING[1:])
    rates = 10 ** (0.4 * (np.array(before.zero_point_mag) - 24.0))
    assert rates == pytest.approx([50.70, 43.70, 32.36])  # electrons per second at magnitude 24
    for data, seen in ((usual, before), (shifted, after)):
        corner = data.splits["train"].x.flux[:, :, :6, :6]
        spread = np.median(np.abs(corner - np.median(corner, axis=(0, 2, 3), keepdims=True)), axis=(0, 2, 3))
        expected = np.sqrt(np.array(seen.sky_rate) / seen.exposure_s)
        assert 1.4826 * spread == pytest.approx(expected, rel=0.1)


def test_what_is_the_same_is_made_once_and_noise_is_drawn_anew(tmp_path: Path) -> None:
    def made() -> int:
        return len(list(tmp_path.glob("artifacts/data/*/flux.npy")))

    first = load(tmp_path)
    assert made() == 2
    second = load(tmp_path, sky=0.001)
    assert made() == 3  # the galaxies are those of the first
    load(tmp_path, class_mix={"spiral": 2, "elliptical": 1, "merger": 1})
    load(tmp_path, exposure=1.0)
    assert made() == 3
    corners = [data.splits["train"].x.flux[:, :, :10, :10].ravel() for data in (first, second)]
    assert abs(np.corrcoef(*corners)[0, 1]) < 0.5
    assert not np.array_equal(*corners)


@pytest.mark.parametrize("kind", ["lens", "irregular"])
def test_galaxies_of_no_class_are_added_where_no_threshold_is_set(
    cache: Path, usual: Data, kind: str
) -> None:
    opened = load(cache, usual, unknown=kind, unknown_share=0.5)
    assert opened.task == usual.task
    strangers = 0
    for name, split in opened.splits.items():
        unknown = split.y < 0
        whole = usual.splits[name]
        assert split.ids[~unknown].tolist() == whole.ids.tolist()
        assert np.array_equal(split.x[np.flatnonzero(~unknown)], whole.x[:])
        assert all(str(one).startswith("u") for one in split.ids[unknown])
        assert unknown.any() == (name != "calibration")
        strangers += int(unknown.sum())
    assert strangers == 30


def test_a_lens_makes_the_images_that_its_equation_has() -> None:
    x, y = sky_grid()
    ring = lensed(3.0, (0.0, 0.0), (0.0, 0.0), 0.25)
    radius = np.hypot(x, y)
    assert (ring * radius).sum() / ring.sum() == pytest.approx(3.0, rel=0.02)
    # A source within the Einstein radius has two images, and is magnified 2 theta_E / beta times.
    two = lensed(3.0, (0.0, 0.0), (1.5, 0.0), 0.3)
    assert two.sum() * 0.2**2 / (2 * np.pi * 0.3**2) == pytest.approx(2 * 3.0 / 1.5, rel=0.03)
    for side, place in ((x > 0, 4.5), (x < 0, -1.5)):
        brightest = int((two * side).argmax())
        assert (x.flat[brightest], y.flat[brightest]) == pytest.approx((place, 0.0), abs=0.11)  # half a pixel
    # Without mass, shear alone: magnification 1 / (1 - g^2).
    sheared = lensed(0.0, (0.3, 0.0), (0.0, 0.0), 0.5)
    assert sheared.sum() * 0.2**2 / (2 * np.pi * 0.5**2) == pytest.approx(1 / (1 - 0.09), rel=1e-3)


def test_arcs_are_bluer_than_their_lens_and_irregulars_have_no_symmetry() -> None:
    skewed = []
    for index in range(15):
        light = lens(np.random.Generator(np.random.Philox(key=[3, index])))
        (_, old), (_, young) = light.profiles[0], light.sheets[0]
        assert young[1] / young[3] > 1.2 * old[1] / old[3]
        assert 10**-0.52 * 0.99 < young[3] / old[3] < 1.01
        clumps = render(irregular(np.random.Generator(np.random.Philox(key=[4, index])))).sum(axis=0)
        skewed.append(np.abs(clumps - clumps[::-1, ::-1]).sum() / (2 * clumps.sum()))
    assert np.median(skewed) > 0.2


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"filters": "gg"}, "each once"),
        ({"filters": "gx"}, "some of the letters"),
        ({"class_mix": {"quasar": 1.0}}, "no class 'quasar'"),
        ({"class_mix": {"spiral": -1.0}}, "shares are >= 0"),
        ({"class_mix": {"spiral": 0.0}}, "shares are >= 0"),
        ({"psf": 0.2}, "greater than or equal to 0.6"),
        ({"exposure": 0.0}, "greater than or equal to 0.01"),
    ],
)
def test_a_knob_out_of_range_is_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LsstMock(**knobs)
