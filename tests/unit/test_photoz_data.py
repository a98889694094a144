"""Photo-z data sets: who is in them, what colours and shapes they have, what the files of the archive must hold."""

from __future__ import annotations

from pathlib import Path

import galsim
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.integrate import quad

from advbench.api import Data, DataError, Dataset, Regression
from advbench.components.identity import Spec
from advbench.components.loader import Plugins
from advbench.runtime.data import Context, Environment
from advbench.store.artifacts import Store
from advbench_astro.conditions import Conditions
from advbench_astro.photoz.boss import COLUMNS, read_catalogue
from advbench_astro.photoz.cosmology import arcsec_per_kpc, distance_modulus
from advbench_astro.photoz.link import SkyUnits
from advbench_astro.photoz.mock import PhotozMock
from advbench_astro.photoz.npz import PhotozNpz
from advbench_astro.photoz.population import EBV_MEDIAN, MAG_R_LIMIT, drawn, of_catalogue
from advbench_astro.photoz.sdss import BANDS, EXPOSURE_S, count_rate, extinction, observe, sky_sigma
from advbench_astro.photoz.spectra import (
    FILTER_FILES,
    SED_FILES,
    Curve,
    ab_magnitude,
    box,
    from_files,
    stand_in,
)
from advbench_astro.photoz.splits import split_by_origin
from advbench_astro.photoz.stamps import render

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_table = pytest.mark.skipif(
    not (REAL / "photoz" / "boss_dr10_0.csv").is_file(),
    reason="../shared/data/photoz/boss_dr10_0.csv is absent",
)
needs_filters = pytest.mark.skipif(
    not (REAL / "photoz" / "filters").is_dir(), reason="../shared/data/photoz/filters is absent"
)


def load(dataset: Dataset, cache: Path, *folders: Path) -> Data:
    environment = Environment(Plugins([]), Store(cache), folders)
    spec = Spec("dataset", f"astro/{type(dataset).__name__}", "{}", 1)
    return dataset.load(Context(environment, spec, None))


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load(PhotozMock(n=40), tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("empty"))


def table(folder: Path, rows: list[list[float]], *, between: str = ",") -> Path:
    """A table in the format of the BOSS one: its header has semicolons whatever is between the numbers."""
    path = folder / "photoz" / "boss_dr10_0.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["#" + ";".join(COLUMNS), *(between.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def galaxy(redshift: float, r: float = 19.0, error: float = 0.05) -> list[float]:
    magnitudes = (r + 3.0, r + 1.4, r, r - 0.5, r - 0.8)
    return [value for magnitude in magnitudes for value in (magnitude, error)] + [redshift]


# --- spectra ------------------------------------------------------------------------------------------------------


def test_a_flat_spectrum_has_the_same_ab_magnitude_in_every_band() -> None:
    grid = np.linspace(500, 20000, 20001)
    flat = Curve(grid, 3631e-23 * 2.99792458e18 / grid**2)  # f_nu of magnitude 0, in erg/s/cm2/A
    for band in BANDS:
        np.testing.assert_allclose(ab_magnitude(flat, box(band.wavelength_a), 0.0), 0.0, atol=2e-3)


def test_colours_of_a_power_law_agree_with_an_independent_integral() -> None:
    grid, slope, z = np.linspace(500.0, 20000.0, 40001), -1.3, 0.37
    spectrum, response = Curve(grid, (grid / 5500) ** slope), box(6166.0)

    def seen(wavelength: float) -> float:
        return float(response(wavelength) * wavelength * (wavelength / (1 + z) / 5500) ** slope / (1 + z))

    limits = (response.wavelength_a[0], response.wavelength_a[-1])
    inner = list(response.wavelength_a[1:3])
    photons = quad(seen, *limits, points=inner, epsrel=1e-9)[0]
    flat = quad(lambda w: 2.99792458e18 / w * float(response(w)), *limits, points=inner, epsrel=1e-9)[0]
    expected = -2.5 * np.log10(photons / flat) - 48.6
    assert ab_magnitude(spectrum, response, z)[0] == pytest.approx(expected, abs=2e-3)


@needs_filters
def test_template_colours_are_those_of_galsim() -> None:
    folder = REAL / "photoz" / "filters"
    templates = from_files(folder)
    for kind in (0, 3):
        sed = galsim.SED(str(folder / SED_FILES[kind]), wave_type="Ang", flux_type="flambda")
        for z in (0.0, 0.3, 0.7):
            bands = [
                galsim.Bandpass(str(folder / name), wave_type="nm").withZeropoint("AB")
                for name in FILTER_FILES
            ]
            magnitudes = np.array([sed.atRedshift(z).calculateMagnitude(band) for band in bands])
            ours = templates.at(np.array([float(kind)]), np.array([z]))[0]
            np.testing.assert_allclose(np.diff(ours), np.diff(magnitudes), atol=0.02)


@pytest.mark.parametrize("kind", [0.0, 1.0, 2.5])
def test_colours_tell_the_redshift(kind: float) -> None:
    z = np.linspace(0.05, 0.8, 16)
    seen = stand_in().at(np.full(16, kind), z)
    colours = -np.diff(seen, axis=1)
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.min() > 0.02  # magnitudes for a step of 0.05 in redshift


def test_broken_templates_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CWW_E_ext\.sed does not hold"):
        from_files(tmp_path)
    (tmp_path / SED_FILES[0]).write_text("1000 1\n900 2\n", encoding="utf-8")
    with pytest.raises(DataError, match="wavelengths must rise"):
        from_files(tmp_path)


# --- the survey ---------------------------------------------------------------------------------------------------


def test_distances_are_those_of_astropy() -> None:
    cosmology = pytest.importorskip("astropy.cosmology").FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    z = np.array([0.02, 0.1, 0.5, 1.0])
    np.testing.assert_allclose(distance_modulus(z), cosmology.distmod(z).value, atol=1e-3)
    np.testing.assert_allclose(arcsec_per_kpc(z), cosmology.arcsec_per_kpc_proper(z).value, rtol=1e-3)


def test_dust_dims_every_band_by_its_own_coefficient() -> None:
    np.testing.assert_allclose(extinction([0.0, 0.1]), [[0] * 5, [0.5155, 0.3793, 0.2751, 0.2086, 0.1479]])


@pytest.mark.parametrize("exposures", [1, 20])
def test_noise_of_an_empty_sky(exposures: int) -> None:
    image = observe(np.zeros((5, 200, 200)), exposures, np.random.default_rng(0))
    np.testing.assert_allclose(image.std((1, 2)), sky_sigma(exposures), rtol=0.02)
    np.testing.assert_allclose(image.mean((1, 2)), 0, atol=4 * sky_sigma(exposures).max() / 200)


def test_a_bright_source_adds_its_own_photon_noise() -> None:
    rate = 400.0
    image = observe(np.full((5, 200, 200), rate), 1, np.random.default_rng(0))
    expected = np.sqrt(sky_sigma(1) ** 2 + rate / EXPOSURE_S)
    np.testing.assert_allclose(image.std((1, 2)), expected, rtol=0.02)
    np.testing.assert_allclose(image.mean((1, 2)), rate, rtol=1e-3)


def test_a_stamp_has_the_flux_of_its_magnitudes() -> None:
    magnitudes = np.array([20.0, 19.0, 18.0, 17.5, 17.2])
    stamp = render(magnitudes, np.array([1.0, 1.0, 0.7, 0.3, 0.2, -0.4]))
    expected = [count_rate(band, mag) for band, mag in zip(BANDS, magnitudes)]
    np.testing.assert_allclose(stamp.sum((1, 2)), expected, rtol=5e-3)
    assert np.unravel_index(stamp[2].argmax(), stamp[2].shape) in [(31, 31), (31, 32), (32, 31), (32, 32)]


def test_a_stamp_is_what_galsim_draws() -> None:
    magnitudes, shape = np.full(5, 18.0), (2.0, 1.5, 0.6, 0.8)
    ours = render(magnitudes, np.array([*shape, 0.0, 0.0]))
    index, radius, ratio, angle = shape
    profile = galsim.Sersic(index, half_light_radius=radius).shear(q=ratio, beta=angle * galsim.radians)
    for row in (0, 4):
        seen = galsim.Convolve(profile, galsim.Kolmogorov(fwhm=BANDS[row].psf_fwhm_arcsec))
        flux = float(count_rate(BANDS[row], 18.0))
        drawn = seen.withFlux(flux).drawImage(nx=64, ny=64, scale=0.396).array
        assert np.abs(ours[row] - drawn).max() < 2e-3 * drawn.max()


def test_the_stretch_is_its_own_inverse_and_measures_the_sky() -> None:
    link = SkyUnits(tuple(float(s) for s in sky_sigma(1)), 20.0)
    sigma = torch.tensor(link.sigma)[:, None, None]
    flux = sigma * torch.tensor([-5.0, 0.0, 1.0, 30.0, 1000.0])
    x = link.from_physical(flux)
    torch.testing.assert_close(x, (flux / (20 * sigma)).asinh())
    torch.testing.assert_close(link.to_physical(x), flux, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        x[:, 2, 0] if x.dim() == 4 else x[:, 0, 2], torch.full((5,), 0.05), rtol=1e-3, atol=0
    )
    space = link.space((5, 1, 5), "ugriz", {})
    beyond = link.from_physical(torch.tensor([-1e9, 1e9]).expand(5, 1, 2))
    torch.testing.assert_close(beyond[0, 0], torch.tensor([space.lower[0], space.upper[0]]))


# --- populations --------------------------------------------------------------------------------------------------


def test_bad_rows_of_the_table_are_dropped(tmp_path: Path) -> None:
    faint_u = galaxy(0.3)
    faint_u[0:2] = [33.0, 1e4]
    rows = [
        galaxy(0.2),
        galaxy(-0.001),
        galaxy(0.4, error=0.7),
        galaxy(0.5, error=-1),
        galaxy(0.6, r=-9999),
        faint_u,
    ]
    for between in (",", ";"):
        found = read_catalogue(table(tmp_path, rows, between=between))
        assert found.names.tolist() == ["boss00000", "boss00005"]
        assert found.redshift.tolist() == [0.2, 0.3]
        assert found.dropped == 4
        assert found.magnitudes[:, 0].tolist() == [22.0, 26.0]


def test_tables_that_are_none_are_named(tmp_path: Path) -> None:
    path = table(tmp_path, [galaxy(-1.0)])
    with pytest.raises(DataError, match="none of 1 rows"):
        read_catalogue(path)
    path.write_text("#F:MAG_U;D:Z\n20,0.1\n", encoding="utf-8")
    with pytest.raises(DataError, match="misses the columns F:MAGERR_U"):
        read_catalogue(path)
    path.write_text("no table\nat all\n", encoding="utf-8")
    with pytest.raises(DataError, match="no readable table"):
        read_catalogue(path)


def test_no_real_galaxy_is_in_two_splits(tmp_path: Path) -> None:
    catalogue = read_catalogue(table(tmp_path, [galaxy(0.1 + 0.01 * i, 18 + 0.1 * i) for i in range(20)]))
    galaxies = of_catalogue(catalogue, stand_in(), 90, seed=3)
    assert len(set(galaxies.names)) == 90
    assert len(set(galaxies.origin)) == 20
    rows = split_by_origin(galaxies.origin, {"valid": 0.2, "test": 0.3}, seed=3)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(90))
    owners = [set(galaxies.origin[part]) for part in rows.values()]
    assert all(owners)
    assert sum(map(len, owners)) == len(set.union(*owners))
    same = galaxies.origin == galaxies.origin[0]
    assert np.ptp(galaxies.redshift[same]) == 0
    bare = galaxies.magnitudes[same] - extinction(galaxies.ebv[same])
    assert 0 < bare.std(0).min() < bare.std(0).max() < 0.1


def test_more_galaxies_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    catalogue = read_catalogue(table(tmp_path, [galaxy(0.1 + 0.01 * i) for i in range(20)]))
    for make in (lambda n: of_catalogue(catalogue, stand_in(), n, 0), lambda n: drawn(stand_in(), n, 0)):
        few, many = make(12), make(30)
        assert many.names[:12].tolist() == few.names.tolist()
        np.testing.assert_array_equal(many.table()[:12], few.table())
        np.testing.assert_array_equal(many.ebv[:12], few.ebv)


def test_the_drawn_population_is_limited_in_magnitude() -> None:
    galaxies = drawn(stand_in(), 3000, seed=0)
    r = galaxies.magnitudes[:, 2] - extinction(galaxies.ebv)[:, 2]
    assert r.max() < MAG_R_LIMIT + 0.2
    assert galaxies.redshift.min() > 0
    assert 0.1 < np.median(galaxies.redshift) < 0.6
    assert np.median(galaxies.ebv) == pytest.approx(EBV_MEDIAN, rel=0.1)
    assert (galaxies.shapes[:, 1] > 0).all()
    assert ((galaxies.shapes[:, 2] > 0) & (galaxies.shapes[:, 2] <= 1)).all()


def test_without_the_table_galaxies_are_drawn(mock: Data, tmp_path: Path) -> None:
    assert mock.notes == ("drawn population: broken power laws through box filters",)
    assert {name: len(split) for name, split in mock.splits.items()} == {
        "train": 24, "valid": 4, "calibration": 4, "test": 8,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"boss_dr10_0\.csv not found"):
        load(PhotozMock(n=40, population="boss"), tmp_path / "cache", tmp_path)


def test_the_mock_says_how_it_was_observed(mock: Data) -> None:
    assert mock.task == Regression(("z",), tolerance=0.05, relative=True)
    assert mock.space.channels == ("u", "g", "r", "i", "z")
    found = Conditions.of(mock.space)
    assert found is not None
    assert found.exposure_s == (EXPOSURE_S,) * 5
    split = mock.splits["train"]
    assert split.extras["ebv"].shape == (24,)
    assert split.y.shape == (24, 1)
    x = split.x[np.arange(24)]
    assert x.shape == (24, 5, 64, 64)
    np.testing.assert_allclose(x[:, :, :6, :6].std((0, 2, 3)), 0.05, rtol=0.15)  # sky: one over the softening


def test_a_real_table_is_used_where_it_is(tmp_path: Path) -> None:
    table(tmp_path, [galaxy(0.1 + 0.01 * i) for i in range(12)])
    data = load(PhotozMock(n=30), tmp_path / "cache", tmp_path)
    assert "12 good ones, 0 dropped); 18 of 30 come again" in data.notes[0]
    names = [str(name)[:9] for split in data.splits.values() for name in {n[:9] for n in split.ids}]
    assert len(names) == len(set(names)) == 12
    assert PhotozMock(population="drawn").files([tmp_path]) == []
    assert len(PhotozMock().files([tmp_path])) == 1


@needs_table
@needs_filters
def test_the_boss_table_is_read() -> None:
    catalogue = read_catalogue(REAL / "photoz" / "boss_dr10_0.csv")
    assert len(catalogue.names) + catalogue.dropped == 6000
    assert len(catalogue.names) > 3000
    galaxies = of_catalogue(catalogue, from_files(REAL / "photoz" / "filters"), 500, seed=0)
    assert np.isfinite(galaxies.table()).all()
    early = (galaxies.kind < 1).mean()
    assert early > 0.4  # the survey aims at luminous red galaxies


# --- files --------------------------------------------------------------------------------------------------------


def archive(path: Path, count: int = 30, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {
        "data": rng.normal(1.0, 3.0, (count, 64, 64, 5)).astype(np.float32),
        "z": rng.uniform(0, 0.4, (count, 1)),
        "ebv": rng.uniform(0, 0.1, (count, 1)),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    return path


def test_files_come_back_channels_first(tmp_path: Path) -> None:
    path = archive(tmp_path / "photoz.npz")
    data = load(PhotozNpz(scale=2.0, margin=0.5), tmp_path / "cache", tmp_path)
    with np.load(path) as held:
        for split in data.splits.values():
            rows = np.array([int(name[1:]) for name in split.ids])
            x = split.x[np.arange(len(split))]
            np.testing.assert_array_equal(x, held["data"][rows].transpose(0, 3, 1, 2) / 2)
            np.testing.assert_array_equal(x[0], split.x[0])
            np.testing.assert_allclose(split.y, held["z"][rows], rtol=1e-6)
            np.testing.assert_allclose(split.extras["ebv"], held["ebv"][rows, 0], rtol=1e-6)
    names = [name for split in data.splits.values() for name in split.ids]
    assert len(names) == len(set(names)) == 30
    assert data.space.shape == (5, 64, 64)
    other = load(PhotozNpz(seed=1), tmp_path / "cache", tmp_path)
    assert other.splits["test"].ids.tolist() != data.splits["test"].ids.tolist()


def test_inputs_stay_within_given_bounds(tmp_path: Path) -> None:
    archive(tmp_path / "photoz.npz")
    data = load(PhotozNpz(lower=-1.0, upper=2.0), tmp_path / "cache", tmp_path)
    x = data.splits["train"].x[np.arange(5)]
    assert (x.min(), x.max()) == (-1.0, 2.0)
    assert data.space.lower == (-1.0,) * 5


def broken(where: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    values = np.zeros(shape, np.float32)
    values[where] = np.nan
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ebv": None}, r"has no ebv; it holds data, z"),
        ({"data": np.zeros((30, 64, 64))}, r"data has shape \(30, 64, 64\)"),
        ({"data": np.zeros((30, 8, 8, 4))}, r"data has 4 bands, but 5 channels"),
        ({"z": np.zeros(29)}, r"z has shape \(29,\) for 30 images"),
        ({"z": broken((7, 0), (30, 1))}, r"row 7 \(counted from 0\) of z has NaN"),
        ({"data": broken((11, 2, 2, 1), (30, 8, 8, 5))}, r"row 11 \(counted from 0\) of data has NaN"),
        ({"z": np.array(["a"] * 30)}, r"z holds <U1, not numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    archive(tmp_path / "photoz.npz", **changes)
    with pytest.raises(DataError, match=message):
        load(PhotozNpz(), tmp_path / "cache", tmp_path)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"photoz\.npz not found"):
        load(PhotozNpz(), tmp_path / "cache", tmp_path)
    (tmp_path / "photoz.npz").write_text("nothing", encoding="utf-8")
    with pytest.raises(DataError, match=r"no readable \.npz"):
        load(PhotozNpz(), tmp_path / "cache", tmp_path)


@pytest.mark.parametrize("cls", [PhotozMock, PhotozNpz])
def test_something_must_be_left_to_train_on(cls: type[Dataset]) -> None:
    with pytest.raises(ValidationError, match="must be below 1"):
        cls(valid=0.4, calibration=0.3, test=0.3)
