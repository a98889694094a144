"""A suite with transfer, compositions, goals, masks and a universal perturbation, from the command line."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
version: 1
datasets: [{use: vision/digits, limit: 40}]
models:
  - {name: one, use: vision/small-cnn, params: {recipe: {epochs: 1}}}
  - {name: two, use: vision/small-cnn, params: {recipe: {epochs: 2}}}
perturbations:
  - {name: both, use: attacks/fgsm, params: {eps: 0.2}, transfer_from: [one, {use: one, seed: 3}]}
  - {name: from-one, use: attacks/fgsm, params: {eps: 0.2}, transfer_from: [one]}
  - {name: jpeg-first, then: [{use: corruptions/jpeg, params: {quality: 50}}, {use: attacks/fgsm, params: {eps: 0.2}}]}
  - {name: to-3, use: attacks/pgd, params: {eps: 0.2, steps: 5, goal: 3, mask: {box: [0, 0, 8, 4]}}}
  - {name: all, use: attacks/universal, params: {eps: 0.2, steps: 3}}
"""


def run(folder: Path, store: str, *options: str) -> bytes:
    (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
    command = [sys.executable, "-m", "advbench", "run", str(folder / "suite.yaml"), *options]
    done = subprocess.run(
        [*command, "--out", str(folder / store), "--cache", str(folder / f"cache-{store}")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / store / "leaderboard.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.torch
def test_transfer_and_compositions_from_a_suite(tmp_path: Path) -> None:
    board = run(tmp_path, "a")
    assert board == run(tmp_path, "b", "--engine", "process", "--workers", "2", "--batch-size", "7")
    rows = list(csv.DictReader(board.decode().splitlines()))
    status = {(row["model"], row["perturbation"]): (row["status"], row["reason"]) for row in rows}
    assert status["one", "from-one"][0] == "skipped"
    assert "is the attacked network itself" in status["one", "from-one"][1]
    assert status["two", "from-one"] == ("ok", "")
    assert {state for (model, _), (state, _) in status.items() if model == "two"} == {"ok"}
    targeted = next(row for row in rows if row["perturbation"] == "to-3" and row["model"] == "two")
    assert int(targeted["n_eligible"]) < int(targeted["n_clean_correct"])
    assert targeted["targeted"] == "true"
    assert {row["knowledge"] for row in rows} == {"transfer", "adaptive"}
