"""A validated suite: full ids, effective parameters, sweeps written out."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from advbench.components.identity import Spec

AXES = {"datasets": "dataset", "models": "model", "defenses": "defense", "perturbations": "perturbation"}
"""Keys of a suite that hold the axes of the grid, and the kind of component on each."""

PRECISIONS = ("float32", "bfloat16")
"""Precisions of an attack's passes, the default first; outcomes are always judged in float32."""

NONE = "none"
JOIN = " + "
"""Between the labels of a composition of defenses; no label holds it by itself."""
THEN = " then "
"""Between the labels of perturbations that follow each other."""


@dataclass(frozen=True)
class Item:
    """A model."""

    label: str
    spec: Spec


@dataclass(frozen=True)
class Surrogate:
    """A network that a transfer attack is crafted on: a model trained on the same data, by another seed if given."""

    label: str
    spec: Spec
    seed: int | None = None


@dataclass(frozen=True)
class PerturbationItem:
    """A perturbation, after corruptions if it is a composition; ``spec`` is None for "none"."""

    label: str
    spec: Spec | None
    before: tuple[Spec, ...] = ()
    transfer_from: tuple[Surrogate, ...] = ()

    @property
    def specs(self) -> tuple[Spec, ...]:
        """All that is applied, in this order."""
        return self.before if self.spec is None else (*self.before, self.spec)


@dataclass(frozen=True)
class DatasetItem:
    """A data set: how many samples of which split, and on which other one networks are trained, if any."""

    label: str
    spec: Spec
    limit: int | None
    train_on: str | None
    split: str


@dataclass(frozen=True)
class DefenseItem:
    """A defense, or several that are applied in this order; ``()`` is "none".

    ``adapt_to`` is the label of the data set that its training adapts the network to, if it does.
    """

    label: str
    specs: tuple[Spec, ...]
    adapt_to: str | None = None


@dataclass(frozen=True)
class Exclusion:
    """Cells that the suite leaves out: a pattern for some of the axes, and why."""

    patterns: Mapping[str, str]
    reason: str


@dataclass(frozen=True)
class Suite:
    """What a suite declares. Where its file lies is no part of what it is, nor of equality."""

    name: str
    description: str
    file: str = field(compare=False)
    seeds: tuple[int, ...]
    datasets: tuple[DatasetItem, ...]
    models: tuple[Item, ...]
    defenses: tuple[DefenseItem, ...]
    perturbations: tuple[PerturbationItem, ...]
    knowledge: tuple[str, ...]
    exclude: tuple[Exclusion, ...]
    metrics: tuple[Spec, ...]
    figures: tuple[Spec, ...]
    budget: int | None
    attack_precision: str = PRECISIONS[0]

    def resolved(self) -> dict[str, Any]:
        """A suite document of plain values with nothing left to look up: reading it gives an equal suite."""
        document: dict[str, Any] = {
            "version": 1,
            "name": self.name,
            "description": self.description,
            "seeds": list(self.seeds),
            "datasets": [_dataset(item) for item in self.datasets],
            "models": [_named(item.label, item.spec) for item in self.models],
            "defenses": [_defense(item) for item in self.defenses],
            "perturbations": [_perturbation(item) for item in self.perturbations],
            "knowledge": list(self.knowledge),
            "exclude": [{**exclusion.patterns, "reason": exclusion.reason} for exclusion in self.exclude],
            "metrics": [_use(spec) for spec in self.metrics],
            "figures": [_use(spec) for spec in self.figures],
        }
        if self.budget is not None:
            document["budget"] = self.budget
        if self.attack_precision != PRECISIONS[0]:
            document["attack_precision"] = self.attack_precision
        return document


def known_as(label: str, ids: Iterable[str] = ()) -> frozenset[str]:
    """Names by which ``exclude`` may speak of an entry: its label, and its full and short ids."""
    return frozenset([label, *(name for full in ids for name in (full, full.rpartition("/")[2]))])


def matches(pattern: str, names: Collection[str]) -> bool:
    """Whether a name or a pattern with ``*``, ``?`` and ``[...]`` fits one of these names; case counts."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _use(spec: Spec) -> dict[str, Any]:
    return {"use": spec.id, "params": spec.parameters}


def _named(label: str, spec: Spec) -> dict[str, Any]:
    return {"use": spec.id, "name": label, "params": spec.parameters}


def _perturbation(item: PerturbationItem) -> dict[str, Any] | str:
    if item.spec is None:
        return NONE
    entry = _named(item.label, item.spec)
    if item.before:
        entry = {"then": [_use(spec) for spec in item.specs], "name": item.label}
    if item.transfer_from:
        entry["transfer_from"] = [_surrogate(one) for one in item.transfer_from]
    return entry


def _surrogate(one: Surrogate) -> dict[str, Any]:
    entry = _named(one.label, one.spec)
    return entry if one.seed is None else {**entry, "seed": one.seed}


def _defense(item: DefenseItem) -> list[dict[str, Any]] | dict[str, Any] | str:
    if not item.specs:
        return NONE
    parts = [_named(label, spec) for label, spec in zip(item.label.split(JOIN), item.specs, strict=True)]
    if item.adapt_to is not None:
        parts[0]["adapt_to"] = item.adapt_to  # of the whole, wherever it stands
    return parts if len(parts) > 1 else parts[0]


def _dataset(item: DatasetItem) -> dict[str, Any]:
    optional = {"limit": item.limit, "train_on": item.train_on}
    given = {key: value for key, value in optional.items() if value is not None}
    return {**_named(item.label, item.spec), **given, "split": item.split}
