"""Figures of a row that can be compared, from its columns alone or sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.errors import UserError
from advbench.evidence.differences import IDENTICAL, Difference, paired_rates, unpaired, unpaired_rates
from advbench.evidence.leaderboard import text
from advbench.evidence.resampling import AUROC, MEDIAN, SPREAD, Statistic, paired, value_of
from advbench.evidence.statistics import Interval, sigma_mad

Row = Mapping[str, Any]
Outcomes = Mapping[str, "NDArray[Any]"]

ERRORS = ("sigma_mad", "eta")
"""Metrics that are better when they are smaller."""

ROUNDING = 1e-6
"""Relative difference of two values of a sample, computed in float32, that is none."""

AREA = "area"
"""The one figure that no column has: the area under the robustness curve of a minimum-norm attack."""


@dataclass(frozen=True)
class Figure:
    """A figure that two rows can be compared by.

    Attributes
    ----------
    of
        In words, for help texts.
    per_sample
        From the outcomes of a row what `statistic` needs, (n, ...); bool (n,) for a rate.
    statistic
        From what `per_sample` gives to the figure; None for a rate, which is a mean of booleans.
    """

    of: str
    per_sample: Callable[[Outcomes, Row], NDArray[Any]]
    statistic: Statistic | None = None


def compare_samples(
    name: str,
    rows: tuple[Row, Row],
    outcomes: tuple[Outcomes, Outcomes],
    mid_p: bool,
    family: int = 1,
    files: tuple[str, str] = ("", ""),
) -> Difference:
    """Difference of a figure of two rows over the same samples.

    ``family`` is the number of tests that its p-value will be corrected for; ``files`` are where outcomes come from.

    Raises
    ------
    UserError
        If the outcomes of a row do not give the figure that it shows.
    """
    figure = figure_of(name, rows[0])
    first, second = (figure.per_sample(arrays, row) for arrays, row in zip(outcomes, rows))
    statistic = figure.statistic
    for row, values, file in zip(rows, (first, second), files):
        _same(
            name, row, float(values.mean()) if statistic is None else value_of(statistic.drawn, values), file
        )
    if statistic is not None:
        second = aligned(first, second)
    if np.array_equal(first, second, equal_nan=True):
        return IDENTICAL
    if statistic is None:
        return paired_rates(first, second, mid_p)
    return paired(statistic, first, second, family)


def aligned(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """The second values, or the first where they differ by `ROUNDING`: one distance may be reached in two ways."""
    return np.where(np.isclose(first, second, rtol=ROUNDING, atol=0), first, second)


def compare_columns(name: str, rows: tuple[Row, Row]) -> Difference:
    """The same from what the rows show alone; NaN where a figure has no interval of its own."""
    first, second = (interval(name, row) for row in rows)
    if name in COUNTED and rows[0]["metric"] == "accuracy" and first.value == first.value:
        counts = [(round(one.value * row["n"]), row["n"]) for one, row in zip((first, second), rows)]
        return unpaired_rates(first, second, *counts[0], *counts[1])
    if math.isnan(first.low) or math.isnan(second.low):
        value = 0.0 if first.value == second.value else second.value - first.value
        return Difference(value, math.nan, math.nan, math.nan, "no interval, unpaired")
    return unpaired(first, second)


def interval(name: str, row: Row) -> Interval:
    """A figure as its row shows it, with its interval; NaN where there is none."""
    column = COLUMN.get(name, name)
    values = (row.get(f"{column}{end}") for end in ("", "_lo", "_hi"))
    return Interval(*(math.nan if value is None else float(value) for value in values))


def smaller_is_better(name: str, row: Row) -> bool:
    """Whether a smaller value of the figure is the better one."""
    return name == "eta" or (name in COUNTED and row["metric"] in ERRORS)


def says_nothing(name: str, rows: tuple[Row, Row]) -> bool:
    """Whether a figure of two rows says nothing: a distance without an attack, or without a median on both sides."""
    if name not in DISTANCES:
        return False
    return all(row["knowledge"] == "none" for row in rows) or all(row[name] == math.inf for row in rows)


def is_rate(name: str, row: Row) -> bool:
    """Whether the figure is a share of samples or a probability."""
    return name in ("eta", "detector_auroc", AREA) or (name in COUNTED and row["metric"] == "accuracy")


def same_outcomes(first: Outcomes, second: Outcomes) -> str:
    """Why the samples of two rows are not the same ones, or an empty string."""
    one, other = first["id"], second["id"]
    if len(one) != len(other):
        return f"{len(one)} and {len(other)} samples"
    differs = np.flatnonzero(one != other)
    return f"sample {differs[0]} is {one[differs[0]]} and {other[differs[0]]}" if len(differs) else ""


# --- from outcomes ------------------------------------------------------------------------------------------------


def right(outcomes: Outcomes, row: Row, side: str = "perturbed") -> NDArray[np.bool_]:
    """Which samples count as right, bool (n,): under attack what was wrong before stays wrong."""
    clean = outcomes["clean_correct"]
    if side == "clean":
        return clean
    return np.asarray(outcomes["perturbed_correct"] & (clean | (row["knowledge"] == "none")))


def _errors(side: str) -> Callable[[Outcomes, Row], NDArray[Any]]:
    def of(outcomes: Outcomes, row: Row) -> NDArray[Any]:
        """Scaled errors (n, outputs). Where outcomes do not say whether the task is relative, what they give does."""
        target = outcomes["target"].reshape(len(outcomes["target"]), -1).astype(np.float64)
        plain = outcomes[f"{side}_prediction"].reshape(target.shape).astype(np.float64) - target
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = plain / (1 + target)
        if "relative" in outcomes:
            return relative if outcomes["relative"].all() else plain
        distance = [_off(error, row, side) for error in (plain, relative)]
        return relative if distance[1] < distance[0] else plain

    return of


def _off(errors: NDArray[Any], row: Row, side: str) -> float:
    """How far errors are from what a row says; where predictions are infinite there is no sigma_mad."""
    spread = row[f"sigma_mad_{side}"]
    if spread is not None:
        return abs(float(sigma_mad(errors[:, 0])) - float(spread))
    share = (np.abs(errors) > row["eta_threshold"]).any(1).mean()
    return abs(float(share) - float(row[f"eta_{side}"]))


def _beyond(outcomes: Outcomes, row: Row) -> NDArray[np.bool_]:
    return np.asarray((np.abs(_errors("perturbed")(outcomes, row)) > row["eta_threshold"]).any(1))


def _sizes(norm: str) -> Callable[[Outcomes, Row], NDArray[Any]]:
    def of(outcomes: Outcomes, row: Row) -> NDArray[Any]:
        """Distances (n,) with failures as inf, NaN where a sample is not eligible."""
        clean = outcomes["clean_correct"]
        eligible = clean & outcomes["eligible"] if "eligible" in outcomes else clean
        fooled = outcomes["goal_reached"] if "goal_reached" in outcomes else ~outcomes["perturbed_correct"]
        sizes = np.where(eligible & fooled, outcomes[norm].astype(np.float64), np.inf)
        return np.where(eligible, sizes, np.nan)

    return of


def _scores(outcomes: Outcomes, row: Row) -> NDArray[Any]:
    """Scores of clean and perturbed inputs (n, 2); NaN where a sample has no part in the AUROC."""
    if "clean_score" not in outcomes:
        return np.full((len(outcomes["clean_correct"]), 2), np.nan)
    known = outcomes.get("known", np.ones(len(outcomes["clean_score"]), bool))
    clean = np.where(known, outcomes["clean_score"], np.nan)
    return np.stack(
        [clean, np.where(known & outcomes["network_fooled"], outcomes["perturbed_score"], np.nan)], -1
    )


FIGURES: Mapping[str, Figure] = {
    "perturbed": Figure("accuracy, or sigma_mad of a regressor, on perturbed inputs", right),
    "clean": Figure("the same on clean inputs", lambda outcomes, row: right(outcomes, row, "clean")),
    "eta": Figure("share of a regressor's outliers on perturbed inputs", _beyond),
    "l2_median": Figure("median l2 distance, failures as inf", _sizes("l2"), MEDIAN),
    "linf_median": Figure("median linf distance, failures as inf", _sizes("linf"), MEDIAN),
    "detector_auroc": Figure("area under the ROC curve of a detector", _scores, AUROC),
}
"""What rows can be compared by. Of a regressor the first two are spreads, see `figure_of`."""

DISTANCES = ("l2_median", "linf_median")
COUNTED = ("perturbed", "clean")
COLUMN = {"eta": "eta_perturbed"}


def figure_of(name: str, row: Row) -> Figure:
    """The figure of this name for rows of this metric."""
    figure = FIGURES[name]
    if name in COUNTED and row["metric"] != "accuracy":
        errors = _errors(name)
        return Figure(figure.of, lambda outcomes, row: errors(outcomes, row)[:, 0], SPREAD)
    return figure


def _same(name: str, row: Row, found: float, file: str = "") -> None:
    shown = row[COLUMN.get(name, name)]
    if text(found) != text(shown) and not (
        shown is not None and math.isclose(found, shown, rel_tol=2e-6, abs_tol=1e-12)
    ):
        column, where = COLUMN.get(name, name), f"{file}: " if file else ""
        raise UserError(
            f"{where}row {row['cell_id']}: column {column} says {text(shown) or 'nothing'}, its outcomes give"
            f" {text(found) or 'nothing'}: one of them was edited"
        )
