"""Two discs that pass each other: a restricted three-body simulation.

Massless star particles move in the field of two softened point masses, which is what draws out bridges and tails:
Toomre & Toomre 1972, https://doi.org/10.1086/151823. Units: gravitational constant 1, mass of the first
galaxy 1, radius of its disc 1. No torch here: worker processes import this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SOFTENING = 0.25
STEP = 0.07
DISC_SCALE = 0.27
FRICTION = 0.35
"""Rate at which the nuclei lose relative velocity while they overlap (dynamical friction)."""


@dataclass(frozen=True)
class Remains:
    """What is left at the moment of observation: positions in the plane of the sky, in disc radii.

    ``stars`` (n, 2) with ``owner`` (n,) 0 or 1; ``nuclei`` (2, 2); ``mass`` (2,). The centre of mass is at 0.
    """

    stars: NDArray[np.float32]
    owner: NDArray[np.int64]
    nuclei: NDArray[np.float32]
    mass: NDArray[np.float32]


def encounter(
    rng: np.random.Generator,
    *,
    mass_ratio: float,
    pericentre: float,
    eccentricity: float,
    time: float,
    stars: int,
) -> Remains:
    """Both discs ``time`` after their closest approach, from a random direction.

    Parameters
    ----------
    mass_ratio
        Mass of the second galaxy over that of the first; its disc is smaller by the square root.
    pericentre, eccentricity
        Of the relative orbit, were it that of two point masses.
    stars
        Number of particles of both discs together, shared by mass.
    """
    mass = np.array([1.0, mass_ratio], dtype=np.float32)
    count = round(stars / (1 + mass_ratio))
    owner = np.repeat([0, 1], [count, stars - count])
    before = 1.6 + rng.uniform(0.0, 0.4)
    centres, drift = _approach(mass, pericentre, eccentricity, before)
    position, velocity = np.empty((3, stars + 2), np.float32), np.empty((3, stars + 2), np.float32)
    for which in (0, 1):
        place, motion = _disc(rng, int((owner == which).sum()), float(mass[which]))
        position[:, :-2][:, owner == which] = place + centres[:, which, None]
        velocity[:, :-2][:, owner == which] = motion + drift[:, which, None]
    position[:, -2:], velocity[:, -2:] = centres, drift
    _integrate(position, velocity, mass, round((before + time) / STEP))
    seen = _random_rotation(rng)[:2] @ position
    return Remains(seen[:, :-2].T, owner, seen[:, -2:].T, mass)


def _disc(
    rng: np.random.Generator, count: int, mass: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Circular orbits in an exponential disc, laid out along a golden-angle spiral: (3, count) each."""
    share = (np.arange(count) + 0.5) / count
    radius = _exponential_quantile(share) * np.sqrt(mass)
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5)) + rng.uniform(0, 2 * np.pi)
    speed = np.sqrt(mass) * radius / (radius**2 + SOFTENING**2) ** 0.75
    cosine, sine, flat = np.cos(angle), np.sin(angle), np.zeros(count)
    tilt = _tilt(rng)
    place = tilt @ np.stack([radius * cosine, radius * sine, flat])
    motion = tilt @ np.stack([-speed * sine, speed * cosine, flat])
    return place.astype(np.float32), motion.astype(np.float32)


def _exponential_quantile(share: NDArray[np.float64]) -> NDArray[np.float64]:
    radius = np.linspace(0, 1, 400)
    inside = 1 - (1 + radius / DISC_SCALE) * np.exp(-radius / DISC_SCALE)
    found: NDArray[np.float64] = np.interp(share * inside[-1], inside, radius)
    return found


def _tilt(rng: np.random.Generator) -> NDArray[np.float64]:
    """Disc planes up to 60 degrees off the orbit, turning the same way: such passages grow the longest tails."""
    angle, node = np.arccos(rng.uniform(0.5, 1.0)), rng.uniform(0, 2 * np.pi)
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    about_z = np.array([[np.cos(node), -np.sin(node), 0], [np.sin(node), np.cos(node), 0], [0, 0, 1]])
    tilted: NDArray[np.float64] = about_z @ about_x
    return tilted


def _random_rotation(rng: np.random.Generator) -> NDArray[np.float32]:
    quaternion = rng.standard_normal(4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=np.float32,
    )


def _approach(
    mass: NDArray[np.float32], pericentre: float, eccentricity: float, before: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Positions and velocities (3, 2) of the centres ``before`` the closest approach: integrate back from there."""
    total = float(mass.sum())
    speed = np.sqrt(total * (1 + eccentricity) / pericentre)
    lever = np.array([-mass[1], mass[0]], dtype=np.float32) / total
    position, velocity = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
    position[0], velocity[1] = pericentre * lever, -speed * lever
    _integrate(position, velocity, mass, round(before / STEP), friction=0.0)
    return position, -velocity


def _integrate(
    position: NDArray[np.float32],
    velocity: NDArray[np.float32],
    mass: NDArray[np.float32],
    steps: int,
    friction: float = FRICTION,
) -> None:
    """Leapfrog (kick, drift, kick) in place; the last two columns are the centres."""
    pull = _acceleration(position, mass)
    for _ in range(steps):
        velocity += 0.5 * STEP * pull
        position += STEP * velocity
        pull = _acceleration(position, mass)
        velocity += 0.5 * STEP * pull
        apart = position[:, -1] - position[:, -2]
        loss = STEP * friction / (1 + float(apart @ apart)) * (velocity[:, -1] - velocity[:, -2])
        velocity[:, -2] += loss * mass[1] / mass.sum()
        velocity[:, -1] -= loss * mass[0] / mass.sum()


def _acceleration(position: NDArray[np.float32], mass: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.zeros_like(position)
    for which in (0, 1):
        arm = position[:, which - 2, None] - position
        square = np.einsum("ij,ij->j", arm, arm) + np.float32(SOFTENING**2)
        total += arm * (mass[which] / (square * np.sqrt(square)))
    return total
