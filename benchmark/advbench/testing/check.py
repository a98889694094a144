"""What a check is: a plain function of a component with example parameters."""

from __future__ import annotations

import shutil
import tempfile
import unittest
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from advbench.components.base import Component
from advbench.components.identity import Spec, canonical, specify
from advbench.components.loader import Plugins
from advbench.components.registry import Entry, last_words
from advbench.errors import AdvbenchError, DataError
from advbench.runtime.data import Card, Environment, load
from advbench.store.artifacts import Store
from advbench.values import Data

Some = TypeVar("Some", bound=Component)


class Skip(unittest.SkipTest):
    """A check does not apply; the message says why. Test runners show it as a skipped test."""


class Broken(AssertionError):
    """A component breaks its contract; the message says how."""


def require(condition: object, message: str) -> None:
    """Fail the check unless ``condition`` holds."""
    if not condition:
        raise Broken(message)


class CheckResult(NamedTuple):
    """What came of one check of one component."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    message: str  # what is wrong, why it was skipped, or something measured


@dataclass(eq=False)
class Subject:
    """A component with one set of example parameters, and what its checks share."""

    plugins: Plugins
    entry: Entry
    params: dict[str, Any]
    data_dirs: tuple[Path, ...] = ()

    @cached_property
    def component(self) -> Component:
        """The component, with these parameters."""
        return self.entry.load()(**self.params)

    def as_a(self, cls: type[Some]) -> Some:
        """The component, which is of this class."""
        require(isinstance(self.component, cls), f"is not a subclass of {cls.__name__}")
        return cast(Some, self.component)

    @cached_property
    def spec(self) -> Spec:
        """The component as suites name it."""
        return specify(self.plugins, self.entry.kind, self.entry.id, self.params)

    @cached_property
    def folder(self) -> Path:
        """A folder that lives as long as this object."""
        path = Path(tempfile.mkdtemp(prefix="advbench-check-"))
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return path

    @cached_property
    def loaded(self) -> tuple[Data, Card]:
        """The data and their card, for a data set; loaded once."""
        return self.load_data("first")

    @property
    def data(self) -> Data:
        """The data, for a data set."""
        return self.loaded[0]

    def load_data(self, store: str) -> tuple[Data, Card]:
        """Load the data set with a cache of its own.

        Raises
        ------
        Skip
            If its files are not there.
        """
        environment = Environment(self.plugins, Store(self.folder / store), self.data_dirs)
        try:
            return load(environment, self.spec, None)
        except DataError as error:
            if "not found" in str(error):
                raise Skip(str(error)) from None
            raise


CheckFunction = Callable[[Subject], "str | None"]


@dataclass(frozen=True)
class Check:
    """A named check; its function raises where the contract is broken."""

    function: CheckFunction

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """What it checks, in one line."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


@dataclass(frozen=True)
class BoundCheck:
    """A check together with the component to check, with each of its examples.

    Calling it raises what is wrong, so it can stand in any test; `run` returns it.
    """

    check: Check
    subjects: Sequence[Subject]

    def __call__(self) -> str:
        """Run the check.

        Raises
        ------
        Broken
            If the contract is broken; the cause is attached.
        Skip
            If it applies to none of the examples.
        """
        try:
            return self._run()
        except Broken as error:
            name = self.subjects[0].entry.id
            raise Broken(f"{name}: {self.check.name}: {error}") from error.__cause__

    def run(self) -> CheckResult:
        """Run the check and tell what came of it."""
        try:
            return CheckResult(self.check.name, "passed", self._run())
        except Skip as reason:
            return CheckResult(self.check.name, "skipped", str(reason))
        except Broken as error:
            return CheckResult(self.check.name, "failed", str(error))

    def _run(self) -> str:
        found: list[str] = []
        reasons: list[str] = []
        for subject in self.subjects:
            try:
                found.append(self.check.function(subject) or "")
            except Skip as reason:
                reasons.append(str(reason))
            except Exception as error:
                raise Broken(_shown(subject) + _words(error)) from error
        if not found:
            raise Skip(reasons[0] if reasons else "no examples")
        return ", ".join(dict.fromkeys(message for message in found if message))


def _shown(subject: Subject) -> str:
    """The example, where it is not the default."""
    if not subject.params:
        return ""
    try:
        return f"with {canonical(subject.params)}: "
    except (TypeError, ValueError):
        return f"with {subject.params!r}: "


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, (Broken, AdvbenchError)) else last_words(error)
