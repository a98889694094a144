"""One run, from a suite to its leaderboard."""

from __future__ import annotations

import csv
import datetime
import os
import platform
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from advbench import __version__
from advbench.components.base import Engine
from advbench.components.hookspecs import CellFinished, RunFinished, RunStarted
from advbench.components.loader import Plugins
from advbench.engines.collecting import FAILURES, Collector
from advbench.engines.planning import Options, Plan, Planned, Planner
from advbench.evidence.leaderboard import Row, in_order, to_csv
from advbench.evidence.table import text_hash
from advbench.runtime.data import Environment
from advbench.runtime.events import Emit
from advbench.runtime.jobs import Execution, Job
from advbench.store.artifacts import Store
from advbench.store.files import write_json, write_text
from advbench.store.ledger import Ledger
from advbench.store.records import HISTORIES, Record, Records
from advbench.suite.grid import Grid

__all__ = ["Options", "Plan", "Planned", "Result", "Session"]


@dataclass(frozen=True)
class Result:
    """What a run wrote."""

    plan: Plan
    rows: list[Row]
    leaderboard: Path
    counts: Counter[str]
    interrupted: bool = False
    problems: tuple[str, ...] = ()
    computed: int = 0

    @property
    def exit_code(self) -> int:
        """0 all ok or skipped, 1 some failed, 3 interrupted."""
        if self.interrupted:
            return 3
        return 1 if any(self.counts[status] for status in FAILURES) else 0


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
    computed: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        options = self.options
        self.ledger = Ledger(options.out / "ledger.jsonl")
        self.environment = Environment(
            self.plugins, Store(options.store), options.data_dirs, options.download, self.observer
        )
        self.records = Records([options.out / "cells", options.store / "cells"])

    def plan(self, load_data: bool) -> Plan:
        """Ids, earlier records, jobs. With ``load_data=False`` nothing is loaded and no network built."""
        return Planner(self.grid, self.options, self.environment, self.records).plan(load_data)

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
        rows = Collector(self.grid.suite, self.environment, self.records).rows(plan)
        path = options.out / "leaderboard.csv"
        if not interrupted:
            self._tell_what_is_replaced(path, len(rows))
            extra = [spec.id for spec in self.grid.suite.metrics]
            write_text(path, to_csv(rows, extra))
            write_text(
                options.out / "suite.yaml", yaml.safe_dump(self.grid.suite.resolved(), sort_keys=False)
            )
        counts = Counter(str(row["status"]) for row in rows)
        self._write_run(command, started, counts, plan, None if interrupted else text_hash(path))
        if not interrupted:
            self._adopt_histories(rows)
            self._draw(plan, rows)
            self.problems += self.plugins.notify(
                "run_finished", RunFinished(self.grid.suite.name, str(options.out), str(path), dict(counts))
            )
        return Result(plan, in_order(rows), path, counts, interrupted, tuple(self.problems), self.computed)

    def _tell_what_is_replaced(self, path: Path, count: int) -> None:
        """A selection of cells replaces a fuller leaderboard; nothing computed is lost."""
        if self.options.only and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                before = sum(1 for _ in csv.reader(file)) - 1
            if before > count:
                words = (
                    f"{path.name} had {before} rows and has {count} now; without --only the others come back"
                )
                self.problems.append(f"{words} from the cache")

    def _announce(self, plan: Plan) -> None:
        self.ledger.append({"event": "run_started", "cells": len(plan.cells), "pending": plan.pending})
        event = RunStarted(self.grid.suite.name, str(self.options.out), len(plan.cells))
        self.problems += self.plugins.notify("run_started", event)
        for note in plan.notes:
            self.observer({"event": "note", "text": note})
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

    def _execution(self) -> Execution:
        options = self.options
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return Execution(
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

    def _job_files(self, plan: Plan) -> list[Path]:
        execution, paths = self._execution(), []
        for name, group in plan.jobs:
            job = Job(name, {one.cell_id: one.cell for one in group}, execution)
            paths.append(job.write(self.options.out / "jobs" / f"{name}.json"))
        return paths

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] in ("cell_started", "cell_finished", "network", "note"):
            self.ledger.append(event)
        if event["event"] == "cell_finished":
            self.computed += 1
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

    def _write_run(
        self,
        command: Sequence[str],
        started: datetime.datetime,
        counts: Counter[str],
        plan: Plan,
        leaderboard: str | None,
    ) -> None:
        """What is known of the run; with the hash of its leaderboard, unless it wrote none."""
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
            "cores": self._execution().training_threads,
            "device": self.options.device,
            "computed": self.computed,
            "reused": sum(one.record is not None for one in plan.cells),
            "counts": dict(counts),
            "store": str(self.options.store),
            "leaderboard_sha256": leaderboard,
        }
        write_json(self.options.out / "run.json", value)

    def _adopt_histories(self, rows: Sequence[Row]) -> None:
        """Copy the histories of trainings that other runs made into this run's folder."""
        for weights in {str(row.get("weights") or "") for row in rows} - {""}:
            own, shared = (
                folder / HISTORIES / f"{weights}.json" for folder in (self.options.out, self.options.store)
            )
            if shared.is_file() and not own.is_file():
                write_text(own, shared.read_text(encoding="utf-8"))

    def _draw(self, plan: Plan, rows: Sequence[Row]) -> None:
        if self.grid.suite.figures:
            from advbench.runtime.drawing import draw  # imports torch

            finished = {one.cell_id: one.cell for one in plan.cells}
            self.problems += draw(
                self.grid.suite.figures, rows, finished, self.records, self._execution(), self.plugins, self.observer
            )  # fmt: skip
