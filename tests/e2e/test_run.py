"""Whole runs: the same bytes on every engine, after kills, and twice; failures stay where they happen."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import toys

SUITE = """\
version: 1
name: tiny
datasets:
  - {use: toys/blobs, name: source, params: {n: 120}, limit: 24}
  - {use: toys/blobs, name: shifted, params: {n: 120, shift: 2.0}, limit: 24, train_on: source}
models:
  - {use: toys/net, params: {recipe: {epochs: 2}}}
defenses: [none, toys/round, toys/noisy]
perturbations:
  - none
  - {use: toys/step, sweep: {eps: [1/2, 3]}}
  - {use: toys/wander, params: {eps: 3}}
  - toys/noise
knowledge: [oblivious, adaptive]
"""
CELLS = 2 * (5 + 2 * 8)  # two data sets; undefended: 5; defended: none, noise and 3 attacks x 2
WORST = 2 * (1 + 2 * 2)  # step(eps=3) and wander(eps=3) share a threat model


@pytest.fixture
def plugins_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    shutil.copy(toys.__file__, folder / "toys.py")
    return folder


def advbench(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "advbench", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=environment()
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


def options(
    tmp_path: Path, plugins_dir: Path, text: str = SUITE, store: str = "store", out: str = "out"
) -> list[object]:
    suite = tmp_path / "tiny.yaml"
    suite.write_text(text)
    return ["run", suite, "--plugins-dir", plugins_dir, "--cache", tmp_path / store, "--out", tmp_path / out]


def ledger(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]


def computed(folder: Path) -> list[object]:
    return [
        event["cell"] for event in ledger(folder) if event["event"] == "cell_finished" and event["computed"]
    ]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_one_row_for_every_cell_and_a_second_run_computes_nothing(tmp_path: Path, plugins_dir: Path) -> None:
    arguments = options(tmp_path, plugins_dir)
    first = advbench(*arguments)
    assert first.returncode == 0, first.stderr
    board = (tmp_path / "out" / "leaderboard.csv").read_bytes()
    table = rows(tmp_path / "out")
    assert Counter(row["kind"] for row in table) == {"cell": CELLS, "worst-case": WORST}
    assert {row["status"] for row in table} == {"ok"}
    assert len({row["cell_id"] for row in table}) == len(table)
    for row in table:
        assert float(row["perturbed_lo"]) <= float(row["perturbed"]) <= float(row["perturbed_hi"])
        assert int(row["n"]) == 24

    again = advbench(*arguments)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "leaderboard.csv").read_bytes() == board
    assert len(computed(tmp_path / "out")) == CELLS
    trained = [
        event
        for event in ledger(tmp_path / "out")
        if event["event"] == "network" and event["how"] == "trained"
    ]
    assert len(trained) == 2  # undefended, and with noisy training

    elsewhere = advbench(*options(tmp_path, plugins_dir, out="elsewhere"))
    assert elsewhere.returncode == 0
    assert (tmp_path / "elsewhere" / "leaderboard.csv").read_bytes() == board
    assert computed(tmp_path / "elsewhere") == []
    assert len(list((tmp_path / "elsewhere" / "cells").glob("*.npz"))) == CELLS


def test_worst_case_rows_are_minima_per_sample(tmp_path: Path, plugins_dir: Path) -> None:
    assert advbench(*options(tmp_path, plugins_dir)).returncode == 0
    table = rows(tmp_path / "out")
    axes = ("dataset", "defense", "knowledge", "norm", "strength")
    for worst in (row for row in table if row["kind"] == "worst-case"):
        members = [
            row
            for row in table
            if row["kind"] == "cell" and row["norm"] and all(row[a] == worst[a] for a in axes)
        ]
        assert len(members) == 2
        assert float(worst["perturbed"]) <= min(float(row["perturbed"]) for row in members)
        assert int(worst["n_success"]) >= max(int(row["n_success"]) for row in members)


def test_engines_write_the_same_bytes(tmp_path: Path, plugins_dir: Path) -> None:
    for store, extra in (("a", ["--engine", "serial"]), ("b", ["--engine", "process", "--workers", 2])):
        done = advbench(*options(tmp_path, plugins_dir, store=f"store-{store}", out=store), *extra)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "leaderboard.csv").read_bytes() == (
        tmp_path / "b" / "leaderboard.csv"
    ).read_bytes()


@pytest.mark.slow
def test_kill_and_rerun_gives_the_bytes_of_an_undisturbed_run(tmp_path: Path, plugins_dir: Path) -> None:
    started = time.monotonic()
    assert advbench(*options(tmp_path, plugins_dir, store="calm", out="calm")).returncode == 0
    duration = time.monotonic() - started
    dice = random.Random(5)
    command = [sys.executable, "-m", "advbench", *map(str, options(tmp_path, plugins_dir))]
    for _ in range(3):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
        )
        time.sleep(dice.uniform(0.3, 0.9) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = advbench(*options(tmp_path, plugins_dir))
    assert last.returncode == 0, last.stderr
    assert (tmp_path / "out" / "leaderboard.csv").read_bytes() == (
        tmp_path / "calm" / "leaderboard.csv"
    ).read_bytes()
    assert max(Counter(computed(tmp_path / "out")).values()) == 1


def rogue(how: str) -> str:
    lines = SUITE.replace(
        "  - toys/noise\n", f"  - toys/noise\n  - {{use: toys/rogue, params: {{how: {how}}}}}\n"
    )
    return lines.replace("knowledge: [oblivious, adaptive]\n", "").replace(", toys/noisy]", "]")


@pytest.mark.parametrize(("how", "words"), [("raise", "IndexError"), ("exit", "SystemExit: 3")])
def test_an_exception_is_a_failed_row_and_the_rest_goes_on(
    tmp_path: Path, plugins_dir: Path, how: str, words: str
) -> None:
    arguments = options(tmp_path, plugins_dir, rogue(how))
    done = advbench(*arguments)
    assert done.returncode == 1
    table = rows(tmp_path / "out")
    assert Counter(row["status"] for row in table if row["kind"] == "cell") == {"ok": 20, "failed": 4}
    reasons = {row["reason"] for row in table if row["status"] == "failed"}
    assert all(words in reason and "toys.py:" in reason for reason in reasons)
    before = len(computed(tmp_path / "out"))
    assert advbench(*arguments).returncode == 1
    assert len(computed(tmp_path / "out")) == before
    assert advbench(*arguments, "--retry-failed").returncode == 1
    assert len(computed(tmp_path / "out")) == before + 4


def test_a_dead_process_costs_its_cell_alone(tmp_path: Path, plugins_dir: Path) -> None:
    done = advbench(*options(tmp_path, plugins_dir, rogue("kill")), "--engine", "process")
    assert done.returncode == 1, done.stderr
    table = rows(tmp_path / "out")
    assert Counter(row["status"] for row in table if row["kind"] == "cell") == {"ok": 20, "crashed": 4}
    assert {row["reason"] for row in table if row["status"] == "crashed"} == {
        "the worker process died (signal SIGKILL)"
    }


@pytest.mark.parametrize(
    ("broken", "words"),
    [("nan", "'blob-0007' has NaN"), ("label", "label 99 of sample"), ("crash", "disk is on fire")],
)
def test_broken_data_fail_their_cells_and_no_other(
    tmp_path: Path, plugins_dir: Path, broken: str, words: str
) -> None:
    extra = f"  - {{use: toys/blobs, name: bad, params: {{n: 120, broken: {broken}}}}}\nmodels:"
    done = advbench(
        *options(tmp_path, plugins_dir, rogue("raise").replace("models:", extra)),
        "--only",
        "perturbation=none",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    table = rows(tmp_path / "out")
    assert {row["status"] for row in table if row["dataset"] == "bad"} == {"failed"}
    assert all(words in row["reason"] for row in table if row["dataset"] == "bad")
    assert {row["status"] for row in table if row["dataset"] != "bad"} == {"ok"}


def test_a_network_with_the_wrong_outputs_fails_with_both_numbers(tmp_path: Path, plugins_dir: Path) -> None:
    text = SUITE.replace("params: {recipe", "params: {outputs: 5, recipe")
    done = advbench(*options(tmp_path, plugins_dir, text), "--only", "perturbation=none,defense=none")
    assert done.returncode == 1
    assert all("5)" in row["reason"] and "3 classes" in row["reason"] for row in rows(tmp_path / "out"))


def test_kept_inputs_can_be_judged_again(tmp_path: Path, plugins_dir: Path) -> None:
    import numpy as np

    arguments = options(tmp_path, plugins_dir)
    chosen = ["--only", "dataset=source,defense=none,perturbation=step*"]
    assert advbench(*arguments, *chosen).returncode == 0
    assert advbench(*arguments, *chosen, "--keep-inputs", 5).returncode == 0
    for row in rows(tmp_path / "out"):
        with np.load(tmp_path / "out" / "inputs" / f"{row['cell_id']}.npz") as kept:
            assert kept["perturbed"].shape == (5, 5, 6, 6)
            assert (len(kept["channel"]), len(kept["class"])) == (5, 3)
            size = np.abs(kept["perturbed"].astype(float) - kept["clean"].astype(float)).max()
            assert 0 < size <= float(row["strength"]) + 4e-6
