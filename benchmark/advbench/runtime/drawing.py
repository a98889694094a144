"""The figures of a run, drawn beside its leaderboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from advbench.components.base import Figure
from advbench.components.identity import Spec, canonical, digest, instantiate
from advbench.components.loader import Plugins
from advbench.components.registry import last_words
from advbench.errors import AdvbenchError
from advbench.evidence.leaderboard import Row, in_order
from advbench.runtime.events import Emit
from advbench.runtime.finished import FinishedRun
from advbench.runtime.jobs import Execution
from advbench.store.files import write_json
from advbench.store.records import Records
from advbench.suite.grid import Cell

FOLDER = "figures"
LISTING = "figures.json"
"""Beside the leaderboard: for each figure its key and its pictures, each with path and caption."""


def draw(
    figures: Sequence[Spec],
    rows: Sequence[Row],
    cells: Mapping[str, Cell],
    records: Records,
    execution: Execution,
    plugins: Plugins,
    emit: Emit,
) -> list[str]:
    """Draw what is not there yet; a figure that fails is one line of what is returned, and the others go on."""
    out = Path(execution.run_dir)
    done = [row for row in in_order(rows) if row["status"] == "ok"]
    run = FinishedRun(done, cells, records, execution, emit)
    known, listing, problems = _listing(out), [], []
    ids = [spec.id for spec in figures]
    for spec in figures:
        key = digest([spec.json(), canonical([[row["cell_id"], row["weights"]] for row in done])])
        entry = known.get(key)
        if entry is None:
            emit({"event": "note", "text": f"drawing {spec.id}"})
            try:
                entry = {
                    "key": key,
                    "figure": spec.id,
                    "pictures": _draw(spec, run, _folder(out, spec, ids), plugins),
                }
            except Exception as error:  # noqa: BLE001 - the leaderboard stands without its pictures
                words = str(error) if isinstance(error, AdvbenchError) else last_words(error)
                problems.append(f"figure {spec.id}: {words}")
                continue
        listing.append(entry)
    write_json(out / LISTING, listing)
    return problems


def _folder(out: Path, spec: Spec, ids: Sequence[str]) -> Path:
    """The figure's own folder; one that is asked for several times has several, named by its parameters."""
    name = spec.id.replace("/", "-")
    return out / FOLDER / (name if ids.count(spec.id) == 1 else f"{name}-{digest(spec.params)[:6]}")


def _draw(spec: Spec, run: FinishedRun, folder: Path, plugins: Plugins) -> list[dict[str, str]]:
    figure = instantiate(plugins, spec)
    assert isinstance(figure, Figure)
    there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    out = folder.parents[1]
    try:
        pictures = figure.draw(run, folder)
    except BaseException:
        if not there:  # what an earlier run drew stays
            shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(folder)
        _remove_empty(folder.parent)
        raise
    return [
        {"path": Path(path).relative_to(out).as_posix(), "caption": caption} for path, caption in pictures
    ]


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _listing(out: Path) -> dict[str, Any]:
    """What an earlier run drew and is still there, by its key."""
    try:
        entries = json.loads((out / LISTING).read_text(encoding="utf-8"))
        return {
            entry["key"]: entry
            for entry in entries
            if all((out / picture["path"]).is_file() for picture in entry["pictures"])
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
