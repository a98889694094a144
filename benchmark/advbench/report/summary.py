"""What stands at the head of a page: what was run, and the worst of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import yaml

from advbench.evidence.board import Row
from advbench.evidence.curves import norm_of_curve
from advbench.report.rows import Source

SHOWN = 10
"""Networks in the table of the worst."""

HIGHER_IS_BETTER = frozenset({"accuracy"})


def badness(row: Row) -> float:
    """How bad the perturbed metric is: larger is worse."""
    value = float(row["perturbed"])
    return -value if row["metric"] in HIGHER_IS_BETTER else value


def network(row: Row) -> str:
    """Model and defense, and what it was trained on where that is another data set."""
    defense = "" if row["defense"] == "none" else f" + {row['defense']}"
    trained = row.get("trained_on")
    return f"{row['model']}{defense}" + (
        f", trained on {trained}" if trained and trained != row["dataset"] else ""
    )


def facts(source: Source) -> dict[str, Any]:
    """Of one run: its name, suite, description, numbers, seeds, and where it was computed."""
    board = source.board
    rows, run = board.rows, board.run
    cells = [row for row in rows if row["kind"] == "cell"]
    return {
        "name": source.name,
        "suite": _values(rows, "suite"),
        "description": _description(board.suite),
        "rows": len(rows),
        "status": sorted(Counter(str(row["status"]) for row in rows).items()),
        "datasets": [(name, _samples(cells, name)) for name in _values(rows, "dataset")],
        "models": _values(rows, "model"),
        "defenses": _values(rows, "defense"),
        "perturbations": len(_values(cells, "perturbation")),
        "seeds": _values(rows, "seed"),
        "suite_text": board.suite or "",
        "environment": _environment(rows)
        | {name: str(run[name]) for name in ("python", "platform", "engine", "workers", "started") if name in run}
        | ({"seconds": f"{run['seconds']:.0f}"} if isinstance(run.get("seconds"), (int, float)) else {})
        | ({"command": " ".join(map(str, run["command"]))} if isinstance(run.get("command"), list) else {}),
    }  # fmt: skip


def _values(rows: Sequence[Row], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows if row.get(name) is not None))


def _samples(rows: Sequence[Row], dataset: str) -> str:
    counts = sorted({row["n"] for row in rows if row["dataset"] == dataset and row["n"] is not None})
    return " or ".join(map(str, counts))


def _description(suite: str | None) -> str:
    try:
        value = yaml.safe_load(suite or "")
    except (yaml.YAMLError, ValueError):
        return ""
    return str(value.get("description") or "") if isinstance(value, dict) else ""


def _environment(rows: Sequence[Row]) -> dict[str, str]:
    """Versions and devices that the rows name, each once."""
    found = {
        name.removesuffix("_version"): ", ".join(map(str, _values(rows, name)))
        for name in ("advbench_version", "torch_version", "device", "precision", "protocol")
    }
    plugins: dict[str, set[str]] = {}
    for value in _values(rows, "plugin_versions"):
        try:
            for name, version in json.loads(value).items():
                plugins.setdefault(str(name), set()).add(str(version))
        except (ValueError, AttributeError):
            continue
    found["plugins"] = ", ".join(
        f"{name}: {' or '.join(sorted(versions))}" for name, versions in sorted(plugins.items())
    )
    return {name: value for name, value in found.items() if value}


def worst(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The row in which each network does worst on each data set, the worst first; ``row`` is its number on the page.

    Attacks and worst cases stand for a network where there are any, else whatever perturbs; audits never do. An attack
    without a budget, which fools any network in the end, does if no other attacked it.
    """
    best: dict[tuple[str, ...], tuple[tuple[int, float], dict[str, Any]]] = {}
    number = -1
    for source in sources:
        for row in source.board.rows:
            number += 1
            if row["status"] != "ok" or row["kind"] == "audit" or row["perturbed"] is None:
                continue
            if row["perturbation"] == "none":
                continue
            key = (source.name, str(row["dataset"]), network(row), str(row["metric"]))
            telling = 0 if row["knowledge"] == "none" else 1 if norm_of_curve(row) else 2
            rank = (telling, badness(row))
            if key not in best or rank > best[key][0]:
                entry = {"row": number, "run": source.name, "network": network(row), **row}
                best[key] = (rank, entry)
    ordered = sorted(best.values(), key=lambda one: (str(one[1]["metric"]), -one[0][1]))
    return [entry for _, entry in ordered]
