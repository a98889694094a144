"""``advbench run``, what it leaves behind, and the commands that look at that."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import toys

from advbench.cli.main import invoke
from advbench.errors import UserError
from advbench.report import page

SUITE = """\
version: 1
name: small
datasets: [{use: toys/blobs, name: blobs, params: {n: 80}, limit: 12}]
models: [{use: toys/net, params: {recipe: {epochs: 1}}}]
defenses: [none, toys/jitter]
perturbations: [none, toys/noise, {use: walker/walk, params: {steps: 3}}]
knowledge: [oblivious, adaptive]
"""

WALKER = '''
from advbench.api import Attack, Budget, Tags, hookimpl, param


class Walk(Attack):
    """Some steps along the gradient."""

    tags = Tags(norms=("linf",), needs_gradient=True, strength="eps", unit="counts")
    eps: Budget = param(1.0, "radius", unit="counts")
    steps: int = param(2, "steps", ge=1)

    def passes(self):
        return 2 * self.steps

    def perturb(self, x, y, target, rng):
        point = x
        for _ in range(self.steps):
            step = self.eps.like(x) / self.steps * target.input_gradient(point, y).sign()
            point = point + step
        return point


@hookimpl
def register_perturbations(register):
    register("walk", Walk)
'''


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walker")
    (folder / "walker.py").write_text(WALKER)
    return folder


class Terminal:
    """Runs commands on a suite in a folder of its own."""

    def __init__(self, folder: Path, walker: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.out, self.cache = folder, folder / "out", folder / "cache"
        self._walker, self._capsys = walker, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        code = invoke(arguments)
        return code, *self._capsys.readouterr()

    def on_suite(self, command: str, *arguments: str, text: str = SUITE) -> tuple[int, str, str]:
        suite = self.folder / "small.yaml"
        suite.write_text(text)
        plugins = ["--plugins-dir", str(toys.FOLDER), "--plugins-dir", str(self._walker)]
        return self(
            command, str(suite), *plugins, "--out", str(self.out), "--cache", str(self.cache), *arguments
        )

    def plan(self, *arguments: str, text: str = SUITE) -> dict[str, Any]:
        code, output, _ = self.on_suite("plan", "--json", *arguments, text=text)
        assert code == 0
        return dict(json.loads(output))

    def rows(self) -> list[dict[str, str]]:
        with (self.out / "leaderboard.csv").open(newline="") as handle:
            return list(csv.DictReader(handle))


@pytest.fixture
def terminal(
    tmp_path: Path, walker: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Terminal:
    for name in [name for name in os.environ if name.startswith("ADVBENCH_")]:
        monkeypatch.delenv(name)
    return Terminal(tmp_path, walker, capsys)


def test_a_run_ends_with_a_table_counts_and_paths(terminal: Terminal) -> None:
    code, output, errors = terminal.on_suite("run")
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == "7 cells, 7 to compute"
    assert any(line.startswith("[7/7] ok      blobs / net / ") for line in lines)
    assert "seed 0" not in output
    assert "blobs / net / none" in lines
    assert "blobs / net / jitter" in lines
    for row in terminal.rows():
        figures = f"{float(row['perturbed']):.3f} [{float(row['perturbed_lo']):.3f}, {float(row['perturbed_hi']):.3f}]"
        assert figures in output
    assert "7 rows: 7 ok; 7 computed, 0 reused, in " in output
    assert f"wrote {terminal.out / 'leaderboard.csv'}" in lines
    assert lines[-1] == "beside it: report.html, suite.yaml, run.json, ledger.jsonl, cells/"

    code, output, _ = terminal.on_suite("run", "--display", "none")
    assert code == 0
    assert output.startswith("blobs / net / ")
    assert "; 0 computed, 7 reused, in " in output


def test_a_run_ends_with_its_page(terminal: Terminal) -> None:
    written = terminal.out / "report.html"
    code, output, _ = terminal.on_suite("run", "--no-report", "--display", "none")
    assert (code, written.exists()) == (0, False)
    assert "report.html" not in output
    assert terminal.on_suite("run", "--display", "none")[0] == 0
    text = written.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert all(row["cell_id"] in text for row in terminal.rows())
    written.write_text("old")
    assert terminal.on_suite("run", "--display", "none", "--only", "defense=none")[0] == 0
    assert len(written.read_text(encoding="utf-8")) > 10_000


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (RuntimeError("no ink"), "RuntimeError: no ink (test_cli_run.py:"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (UserError("out/leaderboard.csv:3: edited"), "out/leaderboard.csv:3: edited"),
    ],
)
def test_a_page_that_cannot_be_written_is_a_line(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, problem: Exception, words: str
) -> None:
    def fail(*_: Any) -> None:
        raise problem

    monkeypatch.setattr(page, "write_report", fail)
    code, output, errors = terminal.on_suite("run", "--display", "none")
    assert (code, errors) == (0, "")
    (line,) = [line for line in output.splitlines() if "warning: " in line]
    assert line.startswith(f"warning: report.html could not be written: {words}")
    assert "7 rows: 7 ok" in output
    assert len(terminal.rows()) == 7
    assert not (terminal.out / "report.html").exists()


def test_planned_passes_are_those_that_are_spent(terminal: Terminal) -> None:
    before = terminal.plan()
    assert before["unknown_data"] == ["blobs"]
    assert {row["status"] for row in before["rows"]} == {"planned"}
    passes = {
        (row["defense"], row["perturbation"], row["knowledge"]): row["passes"] for row in before["rows"]
    }
    # The first two share their inputs; an adaptive attack takes the mean over 16 draws of a random defense.
    assert passes["none", "walk", "adaptive"] == 12 * 6
    assert passes["jitter", "walk", "oblivious"] == 0
    assert passes["jitter", "walk", "adaptive"] == 12 * 6 * 16
    assert passes["jitter", "noise", "none"] == 0

    assert terminal.on_suite("run")[0] == 0
    for row in terminal.rows():
        spent = float(row["forward_passes_mean"]) + float(row["backward_passes_mean"])
        expected = passes[row["defense"], row["perturbation"], row["knowledge"]] / 12
        assert spent == (6 if row["knowledge"] == "oblivious" else expected)


def test_plan_after_a_run_knows_what_is_cached_and_trained(terminal: Terminal) -> None:
    assert terminal.on_suite("run", "--only", "defense=none")[0] == 0
    after = terminal.plan()
    status = {(row["defense"], row["status"]) for row in after["rows"]}
    assert status == {("none", "cached"), ("jitter", "planned")}
    assert after["unknown_data"] == []
    assert after["networks"] == [{"label": "net on blobs, seed 0", "status": "cached"}]
    ids = {row["cell_id"] for row in after["rows"] if row["status"] == "cached"}
    assert ids == {row["cell_id"] for row in terminal.rows()}


def test_a_dry_run_is_a_plan_and_writes_nothing(terminal: Terminal) -> None:
    code, output, _ = terminal.on_suite("run", "--dry-run")
    assert code == 0
    assert output == terminal.on_suite("plan")[1]
    assert not terminal.out.exists()


def test_failures_are_grouped_and_remembered(terminal: Terminal) -> None:
    text = SUITE.replace("[none, toys/noise,", "[none, {use: toys/rogue, params: {how: raise}},")
    code, output, _ = terminal.on_suite("run", text=text)
    assert code == 1
    assert "3 failed: perturb: IndexError: list index out of range (toys.py:" in output
    assert "blobs / net / jitter / rogue and 2 more" in output
    assert "3 worst-case rows need cells that have no result" in output
    assert "11 rows: 6 failed, 5 ok; 8 computed, 0 reused, in " in output
    planned = terminal.plan(text=text)
    failed = [row for row in planned["rows"] if row["reason"] and row["kind"] == "cell"]
    assert [row["status"] for row in failed] == ["cached"] * 3
    assert all(row["reason"].startswith("failed: perturb: IndexError") for row in failed)
    worst = [row for row in planned["rows"] if row["kind"] == "worst-case"]
    assert {(row["perturbation"], row["status"]) for row in worst} == {("worst of 2, linf 1", "skipped")}
    again = terminal.plan("--retry-failed", text=text)
    assert sum(row["status"] == "planned" for row in again["rows"]) == 6
    code, output, _ = terminal.on_suite("plan", text=text)
    assert "failed before   3   remembered; --retry-failed computes them again" in output


def test_data_that_cannot_be_read_are_told_once_and_first(terminal: Terminal) -> None:
    code, output, _ = terminal.on_suite("run", "--set", "datasets.blobs.params.broken=nan")
    assert code == 1
    told = [line for line in output.splitlines() if "'blob-0007' has NaN" in line]
    assert len(told) == 1
    assert told[0].startswith("data set blobs cannot be used: toys/blobs, split ")
    assert "7 rows: 7 failed; 0 computed, 0 reused, in " in output


def test_an_interrupted_run_says_what_is_kept(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toys.Noise, "corrupt", interrupt)
        code, output, _ = terminal.on_suite("run")
        assert code == 3
        kept = len(list((terminal.out / "cells").glob("*.npz")))
        assert 0 < kept < 7
        last = output.splitlines()[-1]
        assert last == f"interrupted: {kept} of 7 cells are kept; run the same command again to go on"
        assert not (terminal.out / "leaderboard.csv").exists()
        patch.setattr(toys.Blobs, "load", interrupt)
        code, _, errors = terminal.on_suite("run", "--set", "datasets.blobs.params.n=90")
        assert (code, errors.split(";")[0]) == (
            3,
            "interrupted while the data were looked at",
        )
    code, output, _ = terminal.on_suite("run")
    assert code == 0
    assert f"; {7 - kept} computed, {kept} reused, in " in output


def test_skipped_rows_say_why(terminal: Terminal) -> None:
    text = SUITE + "exclude: [{defense: jitter, perturbation: walk, reason: too slow}]\n"
    code, output, _ = terminal.on_suite("run", text=text)
    assert code == 0
    assert "2 skipped: too slow" in output
    assert "blobs / net / jitter / walk and 1 more" in output


def test_more_workers_than_an_engine_has_are_refused(terminal: Terminal) -> None:
    code, _, errors = terminal.on_suite("run", "--engine", "serial", "--workers", "2")
    assert code == 2
    assert "the engine core/serial has one worker" in errors


def test_a_selection_that_replaces_a_fuller_leaderboard_is_told(terminal: Terminal) -> None:
    told = "rows and has"
    assert told not in "".join(map(str, terminal.on_suite("run", "--only", "defense=none")[1:]))
    full = terminal.on_suite("run")
    assert told not in "".join(map(str, full[1:]))
    part = terminal.on_suite("run", "--only", "defense=none")
    assert told in "".join(map(str, part[1:]))
    again = terminal.on_suite("run")
    assert again[0] == full[0]


# --- the cache ----------------------------------------------------------------------------------------------------


def test_cache_is_listed_verified_and_cleaned(terminal: Terminal) -> None:
    assert terminal.on_suite("run", "--only", "defense=none")[0] == 0
    cache = ["--cache", str(terminal.cache)]
    code, output, _ = terminal("cache", "ls", *cache)
    assert code == 0
    assert "toys/net trained on data " in output
    assert output.splitlines()[-1].startswith("1 artifact, 3 cell records, ")
    code, output, _ = terminal("cache", "verify", *cache)
    assert (code, output) == (0, "1 artifact and 3 cell records checked, 0 damaged\n")

    weights = next(terminal.cache.glob("artifacts/network/*/*.safetensors"))
    weights.write_bytes(b"no weights")
    outcomes = next(terminal.cache.glob("cells/*.npz"))
    outcomes.write_bytes(b"no outcomes")
    code, output, _ = terminal("cache", "verify", *cache)
    assert code == 1
    assert f"{weights}: content differs from what was written" in output
    assert f"{outcomes.with_suffix('.json')}: the cell is computed again" in output
    assert "1 artifact and 3 cell records checked, 2 damaged\n" in output

    code, output, _ = terminal("cache", "gc", *cache)
    assert code == 0
    assert f"removed {weights.parent.relative_to(terminal.cache)} (" in output
    assert "cell record" not in output
    code, output, _ = terminal("cache", "gc", "--older-than", "0", *cache)
    assert code == 0
    assert "removed 3 cell records" in output
    assert " freed, " in output
    assert terminal("cache", "ls", *cache)[1].startswith("0 artifacts, 0 cell records")


# --- the doctor ---------------------------------------------------------------------------------------------------


def test_doctor_finds_what_is_there_and_what_is_broken(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output, _ = terminal("doctor", "--data", str(terminal.folder), "--cache", str(terminal.cache))
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert (code, lines[-1]) == (0, "all is well")
    assert f"data {terminal.folder} (0 entries)" in lines
    assert any(line.startswith("torch 2.") and "thread" in line for line in lines)
    assert any(line.startswith("core 2 components from advbench ") for line in lines)

    broken = terminal.folder / "broken"
    broken.mkdir()
    (broken / "crumbling.py").write_text("raise RuntimeError('no luck today')\n")
    monkeypatch.setenv("ADVBENCH_DATA", os.pathsep.join([str(terminal.folder), "/not/there"]))
    code, output, _ = terminal("doctor", "--plugins-dir", str(broken), "--cache", str(terminal.cache))
    assert code == 1
    assert "/not/there (missing)" in output
    assert "no luck today" in output
    assert output.splitlines()[-1] == "2 things broken, see above"
