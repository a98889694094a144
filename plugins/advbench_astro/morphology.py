"""The three classes: spirals, ellipticals, mergers; and what happens to lie in the line of sight.

Every function draws one galaxy from a NumPy generator and says where its light comes from. No torch here: worker
processes import this module.
"""

from __future__ import annotations

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from advbench_astro.encounter import encounter
from advbench_astro.population import Appearance, draw_appearance
from advbench_astro.rendering import GRID, Light, sky_grid
from advbench_astro.survey import PIXEL_SCALE_ARCSEC, STAMP

CLASSES = ("spiral", "elliptical", "merger")
SCALE_LENGTH = 1 / 1.678
"""Scale length of an exponential disc over its half-light radius."""
SERSIC_INDICES = (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)
"""A few values only: GalSim tabulates a profile once for each."""

NUCLEUS_WITHIN_ARCSEC = 8.0
"""Both nuclei of a merger lie in the stamp, this far from its centre at most."""
PARTICLE_BLUR = 1.2
"""Pixels, below the seeing of 1.7 (standard deviations): particles must not show as dots."""
FIELD_ARCSEC = STAMP * PIXEL_SCALE_ARCSEC
"""Side of the field that `line_of_sight` fills."""
NEIGHBOURS = 0.7
"""Mean number of small neighbours in that field."""

Profiles = list[tuple[galsim.GSObject, NDArray[np.float64]]]
Sheets = list[tuple[NDArray[np.float32], NDArray[np.float64]]]


def elliptical(rng: np.random.Generator) -> Light:
    """A Sersic profile of index 2.5 to 6."""
    look = draw_appearance(rng, spheroid=True)
    return Light([(_spheroid(rng, look.radius_arcsec), look.rates("old", 1.0))], [])


def spiral(rng: np.random.Generator) -> Light:
    """An inclined exponential disc with logarithmic arms, knots of young stars along them, and a bulge."""
    look = draw_appearance(rng, spheroid=False)
    bulge, arms = rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.5)
    knots = rng.uniform(0.05, 0.25) * arms
    scale = look.radius_arcsec * SCALE_LENGTH
    x, y = _face_on(rng)
    radius, azimuth = np.hypot(x, y) / scale, np.arctan2(y, x)
    count = int(rng.choice([2, 2, 2, 3, 4]))
    pitch = np.radians(rng.uniform(10, 26))
    wobble = rng.uniform(0, 0.35) * np.sin(azimuth + rng.uniform(0, 2 * np.pi))
    phase = count * (azimuth + wobble - np.log(radius + 0.05) / np.tan(pitch)) + rng.uniform(0, 2 * np.pi)
    ridge = np.exp(rng.uniform(1.5, 4.0) * (np.cos(phase) - 1)) * np.exp(-radius / 1.2)
    ridge *= 1 / (1 + np.exp(-(radius - 0.8) / 0.15))
    core = galsim.Sersic(n=2.0, half_light_radius=rng.uniform(0.15, 0.35) * look.radius_arcsec)
    old = look.rates("disc", (1 - bulge) * (1 - arms))
    return Light(
        [(core.shear(q=rng.uniform(0.7, 1), beta=_angle(rng)), look.rates("old", bulge))],
        [
            (np.exp(-radius), old),
            (ridge, look.rates("arms", (1 - bulge) * (arms - knots))),
            (_knots(rng, ridge), look.rates("young", (1 - bulge) * knots)),
        ],
    )


def merger(rng: np.random.Generator) -> Light:
    """Two discs and their bulges during or after an encounter, with the bridges and tails it drew out."""
    look = draw_appearance(rng, spheroid=False)
    remains = encounter(
        rng,
        mass_ratio=rng.uniform(0.2, 1.0),
        pericentre=rng.uniform(0.5, 1.1),
        eccentricity=rng.uniform(0.6, 1.0),
        time=rng.uniform(0.4, 4.0),
        stars=3000,
    )
    farthest = float(np.linalg.norm(remains.nuclei, axis=1).max())
    scale = min(look.radius_arcsec / 0.6, NUCLEUS_WITHIN_ARCSEC / farthest)
    profiles: Profiles = []
    sheets: Sheets = []
    share = remains.mass / remains.mass.sum()
    for which in (0, 1):
        own = Appearance(look.mag_i, look.radius_arcsec, look.reddening + 0.1 * rng.standard_normal())
        bulge = rng.uniform(0.1, 0.4)
        size = 0.12 * scale * np.sqrt(remains.mass[which]) * rng.uniform(0.7, 1.3)
        core = galsim.Sersic(n=2.0, half_light_radius=float(size)).shear(
            q=rng.uniform(0.6, 1), beta=_angle(rng)
        )
        profiles.append(
            (core.shift(*(scale * remains.nuclei[which]).tolist()), own.rates("old", share[which] * bulge))
        )
        stars = _deposit(scale * remains.stars[remains.owner == which])
        sheets.append((stars, own.rates(str(rng.choice(["disc", "arms"])), share[which] * (1 - bulge))))
    return Light(profiles, sheets)


def line_of_sight(rng: np.random.Generator) -> Profiles:
    """Stars and undisturbed galaxies in front or behind: a neighbour alone does not make a merger."""
    found: Profiles = []
    half = FIELD_ARCSEC / 2
    for _ in range(rng.poisson(NEIGHBOURS)):
        body, rates = _small_one(rng)
        found.append((body.shift(*rng.uniform(-half, half, 2).tolist()), rates))
    if rng.random() < 0.2:
        look = draw_appearance(rng, spheroid=False)
        distance, angle = rng.uniform(2.0, 7.0), rng.uniform(0, 2 * np.pi)
        place = (distance * float(np.cos(angle)), distance * float(np.sin(angle)))
        spheroid = rng.random() < 0.5
        body = (
            _spheroid(rng, 0.6 * look.radius_arcsec)
            if spheroid
            else _neighbour(rng, 0.7 * look.radius_arcsec)
        )
        share = rng.uniform(0.3, 0.9)
        found.append((body.shift(*place), look.rates("old" if spheroid else "disc", share)))
    return found


def crowd(rng: np.random.Generator, further: float, field_arcsec: float) -> Profiles:
    """Small neighbours beyond those of `line_of_sight`, all over a field of this side.

    ``further`` is their mean number per `FIELD_ARCSEC` squared; outside that field there are as many more as
    `line_of_sight` put inside.
    """
    found: Profiles = []
    half, filled = field_arcsec / 2, FIELD_ARCSEC / 2
    usual = NEIGHBOURS * max(1.0, field_arcsec / FIELD_ARCSEC) ** 2
    extra = further * (field_arcsec / FIELD_ARCSEC) ** 2
    for place in rng.uniform(-max(half, filled), max(half, filled), (rng.poisson(usual), 2)):
        body, rates = _small_one(rng)
        if np.abs(place).max() > filled:
            found.append((body.shift(*place.tolist()), rates))
    for place in rng.uniform(-half, half, (rng.poisson(extra), 2)):
        body, rates = _small_one(rng)
        found.append((body.shift(*place.tolist()), rates))
    return found


def _small_one(rng: np.random.Generator) -> tuple[galsim.GSObject, NDArray[np.float64]]:
    """A star or a faint galaxy at the origin."""
    look = Appearance(rng.uniform(20.0, 23.0), rng.uniform(0.3, 0.7), 0.2 * rng.standard_normal())
    body = galsim.Gaussian(sigma=0.01) if rng.random() < 0.4 else _neighbour(rng, look.radius_arcsec)
    return body, look.rates("disc", 1.0)


def _spheroid(rng: np.random.Generator, radius_arcsec: float) -> galsim.GSObject:
    profile = galsim.Sersic(n=float(rng.choice(SERSIC_INDICES)), half_light_radius=radius_arcsec)
    return profile.shear(q=float(np.clip(rng.normal(0.72, 0.15), 0.45, 1)), beta=_angle(rng))


def _neighbour(rng: np.random.Generator, radius_arcsec: float) -> galsim.GSObject:
    return galsim.Exponential(half_light_radius=radius_arcsec).shear(q=rng.uniform(0.35, 1), beta=_angle(rng))


def _angle(rng: np.random.Generator) -> galsim.Angle:
    return rng.uniform(0, np.pi) * galsim.radians


def _face_on(rng: np.random.Generator) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Grid positions in the plane of a randomly oriented disc, either winding."""
    x, y = sky_grid()
    turn, inclination = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.0) * rng.choice([-1, 1])
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return x * cosine + y * sine, (y * cosine - x * sine) / np.float32(inclination)


def _knots(rng: np.random.Generator, ridge: NDArray[np.float32]) -> NDArray[np.float32]:
    """Star-forming regions, each one pixel, where the arms are bright."""
    cumulative = np.cumsum(ridge.ravel(), dtype=np.float64)
    count = rng.integers(8, 30)
    places = np.searchsorted(cumulative, rng.uniform(0, cumulative[-1], count))
    light = np.bincount(places, weights=rng.exponential(size=count), minlength=ridge.size)
    return light.reshape(ridge.shape).astype(np.float32)


def _deposit(positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Star particles (n, 2) in arcsec on the grid, each shared by its four nearest pixels and blurred a little."""
    place = positions / PIXEL_SCALE_ARCSEC + (GRID - 1) / 2
    inside = ((place >= 0) & (place < GRID - 1)).all(axis=1)
    corner = np.floor(place[inside]).astype(np.int64)
    rest = place[inside] - corner
    sheet = np.zeros(GRID * GRID)
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - rest[:, 0]) * np.abs(1 - dy - rest[:, 1])
            sheet += np.bincount(
                (corner[:, 1] + dy) * GRID + corner[:, 0] + dx, weight, minlength=GRID * GRID
            )
    smooth: NDArray[np.float32] = gaussian_filter(sheet.reshape(GRID, GRID).astype(np.float32), PARTICLE_BLUR)
    return smooth
