"""The worker: reads a job file, writes records, tells events.

``python -m advbench.runtime.worker JOBFILE`` prints one JSON event per line, so any engine can start it anywhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advbench import __version__
from advbench.components.registry import last_words
from advbench.errors import AdvbenchError, CellTimeout
from advbench.evidence.figures import figures
from advbench.evidence.protocol import DTYPE
from advbench.runtime.bench import Bench
from advbench.runtime.cell import Case, Crafted
from advbench.runtime.crafting import adaptation, craft
from advbench.runtime.events import Emit
from advbench.runtime.jobs import Execution, Job
from advbench.runtime.judging import judge
from advbench.store.files import write_atomic, write_json
from advbench.store.records import HISTORIES, Outcomes, Record, Records
from advbench.suite.grid import Cell


def run_job(job: Job, emit: Emit, stop: Callable[[], bool] = lambda: False) -> None:
    """Compute every cell of a job. An exception is a failed record; the next cell goes on."""
    torch.set_num_threads(job.execution.threads)
    worker = Worker(job.execution, emit)
    try:
        for group in _sharing(job, worker).values():
            for cell_id in group:
                if stop():
                    return
                worker.run(cell_id, job.cells[cell_id])
    finally:
        worker.crafted.clear()


def _sharing(job: Job, worker: Worker) -> dict[str, list[str]]:
    """Cells in the order of the suite, but those that share their perturbed inputs together."""
    groups: dict[str, list[str]] = {}
    for cell_id, cell in job.cells.items():
        groups.setdefault(worker.bench.crafting_key(cell), []).append(cell_id)
    return groups


@dataclass
class Worker:
    """Computes cells and keeps their records."""

    execution: Execution
    emit: Emit
    bench: Bench = field(init=False)
    records: Records = field(init=False)
    crafted: dict[str, Crafted] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bench = Bench(self.execution, self.emit)
        self.records = Records([Path(self.execution.run_dir) / "cells", Path(self.execution.store) / "cells"])

    def run(self, cell_id: str, cell: Cell) -> None:
        """Compute one cell and keep its record."""
        self.emit({"event": "cell_started", "cell": cell_id, "label": cell.label})
        started = time.monotonic()
        record, outcomes = self._attempt(cell_id, cell)
        self.records.put(record, outcomes)
        self.emit(
            {"event": "cell_finished", "cell": cell_id, "label": cell.label, "computed": True}
            | {
                "status": record.status,
                "reason": record.reason,
                "seconds": round(time.monotonic() - started, 3),
            }
        )

    def _attempt(self, cell_id: str, cell: Cell) -> tuple[Record, Outcomes | None]:
        phase = ["prepare"]
        while True:
            try:
                outcomes, row = self._compute(cell_id, cell, phase)
                return Record(cell_id, "ok", "", row), outcomes
            except torch.cuda.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                if self.bench.chunk <= 1:
                    return _failure(cell_id, phase[0], error), None
                self.bench.chunk //= 2
                self.emit(
                    {
                        "event": "note",
                        "text": f"out of device memory: chunks of {self.bench.chunk} samples from now on",
                    }
                )
            except CellTimeout:
                reason = f"{phase[0]}: not done after {self.execution.cell_seconds:g} s"
                return Record(cell_id, "timeout", reason, {}), None
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the cell boundary
                return _failure(cell_id, phase[0], error), None

    def _compute(self, cell_id: str, cell: Cell, phase: list[str]) -> tuple[Outcomes, dict[str, Any]]:
        defended = self.bench.defended(cell)
        case = self.bench.case(cell, defended)
        phase[0] = "perturb"
        crafted = self._crafted(cell, case)
        phase[0] = "judge"
        outcomes = judge(case, crafted)
        row = figures(outcomes, case.judged.task, attack=case.attack is not None)
        self._keep_inputs(cell_id, case, crafted)
        weights = self.bench.weights(cell)
        self._keep_history(weights, defended.history)
        row |= {
            "weights": weights,
            "adaptation": adaptation(case),
            "advbench_version": __version__,
            "plugin_versions": self._versions(cell),
            "torch_version": torch.__version__.split("+")[0],
            "device": self.bench.device.type,
            "precision": DTYPE
            if cell.attack_precision == DTYPE
            else f"{DTYPE}; attack {cell.attack_precision}",
        }
        return outcomes, row

    def _crafted(self, cell: Cell, case: Case) -> Crafted:
        key = self.bench.crafting_key(cell)
        if key not in self.crafted:
            self.crafted.clear()  # cells come sorted by this key, so only the last one is of use
            self.crafted[key] = craft(case)
        return self.crafted[key]

    def _keep_inputs(self, cell_id: str, case: Case, crafted: Crafted) -> None:
        count = min(self.execution.keep_inputs, len(case.samples))
        if not count:
            return
        arrays = {
            "id": case.samples.ids[:count],
            "target": case.samples.y[:count].cpu().numpy(),
            "clean": case.samples.x[:count].cpu().numpy(),
            "perturbed": crafted.x[:count].cpu().numpy(),
            "channel": np.array(case.judged.space.channels),
            "class": np.array(getattr(case.judged.task, "classes", ()), dtype=np.str_),
        } | {f"extra_{name}": value[:count].cpu().numpy() for name, value in case.samples.extras.items()}
        path = Path(self.execution.run_dir) / "inputs" / f"{cell_id}.npz"
        write_atomic(path, partial(_save, arrays=arrays))

    def _keep_history(self, weights: str, history: Sequence[Mapping[str, Any]]) -> None:
        """In the run's folder and in the shared one, by the weights that the training ended with."""
        for folder in (self.execution.run_dir, self.execution.store):
            path = Path(folder) / HISTORIES / f"{weights}.json"
            if history and not path.exists():
                write_json(path, list(history))

    def _versions(self, cell: Cell) -> str:
        specs = [cell.dataset.spec, cell.model.spec, *cell.defense.specs, *cell.perturbation.specs]
        find = self.bench.environment.plugins.find
        named = {spec.id.split("/")[0]: find(spec.kind, spec.id).distribution for spec in specs}
        return json.dumps(named, sort_keys=True)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as handle:
        np.savez_compressed(handle, **arrays)


def _failure(cell_id: str, phase: str, error: BaseException) -> Record:
    words = str(error).split("\n")[0] if isinstance(error, AdvbenchError) else last_words(error)
    kind = f"{type(error).__name__}: " if isinstance(error, AdvbenchError) else ""
    return Record(cell_id, "failed", f"{phase}: {kind}{words}", {})


def main(arguments: Sequence[str]) -> int:
    """Run the job files named on the command line."""

    def emit(event: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    for name in arguments:
        run_job(Job.read(Path(name)), emit)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
