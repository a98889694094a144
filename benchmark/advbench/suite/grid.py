"""From a suite to its cells: the whole product, and why some of it does not fit."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from advbench.components.base import Attack, Component, Defense, Perturbation
from advbench.components.identity import Spec, instantiate
from advbench.components.loader import Plugins
from advbench.errors import Problem, SuiteError
from advbench.suite.model import DatasetItem, DefenseItem, Item, Suite


@dataclass(frozen=True)
class Cell:
    """One combination: dataset x model x defense x perturbation x knowledge x seed."""

    dataset: DatasetItem
    source: DatasetItem
    model: Item
    defense: DefenseItem
    perturbation: Item
    knowledge: str
    seed: int
    budget: int | None = None
    skip: str = ""

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
        specs = item.specs if isinstance(item, DefenseItem) else [item.spec] if item.spec is not None else []
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
    for dataset, model, defense, perturbation, seed in itertools.product(
        suite.datasets, suite.models, suite.defenses, suite.perturbations, suite.seeds
    ):
        source = sources[dataset.train_on] if dataset.train_on else dataset
        for knowledge in _knowledge(suite, defense, perturbation, parts):
            cell = Cell(dataset, source, model, defense, perturbation, knowledge, seed, suite.budget)
            cells[replace(cell, skip=_excluded(suite, cell) or _misfit(cell, parts))] = None
            count += 1
    if not cells:
        raise SuiteError([Problem("the grid is empty", file=suite.file)])
    return Grid(suite, tuple(cells), count - len(cells))


def _specs(suite: Suite) -> Iterator[Spec]:
    yield from (item.spec for item in suite.datasets)
    yield from (item.spec for item in (*suite.models, *suite.perturbations) if item.spec is not None)
    for defense in suite.defenses:
        yield from defense.specs


def _knowledge(
    suite: Suite, defense: DefenseItem, perturbation: Item, parts: Mapping[Spec, Component]
) -> list[str]:
    if perturbation.spec is None or not isinstance(parts[perturbation.spec], Attack):
        return ["none"]
    if defense.specs:
        return list(suite.knowledge)
    return ["adaptive" if knowledge == "oblivious" else knowledge for knowledge in suite.knowledge]


def _excluded(suite: Suite, cell: Cell) -> str:
    return next((exclusion.reason for exclusion in suite.exclude if cell.matches(exclusion.patterns)), "")


def _misfit(cell: Cell, parts: Mapping[Spec, Component]) -> str:
    """Reason by tags, or an empty string."""
    specs = [cell.dataset.spec, cell.model.spec, *cell.defense.specs, cell.perturbation.spec]
    present = [(spec, parts[spec]) for spec in specs if spec is not None]
    tasks = set(parts[cell.dataset.spec].tags.tasks) if cell.dataset.spec else set()
    for spec, part in present:
        tasks &= set(part.tags.tasks)
        if not tasks:
            return f"{spec.id} does not fit the task of {cell.dataset.spec.id if cell.dataset.spec else ''}"
    trainers = [spec.id for spec, part in present if isinstance(part, Defense) and part.tags.trains]
    if len(trainers) > 1:
        return f"{' and '.join(trainers)} both replace the training"
    attack = parts[cell.perturbation.spec] if cell.perturbation.spec else None
    if isinstance(attack, Perturbation) and cell.knowledge == "blackbox" and attack.tags.needs_gradient:
        return "needs gradients, which a black box does not grant"
    return ""


def as_json(cell: Cell) -> dict[str, Any]:
    """A cell as plain JSON, for a job file."""

    def item(value: Any) -> dict[str, Any]:
        specs = value.specs if isinstance(value, DefenseItem) else (value.spec,)
        entry: dict[str, Any] = {
            "label": value.label,
            "specs": [spec.json() if spec else None for spec in specs],
        }
        if isinstance(value, DatasetItem):
            entry |= {"limit": value.limit, "train_on": value.train_on, "split": value.split}
        return entry

    axes = ("dataset", "source", "model", "defense", "perturbation")
    plain = {name: getattr(cell, name) for name in ("knowledge", "seed", "budget", "skip")}
    return {axis: item(getattr(cell, axis)) for axis in axes} | plain


def from_json(value: Mapping[str, Any]) -> Cell:
    """Inverse of `as_json`."""

    def specs(entry: Mapping[str, Any]) -> tuple[Spec | None, ...]:
        return tuple(Spec.from_json(spec) if spec else None for spec in entry["specs"])

    def dataset(entry: Mapping[str, Any]) -> DatasetItem:
        spec = specs(entry)[0]
        assert spec is not None
        return DatasetItem(entry["label"], spec, entry["limit"], entry["train_on"], entry["split"])

    return Cell(
        dataset=dataset(value["dataset"]),
        source=dataset(value["source"]),
        model=Item(value["model"]["label"], specs(value["model"])[0]),
        defense=DefenseItem(
            value["defense"]["label"], tuple(spec for spec in specs(value["defense"]) if spec)
        ),
        perturbation=Item(value["perturbation"]["label"], specs(value["perturbation"])[0]),
        knowledge=value["knowledge"],
        seed=value["seed"],
        budget=value["budget"],
        skip=value["skip"],
    )
