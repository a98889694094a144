"""The reference results that are kept: readable, sound, small, and what a new run gives."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from boards import cell, classified, right, write_run
from tests.reference import make, tables
from tests.reference.tables import Line, ours, published_lines, references

from advbench.cli.main import invoke
from advbench.cli.reference import TOLD
from advbench.components.loader import Plugins
from advbench.evidence.board import read_board
from advbench.evidence.packed import SUFFIX
from advbench.evidence.repeating import repeated
from advbench.evidence.samples import COLUMN, FIGURES, compare_samples
from advbench.suite.grid import expand
from advbench.suite.reader import read_suite

HOW = {name: (how.command(name), how.left_out) for name, how in make.SUITES.items()}
SMOKE = tables.REFERENCE / "smoke.csv"

each = pytest.mark.parametrize("path", references(), ids=lambda path: path.stem)


# --- what is kept -------------------------------------------------------------------------------------------------


def test_the_quick_suite_is_among_them() -> None:
    assert SMOKE in references()


@each
def test_every_figure_of_a_row_comes_out_of_its_samples(path: Path) -> None:
    board = read_board(path)
    rows = [row for row in board.rows if row["status"] == "ok"]
    assert rows
    for row in rows:
        outcomes = board.outcomes(row)
        assert outcomes is not None, row["cell_id"]
        shown = [name for name in FIGURES if row.get(COLUMN.get(name, name)) is not None]
        for name in shown:  # an error names a row whose samples give another figure
            assert compare_samples(name, (row, row), (outcomes, outcomes), mid_p=False).test == "identical"


@each
def test_a_reference_has_its_suite_and_is_small(path: Path) -> None:
    board = read_board(path)
    assert board.suite is not None
    assert yaml.safe_load(board.suite)["name"] == path.stem
    assert path.stem in make.SUITES
    samples = sum(row["n"] for row in board.rows if row["status"] == "ok")
    assert path.with_suffix(SUFFIX).stat().st_size < 3000 * samples / 200


@each
def test_a_reference_does_not_say_where_it_was_made(path: Path) -> None:
    run = json.loads(path.with_suffix(".run.json").read_text())
    assert set(run) <= {*TOLD, "platform"}
    places = [word for word in (platform.node(), str(Path.home()), "/tmp", "../") if len(word) > 2]
    for suffix in (".csv", ".suite.yaml", ".run.json"):
        text = path.with_suffix(suffix).read_text()
        assert [word for word in places if word in text] == []


def test_a_row_computed_again_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = read_board(SMOKE)
    row = next(row for row in board.rows if (row["defense"], row["perturbation"]) == ("none", "fgsm"))
    code = invoke(
        ["rerun", str(SMOKE), "--row", row["cell_id"], "--display", "none", "--out", str(tmp_path / "again")]
    )
    (new,) = read_board(tmp_path / "again").rows
    if new["weights"] == row["weights"]:
        assert (code, capsys.readouterr().out.splitlines()[-1]) == (
            0,
            "1 row agrees: equal to the last digit",
        )
    else:  # a processor of another kind, or another torch, trains to other last digits
        other = replace(board, rows=[dict(new) | {"device": "another"}])
        assert repeated([row], other).differences == ()


# --- the tables of results/README.md ------------------------------------------------------------------------------


def test_the_tables_of_the_page_are_those_of_the_files() -> None:
    text = tables.README.read_text(encoding="utf-8")
    assert tables.page(text, HOW) == text, "python -m tests.reference.make --tables writes them"


def test_every_suite_is_made_or_says_why_not() -> None:
    assert sorted(make.SUITES) == sorted(path.stem for path in make.ROOT.glob("suites/*.yaml"))
    lacks = {name: how.lacks(Path("nowhere")) for name, how in make.SUITES.items()}
    assert (lacks["smoke"], lacks["lenet5"]) == ("", "there is no mnist/ and no models/")
    assert lacks["lsst-paper"] == "needs a GPU and 14 GB of files"


def test_a_reference_is_computed_anew_unless_a_cache_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        seen.append(command[3:])
        if command[3] == "run":
            assert not Path(command[command.index("--cache") + 1]).exists()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(make.subprocess, "run", run)
    assert make.make("smoke", tmp_path) == make.make("smoke", tmp_path) == "made results/reference/smoke.csv"
    folders = [Path(command[command.index("--out") + 1]) for command in seen[::2]]
    assert folders[0] != folders[1]
    assert [command[1] for command in seen[1::2]] == [str(folder) for folder in folders]
    assert not any(make.ROOT in folder.parents or folder.exists() for folder in folders)
    seen.clear()
    make.make("smoke", tmp_path, tmp_path / "mine")
    assert seen[0][-4:] == ["--out", "results/smoke", "--cache", str(tmp_path / "mine")]


def test_published_lines_have_a_source_a_tag_and_a_row_of_their_suite() -> None:
    plugins = Plugins.discover()
    lines = published_lines()
    for name in {line.suite for line in lines}:
        grid = expand(read_suite(make.ROOT / "suites" / f"{name}.yaml", plugins, (), None), plugins)
        known = {tuple(one.labels[label] for label in tables.LABELS) for one in grid.cells if not one.skip}
        for line in (one for one in lines if one.suite == name):
            assert tuple(getattr(line, label) for label in tables.LABELS) in known, line
    for line in lines:
        assert line.tag in ("R", "D")
        assert line.source
        assert line.differs
        assert float(line.published) >= 0
    assert len({line[:7] for line in lines}) == len(lines)


LINE = Line("smoke", "sky", "net", "none", "pgd", "adaptive", "l2_median", "1.5", "a paper", "R", "all of it")


def reference(tmp_path: Path, rows: Sequence[Any]) -> Path:
    run = write_run(tmp_path / "run", rows)
    assert invoke(["export", str(run), "--format", "reference", "--out", str(tmp_path / "smoke.csv")]) == 0
    return tmp_path


def test_ours_is_read_from_the_row_and_never_typed(tmp_path: Path) -> None:
    folder = reference(tmp_path, [cell(classified(right(40, 36), right(40, 10)))])
    assert ours(LINE, HOW, folder) == "0.1, n = 40"
    rate = LINE._replace(column="clean")
    assert ours(rate, HOW, folder) == "0.9 [0.7695, 0.9604], n = 40"
    assert "| 1.5 | 0.1, n = 40 | a paper [R] | all of it |" in tables.published([LINE], HOW, folder)
    assert ours(LINE._replace(column="eta_clean"), HOW, folder) == "none: the row has no such figure"


def test_without_a_figure_of_ours_the_reason_is_told(tmp_path: Path) -> None:
    assert ours(LINE, HOW, tmp_path) == "none: not made yet"
    assert ours(LINE._replace(suite="lsst-paper"), HOW, tmp_path) == "none: needs a GPU and 14 GB of files"
    folder = reference(tmp_path, [cell(None)])
    assert ours(LINE, HOW, folder) == "none: skipped, not today"
    with pytest.raises(LookupError, match="0 rows of"):
        ours(LINE._replace(model="other"), HOW, folder)
