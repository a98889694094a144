"""Job files: all that crosses from the engine to a worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from advbench.store.files import write_json
from advbench.suite.grid import Cell, as_json, from_json


@dataclass(frozen=True)
class Execution:
    """How a job is executed; nothing of it enters an identity."""

    store: str
    run_dir: str
    data_dirs: tuple[str, ...] = ()
    plugins_dirs: tuple[str, ...] = ()
    download: bool = False
    device: str = "auto"
    batch: int = 256
    cell_seconds: float | None = None
    keep_inputs: int = 0
    training_threads: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Job:
    """Cells that share one prepared network."""

    name: str
    cells: Mapping[str, Cell]  # by cell id
    execution: Execution

    def write(self, path: Path) -> Path:
        """Write the job file."""
        cells = [[cell_id, as_json(cell)] for cell_id, cell in self.cells.items()]
        write_json(path, {"name": self.name, "cells": cells, "execution": asdict(self.execution)})
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job file."""
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        execution: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value["execution"].items()
        }
        cells = {cell_id: from_json(cell) for cell_id, cell in value["cells"]}
        return cls(value["name"], cells, Execution(**execution))

    def without(self, cell_ids: set[str]) -> Job:
        """The same job less some cells."""
        return replace(self, cells={key: cell for key, cell in self.cells.items() if key not in cell_ids})
