"""What a page shows beyond the table, from the outcomes of samples and the histories of trainings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.board import Outcomes
from advbench.report.rows import Source
from advbench.store.records import HISTORIES

MOST_CURVES = 300
"""Detector rows whose outcomes are read, those with the lowest AUROC first."""

MOST_POINTS = 80
MOST_TRAININGS = 60
MOST_EPOCHS = 200
BIGGEST = 5_000_000
"""Bytes of a history that is still read."""


def rocs(sources: Sequence[Source]) -> dict[str, Any]:
    """Curves of detectors, ``[{row, fpr, tpr, n}]``, and how many rows have a detector at all."""
    found, number = [], -1
    for source in sources:
        for row in source.board.rows:
            number += 1
            if row.get("detector_auroc") is not None:
                found.append((float(row["detector_auroc"]), number, source, row))
    found.sort(key=lambda one: one[:2])
    curves = []
    for _, number, source, row in found[:MOST_CURVES]:
        outcomes = source.board.outcomes(row)
        curve = None if outcomes is None else _roc_of(outcomes)
        if curve is not None:
            curves.append({"row": number, **curve})
    return {"curves": curves, "rows": len(found)}


def _roc_of(outcomes: Outcomes) -> dict[str, Any] | None:
    if not {"clean_score", "perturbed_score", "network_fooled"} <= set(outcomes):
        return None
    known = outcomes.get("known", np.ones(len(outcomes["clean_score"]), bool))
    clean = outcomes["clean_score"][known]
    fooled = outcomes["perturbed_score"][known & outcomes["network_fooled"]]
    if not len(clean) or not len(fooled):
        return None
    fpr, tpr = roc(clean, fooled)
    return {"fpr": _rounded(fpr), "tpr": _rounded(tpr), "n": [len(clean), len(fooled)]}


def roc(
    negative: NDArray[Any], positive: NDArray[Any], most: int = MOST_POINTS
) -> tuple[NDArray[Any], NDArray[Any]]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1); a score above it is a positive.

    Parameters
    ----------
    negative, positive
        Scores (n,) and (m,), n and m at least 1.
    most
        Corners of the curve that are kept at most, evenly along it. What lies between two is drawn as a straight
        line, which is exact for ties.
    """
    thresholds = np.unique(np.concatenate([negative, positive]))[::-1]
    rates = [
        1 - np.searchsorted(np.sort(scores), thresholds, side="left") / len(scores)
        for scores in (negative, positive)
    ]
    fpr, tpr = (np.concatenate([[0.0], rate]) for rate in rates)
    # A corner is where the direction changes; points along a straight piece say nothing.
    step = np.stack([np.diff(fpr), np.diff(tpr)])
    turns = step[0, :-1] * step[1, 1:] != step[0, 1:] * step[1, :-1]
    kept = np.concatenate([[0], np.flatnonzero(turns) + 1, [len(fpr) - 1]])
    if len(kept) > most:
        kept = kept[np.linspace(0, len(kept) - 1, most).round().astype(int)]
    return fpr[kept], tpr[kept]


def _rounded(values: NDArray[Any]) -> list[float]:
    return [round(float(value), 4) for value in values]


def trainings(sources: Sequence[Source]) -> dict[str, Any]:
    """Histories by the hash of the weights: names of columns, and one list of values for each; the epochs first."""
    found: dict[str, Any] = {}
    for source in sources:
        home = source.home
        if home is None:
            continue
        for weights in dict.fromkeys(str(row["weights"]) for row in source.board.rows if row.get("weights")):
            if weights in found or len(found) >= MOST_TRAININGS or not weights.isalnum():
                continue
            history = _history(home / HISTORIES / f"{weights}.json")
            if history:
                found[weights] = history
    return found


def _history(path: Path) -> dict[str, list[float | None]]:
    """Numbers of a history by their names; nothing if there is none, or it is no list of epochs."""
    try:
        if path.stat().st_size > BIGGEST:
            return {}
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return {}
    step = max(1, math.ceil(len(entries) / MOST_EPOCHS))
    kept = entries[::step]
    names = dict.fromkeys(name for entry in kept for name, value in entry.items() if _is_number(value))
    columns = {name: [_value(entry.get(name)) for entry in kept] for name in names}
    # A training in several phases counts its epochs anew in each.
    columns.pop("epoch", None)
    return (
        {"epoch": [float(index) for index in range(1, len(entries) + 1, step)], **columns} if columns else {}
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _value(value: Any) -> float | None:
    return float(f"{value:.5g}") if _is_number(value) else None
