"""Reads a suite file: all mistakes at once, and no plugin loaded but those that it names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advbench.components.base import Attack, Corruption
from advbench.components.identity import Spec
from advbench.components.loader import Plugins
from advbench.errors import SuiteError
from advbench.suite.cross import check_adapt_to, check_exclusions, check_train_on
from advbench.suite.entries import DEFENSE_KEYS, KEYS, PERTURBATION_KEYS, Axis, EntryReader
from advbench.suite.findings import Findings, near, shown
from advbench.suite.model import (
    AXES,
    NONE,
    PRECISIONS,
    DatasetItem,
    DefenseItem,
    Item,
    PerturbationItem,
    Suite,
    Surrogate,
)
from advbench.suite.overrides import with_overrides
from advbench.suite.yaml_marks import read_document

KNOWLEDGE = ("blackbox", "oblivious", "adaptive")
"""What a suite may list; the natural rows, of which the attacker knows nothing, are always there."""

_TOP = (
    "version",
    "name",
    "description",
    "seeds",
    *AXES,
    "knowledge",
    "exclude",
    "metrics",
    "figures",
    "budget",
    "attack_precision",
)
_DEFAULTS: dict[str, Any] = {"defenses": [NONE], "perturbations": [NONE]}
_DATASET_KEYS = (*KEYS, "limit", "train_on", "split")
_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]+")


def read_suite(
    path: Path, plugins: Plugins, overrides: Sequence[str] = (), limit: int | None = None
) -> Suite:
    """The suite in a file, changed by ``--set key=value`` and ``--limit``, validated and written out.

    Parameters
    ----------
    path
        A YAML file in UTF-8.
    plugins
        Where ids are looked up; a plugin is loaded when the suite names one of its components.
    overrides
        Texts ``key=value``; see `advbench.suite.overrides`.
    limit
        Number of samples of every data set, in place of what the suite says.

    Raises
    ------
    SuiteError
        With all mistakes, each with its line and column.
    """
    document = read_document(path)
    if not isinstance(document.value, dict):
        is_empty = "the suite is empty; it begins with `version: 1`"
        message = (
            is_empty
            if document.value is None
            else f"a suite is a mapping of keys, got {shown(document.value)}"
        )
        raise SuiteError([*document.problems, document.place(()).problem(message)])
    findings = Findings(with_overrides(document, overrides, limit))
    suite = _SuiteReader(findings, plugins).suite(path)
    if findings.problems:
        raise SuiteError(findings.problems)
    return suite


class _SuiteReader:
    """Goes through the keys of a suite; each method notes what is wrong with its own key."""

    def __init__(self, findings: Findings, plugins: Plugins) -> None:
        self._findings, self._plugins = findings, plugins
        self._raw = findings.mapping((), findings.document.value, _TOP)

    def suite(self, path: Path) -> Suite:
        """The suite, which is whole only if nothing was found."""
        self._version()
        axes = {key: self._axis(key, kind) for key, kind in AXES.items()}
        seeds, knowledge = self._seeds(), self._knowledge()
        datasets = self._datasets(axes["datasets"])
        return Suite(
            name=self._name(path.stem),
            description=self._description(),
            file=str(path),
            seeds=seeds,
            datasets=datasets,
            models=tuple(Item(c.label, c.specs[0]) for c in axes["models"].candidates if c.specs),
            defenses=self._defenses(axes["defenses"], axes["datasets"]),
            perturbations=self._perturbations(axes["perturbations"], axes["models"]),
            knowledge=knowledge,
            exclude=check_exclusions(self._findings, self._raw.get("exclude", []), axes, knowledge, seeds),
            metrics=self._specs("metrics", "metric"),
            figures=self._specs("figures", "figure"),
            budget=self._optional_integer(("budget",), self._raw),
            attack_precision=self._attack_precision(),
        )

    def _version(self) -> None:
        version = self._raw.get("version")
        if "version" not in self._raw:
            self._findings.add((), "the key 'version' is missing; write `version: 1`")
        elif version != 1 or not isinstance(version, int) or isinstance(version, bool):
            self._findings.add(
                ("version",), f"must be 1, the version that this advbench reads, got {shown(version)}"
            )

    def _name(self, stem: str) -> str:
        name = self._findings.text(("name",), self._raw["name"]) if "name" in self._raw else stem
        if name is not None and not _NAME.fullmatch(name):
            origin = "" if "name" in self._raw else ", the name of the file,"
            allowed = "it may hold letters A-Z and a-z, digits, '.', '_' and '-'"
            self._findings.add(("name",), f"{name!r}{origin} cannot be the name of a suite: {allowed}")
        return name or stem

    def _description(self) -> str:
        if self._raw.get("description") in (None, ""):
            return ""
        return self._findings.text(("description",), self._raw["description"]) or ""

    def _seeds(self) -> tuple[int, ...]:
        entries = self._findings.items(("seeds",), self._raw.get("seeds", [0]), "integers >= 0")
        seeds: dict[int, None] = {}
        for path, value in entries:
            seed = self._findings.integer(path, value, at_least=0)
            if seed in seeds:
                self._findings.add(path, f"the seed {seed} is listed twice")
            elif seed is not None:
                seeds[seed] = None
        return tuple(seeds)

    def _axis(self, key: str, kind: str) -> Axis:
        if key not in self._raw and key not in _DEFAULTS:
            self._findings.add((), f"the key {key!r} is missing; it lists {key}")
            return Axis([], complete=False)
        entries = self._findings.items(
            (key,), self._raw.get(key, _DEFAULTS.get(key)), f"{key}, e.g. [{kind}-id]"
        )
        keys = {
            "dataset": _DATASET_KEYS, "perturbation": PERTURBATION_KEYS, "defense": DEFENSE_KEYS
        }.get(kind, KEYS)  # fmt: skip
        axis = EntryReader(self._findings, self._plugins, kind, keys).axis(entries)
        return Axis(axis.candidates, axis.complete and bool(entries))

    def _datasets(self, axis: Axis) -> tuple[DatasetItem, ...]:
        check_train_on(self._findings, axis)
        items = []
        for candidate in axis.candidates:
            entry = self._findings.document.at(candidate.path)
            entry = entry if isinstance(entry, dict) else {}
            limit = self._optional_integer((*candidate.path, "limit"), entry)
            split = (
                self._findings.text((*candidate.path, "split"), entry["split"])
                if "split" in entry
                else "test"
            )
            if candidate.specs:
                items.append(
                    DatasetItem(
                        candidate.label, candidate.specs[0], limit, entry.get("train_on"), split or ""
                    )
                )
        return tuple(items)

    def _defenses(self, axis: Axis, datasets: Axis) -> tuple[DefenseItem, ...]:
        items = []
        for candidate in axis.candidates:
            entry = self._findings.document.at(candidate.path) if "defenses" in self._raw else None
            adapts = {
                self._plugins.find("defense", spec.id).load().tags.adapts for spec in candidate.specs or ()
            }
            adapt_to = check_adapt_to(self._findings, candidate, entry, datasets, adapts)
            if candidate.specs is not None:
                items.append(DefenseItem(candidate.label, candidate.specs, adapt_to))
        return tuple(items)

    def _perturbations(self, axis: Axis, models: Axis) -> tuple[PerturbationItem, ...]:
        items = []
        for candidate in axis.candidates:
            entry = self._findings.document.at(candidate.path) if "perturbations" in self._raw else None
            surrogates: tuple[Surrogate, ...] = ()
            if isinstance(entry, dict) and "transfer_from" in entry:
                path = (*candidate.path, "transfer_from")
                surrogates = self._surrogates(path, entry["transfer_from"], models)
            for spec in (candidate.specs or ())[:-1]:
                if not issubclass(self._class(spec), Corruption):
                    self._findings.add(candidate.path, f"the attack {spec.id} must come last")
            if candidate.specs is not None:
                last = candidate.specs[-1] if candidate.specs else None
                if surrogates and not (last and issubclass(self._class(last), Attack)):
                    words = "`transfer_from` is for attacks; a corruption does not look at a network"
                    self._findings.add((*candidate.path, "transfer_from"), words)
                items.append(PerturbationItem(candidate.label, last, candidate.specs[:-1], surrogates))
        return tuple(items)

    def _class(self, spec: Spec) -> type:
        return self._plugins.find("perturbation", spec.id).load()

    def _surrogates(self, path: tuple[str | int, ...], raw: Any, models: Axis) -> tuple[Surrogate, ...]:
        """Networks to craft on: labels of models, ids or entries, each with a `seed` if it shall differ."""
        reader = EntryReader(self._findings, self._plugins, "model", ("use", "name", "params", "seed"))
        labelled = {candidate.label: candidate for candidate in models.candidates}
        surrogates = []
        for place, entry in self._findings.items(path, raw, "models"):
            name = entry.get("use") if isinstance(entry, dict) and "params" not in entry else entry
            known = labelled.get(name) if isinstance(name, str) else None
            given = entry.get("seed") if isinstance(entry, dict) else None
            seed = None if given is None else self._findings.integer((*place, "seed"), given, at_least=0)
            for candidate in [known] if known is not None else reader.candidates([(place, entry)]):
                surrogates += [Surrogate(candidate.label, spec, seed) for spec in candidate.specs or ()]
        return tuple(surrogates)

    def _optional_integer(self, path: tuple[str | int, ...], entry: dict[str, Any]) -> int | None:
        value = entry.get(str(path[-1]))
        return None if value is None else self._findings.integer(path, value, at_least=1)

    def _attack_precision(self) -> str:
        value = self._raw.get("attack_precision", PRECISIONS[0])
        if value not in PRECISIONS:
            self._findings.add(
                ("attack_precision",), f"must be {' or '.join(PRECISIONS)}, got {shown(value)}"
            )
        return str(value)

    def _knowledge(self) -> tuple[str, ...]:
        entries = self._findings.items(
            ("knowledge",), self._raw.get("knowledge", ["adaptive"]), ", ".join(KNOWLEDGE)
        )
        known: dict[str, None] = {}
        for path, value in entries:
            if value not in KNOWLEDGE:
                self._findings.add(path, _not_knowledge(value))
            elif value in known:
                self._findings.add(path, f"{value!r} is listed twice")
            else:
                known[value] = None
        return tuple(known)

    def _specs(self, key: str, kind: str) -> tuple[Spec, ...]:
        entries = self._findings.items((key,), self._raw.get(key, []), f"ids of {key}", empty=True)
        reader = EntryReader(self._findings, self._plugins, kind, ("use", "params"))
        specs: dict[Spec, None] = {}
        for candidate in reader.candidates(entries):
            for spec in candidate.specs or ():
                if spec in specs:
                    self._findings.add(candidate.path, f"the {kind} {spec.id!r} is listed twice")
                specs[spec] = None
        return tuple(specs)


def _not_knowledge(value: Any) -> str:
    if value == "none":
        return "'none' is not listed: natural rows are added by themselves"
    if value == "transfer":
        return "'transfer' is not listed: give a perturbation the key `transfer_from: [MODEL]`"
    hint = near(value, KNOWLEDGE) if isinstance(value, str) else f" (known: {', '.join(KNOWLEDGE)})"
    return f"unknown knowledge {shown(value)}{hint}"
