"""Adaptation to a survey without labels, some of whose objects are of no class, from a suite to its leaderboard."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PLUGIN = '''
import numpy as np

from advbench.api import Classification, Data, Dataset, InputSpace, Split, hookimpl, param, split_indices


class Sky(Dataset):
    """Three patterns; in the target the second band is empty. A sixth may be of no class (-1)."""

    target: bool = param(False, "the other survey")
    unknown: bool = param(False, "with objects of no class")
    twist: int = param(0, "added to the labels of training and validation, modulo 3")

    def load(self, context):
        patterns = np.random.default_rng(3).normal(size=(4, 2, 8, 8))
        generator = np.random.default_rng(int(self.target))
        kind = np.arange(420) % 3
        if self.unknown:
            kind[::6] = 3
        x = 0.9 * patterns[kind]
        if self.target:
            x[:, 1] = 2
        x = x + generator.normal(size=x.shape)
        y = np.where(kind == 3, -1, kind)
        ids = np.array([f"{self.target}{i:04d}" for i in range(420)])
        parts = split_indices(ids, {"train": 0.4, "valid": 0.15, "calibration": 0.15, "test": 0.3}, labels=y)
        for name in ("train", "valid"):
            rows = parts[name]
            y[rows] = np.where(y[rows] < 0, -1, (y[rows] + self.twist) % 3)
        space = InputSpace((2, 8, 8), (-8.0, -8.0), (8.0, 8.0), ("g", "r"))
        x = x.clip(-8, 8).astype(np.float32)
        splits = {name: Split(x[rows], y[rows], ids[rows]) for name, rows in parts.items()}
        return Data(space, Classification(("spiral", "elliptical", "merger")), splits)


@hookimpl
def register_datasets(register):
    register("sky", Sky)
'''

SUITE = """
version: 1
name: open-set
seeds: [1]
datasets:
  - {name: source, use: surveys/sky}
  - {name: target, use: surveys/sky, params: {target: true, unknown: true, twist: TWIST}, train_on: source}
models: [{use: astro/convnet, params: {recipe: {epochs: 6, batch_size: 32}}}]
defenses:
  - {name: unadapted, use: defenses/entropy}
  - - {name: universal, use: defenses/domain-adaptation, params: {method: universal, weight: 0.3}, adapt_to: target}
    - {name: entropy, use: defenses/entropy}
  - {name: mmd, use: defenses/domain-adaptation, params: {weight: 0.1}, adapt_to: target}
perturbations: [none, {use: attacks/fgsm, params: {eps: 0.2}}]
"""

OWN = """
version: 1
datasets:
  - {name: source, use: own/arrays, params: {inputs: FOLDER/source.npz:x, labels: FOLDER/source.npz:y, bounds: [-9, 9]}}
  - name: target
    use: own/arrays
    params: {inputs: FOLDER/target.npz:x, labels: FOLDER/target.npz:y, bounds: [-9, 9]}
    train_on: source
models: [{use: vision/small-cnn, params: {recipe: {epochs: 2, batch_size: 32}}}]
defenses:
  - {name: mmd, use: defenses/domain-adaptation, adapt_to: target}
  - {name: cdan, use: defenses/domain-adaptation, params: {method: cdan}, adapt_to: target}
"""

Row = dict[str, str]


def run(folder: Path, suite: str, *expected: int) -> list[Row]:
    (folder / "plugins").mkdir(exist_ok=True)
    (folder / "plugins" / "surveys.py").write_text(PLUGIN)
    (folder / "suite.yaml").write_text(suite)
    places = {"--plugins-dir": "plugins", "--out": "out", "--cache": "cache"}
    options = [part for name, place in places.items() for part in (name, str(folder / place))]
    command = [sys.executable, "-m", "advbench", "run", str(folder / "suite.yaml"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (expected or (0,)), done.stdout + done.stderr
    with (folder / "out" / "leaderboard.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def networks(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (folder / "cache").rglob("network.safetensors")}


@pytest.mark.slow
@pytest.mark.torch
def test_an_open_set_from_a_suite(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    rows = run(first, SUITE.replace("TWIST", "0"))
    assert {row["status"] for row in rows} == {"ok"}
    board = {(row["dataset"], row["defense"], row["perturbation"]): row for row in rows}
    plain, adapted, aligned = (
        board["target", name, "none"] for name in ("unadapted", "universal + entropy", "mmd")
    )
    assert plain["n"] == "126"
    assert {row["n_unknown"] for row in (plain, adapted, aligned)} == {"21"}
    assert {row["n_unknown"] for row in rows if row["dataset"] == "source"} == {""}
    closed = {name: float(row["closed_set_clean"]) for name, row in (("plain", plain), ("mmd", aligned))}
    assert closed["mmd"] > closed["plain"] + 0.1
    assert float(adapted["closed_set_clean"]) > closed["plain"] + 0.1
    assert float(adapted["unknown_auroc"]) > max(0.7, float(plain["unknown_auroc"]) + 0.1)
    assert aligned["unknown_auroc"] == ""  # nothing scores them
    # What is of no class is wrong unless it is rejected.
    assert float(aligned["clean"]) <= 105 / 126
    # An attack leaves it alone.
    for (dataset, _, perturbation), row in board.items():
        if dataset == "target" and perturbation != "none":
            assert int(row["n_eligible"]) <= 105
    # Other labels in training and validation of the target: the same networks, under the same names.
    again = run(second, SUITE.replace("TWIST", "1"))
    assert networks(first) == networks(second)
    assert len(networks(first)) == 3
    told = ("clean", "perturbed", "unknown_auroc", "closed_set_clean")
    assert [[row[name] for name in told] for row in again] == [[row[name] for name in told] for row in rows]
    histories = [json.loads(path.read_text()) for path in (first / "cache").rglob("history.json")]
    terms = [set(history[-1]) for history in histories]
    assert any("separation" in found for found in terms)
    assert any("alignment" in found and "separation" not in found for found in terms)


@pytest.mark.slow
@pytest.mark.torch
def test_labels_of_a_target_do_not_even_decide_its_splits(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = np.clip(generator.normal(size=(240, 1, 8, 8)) + y[:, None, None, None], -9, 9).astype(np.float32)
    found = []
    for name, labels in (("true", y), ("shuffled", generator.permutation(y))):
        folder = tmp_path / name
        folder.mkdir()
        np.savez(folder / "source.npz", x=x, y=y)
        np.savez(folder / "target.npz", x=x[::-1].clip(-2, 2), y=labels)
        rows = run(folder, OWN.replace("FOLDER", str(folder)))
        assert {row["status"] for row in rows} == {"ok"}
        found.append((networks(folder), {row["weights"] for row in rows}))
    assert len(found[0][0]) == 2
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.torch
def test_nothing_is_trained_on_samples_of_no_class(tmp_path: Path) -> None:
    suite = """
version: 1
datasets: [{name: odd, use: surveys/sky, params: {unknown: true}}]
models: [{use: astro/convnet, params: {recipe: {epochs: 1}}}]
"""
    (row,) = run(tmp_path, suite, 1)
    assert row["status"] == "failed"
    assert "cannot be trained: sample" in row["reason"]
    assert "of split 'train' belongs to none of the classes (label -1)" in row["reason"]
