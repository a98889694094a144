"""Broken networks and defenses are caught, each by its flag; honest ones have none."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import zoo

from advbench.evidence.flags import FLAGS

Row = dict[str, str]

HONEST = ("plain", "augmented", "robust", "straight", "perceptron")

BROKEN = {
    "shattered": {"zero-gradient", "black-box-beats-white-box", "unbounded-eps"},
    "rippled": {"black-box-beats-white-box", "unbounded-eps"},
    "staircase": {"black-box-beats-white-box"},
    "huge": {"saturated"},
    "softmax": {"probabilities"},
    "detached": {"zero-gradient"},
    "one-hot": {"probabilities", "zero-gradient"},
    "blinding": {"zero-gradient", "black-box-beats-white-box"},
    "shuffled": {"black-box-beats-white-box"},
    "nan": {"nan-gradient"},
    "dropout": {"unrepeatable", "stochastic-gradient"},
    "batch": {"unrepeatable"},
    "restless": {"unrepeatable"},
}
"""What must be found at least, in the row of the attack that the suite has."""

NETWORKS = f"""\
version: 1
name: networks
datasets: [{{use: vision/digits, limit: 64}}]
models: [{", ".join(f"zoo/{name}" for name in (*HONEST, *BROKEN))}]
perturbations:
  - {{use: attacks/pgd, params: {{eps: 0.2, steps: 20}}}}
  - {{use: attacks/square, params: {{eps: 0.2, queries: 150}}}}
"""

HONEST_DEFENSES = ("feature-squeezing", "squeezing-detector", "max-softmax", "quantile")

BROKEN_DEFENSES = {
    "one-draw": {"stochastic-gradient"},
    "wrong-way": {"oblivious-beats-adaptive", "black-box-beats-white-box", "unbounded-eps"},
    "tuned-on-attacks": {"false-positives", "fixed-threshold"},
}

DEFENSES = f"""\
version: 1
name: defenses
datasets: [{{use: vision/digits, limit: 64}}]
models: [zoo/plain]
defenses:
  - {{use: defenses/feature-squeezing, params: {{bit_depth: 4, median: 2}}}}
  - {{use: defenses/squeezing-detector, params: {{bit_depth: 2, median: 2, non_local_means: null}}}}
  - defenses/max-softmax
  - zoo/quantile
{"".join(f"  - zoo/{name}{chr(10)}" for name in BROKEN_DEFENSES)}\
perturbations:
  - {{use: attacks/pgd, params: {{eps: 0.2, steps: 20}}}}
  - {{use: attacks/square, params: {{eps: 0.2, queries: 150}}}}
knowledge: [oblivious, adaptive]
"""

ATTACKS = """\
version: 1
name: attacks
datasets: [{use: vision/digits, limit: 64}]
models: [zoo/plain]
defenses: [none, {use: defenses/feature-squeezing, params: {bit_depth: 4, median: 2}}]
perturbations:
  - {use: zoo/crawl, params: {eps: 0.2, steps: 10}}
  - {use: attacks/square, params: {eps: 0.2, queries: 150}}
knowledge: [oblivious]
"""


Run = Callable[[str, str], list[Row]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a suite with ``--audit``; gives the rows of its leaderboard."""
    folder = tmp_path_factory.mktemp("zoo")

    def run(name: str, text: str) -> list[Row]:
        (folder / f"{name}.yaml").write_text(text)
        places = {"--plugins-dir": zoo.FOLDER, "--out": folder / name, "--cache": folder / "cache"}
        options = [str(part) for pair in places.items() for part in pair]
        command = [sys.executable, "-m", "advbench", "run", str(folder / f"{name}.yaml"), "--audit", *options]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=900, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        with (folder / name / "leaderboard.csv").open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        for flag in {flag for row in rows for flag in flags(row)}:
            assert f": {FLAGS[flag]}" in done.stdout
        return rows

    return run


@pytest.fixture(scope="module")
def networks(run: Run) -> list[Row]:
    return run("networks", NETWORKS)


@pytest.fixture(scope="module")
def defenses(run: Run) -> list[Row]:
    return run("defenses", DEFENSES)


def flags(row: Row) -> set[str]:
    return set(row["flags"].split(";")) - {""}


def red(row: Row) -> set[str]:
    return {flag for flag in flags(row) if not flag.startswith("info-")}


def reference(rows: list[Row], **axes: str) -> Row:
    """The row of the attack that the suite has, on the defended network."""
    wanted = {**axes, "kind": "cell", "perturbation": "pgd", "knowledge": "adaptive"}
    (row,) = (row for row in rows if all(row[axis] == value for axis, value in wanted.items()))
    return row


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_network_has_no_flag(networks: list[Row], name: str) -> None:
    rows = [row for row in networks if row["model"] == name]
    assert {row["kind"] for row in rows} == {"cell", "audit", "worst-case"}
    assert len(rows) == 2 + 4 + 1
    assert {row["perturbation"]: red(row) for row in rows if red(row)} == {}
    assert (
        float(reference(networks, model=name)["attack_success_rate"]) > 0.4
    )  # there is something to compare


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_network_is_caught(networks: list[Row], name: str) -> None:
    assert red(reference(networks, model=name)) >= BROKEN[name]
    (worst,) = (row for row in networks if row["model"] == name and row["kind"] == "worst-case")
    assert red(worst) >= BROKEN[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST_DEFENSES)
def test_an_honest_defense_has_no_flag(defenses: list[Row], name: str) -> None:
    rows = [row for row in defenses if row["defense"] == name]
    assert {row["perturbation"]: red(row) for row in rows if red(row)} == {}
    assert float(reference(defenses, defense=name)["attack_success_rate"]) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN_DEFENSES)
def test_a_broken_defense_is_caught(defenses: list[Row], name: str) -> None:
    assert red(reference(defenses, defense=name)) >= BROKEN_DEFENSES[name]


@pytest.mark.slow
def test_a_weak_attack_on_an_honest_network_is_caught(run: Run) -> None:
    rows = run("attacks", ATTACKS)
    crawls = {row["defense"]: row for row in rows if row["perturbation"] == "crawl"}
    assert red(crawls["none"]) == {"not-converged", "one-step-beats-iterative", "black-box-beats-white-box"}
    assert red(crawls["feature-squeezing"]) == {"oblivious-only"}
