"""Two leaderboards against each other: what is found, what is said."""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import cell, classified, estimated, right, worst, write_csv, write_run
from pairs import CLEAN, REDSHIFT, N, boards, made, robust

from advbench.cli.main import invoke
from advbench.errors import UserError
from advbench.evidence.board import Board, read_board
from advbench.evidence.columns import NAMES
from advbench.evidence.comparing import compare_boards
from advbench.evidence.differences import IDENTICAL, hybrid, paired_parts, tango
from advbench.evidence.exact import mcnemar
from advbench.evidence.influence import of_spread
from advbench.evidence.samples import interval
from advbench.evidence.statistics import sigma_mad, wilson
from advbench.evidence.summing import by_axes, regressions
from advbench.values import Regression

# --- what is found ------------------------------------------------------------------------------------------------


def test_a_run_against_itself_has_no_difference(tmp_path: Path) -> None:
    two = [cell(robust(150), perturbation="fgsm"), cell(robust(100))]
    rows = [*made(seeds=(0, 1)), two[0], worst(two)]
    comparison = compare_boards(boards(tmp_path, rows, rows))
    assert {line.verdict for line in comparison.lines} == {"same"}
    assert len(comparison.lines) == len(rows)
    assert (comparison.lost, comparison.paired, regressions(comparison)) == ([], True, [])
    assert all(not pair.changed for pair in comparison.joined[0].pairs)


def test_only_the_row_of_the_changed_defense_is_significant(tmp_path: Path) -> None:
    after = made(squeezed=150)
    comparison = compare_boards(boards(tmp_path, made(), after))
    verdicts = {
        (line.pair.first["defense"], line.pair.first["perturbation"]): line.verdict
        for line in comparison.lines
    }
    assert verdicts == {("none", "none"): "same", ("none", "pgd"): "same", ("squeezing", "pgd"): "worse"}
    line = comparison.lines[-1]
    before, now = ((right(N, k) & CLEAN) for k in (200, 150))
    lost = int((before & ~now).sum())
    assert int((now & ~before).sum()) == 0
    assert line.values == pytest.approx((before.mean(), now.mean()))
    assert line.difference[:3] == pytest.approx((-lost / N, *tango(0, lost, N)))
    assert line.difference.p == mcnemar(0, lost)
    assert line.p_holm == pytest.approx(3 * line.difference.p)  # three lines, the smallest p of them


def test_a_csv_alone_gives_the_unpaired_difference(tmp_path: Path) -> None:
    paths = [write_csv(tmp_path / f"{k}.csv", [cell(robust(k))]) for k in (100, 130)]
    comparison = compare_boards([read_board(path) for path in paths])
    line = comparison.lines[0]
    first, second = (interval("perturbed", row) for row in (line.pair.first, line.pair.second))
    counts = [int((right(N, k) & CLEAN).sum()) for k in (100, 130)]
    exact = hybrid(*(wilson(count, N) for count in counts))
    assert (line.difference.low, line.difference.high) == pytest.approx(exact, abs=2e-6)
    assert (line.difference.test, comparison.paired) == ("Fisher, unpaired", False)
    assert line.difference.value == second.value - first.value
    paired = compare_boards(boards(tmp_path, [cell(robust(100))], [cell(robust(130))])).lines[0]
    assert paired.difference.p < line.difference.p
    assert paired.difference.high - paired.difference.low < line.difference.high - line.difference.low


@pytest.mark.parametrize(
    ("gained", "lost", "margin", "verdict"),
    [(0, 0, 1, "same"), (2, 2, 2, "equivalent"), (2, 2, 0.5, "open"), (5, 0, 1, "no worse"), (6, 0, 1, "better"),
     (0, 6, 9, "worse"), (5, 14, 1, "open")],
)  # fmt: skip
def test_verdicts(tmp_path: Path, gained: int, lost: int, margin: float, verdict: str) -> None:
    before = np.arange(N) < 200
    after = before ^ (np.arange(N) < lost) ^ (np.arange(N) >= N - gained)
    rows = [[cell(classified(np.ones(N), some))] for some in (before, after)]
    line = compare_boards(boards(tmp_path, *rows), margin=margin).lines[0]
    assert line.verdict == verdict
    assert line.difference.p == pytest.approx(mcnemar(gained, lost))


def test_regressors_are_compared_by_their_spread(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z = rng.uniform(0.1, 1.0, N)
    noise = rng.normal(0, 0.02, N)
    errors = [noise * (1 + z), 1.5 * noise * (1 + z) + 0.001 * rng.normal(size=N)]
    rows = [[cell(estimated(z, z + errors[0], z + error), REDSHIFT)] for error in errors]
    comparison = compare_boards(boards(tmp_path, *rows), ("perturbed", "eta"))
    assert [line.figure for line in comparison.lines] == ["perturbed", "eta"]
    line = comparison.lines[0]
    scaled = [error / (1 + z) for error in errors]
    assert line.difference.test == "influence functions"
    moved = [of_spread(error) for error in scaled]
    expected = paired_parts(float(sigma_mad(scaled[1]) - sigma_mad(scaled[0])), moved[1] - moved[0], "")
    assert line.difference[:4] == pytest.approx(expected[:4])
    assert (line.verdict, line.gain) == ("worse", -1)
    assert line.margin == pytest.approx(0.01 * float(sigma_mad(scaled[0])), rel=1e-5)
    assert comparison.lines[1].difference.test in ("McNemar, exact", "identical")
    assert "sky / net / none / pgd, adaptive, seed 0: perturbed" in regressions(comparison)[0]


@pytest.mark.parametrize("relative", [True, False])
def test_outcomes_say_whether_errors_are_relative(tmp_path: Path, relative: bool) -> None:
    """A row that was edited to what the other scale gives is not believed."""
    z = np.linspace(0.1, 1.0, 50)
    noise = np.random.default_rng(0).normal(0, 0.02, 50)
    rows = []
    for factor in (1.0, 2.0):
        outcomes = estimated(z, z + noise, z + factor * noise, relative=relative)
        task = Regression(("z",), tolerance=0.15, relative=relative)
        other = Regression(("z",), tolerance=0.15, relative=not relative)
        told = outcomes | {"relative": np.full(50, relative)}
        rows.append((cell(told, task), cell(told, other)))
    honest, edited = zip(*rows)
    assert compare_boards(boards(tmp_path / "honest", *([row] for row in honest))).lines[0].verdict == "worse"
    with pytest.raises(
        UserError, match=r"column perturbed says .*, its outcomes give .*: one of them was edited"
    ):
        compare_boards(boards(tmp_path / "edited", *([row] for row in edited)))


def test_a_regressor_that_diverged_is_compared_by_what_is_left(tmp_path: Path) -> None:
    z = np.linspace(0.1, 1.0, 40)
    rows = []
    for count in (10, 30):
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = np.where(np.arange(40) < count, np.inf, z + 0.2)  # 0.2 is within 0.15 (1 + z) above 1/3
            rows.append([cell(estimated(z, z, after), REDSHIFT)])
    (line,) = compare_boards(boards(tmp_path, *rows), ("perturbed", "eta")).lines
    assert (line.figure, line.verdict) == ("eta", "worse")


def test_medians_count_failures_as_infinite(tmp_path: Path) -> None:
    near, far = robust(40), robust(40, seed=1)
    for outcomes, size in ((near, 0.5), (far, 1.0)):
        outcomes["l2"] = np.random.default_rng(0).gamma(9.0, size / 9, N)
    comparison = compare_boards(boards(tmp_path, [cell(near)], [cell(far)]), ("l2_median",))
    assert comparison.lines[0].verdict == "better"  # a larger distance is harder to reach
    safe = robust(380)
    comparison = compare_boards(boards(tmp_path, [cell(near)], [cell(safe)]), ("l2_median",))
    assert comparison.lines[0].difference.value == math.inf
    assert comparison.lines[0].verdict == "better"
    back = compare_boards(boards(tmp_path, [cell(safe)], [cell(near)]), ("l2_median",))
    assert (back.lines[0].verdict, back.lines[0].difference.value) == ("worse", -math.inf)
    assert len(regressions(back, 50)) == 1
    both = compare_boards(boards(tmp_path, [cell(safe)], [cell(safe | {"l2": far["l2"]})]), ("l2_median",))
    assert both.lines == ()  # no median on either side


def test_rounding_is_no_difference(tmp_path: Path) -> None:
    reached = robust(40)
    reached["l2"] = np.random.default_rng(0).gamma(9.0, 1 / 9, N).astype(np.float32)
    again = reached | {"l2": reached["l2"] * np.float32(1 + 2e-7)}
    (line,) = compare_boards(boards(tmp_path, [cell(reached)], [cell(again)]), ("l2_median",)).lines
    assert (line.difference.value, line.difference.p, line.verdict) == (0, 1, "same")


def test_a_margin_that_is_infinite_says_nothing(tmp_path: Path) -> None:
    line = compare_boards(boards(tmp_path, [cell(robust(191))], [cell(robust(188))]), ("l2_median",)).lines[0]
    assert (line.values[0], line.margin, line.verdict) == (math.inf, math.inf, "open")
    for margin in (math.inf, math.nan):
        assert replace(line, margin=margin, difference=IDENTICAL._replace(test="any")).verdict == "open"
    assert replace(line, margin=0.1, difference=IDENTICAL._replace(test="any")).verdict == "equivalent"


def test_many_medians_can_be_significant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = 60
    far, near = (classified(right(n, n), ~right(n, n), l2=np.full(n, size)) for size in (3.0, 0.03))
    for outcomes in (far, near):
        outcomes["l2"] = outcomes["l2"] + np.linspace(0, 0.01, n)
    runs = [
        write_run(tmp_path / name, [cell(outcomes, perturbation=f"a{k}") for k in range(60)])
        for name, outcomes in (("a", far), ("b", near))
    ]
    comparison = compare_boards([read_board(run) for run in runs], ("l2_median",))
    assert {line.verdict for line in comparison.lines} == {"worse"}
    assert comparison.lines[0].difference.p == pytest.approx(2 / 6001)
    command = ["compare", *map(str, runs), "--figure", "l2_median", "--fail-on", "regression"]
    assert invoke(command) == 1
    assert capsys.readouterr().err.count("regression: ") == 60


def test_the_figure_of_clean_inputs_is_one_line_for_each_network(tmp_path: Path) -> None:
    worse = right(N, 350)

    def rows(clean: Any) -> list[dict[str, Any]]:
        found = []
        for defense in ("none", "squeezing"):
            fooled = [(f"a{k}", right(N, k) & clean) for k in (9, 99)]
            some = [
                cell(classified(clean, after), defense=defense, perturbation=name) for name, after in fooled
            ]
            plain = cell(classified(clean, clean), defense=defense, perturbation="none", knowledge="none")
            found += [*some, worst(some), plain]
        return found

    comparison = compare_boards(boards(tmp_path, rows(CLEAN), rows(worse)), ("clean", "perturbed"))
    lines = [line for line in comparison.lines if line.figure == "clean"]
    assert [line.label() for line in lines] == [
        f"sky / net / {name}, seed 0" for name in ("none", "squeezing")
    ]
    assert [line.pair.first["perturbation"] for line in lines] == ["none", "none"]
    assert len(comparison.lines) == 2 + 8
    seeds = [*rows(CLEAN), *(cell(robust(9), seed=seed) for seed in (1, 2))]
    alone = compare_boards(boards(tmp_path / "more", seeds, seeds), ("clean",))
    assert len(alone.lines) == 4


def test_distances_are_compared_under_attacks_alone(tmp_path: Path) -> None:
    noise = {"perturbation": "noise", "perturbation_id": "toys/noise", "knowledge": "none"}

    def rows(count: int) -> list[dict[str, Any]]:
        broken = [cell(robust(count)), cell(robust(count), **noise), cell(robust(380), perturbation="weak")]
        return [*broken, cell(classified(CLEAN, CLEAN), perturbation="none", knowledge="none")]

    comparison = compare_boards(boards(tmp_path, rows(40), rows(50)), ("l2_median",))
    assert [line.pair.first["perturbation"] for line in comparison.lines] == ["pgd"]


def test_detectors_are_compared_by_their_auroc(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fooled = ~right(N, 100)

    def scored(distance: float) -> dict[str, Any]:
        outcomes = robust(100)
        clean = rng.normal(size=N)
        return outcomes | {
            "clean_score": clean, "perturbed_score": clean + rng.normal(distance, 1.0, N), "threshold": np.full(N, 9.0),
            "network_right": CLEAN, "network_right_perturbed": ~fooled, "network_fooled": fooled & CLEAN,
        }  # fmt: skip

    rows = [[cell(scored(distance), defense="detector")] for distance in (0.3, 1.5)]
    line = compare_boards(boards(tmp_path, *rows), ("detector_auroc",)).lines[0]
    assert line.verdict == "better"
    assert line.difference.low > 0.1
    assert compare_boards(boards(tmp_path, made(), made()), ("detector_auroc",)).lines == ()


def test_holm_counts_the_lines_of_all_pairs(tmp_path: Path) -> None:
    three = boards(tmp_path, made(), made(squeezed=230), made(squeezed=150))
    comparison = compare_boards(three)
    assert [line.boards[1] for line in comparison.lines] == [three[1].name] * 3 + [three[2].name] * 3
    tested = sorted(line.difference.p for line in comparison.lines)
    adjusted = sorted(line.p_holm for line in comparison.lines)
    assert adjusted[:2] == pytest.approx([6 * tested[0], 5 * tested[1]])


def test_added_removed_and_changed_rows_are_told(tmp_path: Path) -> None:
    before = [*made(), cell(robust(9), model="old")]
    after = [row | {"weights": "bb11", "model_params": '{"width":16}'} for row in made()]
    comparison = compare_boards(boards(tmp_path, before, [*after, cell(robust(9), model="new")]))
    joined = comparison.joined[0]
    assert [[row["model"] for row in rows] for rows in (joined.removed, joined.added)] == [["old"], ["new"]]
    assert {pair.changed for pair in joined.pairs} == {
        (("model_params.width", "8", "16"), ("weights", "aa00", "bb11"))
    }


def test_seeds_are_not_mixed_up_with_samples(tmp_path: Path) -> None:
    first, second = made(seeds=(0, 1, 2)), made(squeezed=230, seeds=(0, 1, 2))
    groups = by_axes(compare_boards(boards(tmp_path, first, second)), ("defense",))
    told = [(group.labels["defense"], group.kind, group.rows) for group in groups]
    assert told == [("none", "clean", 3), ("none", "attack", 3), ("squeezing", "attack", 3)]
    squeezed = groups[2]
    rates = {k: float((right(N, k) & CLEAN).mean()) for k in range(200, 233)}
    gains = [rates[230 + seed] - rates[200 + seed] for seed in (0, 1, 2)]
    assert (squeezed.rows, squeezed.difference.n) == (3, 3)
    assert squeezed.difference.mean == pytest.approx(np.mean(gains), abs=1e-12)
    assert squeezed.difference.deviation == pytest.approx(np.std(gains, ddof=1), abs=1e-6)
    assert groups[0].difference[:2] == (0, 0)
    alone = by_axes(compare_boards(boards(tmp_path, first[:3], second[:3])), ("defense",))
    assert math.isnan(alone[2].difference.deviation)


def test_means_are_over_rows_of_one_kind(tmp_path: Path) -> None:
    attacks = [cell(robust(k), perturbation=f"a{k}") for k in (40, 80)]
    noise = cell(robust(300), perturbation="noise", perturbation_id="toys/noise", knowledge="none")
    run = [*attacks, noise, worst(attacks)]
    groups = by_axes(compare_boards(boards(tmp_path, run, run)), ("model",))
    assert {group.kind: group.rows for group in groups} == {"attack": 2, "corruption": 1, "worst-case": 1}
    both = [float((right(N, k) & CLEAN).mean()) for k in (40, 80)]
    means = {group.kind: group.first.mean for group in groups}
    assert means["attack"] == pytest.approx(np.mean(both), abs=1e-6)
    assert means["worst-case"] == pytest.approx(both[0], abs=1e-6)


class Held(Board):
    """A leaderboard in memory."""

    def outcomes(self, row: Any) -> Any:
        return row["outcomes"]

    def digest(self, row: Any) -> str:
        return f"{id(self)} {row['cell_id']}"


def test_alike_runs_are_called_different_in_at_most_5_percent_of_cases() -> None:
    rng = np.random.default_rng(1)
    blank = dict.fromkeys(NAMES)
    n, models, runs = 150, 4, 250
    wrong = found = 0
    for _ in range(runs):
        easy = rng.random((models, n)) < 0.6
        redrawn = [
            np.where(rng.random((models, n)) < 0.2, rng.random((models, n)) < 0.6, easy) for _ in range(2)
        ]
        redrawn.append(redrawn[0] & (rng.random((models, n)) > 0.15))
        first, alike, worse = (
            Held(
                [blank | cell(classified(np.ones(n), one), model=str(k)) for k, one in enumerate(some)],
                (),
                Path("x"),
            )
            for some in redrawn
        )
        wrong += any(line.significant for line in compare_boards([first, alike]).lines)
        found += sum(line.verdict == "worse" for line in compare_boards([first, worse]).lines)
    assert wrong / runs <= 0.05
    assert found / (runs * models) > 0.8
