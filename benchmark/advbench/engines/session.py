"""One run, from a suite to its leaderboard."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from advbench import __version__
from advbench.components.base import Attack, Component, Engine, Figure, Metric, Perturbation
from advbench.components.hookspecs import CellFinished, RunFinished, RunStarted
from advbench.components.identity import Spec, canonical, digest, instantiate
from advbench.components.loader import Plugins
from advbench.components.registry import last_words
from advbench.errors import AdvbenchError, UserError
from advbench.evidence.figures import figures, worst_of
from advbench.evidence.leaderboard import in_order, to_csv
from advbench.evidence.protocol import PROTOCOL, SCHEMA
from advbench.runtime.data import Card, Environment, known_card, load
from advbench.runtime.events import Emit
from advbench.runtime.identify import cell_id, training_defenses
from advbench.runtime.jobs import Execution, Job
from advbench.store.artifacts import Store
from advbench.store.files import write_json, write_text
from advbench.store.ledger import Ledger
from advbench.store.records import Record, Records
from advbench.suite.grid import Cell, Grid
from advbench.suite.model import DatasetItem

FAILURES = ("failed", "timeout", "crashed")


@dataclass(frozen=True)
class Options:
    """How to run, apart from what to run."""

    store: Path
    out: Path
    data_dirs: tuple[Path, ...] = ()
    plugins_dirs: tuple[Path, ...] = ()
    only: tuple[Mapping[str, str], ...] = ()
    download: bool = False
    device: str = "auto"
    engine: str = "serial"
    workers: int = 1
    batch: int = 256
    cell_seconds: float | None = None
    keep_inputs: int = 0
    retry_failed: bool = False
    fail_fast: bool = False


@dataclass(frozen=True)
class Planned:
    """A cell with its id and what is known of it before the run."""

    cell_id: str
    cell: Cell
    record: Record | None = None  # a valid earlier record


@dataclass(frozen=True)
class Worst:
    """A worst-case row: the attacks of one threat model, sample by sample."""

    cell_id: str
    norm: str
    eps: Any
    members: tuple[Planned, ...]


@dataclass(frozen=True)
class Plan:
    """What a run will do: every row of the leaderboard before it is computed."""

    grid: Grid
    cells: tuple[Planned, ...]
    worst: tuple[Worst, ...]
    jobs: tuple[tuple[str, tuple[Planned, ...]], ...]
    unknown_data: tuple[str, ...]  # labels of data sets that have not been loaded yet

    @property
    def rows(self) -> int:
        """Rows of the leaderboard."""
        return len(self.cells) + len(self.worst)

    @property
    def pending(self) -> int:
        """Cells to be computed."""
        return sum(len(cells) for _, cells in self.jobs)


@dataclass(frozen=True)
class Result:
    """What a run wrote."""

    plan: Plan
    rows: list[dict[str, Any]]
    leaderboard: Path
    counts: Counter[str]
    interrupted: bool = False
    problems: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 all ok or skipped, 1 some failed, 3 interrupted."""
        if self.interrupted:
            return 3
        return 1 if any(self.counts[status] for status in FAILURES) else 0


Cards = dict[tuple[Spec, Spec | None], Card | str]


@dataclass
class Session:
    """The rooms of the core at work for one grid."""

    grid: Grid
    options: Options
    plugins: Plugins
    observer: Emit
    ledger: Ledger = field(init=False)
    environment: Environment = field(init=False)
    records: Records = field(init=False)
    failures: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        options = self.options
        self.ledger = Ledger(options.out / "ledger.jsonl")
        self.environment = Environment(
            self.plugins, Store(options.store), options.data_dirs, options.download, self.observer
        )
        self.records = Records([options.out / "cells", options.store / "cells"])

    # --- planning -----------------------------------------------------------------------------------------------

    def cards(self, load_data: bool) -> Cards:
        """What is known of every data set; a text says why one cannot be read. Loads only what it may."""
        pairs = {}
        for cell in self.cells():
            if not cell.skip:
                pairs[cell.source.spec, None] = cell.source.label
                pairs[cell.dataset.spec, cell.source_spec] = cell.dataset.label
        cards: Cards = {}
        for (spec, source), label in pairs.items():
            card = known_card(self.environment, spec, source)
            if card is None and load_data:
                cards[spec, source] = self._load(spec, source, label)
            elif card is not None:
                cards[spec, source] = card
        return cards

    def _load(self, spec: Spec, source: Spec | None, label: str) -> Card | str:
        try:
            card = load(self.environment, spec, source)[1]
        except AdvbenchError as error:
            return f"data: {error}"
        except Exception as error:  # noqa: BLE001 - the cell boundary of all cells of this data set
            return f"data: {last_words(error)}"
        for note in card.notes:
            self.observer({"event": "note", "text": f"{label}: {note}"})
        return card

    def cells(self) -> list[Cell]:
        """The cells of the grid that ``--only`` selects."""
        only = self.options.only
        return [cell for cell in self.grid.cells if not only or any(cell.matches(patterns) for patterns in only)]

    def plan(self, load_data: bool) -> Plan:
        """Ids, earlier records, jobs. With ``load_data=False`` nothing is loaded and no network built."""
        cards = self.cards(load_data)
        cells = self.cells()
        if not cells:
            raise UserError("--only selects no cell; `advbench plan` shows the labels")
        planned = [self._planned(cell, cards) for cell in cells]
        names = {item.label: (item.spec, _source(self.grid, item)) for item in self.grid.suite.datasets}
        unknown = tuple(label for label, key in names.items() if key not in cards)
        jobs: dict[str, list[Planned]] = {}
        for one in planned:
            if not one.cell.skip and one.record is None:
                jobs.setdefault(self._job_name(one.cell), []).append(one)
        grouped = tuple((name, tuple(group)) for name, group in jobs.items())
        return Plan(self.grid, tuple(planned), tuple(self._worst(planned)), grouped, unknown)

    def _planned(self, cell: Cell, cards: Cards) -> Planned:
        card = cards.get((cell.dataset.spec, cell.source_spec))
        source = cards.get((cell.source.spec, None))
        known, origin = (one if isinstance(one, Card) else None for one in (card, source))
        name = cell_id(self.environment, cell, known, origin)
        if cell.skip:
            return Planned(name, cell)
        trouble = next((one for one in (source, card) if isinstance(one, str)), None)
        if trouble is not None:
            return Planned(name, cell, Record(name, "failed", trouble, {}))
        reason = self._unsupported(cell, known) or _missing_split(cell, known)
        if reason:
            return Planned(name, _skipped(cell, reason))
        record = self.records.get(name) if known is not None and origin is not None else None
        return Planned(name, cell, record if self._reusable(name, record) else None)

    def _reusable(self, name: str, record: Record | None) -> bool:
        if record is None or (record.status != "ok" and self.options.retry_failed):
            return False
        kept = self.options.out / "inputs" / f"{name}.npz"
        return record.status != "ok" or not self.options.keep_inputs or kept.is_file()

    def _unsupported(self, cell: Cell, card: Card | None) -> str:
        if card is None:
            return ""
        for spec in (cell.model.spec, *cell.defense.specs, cell.perturbation.spec):
            reason = self._component(spec).supports(card.space, card.task) if spec is not None else None
            if spec is not None and reason:
                return f"{spec.id}: {reason}"
        return ""

    def _component(self, spec: Spec) -> Component:
        return instantiate(self.plugins, spec)

    def _job_name(self, cell: Cell) -> str:
        trained = [spec.json() for spec in training_defenses(self.environment, cell)]
        assert cell.model.spec is not None
        key = digest([cell.source.spec.json(), cell.model.spec.json(), trained, cell.seed], 8)
        return f"{cell.model.label}-{cell.source.label}-{key}".replace("/", "-").replace(" ", "-")

    def _worst(self, planned: Sequence[Planned]) -> list[Worst]:
        """Groups of at least two attacks of the same threat model on the same defended network."""
        groups: dict[str, list[Planned]] = {}
        balls = {}
        for one in planned:
            attack = self._component(one.cell.perturbation.spec) if one.cell.perturbation.spec else None
            ball = attack.constraint() if isinstance(attack, Attack) and not one.cell.skip else None
            if ball is not None:
                labels = {**one.cell.labels, "perturbation": ""}
                key = canonical([labels, ball.norm, ball.eps.json()])
                groups.setdefault(key, []).append(one)
                balls[key] = ball
        return [
            Worst(digest(["worst-case", [one.cell_id for one in group]]), balls[key].norm, balls[key].eps.json(), tuple(group))
            for key, group in groups.items()
            if len(group) > 1
        ]

    # --- running ------------------------------------------------------------------------------------------------

    def run(self, command: Sequence[str]) -> Result:
        """Compute what is missing and write the leaderboard.

        Ctrl-C keeps every finished cell and ends with ``interrupted``.
        """
        options = self.options
        options.out.mkdir(parents=True, exist_ok=True)
        started = datetime.datetime.now(datetime.timezone.utc)
        plan = self.plan(load_data=True)
        self._announce(plan)
        interrupted = False
        try:
            self._engine().run(self._job_files(plan), self._hear, self._stop)
        except KeyboardInterrupt:
            interrupted = True
        shutil.rmtree(options.out / "jobs", ignore_errors=True)
        rows = self._rows(plan)
        path = options.out / "leaderboard.csv"
        if not interrupted:
            extra = [spec.id for spec in self.grid.suite.metrics]
            write_text(path, to_csv(rows, extra))
            write_text(options.out / "suite.yaml", yaml.safe_dump(self.grid.suite.resolved(), sort_keys=False))
        counts = Counter(str(row["status"]) for row in rows)
        self._write_run(command, started, counts, plan)
        if not interrupted:
            self._draw()
            self.problems += self.plugins.notify(
                "run_finished", RunFinished(self.grid.suite.name, str(options.out), str(path), dict(counts))
            )
        return Result(plan, in_order(rows), path, counts, interrupted, tuple(self.problems))  # type: ignore[arg-type]

    def _announce(self, plan: Plan) -> None:
        self.ledger.append({"event": "run_started", "cells": len(plan.cells), "pending": plan.pending})
        event = RunStarted(self.grid.suite.name, str(self.options.out), len(plan.cells))
        self.problems += self.plugins.notify("run_started", event)
        self.observer({"event": "plan", "cells": len(plan.cells), "pending": plan.pending})
        for one in plan.cells:
            if one.record is not None:
                if one.record.status == "ok":
                    self.records.adopt(one.cell_id)
                self._tell_plugins(one.cell_id, one.record.status)

    def _engine(self) -> Engine:
        cls = self.plugins.find("engine", self.options.engine).load()
        workers = {"workers": self.options.workers} if "workers" in cls.model_fields else {}
        engine = cls(**workers)
        assert isinstance(engine, Engine)
        return engine

    def _job_files(self, plan: Plan) -> list[Path]:
        options = self.options
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        execution = Execution(
            store=str(options.store),
            run_dir=str(options.out),
            data_dirs=tuple(map(str, options.data_dirs)),
            plugins_dirs=tuple(map(str, options.plugins_dirs)),
            download=options.download,
            device=options.device,
            batch=options.batch,
            cell_seconds=options.cell_seconds,
            keep_inputs=options.keep_inputs,
            training_threads=cores,
            threads=max(1, cores // options.workers),
        )
        paths = []
        for name, group in plan.jobs:
            job = Job(name, {one.cell_id: one.cell for one in group}, execution)
            paths.append(job.write(options.out / "jobs" / f"{name}.json"))
        return paths

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] in ("cell_started", "cell_finished", "network", "note"):
            self.ledger.append(event)
        if event["event"] == "cell_finished":
            self.failures += event["status"] in FAILURES
            if event["status"] == "crashed":  # its worker is dead and can write nothing
                self.records.put(Record(event["cell"], "crashed", event["reason"], {}), None)
            self._tell_plugins(event["cell"], event["status"])
        self.observer(event)

    def _tell_plugins(self, name: str, status: str) -> None:
        record = self.records.get(name)
        row = dict(record.figures) if record is not None else {}
        self.problems += self.plugins.notify("cell_finished", CellFinished(name, status, row))

    def _stop(self) -> bool:
        return self.options.fail_fast and self.failures > 0

    # --- collecting ---------------------------------------------------------------------------------------------

    def _rows(self, plan: Plan) -> list[dict[str, Any]]:
        rows = [self._row(one) for one in plan.cells]
        status = {row["cell_id"]: row["status"] for row in rows}
        return rows + [self._worst_row(worst, status) for worst in plan.worst]

    def _row(self, one: Planned) -> dict[str, Any]:
        row = self._identity(one)
        if one.cell.skip:
            return row | {"status": "skipped", "reason": one.cell.skip}
        record = self.records.get(one.cell_id)
        # A failure that this run remembers, or has just seen, may stand in no folder.
        record = record or one.record
        if record is None:
            return row | {"status": "skipped", "reason": "not computed: the run was stopped before"}
        row |= {"status": record.status, "reason": record.reason, **record.figures}
        if record.status == "ok" and self.grid.suite.metrics:
            row |= self._metrics(one.cell_id)
        return row

    def _metrics(self, name: str) -> dict[str, float]:
        outcomes = self.records.outcomes(name)
        row = {}
        for spec in self.grid.suite.metrics:
            metric = self._component(spec)
            assert isinstance(metric, Metric)
            arrays = (outcomes["target"], outcomes["clean_prediction"], outcomes["perturbed_prediction"])
            row[spec.id] = float(metric.measure(*arrays))
        return row

    def _worst_row(self, worst: Worst, status: Mapping[str, str]) -> dict[str, Any]:
        first = worst.members[0]
        row = self._identity(first)
        ids = [one.cell.perturbation.spec.id for one in worst.members if one.cell.perturbation.spec]
        row |= {
            "cell_id": worst.cell_id,
            "kind": "worst-case",
            "perturbation": f"worst of {len(worst.members)}",
            "perturbation_id": " + ".join(ids),
            "perturbation_params": canonical([one.cell.perturbation.label for one in worst.members]),
        }
        missing = [one.cell.perturbation.label for one in worst.members if status[one.cell_id] != "ok"]
        if missing:
            states = {status[one.cell_id] for one in worst.members}
            verdict = "failed" if states & set(FAILURES) else "skipped"
            return row | {"status": verdict, "reason": f"needs {', '.join(missing)}"}
        records = [record for one in worst.members if (record := self.records.get(one.cell_id)) is not None]
        merged = worst_of([self.records.outcomes(one.cell_id) for one in worst.members])
        card = known_card(self.environment, first.cell.dataset.spec, first.cell.source_spec)
        task = card.task if card else load(self.environment, first.cell.dataset.spec, first.cell.source_spec)[1].task
        figure = figures(merged, task, attack=True)
        origin = ("weights", "advbench_version", "plugin_versions", "torch_version", "device", "precision")
        shared = {name: records[0].figures[name] for name in origin}
        return row | {"status": "ok", "reason": "", **figure, **shared}

    def _identity(self, one: Planned) -> dict[str, Any]:
        cell, suite = one.cell, self.grid.suite
        card = known_card(self.environment, cell.dataset.spec, cell.source_spec)
        model = cell.model.spec
        assert model is not None
        row = {
            "schema": SCHEMA,
            "protocol": PROTOCOL,
            "suite": suite.name,
            "cell_id": one.cell_id,
            "kind": "cell",
            "dataset": cell.dataset.label,
            "dataset_id": cell.dataset.spec.id,
            "dataset_params": cell.dataset.spec.params,
            "fingerprint": card.fingerprint if card else None,
            "split": cell.dataset.split,
            "trained_on": cell.source.label,
            "model": cell.model.label,
            "model_id": model.id,
            "model_params": model.params,
            "defense": cell.defense.label,
            "defense_id": " + ".join(spec.id for spec in cell.defense.specs) or "none",
            "defense_params": canonical([spec.parameters for spec in cell.defense.specs]),
            "perturbation": cell.perturbation.label,
            "knowledge": cell.knowledge,
            "targeted": False,
            "budget_passes": cell.budget,
            "seed": cell.seed,
        }
        return row | self._threat(cell)

    def _threat(self, cell: Cell) -> dict[str, Any]:
        spec = cell.perturbation.spec
        if spec is None:
            return {"perturbation_id": "none", "perturbation_params": "{}"}
        part = self._component(spec)
        assert isinstance(part, Perturbation)
        ball = part.constraint() if isinstance(part, Attack) else None
        return {
            "perturbation_id": spec.id,
            "perturbation_params": spec.params,
            "norm": ball.norm if ball else None,
            "strength": part.strength(),
            "strength_unit": part.tags.unit,
            "targeted": bool(getattr(part, "targeted", False)),
        }

    def _write_run(self, command: Sequence[str], started: datetime.datetime, counts: Counter[str], plan: Plan) -> None:
        ended = datetime.datetime.now(datetime.timezone.utc)
        value = {
            "advbench": __version__,
            "command": list(command),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((ended - started).total_seconds(), 1),
            "host": platform.node(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "engine": self.options.engine,
            "workers": self.options.workers,
            "device": self.options.device,
            "computed": plan.pending,
            "reused": sum(one.record is not None for one in plan.cells),
            "counts": dict(counts),
            "store": str(self.options.store),
        }
        write_json(self.options.out / "run.json", value)

    def _draw(self) -> None:
        for spec in self.grid.suite.figures:
            figure = self._component(spec)
            assert isinstance(figure, Figure)
            figure.draw(self.options.out)


def _source(grid: Grid, item: DatasetItem) -> Spec | None:
    if not item.train_on:
        return None
    return next(other.spec for other in grid.suite.datasets if other.label == item.train_on)


def _skipped(cell: Cell, reason: str) -> Cell:
    return replace(cell, skip=reason)


def _missing_split(cell: Cell, card: Card | None) -> str:
    if card is None or cell.dataset.split in card.sizes:
        return ""
    return f"{cell.dataset.label} has no split {cell.dataset.split!r}; it has {', '.join(card.sizes)}"
