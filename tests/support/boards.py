"""Leaderboards and run folders made by hand: rows with outcomes of samples, without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advbench.evidence.figures import figures, worst_of
from advbench.evidence.leaderboard import to_csv
from advbench.evidence.protocol import PROTOCOL, SCHEMA
from advbench.store.records import Record, Records
from advbench.values import Classification, Task

CLASSES = Classification(("a", "b", "c"))

IDENTITY: dict[str, Any] = {
    "schema": SCHEMA,
    "protocol": PROTOCOL,
    "suite": "made",
    "kind": "cell",
    "dataset": "sky",
    "dataset_id": "toys/sky",
    "dataset_params": "{}",
    "fingerprint": "00ff",
    "split": "test",
    "trained_on": "sky",
    "model": "net",
    "model_id": "toys/net",
    "model_params": '{"width":8}',
    "defense": "none",
    "defense_id": "none",
    "defense_params": "[]",
    "perturbation": "pgd",
    "perturbation_id": "toys/pgd",
    "perturbation_params": '{"eps":0.1,"goal":"untargeted","steps":10}',
    "norm": "linf",
    "strength": 0.1,
    "strength_unit": "input units",
    "knowledge": "adaptive",
    "targeted": False,
    "seed": 0,
    "status": "ok",
    "reason": "",
}

ORIGIN = {
    "weights": "aa00",
    "advbench_version": "1",
    "plugin_versions": '{"toys": "1"}',
    "torch_version": "2",
    "device": "cpu",
    "precision": "float32",
}


def right(n: int, count: int, seed: int = 0) -> Any:
    """Which of ``n`` samples are right, ``count`` of them, bool (n,)."""
    return np.random.default_rng(seed).permutation(n) < count


def classified(clean: Any, after: Any, **changes: Any) -> dict[str, Any]:
    """Outcomes of a classifier that is right where these are true."""
    clean, after = np.asarray(clean, bool), np.asarray(after, bool)
    n = len(clean)
    made: dict[str, Any] = {
        "id": np.array([f"s{i:04d}" for i in range(n)]),
        "target": np.zeros(n, np.int64),
        "clean_correct": clean,
        "perturbed_correct": after,
        "clean_prediction": np.where(clean, 0, 1),
        "perturbed_prediction": np.where(after, 0, 1),
        "clean_margin": np.where(clean, 1.0, -1.0),
        "perturbed_margin": np.where(after, 1.0, -1.0),
        "violation": np.zeros(n, bool),
        "forward_passes": np.ones(n, np.int64),
        "backward_passes": np.ones(n, np.int64),
        **{norm: np.full(n, 0.1) for norm in ("linf", "l2", "l1", "l0")},
    }
    return made | changes


def estimated(
    target: Any, clean: Any, after: Any, tolerance: float = 0.15, relative: bool = True
) -> dict[str, Any]:
    """Outcomes of a regressor with one output."""
    values = {name: np.asarray(value, np.float64)[:, None] for name, value in
              (("target", target), ("clean_prediction", clean), ("perturbed_prediction", after))}  # fmt: skip
    scale = 1 + values["target"] if relative else 1.0
    ok = {
        name: (np.abs(values[f"{name}_prediction"] - values["target"]) / scale <= tolerance)[:, 0]
        for name in ("clean", "perturbed")
    }
    return classified(ok["clean"], ok["perturbed"], **values)


def cell(outcomes: Mapping[str, Any] | None, task: Task = CLASSES, **changes: Any) -> dict[str, Any]:
    """One row; its outcomes, which are no column, stand under ``outcomes``. None makes a skipped one."""
    identity = IDENTITY | changes
    axes = ("dataset", "model", "defense", "perturbation", "knowledge", "seed", "kind", "strength")
    label = "-".join(str(identity[axis]) for axis in axes)
    identity = {"cell_id": label.replace("/", "_").replace(" ", "_"), **identity}
    if outcomes is None:
        return identity | {"status": "skipped", "reason": "not today", "outcomes": None}
    attack = identity["knowledge"] != "none"
    kept = {name: identity[name] for name in ORIGIN if name in identity}
    return {**identity, **figures(outcomes, task, attack), **ORIGIN, **kept, "outcomes": outcomes}


def worst(members: Sequence[Mapping[str, Any]], task: Task = CLASSES, **changes: Any) -> dict[str, Any]:
    """The worst-case row of some rows."""
    labels = [member["perturbation"] for member in members]
    merged = worst_of([member["outcomes"] for member in members])
    shared = {name: members[0][name] for name in ("dataset", "model", "defense", "knowledge", "seed")}
    named = {"perturbation": f"worst of {len(members)}", "perturbation_params": json.dumps(labels)}
    return cell(merged, task, **{**shared, **named, "kind": "worst-case", **changes})


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], extra: Sequence[str] = ()) -> Path:
    """The leaderboard alone."""
    plain = [{name: value for name, value in row.items() if name != "outcomes"} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_csv(plain, extra))
    return path


def write_run(folder: Path, rows: Sequence[Mapping[str, Any]], extra: Sequence[str] = ()) -> Path:
    """A run folder with records and outcomes."""
    write_csv(folder / "leaderboard.csv", rows, extra)
    (folder / "suite.yaml").write_text("version: 1\nname: made\n")
    (folder / "run.json").write_text('{"host": "here"}\n')
    records = Records([folder / "cells"])
    for row in rows:
        if row["outcomes"] is not None and row["kind"] != "worst-case":
            kept = {
                name: value for name, value in row.items() if name not in {*IDENTITY, "cell_id", "outcomes"}
            }
            records.put(Record(row["cell_id"], "ok", "", kept), dict(row["outcomes"]))
    return folder
