"""Runs for the tests of the report: one with everything that it shows, and one with many rows. Without a network."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boards
import numpy as np
from PIL import Image

EVIL = "<script>alert(1)</script>"
"""A name that a page must show as text."""

CAPTION = 'Drawn by hand: "quoted" & <b>bold</b> </script><script>alert(2)</script>'
STRENGTHS = (0.01, 0.02, 0.04, 0.08)
N = 40


def pgd(eps: float, **changes: Any) -> dict[str, Any]:
    """Identity of a row of PGD."""
    params = json.dumps({"eps": eps, "goal": "untargeted", "steps": 10})
    return {"perturbation": f"pgd(eps={eps})", "perturbation_params": params, "strength": eps, **changes}


def jpeg(quality: int, **changes: Any) -> dict[str, Any]:
    """Identity of a row of a corruption."""
    named = {"perturbation": f"jpeg(quality={quality})", "perturbation_id": "toys/jpeg", "norm": None}
    params = {"perturbation_params": json.dumps({"quality": quality}), "knowledge": "none"}
    return named | params | {"strength": float(quality), "strength_unit": "JPEG quality", **changes}


def smallest(**changes: Any) -> dict[str, Any]:
    """Identity of a row of an attack that looks for the smallest change."""
    named = {"perturbation": "fmn", "perturbation_id": "toys/fmn", "norm": "linf"}
    params = {"perturbation_params": json.dumps({"goal": "untargeted", "steps": 30})}
    return named | params | {"strength": None, "strength_unit": None, **changes}


CLEAN = {
    "perturbation": "none",
    "perturbation_id": "none",
    "perturbation_params": "{}",
    "norm": None,
    "strength": None,
    "strength_unit": None,
    "knowledge": "none",
}


def scored(outcomes: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same with a detector that tells half of the fooling inputs."""
    rng = np.random.default_rng(seed)
    n, fooled = len(outcomes["clean_correct"]), outcomes["clean_correct"] & ~outcomes["perturbed_correct"]
    clean = rng.random(n)
    return outcomes | {
        "clean_score": clean,
        "perturbed_score": np.where(fooled, clean + rng.integers(0, 2, n) * 0.6, clean),
        "threshold": np.full(n, 0.95),
        "network_right": outcomes["clean_correct"],
        "network_right_perturbed": outcomes["perturbed_correct"],
        "network_fooled": fooled,
    }


def everything(dataset: str = EVIL) -> list[dict[str, Any]]:
    """Rows of two models and a detector: an attack, a corruption, transfer, a worst case, and a skipped cell."""
    rows = []
    for k, (model, defense, seed) in enumerate(itertools.product(("net", "deep"), ("none", "guard"), (0, 1))):
        who = {"dataset": dataset, "trained_on": dataset, "model": model, "defense": defense, "seed": seed}
        who |= {"defense_id": "none" if defense == "none" else "toys/guard", "weights": f"aa0{k}"}
        clean = boards.right(N, 36 - seed, seed)

        def outcomes(
            count: int, seed: int = seed, clean: Any = clean, defense: str = defense
        ) -> dict[str, Any]:
            made = boards.classified(clean, clean & boards.right(N, count, seed + 7))
            return made if defense == "none" else scored(made, seed)

        rows.append(boards.cell(outcomes(N), **who, **CLEAN))
        attacks = [
            boards.cell(outcomes(30 - 8 * i - k), **who, **pgd(eps)) for i, eps in enumerate(STRENGTHS)
        ]
        attacks[-1]["flags"] = "not-converged;info-lost-by-8-bit" if k == 0 else attacks[-1]["flags"]
        rows += attacks
        alone = {
            "perturbation": "worst of 1",
            "perturbation_params": json.dumps([attacks[0]["perturbation"]]),
        }
        rows.append(boards.worst(attacks[:1], **{**who, **pgd(STRENGTHS[0]), **alone}))
        rows += [boards.cell(outcomes(quality // 3), **who, **jpeg(quality)) for quality in (90, 50)]
        other = "deep" if model == "net" else "net"
        params = json.dumps({"eps": 0.04, "transfer_from": [{"label": other, "id": f"toys/{other}"}]})
        moved = {"perturbation": f"from-{other}", "perturbation_params": params, "knowledge": "transfer"}
        rows.append(boards.cell(outcomes(25 - k), **who, **{**pgd(0.04), **moved}))
    rows.append(boards.cell(None, **{**CLEAN, "dataset": dataset, "trained_on": dataset, "model": "lost"}))
    return [row | {"cell_id": f"{number:016x}"} for number, row in enumerate(rows)]


def write_everything(folder: Path, dataset: str = EVIL) -> Path:
    """A run folder with rows, outcomes, kept inputs, histories, figures and a suite."""
    rows = everything(dataset)
    boards.write_run(folder, rows)
    (folder / "suite.yaml").write_text(f"version: 1\nname: made\ndescription: 'About {dataset} & more'\n")
    attacked = next(row for row in rows if row["perturbation"] == f"pgd(eps={STRENGTHS[-1]})")
    rng = np.random.default_rng(0)
    clean = rng.random((3, 3, 12, 12)).astype(np.float32)
    (folder / "inputs").mkdir()
    np.savez(folder / "inputs" / f"{attacked['cell_id']}.npz", id=attacked["outcomes"]["id"][:3],
             target=np.zeros(3, np.int64), clean=clean, perturbed=np.clip(clean + 0.08, 0, 1))  # fmt: skip
    (folder / "trainings").mkdir()
    history = [{"purpose": "fit", "epoch": e, "train_loss": 1 / e, "valid_loss": 1.2 / e, "valid_metric": 1 - 0.5 / e}
               for e in range(1, 9)]  # fmt: skip
    (folder / "trainings" / "aa00.json").write_text(json.dumps(history))
    (folder / "figures").mkdir()
    Image.new("RGB", (60, 40), "navy").save(folder / "figures" / "one.png")
    listing = [
        {"key": "k", "figure": "toys/figure", "pictures": [{"path": "figures/one.png", "caption": CAPTION}]}
    ]
    (folder / "figures.json").write_text(json.dumps(listing))
    return folder


def write_many(path: Path, count: int = 5000) -> Path:
    """A leaderboard of many rows, each with an outcome of its own."""
    boards.write_csv(path, list(itertools.islice(many(), count)))
    return path


def many() -> Iterator[dict[str, Any]]:
    """Rows of four data sets, ten models and five defenses, unperturbed and under 24 perturbations."""
    threats = [CLEAN, *(pgd(round(0.002 * k, 4)) for k in range(1, 9))]
    threats += [pgd(round(0.002 * k, 4), knowledge="oblivious") for k in range(1, 9)]
    threats += [jpeg(quality) for quality in range(20, 100, 10)]
    axes = itertools.product(range(4), range(10), range(5), range(1000))
    for dataset, model, defense, seed in axes:
        if seed:
            continue
        who = {"dataset": f"survey-{dataset}", "trained_on": f"survey-{dataset}", "model": f"model-{model}"}
        who |= {"defense": "none" if not defense else f"defense-{defense}", "weights": f"{model}{defense}"}
        who |= {"defense_id": "none" if not defense else f"toys/defense-{defense}"}
        for k, threat in enumerate(threats):
            clean = boards.right(100, 90 - model, model)
            after = clean & boards.right(100, 95 - 3 * k - model + 4 * defense, k)
            yield boards.cell(boards.classified(clean, after), **who, **threat)
