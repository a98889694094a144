"""Curves of a metric against the strength of perturbations, from rows of a leaderboard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.api import Run
from advbench_astro.figures.choose import NETWORK, Row, Trained, base_label

WORST = "worst case per sample"
"""The curve of the leaderboard's worst-case rows."""


class Curve(NamedTuple):
    """One family of perturbations."""

    name: str
    strength: NDArray[np.float64]  # (m,) rising
    value: NDArray[np.float64]  # (m,), mean over seeds
    low: NDArray[np.float64]  # lowest lower end of the seeds' intervals
    high: NDArray[np.float64]
    attack: bool


def worst_case(
    curves: Sequence[Curve], higher_is_better: bool, lower_is_stronger: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Strengths (m,) rising and the worst value of all curves at that strength or a weaker one.

    A ball contains the smaller ones, so what a weak attack reaches a strong one could reach too: the envelope is
    monotone, and lies nowhere above a curve (below, where small values are good).
    """
    strengths = np.unique(np.concatenate([curve.strength for curve in curves]))
    worst = []
    for strength in strengths:
        within = [
            curve.value[curve.strength >= strength if lower_is_stronger else curve.strength <= strength]
            for curve in curves
        ]
        values = np.concatenate(within)
        worst.append(values.min() if higher_is_better else values.max())
    return strengths, np.array(worst)


def worst_rows(run: Run, trained: Trained) -> list[Row]:
    """The leaderboard's worst cases of a network, if there is one at most for a threat model that curves tell apart."""
    same = [
        row
        for row in run.rows
        if (row.get("kind"), row.get("status")) == ("worst-case", "ok")
        and all(row.get(name) == trained.rows[0].get(name) for name in (*NETWORK, "seed"))
    ]
    keys = [(row["dataset"], axis_of(row), row["strength"], row["knowledge"]) for row in same]
    return same if len(set(keys)) == len(keys) else []


def drawable(row: Row) -> bool:
    """Whether the row has a strength."""
    strength = row.get("strength")
    return row["perturbation"] != "none" and isinstance(strength, (int, float)) and np.isfinite(strength)


def axis_of(row: Row) -> str:
    """What the strength is measured in: ``linf budget (input units)``, or the corruption's name with the unit."""
    if row.get("norm"):
        return f"{row['norm']} budget ({row['strength_unit']})"
    return f"{base_label(str(row['perturbation']))} ({row.get('strength_unit') or 'strength'})"


def family(row: Row) -> str:
    """The label without its strength, with the knowledge where there are several kinds."""
    known = "" if row["knowledge"] in ("none", "adaptive") else f" ({row['knowledge']})"
    return (WORST if row.get("kind") == "worst-case" else without_strength(row)) + known


def without_strength(row: Row) -> str:
    """``pgd(steps=10)`` of ``pgd(eps=0.1, steps=10)`` at strength 0.1; the bare name where no part is the strength."""
    name, _, inside = str(row["perturbation"]).partition("(")
    parts = [part for part in re.split(r",\s*(?=\w+=)", inside.removesuffix(")")) if part]
    rest = [part for part in parts if not _is(part.partition("=")[2], float(row["strength"]))]
    return f"{name}({', '.join(rest)})" if rest and len(rest) == len(parts) - 1 else name


def _is(text: str, strength: float) -> bool:
    """Whether a swept value is this strength, as far as labels are written out."""
    try:
        above, _, below = text.partition("/")
        return bool(np.isclose(float(above) / float(below or 1), strength, rtol=1e-3, atol=0))
    except (ValueError, ZeroDivisionError):
        return False


def curve_of(name: str, rows: Sequence[Row]) -> Curve:
    """Mean over seeds at each strength, in the widest interval."""
    strengths = np.unique([float(row["strength"]) for row in rows])
    at = [[row for row in rows if float(row["strength"]) == strength] for strength in strengths]
    value, low, high = (
        np.array([reduce([float(row[column]) for row in some]) for some in at])
        for column, reduce in (("perturbed", np.mean), ("perturbed_lo", np.min), ("perturbed_hi", np.max))
    )
    attack = rows[0]["knowledge"] != "none" and not name.startswith(WORST)
    return Curve(name, strengths, value, low, high, attack)


def lower_is_stronger(run: Run, rows: Sequence[Row]) -> bool:
    """Whether inputs change less as the number grows (the quality of a JPEG)."""
    rows = [row for row in rows if row.get("kind") == "cell"]  # others have no outcomes of their own
    strengths = [float(row["strength"]) for row in rows]
    if len(set(strengths)) < 2:
        return False
    sizes = [float(run.outcomes(row)["l2"].mean()) for row in rows]
    if np.ptp(sizes) == 0:
        return False
    return bool(np.corrcoef(np.argsort(np.argsort(strengths)), np.argsort(np.argsort(sizes)))[0, 1] < 0)
