"""Distances in a flat universe of 30 % matter and H0 = 70 km/s/Mpc. No torch here."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import cumulative_trapezoid

MATTER = 0.3
HUBBLE_DISTANCE_MPC = 299792.458 / 70.0
ARCSEC_PER_RADIAN = 206264.80624709636


@functools.cache
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    redshift = np.linspace(0.0, 3.0, 3001)
    slowness = 1 / np.sqrt(MATTER * (1 + redshift) ** 3 + 1 - MATTER)
    return redshift, HUBBLE_DISTANCE_MPC * cumulative_trapezoid(slowness, redshift, initial=0.0)


def comoving_distance_mpc(redshift: ArrayLike) -> NDArray[np.float64]:
    """``c / H0 int dz / sqrt(0.3 (1 + z)^3 + 0.7)`` in Mpc, any shape, up to redshift 3."""
    return np.asarray(np.interp(np.asarray(redshift, dtype=np.float64), *_table()))


def distance_modulus(redshift: ArrayLike) -> NDArray[np.float64]:
    """Apparent minus absolute magnitude, without the K correction."""
    distance = comoving_distance_mpc(redshift) * (1 + np.asarray(redshift))
    return np.asarray(5 * np.log10(np.maximum(distance, 1e-6)) + 25)


def arcsec_per_kpc(redshift: ArrayLike) -> NDArray[np.float64]:
    """Angle of a kiloparsec across the line of sight."""
    distance_kpc = 1000 * np.maximum(comoving_distance_mpc(redshift), 1e-6) / (1 + np.asarray(redshift))
    return np.asarray(ARCSEC_PER_RADIAN / distance_kpc)
