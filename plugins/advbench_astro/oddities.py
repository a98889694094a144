"""Galaxies of no class: what an open set holds and a training set does not.

No torch here: worker processes import this module.
"""

from __future__ import annotations

import galsim
import numpy as np
from numpy.typing import NDArray

from advbench_astro.population import Appearance, draw_appearance
from advbench_astro.rendering import Light, sky_grid

EINSTEIN_RADIUS_ARCSEC = (2.0, 3.6)
"""Large ones, of groups of galaxies: smaller ones drown in the seeing."""
IMAGES_FAINTER = (0.0, 1.3)
"""i magnitudes by which all images of the source together are fainter than the lens."""


def lens(rng: np.random.Generator) -> Light:
    """An elliptical in front of a small blue galaxy, which it bends into arcs or a ring."""
    look = draw_appearance(rng, spheroid=True)
    body = galsim.DeVaucouleurs(half_light_radius=look.radius_arcsec)
    body = body.shear(q=float(rng.uniform(0.75, 1)), beta=rng.uniform(0, np.pi) * galsim.radians)
    radius = rng.uniform(*EINSTEIN_RADIUS_ARCSEC)
    shear, angle = rng.uniform(0, 0.12), rng.uniform(0, 2 * np.pi)
    off, towards = radius * rng.uniform(0.0, 0.5), rng.uniform(0, 2 * np.pi)
    size = rng.uniform(0.2, 0.45)  # arcsec; above the grid's pixel
    images = lensed(
        float(radius),
        (float(shear * np.cos(angle)), float(shear * np.sin(angle))),
        (float(off * np.cos(towards)), float(off * np.sin(towards))),
        float(size),
    )
    behind = Appearance(
        look.mag_i + rng.uniform(*IMAGES_FAINTER), float(size), -0.1 + 0.1 * rng.standard_normal()
    )
    return Light([(body, look.rates("old", 1.0))], [(images, behind.rates("young", 1.0))])


def lensed(
    radius: float, shear: tuple[float, float], source: tuple[float, float], size: float
) -> NDArray[np.float32]:
    """Images of a Gaussian source behind a singular isothermal sphere with external shear, on `sky_grid`.

    Light seen at ``theta`` comes from ``beta = theta - radius theta / |theta| - (g1 theta_x + g2 theta_y, g2 theta_x -
    g1 theta_y)``, and its surface brightness, 1 at the source's centre, is kept (Schneider, Ehlers & Falco 1992,
    https://doi.org/10.1007/978-3-662-03758-4, chapter 8).

    Parameters
    ----------
    radius
        Einstein radius in arcsec.
    shear
        ``(g1, g2)``.
    source, size
        Place and standard deviation of the source in arcsec, as if there were no lens.
    """
    x, y = sky_grid()
    distance = np.hypot(x, y)  # the grid has no point at 0
    from_x = x - radius * x / distance - shear[0] * x - shear[1] * y - source[0]
    from_y = y - radius * y / distance - shear[1] * x + shear[0] * y - source[1]
    brightness: NDArray[np.float32] = np.exp(-0.5 * (from_x**2 + from_y**2) / size**2).astype(np.float32)
    return brightness


def irregular(rng: np.random.Generator) -> Light:
    """Clumps of young stars without order in a faint lopsided disc."""
    look = draw_appearance(rng, spheroid=False)
    clumpy = rng.uniform(0.45, 0.75)
    count = int(rng.integers(4, 9))
    shares = clumpy * rng.dirichlet(np.full(count, 1.5))
    places = rng.normal(0, 0.8 * look.radius_arcsec, (count, 2))
    sizes = rng.uniform(0.25, 0.6, count)
    profiles = [
        (
            galsim.Gaussian(half_light_radius=float(size))
            .shear(q=float(rng.uniform(0.5, 1)), beta=rng.uniform(0, np.pi) * galsim.radians)
            .shift(*place.tolist()),
            look.rates("young", float(share)),
        )
        for size, place, share in zip(sizes, places, shares)
    ]
    disc = galsim.Exponential(half_light_radius=look.radius_arcsec)
    disc = disc.shear(q=float(rng.uniform(0.4, 0.9)), beta=rng.uniform(0, np.pi) * galsim.radians)
    aside = rng.normal(0, 0.3 * look.radius_arcsec, 2)
    return Light([*profiles, (disc.shift(*aside.tolist()), look.rates("arms", 1 - clumpy))], [])
