"""What the cells of one job share: data, samples, networks; and from them everything that a cell needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advbench.components.base import Attack, Component, Defense, Perturbation
from advbench.components.identity import Spec, digest
from advbench.components.loader import Plugins
from advbench.errors import AdvbenchError, DataError, PluginError
from advbench.runtime.cell import Case, Limits, Samples, Step
from advbench.runtime.data import Card, Environment, load
from advbench.runtime.detection import Guard, calibrated, learned
from advbench.runtime.events import Emit
from advbench.runtime.identify import component, member_cells, surrogate_cell, training_defenses
from advbench.runtime.jobs import Execution
from advbench.runtime.network import Ensemble, Network, freeze
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.prepare import Kitchen, Prepared
from advbench.runtime.quick import quick
from advbench.runtime.splits import sample_order
from advbench.runtime.training import batch_to
from advbench.store.artifacts import Store
from advbench.suite.grid import Cell
from advbench.values import Data

CHUNK = {"cpu": 16, "cuda": 512}
"""Samples per forward pass. Fixed for each kind of device, so that a sample never depends on its companions."""

LEARNED_FROM = 500
"""Most samples that a universal perturbation is learned from."""

DETECTORS_LEARN_FROM = 2000
"""Most samples that a defense learns from."""


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
    copies: dict[int, Network] = field(default_factory=dict)
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
        parts = [component(self.environment, one) for one in cell.defense.specs]
        members = self._members(cell, tuple(one for one in parts if isinstance(one, Defense)))
        hashes = [one.weights_hash for one in members]
        return digest(hashes) if hashes else self.defended(cell).weights_hash

    def case(self, cell: Cell, defended: Prepared) -> Case:
        """Everything a cell needs, ready to run."""
        data, card = self.dataset(cell.dataset.spec, cell.source_spec)
        steps = tuple(Step(self._perturbation(spec), spec) for spec in cell.perturbation.specs)
        defenses = [component(self.environment, one) for one in cell.defense.specs]
        for part in [*(step.perturbation for step in steps), *defenses]:
            _refuse_unfit(part, data)
        present = tuple(one for one in defenses if isinstance(one, Defense))
        purifiers = tuple(one for one in present if one.tags.purifies or one.tags.wraps)
        judged = self._judged(cell, defended, purifiers, data)
        crafting = judged
        if cell.knowledge == "transfer":
            crafting = self._surrogate(cell, data)
        elif isinstance(steps[-1].perturbation if steps else None, Attack):
            oblivious = cell.knowledge == "oblivious"
            attacked = self.network(cell, ()) if oblivious else defended
            crafting = self._pipeline(self._quick(attacked, data), data)
            if not oblivious:
                members = tuple(self._quick(one, data) for one in self._members(cell, purifiers))
                crafting = replace(crafting, defenses=purifiers, members=members, learned=judged.learned)
        learning = self._learning(cell, data) if steps and steps[-1].perturbation.tags.universal else None
        samples = self.evaluated(cell, cell.dataset.split, card.count(cell.dataset.split, cell.dataset.limit))
        limits = Limits(self.execution.batch, self.execution.cell_seconds)
        return Case(
            samples, steps, crafting, judged, self._guard(cell, judged, present), learning,
            cell.knowledge, cell.seed, cell.budget, limits, adaptive_loss(present), self.memo,
        )  # fmt: skip

    def _judged(self, cell: Cell, defended: Prepared, defenses: tuple[Defense, ...], data: Data) -> Pipeline:
        """The whole defended pipeline; what its defenses learn is learned once."""
        networks = tuple(one.network for one in self._members(cell, defenses))
        pipeline = replace(self._pipeline(defended.network, data), defenses=defenses, members=networks)
        learners = [place for place, one in enumerate(defenses) if one.tags.learns and one.tags.wraps]
        for place in learners:
            behind = replace(pipeline, defenses=defenses[place + 1 :])
            learned = {**pipeline.learned, place: self._learned(cell, defenses[place], behind)}
            pipeline = replace(pipeline, learned=learned)
        return pipeline

    def _members(self, cell: Cell, defenses: tuple[Defense, ...]) -> tuple[Prepared, ...]:
        """The independently trained networks that a defense wants."""
        trained = training_defenses(self.environment, cell)
        return tuple(self.network(one, trained) for one in member_cells(cell, defenses))

    def _learned(self, cell: Cell, defense: Defense, pipeline: Pipeline) -> Mapping[str, Tensor]:
        key = (
            "learned",
            repr(defense),
            id(pipeline.network),
            repr(pipeline.defenses),
            cell.source.spec,
            cell.seed,
        )
        if key not in self.memo:
            source = replace(cell, dataset=cell.source)
            data, _ = self.dataset(cell.source.spec, None)
            if not len(data.splits.get("train", ())):
                raise PluginError(
                    f"{type(defense).__name__} learns from a split 'train', which the data set lacks"
                )
            count = min(DETECTORS_LEARN_FROM, len(data.splits["train"]))
            samples = self.evaluated(source, "train", count)
            self.memo[key] = (pipeline, learned(defense, pipeline, samples, cell.seed))
        found: Mapping[str, Tensor] = self.memo[key][1]
        return found

    def _guard(self, cell: Cell, judged: Pipeline, defenses: tuple[Defense, ...]) -> Guard | None:
        """The detector of a cell, calibrated once."""
        detectors = [one for one in defenses if one.tags.detects]
        if len(detectors) > 1:
            raise AdvbenchError("more than one detector in one defense; there is one threshold")
        if not detectors:
            return None
        detector = detectors[0]
        owners = (judged.network, *judged.members)
        key = (
            "guard",
            repr(detector),
            *map(id, owners),
            repr(judged.defenses),
            cell.dataset.spec,
            cell.source_spec,
            cell.seed,
        )
        if key not in self.memo:
            name = type(detector).__name__
            data, _ = self.dataset(cell.dataset.spec, cell.source_spec)
            if not len(data.splits.get("calibration", ())):
                raise PluginError(f"{name} needs a split 'calibration' to set its threshold")
            known = self._learned(cell, detector, judged) if detector.tags.learns else {}
            calibration = self.evaluated(cell, "calibration", None)
            self.memo[key] = (owners, calibrated(detector, judged, calibration, cell.seed, known))
        guard: Guard = self.memo[key][1]
        return guard

    def _perturbation(self, spec: Spec) -> Perturbation:
        found = component(self.environment, spec)
        assert isinstance(found, Perturbation)
        return found

    def _surrogate(self, cell: Cell, data: Data) -> Pipeline:
        """The undefended networks that a transfer attack is crafted on, as one."""
        cells = [surrogate_cell(cell, one) for one in cell.perturbation.transfer_from]
        networks = [self._quick(self.network(one, ()), data) for one in cells]
        return self._pipeline(networks[0] if len(networks) == 1 else freeze(Ensemble(networks)), data)

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

    def _pipeline(self, network: Network | Ensemble, data: Data) -> Pipeline:
        return Pipeline(network, (), data.space, data.task, self.chunk, self.device)

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


def adaptive_loss(defenses: tuple[Defense, ...]) -> str | None:
    """The loss that the defenses ask an adaptive attack to use, if any does."""
    return next((one.adaptive_loss for one in defenses if one.adaptive_loss is not None), None)


def _refuse_unfit(part: Component | None, data: Data) -> None:
    reason = part.supports(data.space, data.task) if part is not None else None
    if reason:
        raise AdvbenchError(f"{type(part).__name__} does not fit: {reason}")


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
