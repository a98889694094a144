"""From a suite to its cells: the whole product, and why some of it does not fit."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from advbench.components.base import Attack, Component, Defense, Perturbation
from advbench.components.identity import Spec, instantiate, specify
from advbench.components.loader import Plugins
from advbench.errors import Problem, SuiteError
from advbench.suite.model import (
    PRECISIONS,
    DatasetItem,
    DefenseItem,
    Item,
    PerturbationItem,
    Suite,
    Surrogate,
)


@dataclass(frozen=True)
class Cell:
    """One combination: dataset x model x defense x perturbation x knowledge x seed."""

    dataset: DatasetItem
    source: DatasetItem
    model: Item
    defense: DefenseItem
    perturbation: PerturbationItem
    knowledge: str
    seed: int
    budget: int | None = None
    skip: str = ""
    audit: bool = False  # only an audit asks for it
    attack_precision: str = PRECISIONS[0]
    target: DatasetItem | None = None  # the data set that the defense adapts the network to

    @property
    def labels(self) -> dict[str, str]:
        """Label on each axis."""
        return {
            "dataset": self.dataset.label,
            "model": self.model.label,
            "defense": self.defense.label,
            "perturbation": self.perturbation.label,
            "knowledge": self.knowledge,
            "seed": str(self.seed),
        }

    @property
    def label(self) -> str:
        """A line for people."""
        shown = [self.dataset.label, self.model.label, self.defense.label, self.perturbation.label]
        return " / ".join(
            [*shown, *([] if self.knowledge == "none" else [self.knowledge]), f"seed {self.seed}"]
        )

    @property
    def source_spec(self) -> Spec | None:
        """The training data set where it is another one."""
        return self.source.spec if self.source is not self.dataset and self.source != self.dataset else None

    def matches(self, patterns: Mapping[str, str]) -> bool:
        """Whether every pattern fits the label or the id on its axis."""
        return all(
            any(fnmatch.fnmatchcase(name, pattern) for name in self._names(axis))
            for axis, pattern in patterns.items()
        )

    def _names(self, axis: str) -> list[str]:
        if axis in ("knowledge", "seed"):
            return [self.labels[axis]]
        item = getattr(self, axis)
        specs = item.specs if isinstance(item, (DefenseItem, PerturbationItem)) else [item.spec]
        return [item.label, *(spec.id for spec in specs), *(spec.id.split("/")[1] for spec in specs)]


@dataclass(frozen=True)
class Grid:
    """All cells of a suite in its order, and how many combinations were the same as another."""

    suite: Suite
    cells: tuple[Cell, ...]
    merged: int


def expand(suite: Suite, plugins: Plugins) -> Grid:
    """The grid. Cells that cannot be run carry the reason in ``skip``; none disappears.

    An attack on an undefended network is the same cell whether it is called oblivious or adaptive.
    """
    parts = {spec: instantiate(plugins, spec) for spec in _specs(suite)}
    sources = {item.label: item for item in suite.datasets}
    cells: dict[Cell, None] = {}
    count = 0
    added = _adaptive_attacks(suite, plugins, parts)
    parts |= {
        item.spec: instantiate(plugins, item.spec) for items in added.values() for item in items if item.spec
    }
    for dataset, model, defense, perturbation, seed in _product(suite, added):
        source = sources[dataset.train_on] if dataset.train_on else dataset
        own = perturbation in added[defense.label]
        for knowledge in ("adaptive",) if own else _knowledge(suite, defense, perturbation, parts):
            precise = PRECISIONS[0] if knowledge == "none" else suite.attack_precision
            target = sources[defense.adapt_to] if defense.adapt_to else None
            cell = Cell(
                dataset, source, model, defense, perturbation, knowledge, seed, suite.budget,
                attack_precision=precise, target=target,
            )  # fmt: skip
            cells[replace(cell, skip=_excluded(suite, cell) or _misfit(cell, parts))] = None
            count += 1
    if not cells:
        raise SuiteError([Problem("the grid is empty", file=suite.file)])
    return Grid(suite, tuple(cells), count - len(cells))


def _specs(suite: Suite) -> Iterator[Spec]:
    yield from (item.spec for item in suite.datasets)
    yield from (item.spec for item in suite.models)
    for defense in suite.defenses:
        yield from defense.specs
    for perturbation in suite.perturbations:
        yield from perturbation.specs
        yield from (surrogate.spec for surrogate in perturbation.transfer_from)


Added = Mapping[str, tuple[PerturbationItem, ...]]


def _product(
    suite: Suite, added: Added
) -> Iterator[tuple[DatasetItem, Item, DefenseItem, PerturbationItem, int]]:
    """All combinations, in the order of the suite."""
    for dataset, model, defense in itertools.product(suite.datasets, suite.models, suite.defenses):
        perturbations = (*suite.perturbations, *added[defense.label])
        for perturbation, seed in itertools.product(perturbations, suite.seeds):
            yield dataset, model, defense, perturbation, seed


def _adaptive_attacks(
    suite: Suite, plugins: Plugins, parts: Mapping[Spec, Component]
) -> dict[str, tuple[PerturbationItem, ...]]:
    """By defense, the attacks that it asks for and the suite lacks; undefended networks get them for comparison.

    A suite without any attack, or without adaptive ones, gets none.
    """
    attacks = [one for one in suite.perturbations if one.spec and isinstance(parts[one.spec], Attack)]
    wanted: dict[str, dict[Spec, None]] = {item.label: {} for item in suite.defenses}
    if attacks and "adaptive" in suite.knowledge:
        for item in suite.defenses:
            for spec in item.specs:
                defense = parts[spec]
                assert isinstance(defense, Defense)
                for use in defense.adaptive_attacks():
                    wanted[item.label][specify(plugins, "perturbation", use.use, use.params)] = None
    known = {one.spec for one in suite.perturbations if not one.before and not one.transfer_from}
    everything = {spec: None for specs in wanted.values() for spec in specs if spec not in known}
    added = {
        spec: PerturbationItem(f"{spec.id.split('/')[1]} (added {place})", spec)
        for place, spec in enumerate(everything, 1)
    }
    return {
        item.label: tuple(one for spec, one in added.items() if not item.specs or spec in wanted[item.label])
        for item in suite.defenses
    }


def _knowledge(
    suite: Suite, defense: DefenseItem, perturbation: PerturbationItem, parts: Mapping[Spec, Component]
) -> list[str]:
    if perturbation.spec is None or not isinstance(parts[perturbation.spec], Attack):
        return ["none"]
    if perturbation.transfer_from:
        return ["transfer"]
    if defense.specs:
        return list(suite.knowledge)
    return ["adaptive" if knowledge == "oblivious" else knowledge for knowledge in suite.knowledge]


def _excluded(suite: Suite, cell: Cell) -> str:
    return next((exclusion.reason for exclusion in suite.exclude if cell.matches(exclusion.patterns)), "")


def _misfit(cell: Cell, parts: Mapping[Spec, Component]) -> str:
    """Reason by tags, or an empty string."""
    surrogates = [one.spec for one in cell.perturbation.transfer_from]
    specs = [cell.dataset.spec, cell.model.spec, *cell.defense.specs, *cell.perturbation.specs, *surrogates]
    present = [(spec, parts[spec]) for spec in specs]
    if cell.target is not None and cell.target == cell.source:
        return f"{cell.defense.label} adapts to {cell.target.label}, which the network is trained on"
    tasks = set(parts[cell.dataset.spec].tags.tasks)
    for spec, part in present:
        tasks &= set(part.tags.tasks)
        if not tasks:
            return f"{spec.id} does not fit the task of {cell.dataset.spec.id}"
    trainers = [spec.id for spec, part in present if isinstance(part, Defense) and part.tags.trains]
    if len(trainers) > 1:
        return f"{' and '.join(trainers)} both replace the training"
    detectors = [spec.id for spec, part in present if isinstance(part, Defense) and part.tags.detects]
    if len(detectors) > 1:
        return f"{' and '.join(detectors)} both reject inputs; there is one threshold"
    several = [spec.id for spec, part in present if isinstance(part, Defense) and part.networks > 1]
    if len(several) > 1:
        return f"{' and '.join(several)} both ask for several networks"
    own = [
        one
        for one in cell.perturbation.transfer_from
        if (one.spec, _seed(one, cell)) == (cell.model.spec, cell.seed)
    ]
    if own and not cell.defense.specs:
        return f"{own[0].label} is the attacked network itself; its rows with knowledge adaptive say the same"
    attack = parts[cell.perturbation.spec] if cell.perturbation.spec else None
    if isinstance(attack, Perturbation) and cell.knowledge == "blackbox" and attack.tags.needs_gradient:
        return "needs gradients, which a black box does not grant"
    return ""


def _seed(surrogate: Surrogate, cell: Cell) -> int:
    return cell.seed if surrogate.seed is None else surrogate.seed


def as_json(cell: Cell) -> dict[str, Any]:
    """A cell as plain JSON, for a job file."""

    def item(value: Any) -> dict[str, Any]:
        specs = value.specs if isinstance(value, DefenseItem) else (value.spec,)
        entry: dict[str, Any] = {
            "label": value.label,
            "specs": [spec.json() for spec in specs],
        }
        if isinstance(value, DatasetItem):
            entry |= {"limit": value.limit, "train_on": value.train_on, "split": value.split}
        if isinstance(value, DefenseItem):
            entry |= {"adapt_to": value.adapt_to}
        return entry

    axes = ("dataset", "source", "model", "defense")
    plain = {
        name: getattr(cell, name)
        for name in ("knowledge", "seed", "budget", "skip", "audit", "attack_precision")
    }
    perturbation = {
        "label": cell.perturbation.label,
        "specs": [spec.json() for spec in cell.perturbation.specs],
        "transfer_from": [[one.label, one.spec.json(), one.seed] for one in cell.perturbation.transfer_from],
    }
    target = None if cell.target is None else item(cell.target)
    parts = {"perturbation": perturbation, "target": target}
    return {axis: item(getattr(cell, axis)) for axis in axes} | parts | plain


def from_json(value: Mapping[str, Any]) -> Cell:
    """Inverse of `as_json`."""

    def specs(entry: Mapping[str, Any]) -> tuple[Spec, ...]:
        return tuple(Spec.from_json(spec) for spec in entry["specs"])

    def dataset(entry: Mapping[str, Any]) -> DatasetItem:
        (spec,) = specs(entry)
        return DatasetItem(entry["label"], spec, entry["limit"], entry["train_on"], entry["split"])

    def perturbation(entry: Mapping[str, Any]) -> PerturbationItem:
        applied = specs(entry)
        surrogates = tuple(
            Surrogate(label, Spec.from_json(spec), seed) for label, spec, seed in entry["transfer_from"]
        )
        return PerturbationItem(entry["label"], applied[-1] if applied else None, applied[:-1], surrogates)

    return Cell(
        dataset=dataset(value["dataset"]),
        source=dataset(value["source"]),
        model=Item(value["model"]["label"], specs(value["model"])[0]),
        defense=DefenseItem(value["defense"]["label"], specs(value["defense"]), value["defense"]["adapt_to"]),
        perturbation=perturbation(value["perturbation"]),
        knowledge=value["knowledge"],
        seed=value["seed"],
        budget=value["budget"],
        skip=value["skip"],
        audit=value["audit"],
        attack_precision=value["attack_precision"],
        target=None if value["target"] is None else dataset(value["target"]),
    )
