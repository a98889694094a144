"""The worker: reads a job file, writes records, tells events.

``python -m advbench.runtime.worker JOBFILE`` prints one JSON event per line, so any engine can start it anywhere.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advbench import __version__
from advbench.components.base import Attack, Component, Defense, Perturbation
from advbench.components.identity import Spec, digest
from advbench.components.loader import Plugins
from advbench.components.registry import last_words
from advbench.errors import AdvbenchError, CellTimeout, DataError
from advbench.evidence.figures import figures
from advbench.evidence.protocol import DTYPE
from advbench.runtime.cell import Case, Crafted, Limits, Samples, Step, craft, judge
from advbench.runtime.data import Card, Environment, load
from advbench.runtime.events import Emit
from advbench.runtime.identify import component, surrogate_cell, training_defenses
from advbench.runtime.jobs import Execution, Job
from advbench.runtime.network import Ensemble, Network
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.prepare import Kitchen, Prepared
from advbench.runtime.quick import quick
from advbench.runtime.splits import sample_order
from advbench.runtime.training import batch_to
from advbench.store.artifacts import Store
from advbench.store.files import write_atomic
from advbench.store.records import Outcomes, Record, Records
from advbench.suite.grid import Cell
from advbench.values import Data

CHUNK = {"cpu": 32, "cuda": 512}
"""Samples per forward pass. Fixed for each kind of device, so that a sample never depends on its companions."""

LEARNED_FROM = 500
"""Most samples that a universal perturbation is learned from."""


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
        groups.setdefault(worker.crafting_key(cell), []).append(cell_id)
    return groups


@dataclass
class Worker:
    """What the cells of one job share: data, networks, the last perturbed inputs."""

    execution: Execution
    emit: Emit
    environment: Environment = field(init=False)
    records: Records = field(init=False)
    device: torch.device = field(init=False)
    chunk: int = field(init=False)
    data: dict[tuple[Spec, Spec | None], tuple[Data, Card]] = field(default_factory=dict)
    networks: dict[tuple[Any, ...], Prepared | BaseException] = field(default_factory=dict)
    copies: dict[int, Network] = field(default_factory=dict)
    samples: dict[tuple[Any, ...], Samples] = field(default_factory=dict)
    crafted: dict[str, Crafted] = field(default_factory=dict)

    def __post_init__(self) -> None:
        execution = self.execution
        self.environment = Environment(
            Plugins.discover([Path(folder) for folder in execution.plugins_dirs]),
            Store(Path(execution.store)),
            tuple(Path(folder) for folder in execution.data_dirs),
            execution.download,
            self.emit,
        )
        self.records = Records([Path(execution.run_dir) / "cells", Path(execution.store) / "cells"])
        self.device = resolve_device(execution.device)
        self.chunk = CHUNK[self.device.type]

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
                if self.chunk <= 1:
                    return _failure(cell_id, phase[0], error), None
                self.chunk //= 2
                self.emit(
                    {
                        "event": "note",
                        "text": f"out of device memory: chunks of {self.chunk} samples from now on",
                    }
                )
            except CellTimeout:
                reason = f"{phase[0]}: not done after {self.execution.cell_seconds:g} s"
                return Record(cell_id, "timeout", reason, {}), None
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the cell boundary
                return _failure(cell_id, phase[0], error), None

    def _compute(self, cell_id: str, cell: Cell, phase: list[str]) -> tuple[Outcomes, dict[str, Any]]:
        defended = self.network(cell, training_defenses(self.environment, cell))
        case = self.case(cell, defended)
        phase[0] = "perturb"
        crafted = self._crafted(cell, case)
        phase[0] = "judge"
        outcomes = judge(case, crafted)
        row = figures(outcomes, case.judged.task, attack=case.attack is not None)
        self._keep_inputs(cell_id, case, crafted)
        row |= {
            "weights": defended.weights_hash,
            "advbench_version": __version__,
            "plugin_versions": self._versions(cell),
            "torch_version": torch.__version__.split("+")[0],
            "device": self.device.type,
            "precision": DTYPE,
        }
        return outcomes, row

    def case(self, cell: Cell, defended: Prepared) -> Case:
        """Everything a cell needs, ready to run."""
        data, card = self.dataset(cell.dataset.spec, cell.source_spec)
        steps = tuple(Step(self._perturbation(spec), spec) for spec in cell.perturbation.specs)
        defenses = [component(self.environment, one) for one in cell.defense.specs]
        for part in [*(step.perturbation for step in steps), *defenses]:
            _refuse_unfit(part, data)
        purifiers = tuple(one for one in defenses if isinstance(one, Defense) and one.tags.purifies)
        detectors = [one for one in defenses if isinstance(one, Defense) and one.tags.detects]
        if len(detectors) > 1:
            raise AdvbenchError("more than one detector in one defense; there is one threshold")
        judged = self._pipeline(defended.network, purifiers, data)
        crafting = judged
        if cell.knowledge == "transfer":
            crafting = self._surrogate(cell, data)
        elif isinstance(steps[-1].perturbation if steps else None, Attack):
            oblivious = cell.knowledge == "oblivious"
            attacked = self.network(cell, ()) if oblivious else defended
            crafting = self._pipeline(self._quick(attacked, data), () if oblivious else purifiers, data)
        calibration = self.evaluated(cell, "calibration", None) if detectors else None
        learning = self._learning(cell, data) if steps and steps[-1].perturbation.tags.universal else None
        samples = self.evaluated(cell, cell.dataset.split, card.count(cell.dataset.split, cell.dataset.limit))
        limits = Limits(self.execution.batch, self.execution.cell_seconds)
        return Case(
            samples, steps, crafting, judged, detectors[0] if detectors else None, calibration, learning,
            cell.knowledge, cell.seed, cell.budget, limits,
        )  # fmt: skip

    def _perturbation(self, spec: Spec) -> Perturbation:
        found = component(self.environment, spec)
        assert isinstance(found, Perturbation)
        return found

    def _surrogate(self, cell: Cell, data: Data) -> Pipeline:
        """The undefended networks that a transfer attack is crafted on, as one."""
        cells = [surrogate_cell(cell, one) for one in cell.perturbation.transfer_from]
        networks = [self._quick(self.network(one, ()), data) for one in cells]
        return self._pipeline(networks[0] if len(networks) == 1 else Ensemble(networks), (), data)

    def _quick(self, prepared: Prepared, data: Data) -> Network:
        """A faster copy for the passes of attacks, made once."""
        key = id(prepared.network)  # the worker keeps every network, so an id is never used again
        if key not in self.copies:
            self.copies[key] = quick(prepared.network, data.space.shape)
        return self.copies[key]

    def _learning(self, cell: Cell, data: Data) -> Samples | None:
        """Samples that a universal perturbation is learned from; never those that are evaluated."""
        names = [name for name in ("calibration", "valid", "train") if name != cell.dataset.split]
        split = next((name for name in names if name in data.splits and len(data.splits[name])), None)
        return (
            None if split is None else self.evaluated(cell, split, min(LEARNED_FROM, len(data.splits[split])))
        )

    def _pipeline(self, network: Network | Ensemble, purifiers: tuple[Defense, ...], data: Data) -> Pipeline:
        return Pipeline(network, purifiers, data.space, data.task, self.chunk, self.device)

    def dataset(self, spec: Spec, source: Spec | None) -> tuple[Data, Card]:
        """A data set, loaded once."""
        key = (spec, source)
        if key not in self.data:
            self.data[key] = load(self.environment, spec, source)
        return self.data[key]

    def network(self, cell: Cell, defenses: tuple[Spec, ...]) -> Prepared:
        """The network of a cell under these training-time defenses, prepared once."""
        key = (cell.source.spec, cell.model.spec, defenses, cell.seed)
        if key not in self.networks:
            try:
                data, card = self.dataset(cell.source.spec, None)
                kitchen = Kitchen(self.environment, data, card, self.device, self.execution.training_threads)
                self.networks[key] = kitchen.prepare(cell, defenses)
            except torch.cuda.OutOfMemoryError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - kept and raised again: one training, not one for each cell
                self.networks[key] = error
        found = self.networks[key]
        if isinstance(found, BaseException):
            raise found
        return found

    def evaluated(self, cell: Cell, split_name: str, count: int | None) -> Samples:
        """The first ``count`` samples of a split in hash order, in the order of the data set."""
        data, _ = self.dataset(cell.dataset.spec, cell.source_spec)
        key = (cell.dataset.spec, cell.source_spec, split_name, count)
        if key not in self.samples:
            if split_name not in data.splits:
                raise DataError(f"{cell.dataset.label} has no split {split_name!r}")
            split = data.splits[split_name]
            rows = np.sort(sample_order(split.ids)[: len(split) if count is None else count])
            x, y, extras = batch_to(split, rows, data, self.device)
            self.samples[key] = Samples(x, y, extras, split.ids[rows])
        return self.samples[key]

    def crafting_key(self, cell: Cell) -> str:
        """Equal for cells whose perturbed inputs are the same."""
        attacked: Any = None
        last = cell.perturbation.spec
        if last is not None and isinstance(self._perturbation(last), Attack):
            undefended = cell.knowledge in ("oblivious", "transfer")
            attacked = [] if undefended else [spec.json() for spec in cell.defense.specs]
        parts = [
            cell.dataset.label,
            "" if cell.knowledge == "transfer" else cell.model.label,
            cell.seed,
            [spec.json() for spec in cell.perturbation.specs],
            [[one.spec.json(), one.seed] for one in cell.perturbation.transfer_from],
            cell.budget,
            attacked,
        ]
        return digest([*parts, cell.knowledge == "blackbox"])

    def _crafted(self, cell: Cell, case: Case) -> Crafted:
        key = self.crafting_key(cell)
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
        } | {f"extra_{name}": value[:count].cpu().numpy() for name, value in case.samples.extras.items()}
        path = Path(self.execution.run_dir) / "inputs" / f"{cell_id}.npz"
        write_atomic(path, partial(_save, arrays=arrays))

    def _versions(self, cell: Cell) -> str:
        specs = [cell.dataset.spec, cell.model.spec, *cell.defense.specs, *cell.perturbation.specs]
        find = self.environment.plugins.find
        named = {spec.id.split("/")[0]: find(spec.kind, spec.id).distribution for spec in specs}
        return json.dumps(named, sort_keys=True)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as handle:
        np.savez_compressed(handle, **arrays)


def _refuse_unfit(part: Component | None, data: Data) -> None:
    reason = part.supports(data.space, data.task) if part is not None else None
    if reason:
        raise AdvbenchError(f"{type(part).__name__} does not fit: {reason}")


def _failure(cell_id: str, phase: str, error: BaseException) -> Record:
    words = str(error).split("\n")[0] if isinstance(error, AdvbenchError) else last_words(error)
    kind = f"{type(error).__name__}: " if isinstance(error, AdvbenchError) else ""
    return Record(cell_id, "failed", f"{phase}: {kind}{words}", {})


def resolve_device(name: str) -> torch.device:
    """``auto`` is the worker's own GPU where there is one, else the CPU."""
    if name == "auto":
        index = int(os.environ.get("ADVBENCH_WORKER_INDEX", "0"))
        count = torch.cuda.device_count()
        return torch.device("cuda", index % count) if count else torch.device("cpu")
    device = torch.device(name)
    if device.type not in CHUNK:
        raise AdvbenchError(f"device {name!r} is not supported: cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise AdvbenchError(f"device {name!r} is not available here")
    return device


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
