"""What the cells of one job share: data, samples, networks; and from them everything that a cell needs."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advbench.components.base import Attack, Component, Defense, Perturbation
from advbench.components.identity import Spec, digest
from advbench.components.loader import Plugins
from advbench.errors import AdvbenchError, DataError
from advbench.evidence.protocol import DTYPE
from advbench.runtime.cell import Case, Limits, Samples, Step
from advbench.runtime.data import Card, Environment, load
from advbench.runtime.events import Emit
from advbench.runtime.fitting import adaptive_loss, defend, guard, members
from advbench.runtime.identify import adaptation_target, component, surrogate_cell, training_defenses
from advbench.runtime.jobs import Execution
from advbench.runtime.network import Ensemble, Network, freeze
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.prepare import Kitchen, Prepared
from advbench.runtime.quick import lowered, quick
from advbench.runtime.splits import sample_order
from advbench.runtime.training import batch_to
from advbench.store.artifacts import Store
from advbench.suite.grid import Cell
from advbench.values import Classification, Data, Task

CHUNK = {"cpu": 16, "cuda": 512}
"""Samples per forward pass. Fixed for each kind of device, so that a sample never depends on its companions."""

LARGE = 2**17
"""Values of an input from which on half as many go through at a time: their passes are long enough."""

LEARNED_FROM = 500
"""Most samples that a universal perturbation is learned from."""


@dataclass
class Bench:
    """Loads and prepares, each thing once."""

    execution: Execution
    emit: Emit
    environment: Environment = field(init=False)
    device: torch.device = field(init=False)
    chunk: int = field(init=False)
    data: dict[tuple[Spec, Spec | None], tuple[Data, Card]] = field(default_factory=dict)
    networks: dict[tuple[Any, ...], Prepared | BaseException] = field(default_factory=dict)
    copies: dict[tuple[int, torch.dtype | None], Network] = field(default_factory=dict)
    samples: dict[tuple[Any, ...], Samples] = field(default_factory=dict)
    memo: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        execution = self.execution
        self.environment = Environment(
            Plugins.discover([Path(folder) for folder in execution.plugins_dirs]),
            Store(Path(execution.store)),
            tuple(Path(folder) for folder in execution.data_dirs),
            execution.download,
            self.emit,
        )
        self.device = resolve_device(execution.device)
        self.chunk = CHUNK[self.device.type]

    def defended(self, cell: Cell) -> Prepared:
        """The network of a cell, trained as its defenses ask."""
        return self.network(cell, training_defenses(self.environment, cell))

    def weights(self, cell: Cell) -> str:
        """Hash of the weights of all networks of a cell."""
        hashes = [one.weights_hash for one in members(self, cell, self._defenses(cell))]
        return digest(hashes) if hashes else self.defended(cell).weights_hash

    def case(self, cell: Cell, defended: Prepared) -> Case:
        """Everything a cell needs, ready to run."""
        data, card = self.dataset(cell.dataset.spec, cell.source_spec)
        steps = tuple(Step(self._perturbation(spec), spec) for spec in cell.perturbation.specs)
        defenses = self._defenses(cell)
        for part in [*(step.perturbation for step in steps), *defenses]:
            _refuse_unfit(part, data)
        judged = defend(self, cell, self._pipeline(defended.network, data), defenses)
        crafting = judged
        if cell.knowledge == "transfer":
            crafting = self._surrogate(cell, data)
        elif isinstance(steps[-1].perturbation if steps else None, Attack):
            oblivious = cell.knowledge == "oblivious"
            attacked = self.network(cell, ()) if oblivious else defended
            crafting = self._pipeline(self._quick(cell, attacked, data), data)
            if not oblivious:
                copies = tuple(self._quick(cell, one, data) for one in members(self, cell, defenses))
                crafting = replace(judged, network=crafting.network, members=copies)
        learning = self._learning(cell, data) if steps and steps[-1].perturbation.tags.universal else None
        samples = self.evaluated(cell, cell.dataset.split, card.count(cell.dataset.split, cell.dataset.limit))
        limits = Limits(self.execution.batch, self.execution.cell_seconds)
        return Case(
            samples, steps, crafting, judged, guard(self, cell, judged, defenses), learning,
            cell.knowledge, cell.seed, cell.budget, limits, adaptive_loss(defenses), self.memo,
        )  # fmt: skip

    def _defenses(self, cell: Cell) -> tuple[Defense, ...]:
        found = [component(self.environment, spec) for spec in cell.defense.specs]
        return tuple(one for one in found if isinstance(one, Defense))

    def _perturbation(self, spec: Spec) -> Perturbation:
        found = component(self.environment, spec)
        assert isinstance(found, Perturbation)
        return found

    def _surrogate(self, cell: Cell, data: Data) -> Pipeline:
        """The undefended networks that a transfer attack is crafted on, as one."""
        cells = [surrogate_cell(cell, one) for one in cell.perturbation.transfer_from]
        networks = [self._quick(cell, self.network(one, ()), data) for one in cells]
        return self._pipeline(networks[0] if len(networks) == 1 else freeze(Ensemble(networks)), data)

    def _quick(self, cell: Cell, prepared: Prepared, data: Data) -> Network:
        """A faster copy for the passes of attacks, made once."""
        low = None if cell.attack_precision == DTYPE else getattr(torch, cell.attack_precision)
        key = (id(prepared.network), low)  # the worker keeps every network, so an id is never used again
        if key not in self.copies:
            self.copies[key] = lowered(quick(prepared.network, data.space.shape), low)
        return self.copies[key]

    def _learning(self, cell: Cell, data: Data) -> Samples | None:
        """Samples that a universal perturbation is learned from; never those that are evaluated."""
        names = [name for name in ("calibration", "valid", "train") if name != cell.dataset.split]
        split = next((name for name in names if name in data.splits and len(data.splits[name])), None)
        if split is None:
            return None
        return self.evaluated(cell, split, min(LEARNED_FROM, len(data.splits[split]))).of_known_class()

    def _pipeline(self, network: Network | Ensemble, data: Data) -> Pipeline:
        large = math.prod(data.space.shape) >= LARGE
        chunk = max(1, self.chunk // 2) if large else self.chunk
        return Pipeline(network, (), data.space, data.task, chunk, self.device)

    def dataset(self, spec: Spec, source: Spec | None) -> tuple[Data, Card]:
        """A data set, loaded once."""
        key = (spec, source)
        if key not in self.data:
            self.data[key] = load(self.environment, spec, source)
        return self.data[key]

    def network(self, cell: Cell, defenses: tuple[Spec, ...]) -> Prepared:
        """The network of a cell under these training-time defenses, prepared once."""
        adapts = adaptation_target(self.environment, cell, defenses)
        target = cell.target.spec if cell.target is not None and adapts else None
        key = (cell.source.spec, cell.model.spec, defenses, cell.seed, target)
        if key not in self.networks:
            try:
                data, card = self.dataset(cell.source.spec, None)
                other = None if target is None else self.dataset(target, cell.source.spec)
                if other is not None:
                    _refuse_other_space(cell, data, other[0])
                    _refuse_other_task(cell, data.task, other[0].task, adapts)
                threads = self.execution.training_threads
                kitchen = Kitchen(self.environment, data, card, self.device, threads, other)
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
            target = None if cell.target is None else cell.target.label
            attacked = [] if undefended else [target, *(spec.json() for spec in cell.defense.specs)]
        parts = [
            cell.dataset.label,
            "" if cell.knowledge == "transfer" else cell.model.label,
            cell.seed,
            [spec.json() for spec in cell.perturbation.specs],
            [[one.spec.json(), one.seed] for one in cell.perturbation.transfer_from],
            cell.budget,
            cell.attack_precision,
            attacked,
        ]
        return digest([*parts, cell.knowledge == "blackbox"])


def _refuse_unfit(part: Component | None, data: Data) -> None:
    reason = part.supports(data.space, data.task) if part is not None else None
    if reason:
        raise AdvbenchError(f"{type(part).__name__} does not fit: {reason}")


def _refuse_other_space(cell: Cell, source: Data, target: Data) -> None:
    assert cell.target is not None
    if target.space.shape != source.space.shape:  # other channels may be the very shift that is adapted to
        spaces = [
            f"{item.label} has inputs of shape {data.space.shape} in {', '.join(data.space.channels)}"
            for item, data in ((cell.target, target), (cell.source, source))
        ]
        raise DataError(f"a network cannot be adapted to {cell.target.label}: {' and '.join(spaces)}")


def _refuse_other_task(cell: Cell, source: Task, target: Task, adapts: str) -> None:
    """Labels of the target must mean what those of the source do; without labels it must be the same kind of task."""
    assert cell.target is not None
    alike = type(source) is type(target)
    if alike and adapts == "labelled":
        names = [t.classes if isinstance(t, Classification) else t.targets for t in (source, target)]
        alike = names[0] == names[1]
    if not alike:
        said = [
            f"{item.label} has {_told(task)}" for item, task in ((cell.target, target), (cell.source, source))
        ]
        raise DataError(f"a network cannot be adapted to {cell.target.label}: {' and '.join(said)}")


def _told(task: Task) -> str:
    if isinstance(task, Classification):
        return f"the classes {', '.join(task.classes)}"
    return f"the targets {', '.join(task.targets)}"


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
