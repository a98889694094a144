"""One row for each cell of several runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import cell, classified, right, worst, write_csv, write_run

from advbench.cli.main import invoke
from advbench.evidence.board import read_board
from advbench.evidence.protocol import PROTOCOL

N = 60


def one(count: int, **changes: Any) -> dict[str, Any]:
    return cell(classified(np.ones(N), right(N, count)), **changes)


def cells(path: Path) -> dict[str, Any]:
    return {row["cell_id"]: row for row in read_board(path).rows}


def test_every_cell_stands_once_with_its_outcomes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared, mine, yours = one(20), one(30, model="mine"), one(40, model="yours")
    first, second = write_run(tmp_path / "a", [shared, mine]), write_run(tmp_path / "b", [yours, shared])
    out = tmp_path / "all"
    assert invoke(["merge", str(first), str(second), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}: 3 rows of 2 runs, 1 in several\n"
    board = read_board(out)
    assert [row["model"] for row in board.rows] == ["mine", "net", "yours"]
    assert all(board.outcomes(row) is not None for row in board.rows)
    assert board.suite == read_board(first).suite
    again = tmp_path / "again"
    assert invoke(["merge", str(second), str(first), "--out", str(again)]) == 0
    assert (again / "leaderboard.csv").read_text() == (out / "leaderboard.csv").read_text()


def test_the_same_cell_with_other_figures_is_reported_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(write_run(tmp_path / name, [one(count)])) for name, count in (("a", 20), ("b", 21))]
    out = tmp_path / "all"
    assert invoke(["merge", *runs, "--out", str(out)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert (
        f"(sky / net / none / pgd, adaptive, seed 0): n_success is 40 in {runs[0]} and 39 in {runs[1]}"
        in told[0]
    )
    assert told[-1].startswith("nothing is written")
    assert not out.exists()
    assert invoke(["merge", *runs, "--out", str(out), "--keep-first"]) == 0
    (row,) = read_board(out).rows
    assert row["n_success"] == 40


def test_a_row_without_figures_gives_way_to_one_with_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = one(20)
    bad = {**cell(None), "cell_id": good["cell_id"], "status": "failed", "reason": "it broke"}
    first, second = write_run(tmp_path / "a", [bad]), write_run(tmp_path / "b", [good])
    for name, runs in (("c", (first, second)), ("d", (second, first))):
        assert invoke(["merge", *map(str, runs), "--out", str(tmp_path / name)]) == 0
        (row,) = read_board(tmp_path / name).rows
        assert (row["status"], row["n_success"]) == ("ok", 40)
    assert "1 that had no figures at first" in capsys.readouterr().out


def test_flags_of_all_and_metrics_of_either(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "a.csv", [one(20) | {"flags": "oblivious-only", "a/f1": 0.5}], ["a/f1"])
    second = write_csv(tmp_path / "b.csv", [one(20) | {"flags": "info-x;saturated", "clean_price": 0.1}])
    out = tmp_path / "all.csv"
    assert invoke(["merge", str(second), str(first), "--out", str(out)]) == 0
    (row,) = read_board(out).rows
    assert (row["flags"], row["a/f1"], row["clean_price"]) == ("info-x;oblivious-only;saturated", 0.5, 0.1)


def test_rows_of_the_same_labels_keep_their_own_outcomes(tmp_path: Path) -> None:
    runs = []
    for name, count in (("a", 20), ("b", 30)):
        params = {"defense": "squeezing", "defense_params": f'[{{"bits":{count}}}]'}
        pair = [one(k, perturbation=label, cell_id=f"{label}-{name}", **params) for label, k in
                (("fgsm", count + 5), ("pgd", count))]  # fmt: skip
        runs.append(str(write_run(tmp_path / name, [*pair, worst(pair, cell_id=f"worst-{name}", **params)])))
    assert invoke(["merge", *runs, "--out", str(tmp_path / "all")]) == 0
    board = read_board(tmp_path / "all")
    rows = {row["cell_id"]: row for row in board.rows}
    for name in "ab":
        outcomes = board.outcomes(rows[f"worst-{name}"])
        assert outcomes is not None
        assert outcomes["perturbed_correct"].mean() == pytest.approx(
            rows[f"worst-{name}"]["perturbed"], abs=1e-6
        )
    assert invoke(["compare", runs[1], str(tmp_path / "all"), "--fail-on", "regression"]) == 0


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("out", ["all", "all.csv"])
def test_outcomes_are_kept_wherever_one_side_has_them(tmp_path: Path, order: int, out: str) -> None:
    pair = [one(20), one(30, perturbation="fgsm")]
    rows = [*pair, worst(pair)]
    bare, full = write_csv(tmp_path / "bare.csv", rows), write_run(tmp_path / "full", rows)
    assert invoke(["merge", *map(str, [bare, full][::order]), "--out", str(tmp_path / out)]) == 0
    board = read_board(tmp_path / out)
    assert len(board.rows) == 3
    assert all(board.outcomes(row) is not None for row in board.rows)


def test_the_outcomes_of_other_figures_are_not_kept(tmp_path: Path) -> None:
    bare = write_csv(tmp_path / "bare.csv", [one(20)])
    other = write_run(tmp_path / "other", [one(30)])
    out = tmp_path / "all.csv"
    assert invoke(["merge", str(bare), str(other), "--out", str(out), "--keep-first"]) == 0
    board = read_board(out)
    assert (board.rows[0]["n_success"], board.outcomes(board.rows[0])) == (40, None)


@pytest.mark.parametrize("out", ["all", "all.csv"])
def test_damaged_outcomes_are_not_copied_and_those_that_are_gone_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    rows = [one(20), one(30, perturbation="fgsm")]
    run = write_run(tmp_path / "a", rows)
    file = run / "cells" / f"{rows[0]['cell_id']}.npz"
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(bytes(data))
    export = ["export", str(run), "--format", "reference", "--out", str(tmp_path / "kept.csv")]
    for command in (["merge", str(run), "--out", str(tmp_path / out)], export):
        assert invoke(command) == 2
        told = capsys.readouterr().err
        assert f"{file}: not the outcomes that" in told
        assert len(told.splitlines()) == 1
        assert not (tmp_path / out / "leaderboard.csv").exists()
    file.unlink()
    for command in (["merge", str(run), "--out", str(tmp_path / f"again-{out}")], export):
        assert invoke(command) == 0
        assert capsys.readouterr().err == f"without outcomes: {file} is gone, though a record speaks of it\n"


@pytest.mark.parametrize("name", ["there", "there.csv"])
def test_what_is_there_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = str(write_run(tmp_path / "a", [one(20)]))
    out = tmp_path / name
    if out.suffix:
        out.write_text("mine")
    else:
        write_run(out, [one(20)])
    assert invoke(["merge", run, "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_other_protocols_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / str(k), [one(20, protocol=k)])) for k in (PROTOCOL, PROTOCOL + 1)]
    assert invoke(["merge", *runs, "--out", str(tmp_path / "all")]) == 2
    assert (
        f"not comparable: protocol is {PROTOCOL} in {runs[0]}, {PROTOCOL + 1} in" in capsys.readouterr().err
    )
