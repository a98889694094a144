"""Whole robustness curves of minimum-norm attacks: closed forms, intervals that cover, and what has no curve."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import cell, classified, estimated, worst, write_csv, write_run
from scipy import integrate, stats

from advbench.cli.main import invoke
from advbench.evidence.board import read_board
from advbench.evidence.comparing import compare_boards
from advbench.evidence.curves import (
    area,
    area_difference,
    breaking,
    compare_areas,
    farthest,
    norm_of_curve,
    robust_accuracy,
    shares,
)
from advbench.evidence.differences import IDENTICAL
from advbench.evidence.statistics import wilson
from advbench.values import Regression
from advbench_attacks.bisection import Bisection
from advbench_attacks.ddn import DDN as DDN_ATTACK
from advbench_attacks.fmn import FMN
from advbench_attacks.pgd import PGD

DDN = {
    "perturbation": "ddn",
    "perturbation_id": "attacks/ddn",
    "perturbation_params": '{"goal":"untargeted","steps":100}',
    "norm": "l2",
    "strength": None,
    "strength_unit": None,
}


def smallest(distances: Any, norm: str = "l2", **changes: Any) -> dict[str, Any]:
    """A row of a minimum-norm attack: NaN is wrong as it is, inf was not fooled."""
    distances = np.asarray(distances, np.float64)
    clean, found = ~np.isnan(distances), np.isfinite(distances)
    sizes = {norm: np.where(found, distances, 0.0)}
    return cell(classified(clean, clean & ~found, **sizes), **{**DDN, "norm": norm, **changes})


# --- closed forms -------------------------------------------------------------------------------------------------


def test_the_curve_of_known_distances() -> None:
    row = smallest([0.5, math.nan, 0.25, 1.0, math.inf, 0.5, math.nan, 2.0])
    budgets = breaking(row["outcomes"], row, "l2")
    assert budgets.tolist() == [0.5, 0.0, 0.25, 1.0, math.inf, 0.5, 0.0, 2.0]
    curve = robust_accuracy(budgets)
    assert curve.eps.tolist() == [0.0, 0.25, 0.5, 1.0, 2.0]
    assert (curve.value * 8).tolist() == [6, 5, 3, 2, 1]
    ends = [wilson(count, 8) for count in (6, 5, 3, 2, 1)]
    assert curve.low.tolist() == [end.low for end in ends]
    assert curve.high.tolist() == [end.high for end in ends]
    assert (curve.value[0], curve.value[-1]) == (row["clean"], row["perturbed"])


def test_the_area_is_the_integral_of_the_curve() -> None:
    budgets = np.concatenate([np.random.default_rng(0).gamma(2.0, 0.5, 60), [0.0] * 5, [np.inf] * 7])
    curve = robust_accuracy(budgets)
    for up_to in (0.3, 1.0, farthest(budgets), 9.0):
        corners = np.minimum(np.append(curve.eps, np.inf), up_to)
        integral = float((curve.value * np.diff(corners)).sum()) / up_to
        assert area(budgets, up_to).value == pytest.approx(integral, rel=1e-12)


def test_a_linear_network_has_the_curve_that_its_distances_say() -> None:
    """Two classes apart by a plane, inputs normal around it: distances are folded normals."""
    n, spread = 4000, 1.5
    weight = np.random.default_rng(1).normal(size=16)
    x = stats.norm.ppf((np.arange(n) + 0.5) / n)[:, None] * spread * weight / np.linalg.norm(weight)
    distance = np.abs(x @ weight) / np.linalg.norm(weight)
    row = smallest(distance)
    budgets = breaking(row["outcomes"], row, "l2")
    curve = robust_accuracy(budgets)
    expected = 2 * stats.norm.sf(curve.eps / spread)
    assert np.abs(curve.value - expected).max() <= 1 / n + 1e-12
    whole = integrate.quad(lambda eps: 2 * stats.norm.sf(eps / spread), 0, 2.0)[0] / 2.0
    assert area(budgets, 2.0).value == pytest.approx(whole, abs=1 / n)
    assert row["l2_median"] == pytest.approx(spread * stats.norm.ppf(0.75), rel=2e-3)


def test_never_fooled_is_1_and_always_wrong_is_0() -> None:
    for value, expected in ((np.inf, 1.0), (0.0, 0.0)):
        found = area(np.full(50, value), 3.0)
        assert found == wilson(50 * expected, 50)
    assert robust_accuracy(np.full(50, np.inf)).value.tolist() == [1.0]
    assert robust_accuracy(np.zeros(50)).value.tolist() == [0.0]
    assert math.isnan(area(np.zeros(0), 1.0).value)
    assert farthest(np.zeros(3), np.full(2, np.inf)) == 1.0
    assert farthest(np.array([0.5, np.inf]), np.array([0.75, 0.0])) == 0.75


def test_a_curve_without_slope_has_the_interval_of_its_accuracy() -> None:
    budgets = np.array([0.0] * 13 + [np.inf] * 87)
    assert area(budgets, 0.4) == pytest.approx(wilson(87, 100), rel=1e-12)


def test_a_goal_counts_what_became_wrong_on_the_way() -> None:
    """A point that missed its goal but is wrong is wrong, as in the column `perturbed`."""
    clean = np.array([True, True, True, True, False])
    after = np.array([False, False, True, True, False])
    outcomes = classified(
        clean,
        after,
        goal_reached=np.array([True, False, False, False, True]),
        goal_margin=np.zeros(5),
        eligible=np.array([True, True, True, False, True]),
        l2=np.array([0.5, 0.7, 0.9, 0.0, 0.3]),
    )
    row = cell(outcomes, **DDN, targeted=True)
    budgets = breaking(outcomes, row, "l2")
    assert budgets.tolist() == [0.5, 0.7, math.inf, math.inf, 0.0]
    assert robust_accuracy(budgets).value[-1] == row["perturbed"] == 0.4


# --- intervals ----------------------------------------------------------------------------------------------------


def test_rounding_of_a_distance_moves_no_area() -> None:
    budgets = np.random.default_rng(0).gamma(9.0, 1 / 9, 50)
    assert area_difference(budgets, budgets * (1 + 2e-7), 2.0) == IDENTICAL


@pytest.mark.parametrize("n", [60, 400])
@pytest.mark.parametrize("failing", [0.0, 0.3])
def test_areas_and_their_differences_are_covered(n: int, failing: float) -> None:
    """95 % intervals of one area, and of the difference of two over the same samples."""
    rng = np.random.default_rng(n)
    trials, up_to = 1500, 2.0
    covered = np.zeros(2)
    errors = 0

    def draw(shared: Any, scale: float) -> Any:
        found = shared + rng.exponential(scale, shared.shape)
        found = np.where(rng.random(shared.shape) < failing, np.inf, found)
        return np.where(rng.random(shared.shape) < 0.1, 0.0, found)

    big = rng.exponential(0.4, 2_000_000)
    truth = [float(shares(draw(big, scale), up_to).mean()) for scale in (0.3, 0.5)]
    for _ in range(trials):
        shared = rng.exponential(0.4, n)
        first, second = draw(shared, 0.3), draw(shared, 0.5)
        alone = area(second, up_to)
        between = area_difference(first, second, up_to)
        covered += [alone.low <= truth[1] <= alone.high, between.low <= truth[1] - truth[0] <= between.high]
        errors += area_difference(first, draw(shared, 0.3), up_to).p <= 0.05
    assert (covered / trials >= 0.935).all()
    assert (covered / trials <= 0.965).all()
    assert errors / trials <= 0.065


def test_a_paired_difference_is_that_of_scipy_for_many_samples() -> None:
    rng = np.random.default_rng(3)
    first = rng.exponential(0.5, 3000)
    second = first + rng.normal(0.002, 0.2, 3000).clip(-first)
    found = area_difference(first, second, 1.0)
    expected = stats.ttest_rel(np.minimum(second, 1), np.minimum(first, 1))
    assert found.p == pytest.approx(expected.pvalue, rel=2e-2)
    low, high = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), rel=2e-3)
    assert found.value == pytest.approx(area(second, 1.0).value - area(first, 1.0).value, rel=1e-12)


def test_differences_without_spread() -> None:
    same = area_difference(np.ones(9), np.ones(9), 2.0)
    assert same.test == "identical"
    moved = area_difference(np.ones(9), np.full(9, 1.5), 2.0)
    assert (moved.value, moved.p) == (0.25, 2**-8)  # of 2^9 ways to swap two
    beyond = area_difference(np.ones(9), np.full(9, 1.5), 0.5)
    assert (beyond.value, beyond.low, beyond.high, beyond.p) == (0, 0, 0, 1)
    assert math.isnan(area_difference(np.ones(1), np.zeros(1), 1.0).p)


# --- which rows have a curve --------------------------------------------------------------------------------------


def test_an_attack_says_which_norm_it_makes_small() -> None:
    assert DDN_ATTACK().norm_made_small() == "l2"
    assert [FMN(norm=norm).norm_made_small() for norm in ("linf", "l1")] == ["linf", "l1"]
    assert Bisection(norm="l1").norm_made_small() == "l1"
    assert PGD(norm="l2").norm_made_small() is None


@pytest.mark.parametrize(
    ("changes", "norm"),
    [
        ({}, "l2"),
        ({"norm": "linf"}, "linf"),
        ({"norm": None}, None),
        ({"norm": "pixels"}, None),
        ({"strength": 0.5}, None),
        ({"perturbation_params": '{"eps":[0.1,0.2]}'}, None),
        ({"perturbation_params": '{"then":[{"quality":50},{"steps":9}]}'}, None),
        ({"perturbation_params": "[]"}, None),
        ({"perturbation_params": "{"}, None),
        ({"perturbation_params": '{"transfer_from":[{"label":"other"}]}', "knowledge": "transfer"}, "l2"),
    ],
)  # fmt: skip
def test_which_rows_have_a_curve(changes: dict[str, Any], norm: str | None) -> None:
    assert norm_of_curve({**smallest([0.5, 1.0]), **changes}) == norm


def test_worst_cases_lost_cells_and_regressors_have_none() -> None:
    row = smallest([0.5, 1.0])
    assert norm_of_curve({**worst([row]), "norm": "l2", "strength": None}) is None
    assert norm_of_curve({**DDN, **cell(None, **DDN), "metric": None}) is None
    z = np.linspace(0.1, 0.9, 9)
    task = Regression(("z",), tolerance=0.15, relative=True)
    assert norm_of_curve(cell(estimated(z, z, z + 0.5), task, **DDN)) is None


# --- compare ------------------------------------------------------------------------------------------------------


DISTANCES = np.random.default_rng(5).gamma(3.0, 0.2, 300)


def runs(tmp_path: Path, factor: float = 1.5) -> list[Path]:
    second = DISTANCES * factor
    return [
        write_run(tmp_path / "a", [smallest(DISTANCES)]),
        write_run(tmp_path / "b", [smallest(second, weights="bb11")]),
    ]


def test_compare_shows_areas(tmp_path: Path) -> None:
    (line,) = compare_boards([read_board(path) for path in runs(tmp_path)], ["area"]).lines
    end = 1.5 * DISTANCES.max()
    expected = np.minimum(DISTANCES, end).mean() / end, np.minimum(1.5 * DISTANCES, end).mean() / end
    assert line.values == pytest.approx(expected, rel=1e-6)
    assert line.difference.value == pytest.approx(expected[1] - expected[0], rel=1e-6)
    assert (line.verdict, line.figure, line.margin, line.gain) == ("better", "area", 0.01, 1)


def test_compare_shows_areas_up_to_a_distance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, runs(tmp_path))
    assert invoke(["compare", a, b, "--figure", "area", "--up-to", "0.5", "--format", "json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["lines"]
    assert line["first"] == pytest.approx(np.minimum(DISTANCES, 0.5).mean() / 0.5, rel=1e-6)
    assert line["second"] == pytest.approx(np.minimum(1.5 * DISTANCES, 0.5).mean() / 0.5, rel=1e-6)
    assert line["test"] == "paired means"


def test_compare_of_the_same_and_of_nothing(tmp_path: Path) -> None:
    a, b = (read_board(path) for path in runs(tmp_path))
    (line,) = compare_boards([a, a], ["area"]).lines
    assert (line.verdict, line.values[0] == line.values[1] > 0) == ("same", True)
    alone = [read_board(write_csv(tmp_path / f"{name}.csv", [smallest(DISTANCES)])) for name in "cd"]
    assert compare_boards(alone, ["area"]).lines == ()
    fixed = read_board(write_run(tmp_path / "e", [cell(classified([1, 1], [1, 0]))]))
    assert compare_boards([fixed, fixed], ["area"]).lines == ()
    both = compare_boards([a, b], ["area", "perturbed", "l2_median"]).lines
    assert [line.figure for line in both] == ["area", "perturbed", "l2_median"]


def test_up_to_is_for_areas_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, runs(tmp_path))
    assert invoke(["compare", a, b, "--up-to", "0.5"]) == 2
    assert "--up-to" in capsys.readouterr().err
    assert invoke(["compare", a, b, "--figure", "area", "--up-to", "0"]) == 2


def test_a_smaller_area_is_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, runs(tmp_path, factor=0.6))
    assert invoke(["compare", a, b, "--figure", "area", "--fail-on", "regression:1"]) == 1
    assert "area" in capsys.readouterr().err


def test_areas_of_the_same_row_under_two_ends() -> None:
    row = smallest([0.5, 1.0, math.inf, math.nan])
    values, difference = compare_areas((row, row), (row["outcomes"], row["outcomes"]))
    assert values == (0.625, 0.625)
    assert difference.test == "identical"
    assert compare_areas((row, row), (row["outcomes"], row["outcomes"]), 2.0)[0] == (0.4375, 0.4375)
