"""Attacks on a regressor with an extra input, from a suite: all of them run, and those with an aim reach it."""

from __future__ import annotations

import csv
import math
import subprocess
import sys

import pytest

Row = dict[str, str]

SUITE = """
version: 1
datasets: [{use: astro/photoz-mock, params: {n: 160, exposures: 20, population: drawn, eta_threshold: 0.25}, limit: 24}]
models:
  - {name: one, use: astro/photoz-cnn, params: {width: 0.05, ebv: true, recipe: {epochs: 4, lr: 0.005, batch_size: 16}}}
  - name: other
    use: astro/photoz-inception
    params: {width: 0.03, head: bins, bins: 20, z_range: [0, 1], recipe: {epochs: 1}}
defenses:
  - none
  - name: robust
    use: defenses/adversarial-training
    params: {attack: {use: attacks/fgsm, params: {eps: 0.02}}, fraction: 0.5}
perturbations:
  - none
  - {name: fgsm, use: attacks/fgsm, params: {eps: 0.01}}
  - {name: pgd, use: attacks/pgd, params: {eps: 0.01, steps: 5}}
  - {name: signed, use: attacks/fgsm, params: {eps: 0.01}, sweep: {goal: [up, down]}}
  - {name: steps, use: attacks/pgd, params: {eps: 0.01, steps: 3}, sweep: {goal: [up, down]}}
  - {name: l2, use: attacks/ddn, params: {steps: 12}}
  - {name: linf, use: attacks/fmn, params: {norm: linf, steps: 12}}
  - {name: universal, use: attacks/universal, params: {eps: 0.05, steps: 4, images: 8}}
  - {name: signs, use: attacks/random-noise, params: {distribution: corners, draws: 1, eps: 0.01}}
  - {name: from-a-twin, use: attacks/fgsm, params: {eps: 0.01}, transfer_from: [{use: one, seed: 1}]}
  - {name: from-other, use: attacks/fgsm, params: {eps: 0.01}, transfer_from: [other]}
exclude: [{model: other, defense: robust}]
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("photoz")
    (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
    command = [sys.executable, "-m", "advbench", "run", "suite.yaml", "--out", "out", "--cache", "cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "out" / "leaderboard.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def row(board: list[Row], perturbation: str, defense: str = "none") -> Row:
    found = [
        row
        for row in board
        if (row["model"], row["defense"], row["perturbation"]) == ("one", defense, perturbation)
    ]
    assert len(found) == 1
    return found[0]


def number(found: Row, column: str) -> float:
    return float(found[column])


@pytest.mark.slow
@pytest.mark.torch
def test_every_attack_runs_and_keeps_its_budget(board: list[Row]) -> None:
    states = {
        (r["perturbation"], r["status"], r["reason"]) for r in board if r["status"] not in ("ok", "skipped")
    }
    assert states == set()
    done = [r for r in board if r["status"] == "ok"]
    assert {r["model"] for r in done} == {"one", "other"}
    assert all(int(r["violations"]) == 0 for r in done)
    assert {r["metric"] for r in done} == {"sigma_mad"}
    assert {float(r["eta_threshold"]) for r in done} == {0.25}


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("defense", ["none", "robust"])
def test_signed_attacks_move_the_bias_where_they_shall(board: list[Row], defense: str) -> None:
    clean = number(row(board, "none", defense=defense), "bias_clean")
    up, down = (
        number(row(board, f"signed(goal={way})", defense), "bias_perturbed") for way in ("up", "down")
    )
    assert down < clean < up


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("way", ["up", "down"])
def test_the_worst_of_signed_attacks_is_told_by_its_sign(board: list[Row], way: str) -> None:
    sign = 1 if way == "up" else -1
    worst, *members = (
        sign * number(row(board, f"{name}({inner})"), "bias_perturbed")
        for name, inner in (("worst of 2 ", way), ("signed", f"goal={way}"), ("steps", f"goal={way}"))
    )
    assert worst >= max(members) - 1e-6


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("defense", ["none", "robust"])
def test_more_knowledge_and_more_steps_are_no_weaker(board: list[Row], defense: str) -> None:
    fgsm, pgd, signs = (
        number(row(board, name, defense=defense), "eta_perturbed") for name in ("fgsm", "pgd", "signs")
    )
    assert signs <= fgsm <= pgd + 1e-9


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_smallest_change_that_makes_an_outlier(board: list[Row], norm: str) -> None:
    found = row(board, norm)
    assert number(found, "n_success") == number(found, "n_eligible") > 0
    assert 0 < number(found, f"{norm}_median") < math.inf
