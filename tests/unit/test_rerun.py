"""A run computed again: what agrees, what does not, and which words say so."""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from boards import cell, classified, estimated, right, write_csv

from advbench.cli.main import invoke
from advbench.evidence.board import Board, read_board
from advbench.evidence.leaderboard import text
from advbench.evidence.repeating import repeated
from advbench.evidence.statistics import wilson
from advbench.values import Regression

SUITE = """\
version: 1
name: small
datasets: [{use: toys/blobs, name: blobs, params: {n: 80}, limit: 12}]
models: [{use: toys/net, params: {recipe: {epochs: 1}}}]
perturbations: [none, toys/noise, {use: toys/step, sweep: {eps: [1, 3]}}, {use: toys/wander, params: {eps: 3}}]
knowledge: [adaptive]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.yaml").write_text(SUITE)
    options = ["--plugins-dir", str(toys.FOLDER), "--cache", str(folder / "cache"), "--device", "cpu"]
    assert invoke(["run", str(folder / "small.yaml"), *options, "--out", str(folder / "out")]) == 0
    return folder / "out"


def rerun(path: Path, *arguments: object) -> int:
    return invoke(
        ["rerun", str(path), "--plugins-dir", str(toys.FOLDER), "--display", "none", *map(str, arguments)]
    )


def beside(run: Path, folder: Path) -> Path:
    """The leaderboard of a run as a file of its own, with its suite beside it."""
    shutil.copy(run / "suite.yaml", folder / "small.suite.yaml")
    return Path(shutil.copy(run / "leaderboard.csv", folder / "small.csv"))


def edited(path: Path, change: Callable[[dict[str, str]], object]) -> Path:
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        change(row)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


# --- the command --------------------------------------------------------------------------------------------------


def test_a_run_agrees_to_the_last_digit(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept"
    assert rerun(run, "--out", out) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "6 rows agree: equal to the last digit"
    assert (out / "leaderboard.csv").read_bytes() == (run / "leaderboard.csv").read_bytes()
    assert not (out / "report.html").exists()
    assert rerun(run, "--out", out) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_one_row_or_one_worst_case_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {row["kind"]: row["cell_id"] for row in read_board(run).rows}
    for kind, computed in (("cell", 1), ("worst-case", 3)):
        out = tmp_path / kind
        assert rerun(run, "--row", rows[kind], "--out", out) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "1 row agrees: equal to the last digit"
        assert len(read_board(out).rows) == computed
    assert rerun(run, "--row", "nothing") == 2
    assert "--row nothing: " in capsys.readouterr().err


def test_a_csv_with_its_suite_beside_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.csv"
    shutil.copy(run / "leaderboard.csv", path)
    assert rerun(path) == 2
    assert f"{path}: its suite is missing: {tmp_path / 'small.suite.yaml'}" in capsys.readouterr().err
    shutil.copy(run / "suite.yaml", tmp_path / "small.suite.yaml")
    assert rerun(path) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "6 rows agree: equal to the last digit"


def test_a_suite_that_is_missing_or_broken_is_told_by_its_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = beside(run, tmp_path)
    suite = tmp_path / "small.suite.yaml"
    suite.write_text(suite.read_text().replace("models:", "modles:"))
    assert rerun(path) == 2
    told = capsys.readouterr().err
    assert f"{suite}:" in told
    assert "modles" in told
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run / "leaderboard.csv", folder)
    assert rerun(folder) == 2
    assert f"its suite is missing: {folder / 'suite.yaml'}" in capsys.readouterr().err


def test_a_label_that_was_edited_in_a_run_folder_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    capsys.readouterr()
    edited(folder / "leaderboard.csv", lambda row: row.update({"suite": "mine"}))
    for command in ("rank", "report"):
        assert invoke([command, str(folder)]) == 2
        assert f"{folder / 'leaderboard.csv'}: edited: not as its run wrote it" in capsys.readouterr().err


def test_a_figure_that_is_not_reproduced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = beside(run, tmp_path)
    edited(
        path, lambda row: row.update({"l2_mean_success": "9.5"}) if row["perturbation"] == "noise" else None
    )
    assert rerun(path) == 1
    output = capsys.readouterr()
    assert output.err.startswith(
        "differs: blobs / net / none / noise, seed 0: l2_mean_success was 9.5 and is "
    )
    assert len(output.err.splitlines()) == 1
    assert output.out.splitlines()[-1] == "1 of 6 rows do not agree (equal to the last digit expected)"


def test_rows_of_another_device_have_to_agree_in_their_intervals(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = beside(run, tmp_path)
    other = {"device": "cuda", "weights": "ff00", "gradient_norm_median": "7", "linf_mean_success": "0.7"}
    edited(path, lambda row: row.update(other))
    assert rerun(path) == 0
    told = capsys.readouterr().out.splitlines()
    assert "device was cuda and is cpu (6 rows)" in told
    assert told[-1] == "6 rows agree: 95 % intervals overlap: other device"
    # Of 12 samples no figure has an interval that overlaps both that of none and that of all.
    (noise,) = [row for row in read_board(run).rows if row["perturbation"] == "noise"]
    ends = [text(end) for end in wilson(0 if noise["perturbed"] >= 0.5 else 12, 12)]
    names = ("perturbed", "perturbed_lo", "perturbed_hi")
    edited(path, lambda row: row.update(zip(names, ends)) if row["perturbation"] == "noise" else None)
    assert rerun(path) == 1
    output = capsys.readouterr()
    first, second = (
        f"{one[0]} [{one[1]}, {one[2]}]" for one in (ends, [text(noise[name]) for name in names])
    )
    assert output.err == (
        f"differs: blobs / net / none / noise, seed 0: perturbed was {first} and is {second}\n"
    )
    last = "1 of 6 rows do not agree (95 % intervals overlap: other device expected)"
    assert output.out.splitlines()[-1] == last


# --- the comparison -----------------------------------------------------------------------------------------------

N = 100


def board(tmp_path: Path, rows: list[dict[str, Any]], name: str = "a.csv") -> Board:
    return read_board(write_csv(tmp_path / name, rows))


def test_what_may_explain_a_difference_is_told(tmp_path: Path) -> None:
    before = board(tmp_path, [cell(classified(np.ones(N), right(N, 50)))])
    changed = {"torch_version": "3", "cell_id": "new", "n_success": 51}
    after = replace(before, rows=[dict(before.rows[0]) | changed])
    found = repeated(before.rows, after)
    assert found.differences == ("sky / net / none / pgd, adaptive, seed 0: n_success was 50 and is 51",)
    assert found.notes[0] == "torch_version was 2 and is 3"
    assert "some code that decides the figures has changed" in found.notes[1]
    assert (found.rows, found.agreeing, found.exact) == (1, 0, True)


def test_a_suite_that_is_not_that_of_the_rows_is_told_first(tmp_path: Path) -> None:
    before = board(tmp_path, [cell(classified(np.ones(N), right(N, 50)))])
    (row,) = before.rows
    changed = {"torch_version": "3", "cell_id": "new", "n_success": 51, "model_params": '{"width":16}'}
    found = repeated(before.rows, replace(before, rows=[dict(row) | changed]))
    name = "sky / net / none / pgd, adaptive, seed 0"
    assert found.notes == (
        f"the suite is not that of these rows: {name}: model_params.width was 8 and is 16",
        "torch_version was 2 and is 3",
    )
    gone = repeated(before.rows, replace(before, rows=[dict(row) | {"seed": 1}]))
    assert gone.notes == (f"the suite is not that of these rows: {name}: it gives no such row",)


def test_on_another_device_intervals_have_to_overlap(tmp_path: Path) -> None:
    before = board(tmp_path, [cell(classified(np.ones(N), right(N, 50)))])
    for count, agreeing in ((55, 1), (90, 0)):
        new = cell(classified(np.ones(N), right(N, count)))
        after = board(tmp_path, [new | {"device": "cuda", "weights": "cc22"}], "b.csv")
        found = repeated(before.rows, after)
        assert (found.agreeing, found.exact) == (agreeing, False)
        assert found.notes == ("device was cpu and is cuda",)
    assert found.differences[0].startswith(
        "sky / net / none / pgd, adaptive, seed 0: perturbed was 0.5 [0.403832, 0.596168] and is 0.9 ["
    )


@pytest.mark.parametrize(
    ("ends", "agrees"),
    [((0.5, 0.7), True), ((0.6, 0.9), True), ((0.601, 0.9), False), ((0.1, 0.4), True), ((0.1, 0.399), False),
     ((0.0, 1.0), True), ((None, None), False)],
)  # fmt: skip
def test_intervals_overlap_if_they_share_a_point(tmp_path: Path, ends: tuple[Any, Any], agrees: bool) -> None:
    (row,) = board(tmp_path, [cell(classified(np.ones(N), right(N, 50)))]).rows
    old = dict(row) | {"perturbed_lo": 0.4, "perturbed_hi": 0.6}
    new = old | {"device": "cuda"} | dict(zip(("perturbed_lo", "perturbed_hi"), ends))
    again = Board([new], (), tmp_path / "b.csv")
    found = repeated([old], again)
    assert (found.agreeing, found.exact) == (int(agrees), False)
    assert [one.split(": ")[1].split(" was ")[0] for one in found.differences] == ["perturbed"] * (not agrees)


def test_what_does_not_depend_on_the_network_is_equal_on_every_device(tmp_path: Path) -> None:
    (row,) = board(tmp_path, [cell(classified(np.ones(N), right(N, 50)))]).rows
    new = dict(row) | {
        "device": "cuda",
        "n": 99,
        "forward_passes_mean": 7.0,
        "l2_mean_success": 3.0,
        "weights": "bb",
    }
    found = repeated([row], Board([new], (), tmp_path / "b.csv"))
    assert found.differences == ("sky / net / none / pgd, adaptive, seed 0: n was 100 and is 99",)


def test_one_row_of_another_device_makes_no_other_row_less_exact(tmp_path: Path) -> None:
    rows = board(tmp_path, [cell(classified(np.ones(N), right(N, 50)), model=name) for name in "ab"]).rows
    news = [dict(row) | {"n_success": 51} for row in rows]
    news[0]["device"] = "cuda"
    found = repeated(rows, Board(news, (), tmp_path / "b.csv"))
    assert found.differences == ("sky / b / none / pgd, adaptive, seed 0: n_success was 50 and is 51",)
    assert (found.agreeing, found.exact) == (1, False)


def test_regressors_on_another_device(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z, noise = rng.uniform(0.1, 1, N), rng.normal(0, 0.02, N)
    task = Regression(("z",), tolerance=0.15, relative=True)
    before, near, far = (
        board(
            tmp_path,
            [cell(estimated(z, z + noise, z + scale * noise), task) | {"device": device}],
            f"{scale}.csv",
        )
        for scale, device in ((1.0, "cpu"), (1.05, "cuda"), (3.0, "cuda"))
    )
    assert repeated(before.rows, near).agreeing == 1
    assert any("sigma_mad_perturbed was" in one for one in repeated(before.rows, far).differences)


def test_a_row_that_is_gone_or_has_another_status(tmp_path: Path) -> None:
    rows = [cell(classified(np.ones(N), right(N, 50))), cell(None, model="other")]
    before = board(tmp_path, rows)
    gone = repeated(before.rows, replace(before, rows=before.rows[:1]))
    assert gone.differences == ("sky / other / none / pgd, adaptive, seed 0: not in the new run",)
    failed = [before.rows[0], dict(before.rows[1]) | {"status": "failed"}]
    assert repeated(before.rows, replace(before, rows=failed)).differences == (
        "sky / other / none / pgd, adaptive, seed 0: status was skipped and is failed",
    )
