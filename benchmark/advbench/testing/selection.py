"""Which checks a component has to pass, and running them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from advbench.components.base import Attack, Component, Corruption
from advbench.components.loader import Plugins
from advbench.components.registry import Entry
from advbench.errors import PluginLoadError
from advbench.testing import attacks, components, corruptions, datasets, defenses, models, others
from advbench.testing.check import BoundCheck, Check, CheckFunction, CheckResult, Subject, require

_BY_KIND: dict[str, Callable[[type[Component]], list[CheckFunction]]] = {
    "model": models.checks,
    "dataset": datasets.checks,
    "defense": defenses.checks,
    "metric": others.metric_checks,
    "engine": others.engine_checks,
    "figure": others.figure_checks,
}


def checks_for(cls: type[Component]) -> list[Check]:
    """The checks for a class, by its kind and its tags."""
    if issubclass(cls, Attack):
        special = attacks.checks(cls)
    elif issubclass(cls, Corruption):
        special = corruptions.checks(cls)
    else:
        special = _BY_KIND.get(cls.kind, _no_kind)(cls)
    return [Check(function) for function in (*components.checks(cls), *special)]


def _no_kind(cls: type[Component]) -> list[CheckFunction]:
    return [is_an_attack_or_a_corruption]


def is_an_attack_or_a_corruption(subject: Subject) -> None:
    """A perturbation is an attack or a corruption."""
    raise AssertionError("a perturbation must be a subclass of Attack or of Corruption")


def can_be_imported(subject: Subject) -> None:
    """The registered class can be imported."""
    subject.entry.load()


def examples_are_valid(subject: Subject) -> None:
    """There are example parameters, and the component takes them."""
    cls = subject.entry.load()
    require(cls.examples, "`examples` is empty")
    try:
        cls(**subject.params)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        require(False, f"{where}: {first['msg']}; set the class attribute `examples` to parameters that work")


def bound_checks(
    plugins: Plugins,
    entry: Entry,
    data_dirs: Sequence[Path] = (),
    examples: Sequence[Mapping[str, Any]] | None = None,
) -> list[BoundCheck]:
    """The checks of a component with each of its examples, or with those given here."""
    try:
        cls = entry.load()
    except PluginLoadError:
        return [BoundCheck(Check(can_be_imported), [Subject(plugins, entry, {})])]
    chosen = cls.examples if examples is None else examples
    subjects = [Subject(plugins, entry, dict(params), tuple(data_dirs)) for params in chosen or ({},)]
    valid = BoundCheck(Check(examples_are_valid), subjects)
    if valid.run().status == "failed":  # nothing else can be tried
        return [valid]
    return [valid, *(BoundCheck(check, subjects) for check in checks_for(cls))]


def run_checks(plugins: Plugins, entry: Entry, data_dirs: Sequence[Path] = ()) -> list[CheckResult]:
    """Check one component.

    Parameters
    ----------
    plugins, entry
        The installed plugins, and what `Plugins.find` gives for the component.
    data_dirs
        Folders in which data sets look for their files.
    """
    return [bound.run() for bound in bound_checks(plugins, entry, data_dirs)]
