"""A finished run, as figures see it: its rows, and what can be had again from what it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advbench.components.protocols import Shown
from advbench.errors import PluginError
from advbench.runtime.bench import Bench
from advbench.runtime.crafting import craft
from advbench.runtime.events import Emit
from advbench.runtime.jobs import Execution
from advbench.store.records import Records
from advbench.suite.grid import Cell
from advbench.values import InputSpace, Task

Row = Mapping[str, Any]


@dataclass
class FinishedRun:
    """The `Run` that figures get. Networks and data are loaded when they are asked for, and kept."""

    rows: Sequence[Row]
    cells: Mapping[str, Cell]
    records: Records
    execution: Execution
    emit: Emit
    _bench: Bench | None = None
    _perturbed: dict[str, Tensor] = field(default_factory=dict)

    @property
    def bench(self) -> Bench:
        """Made when it is first needed: a figure of rows and outcomes alone loads no plugin."""
        if self._bench is None:
            torch.set_num_threads(self.execution.threads)
            self._bench = Bench(self.execution, self.emit)
        return self._bench

    def _cell(self, row: Row) -> Cell:
        name = str(row["cell_id"])
        if name not in self.cells:
            raise PluginError(
                f"row {name} is not a cell: a worst case has no network and no inputs of its own"
            )
        return self.cells[name]

    def outcomes(self, row: Row) -> Mapping[str, NDArray[Any]]:
        """From the row's record."""
        return self.records.outcomes(str(row["cell_id"]))

    def history(self, row: Row) -> Sequence[Mapping[str, Any]]:
        """From beside the network's weights."""
        return self.bench.defended(self._cell(row)).history

    def space(self, row: Row) -> InputSpace:
        """With its link to physical units."""
        cell = self._cell(row)
        return self.bench.dataset(cell.dataset.spec, cell.source_spec)[0].space

    def task(self, row: Row) -> Task:
        """As the data set says."""
        cell = self._cell(row)
        return self.bench.dataset(cell.dataset.spec, cell.source_spec)[0].task

    def samples(self, row: Row, count: int | None = None) -> Shown:
        """The first of those that were evaluated."""
        cell = self._cell(row)
        card = self.bench.dataset(cell.dataset.spec, cell.source_spec)[1]
        all_of_them = self.bench.evaluated(
            cell, cell.dataset.split, card.count(cell.dataset.split, cell.dataset.limit)
        )
        some = all_of_them.take(self._first(len(all_of_them), count))
        return Shown(some.x, some.y, some.extras, some.ids)

    def perturbed(self, row: Row, count: int | None = None) -> Tensor:
        """Those that ``--keep-inputs`` kept, or made again: what a sample becomes depends on that sample alone."""
        cell, name = self._cell(row), str(row["cell_id"])
        case = self.bench.case(cell, self.bench.defended(cell))
        rows = self._first(len(case.samples), count)
        have = self._perturbed.get(name)
        if have is None or len(have) < len(rows):
            kept = self._kept(name)
            if kept is not None and len(kept) >= len(rows):
                have = kept.to(case.samples.x)
            else:
                have = craft(replace(case, samples=case.samples.take(rows), memo={})).x
            self._perturbed[name] = have
        return have[: len(rows)]

    def _kept(self, name: str) -> Tensor | None:
        path = Path(self.execution.run_dir) / "inputs" / f"{name}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["perturbed"])

    def _first(self, total: int, count: int | None) -> Tensor:
        return torch.arange(total if count is None else min(count, total), device=self.bench.device)

    def network(self, row: Row) -> nn.Module:
        """As it was trained for the row."""
        return self.bench.defended(self._cell(row)).network
