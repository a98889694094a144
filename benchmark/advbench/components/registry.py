"""The registry: which components exist, without importing them until they are used."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from advbench.components.base import Component
from advbench.errors import PluginError, PluginLoadError, UserError

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Entry:
    """One registered component."""

    kind: str
    id: str
    target: str | type[Component]
    distribution: str

    @property
    def namespace(self) -> str:
        """The part before the slash: the plugin."""
        return self.id.split("/")[0]

    @property
    def name(self) -> str:
        """The part after the slash."""
        return self.id.split("/")[1]

    def summary(self) -> str:
        """First line of the class docstring, read from the source: the module is not imported."""
        doc = inspect.getdoc(self.target) if isinstance(self.target, type) else _docstring(self.target)
        return (doc or "").strip().split("\n")[0]

    def load(self) -> type[Component]:
        """The class.

        Raises
        ------
        PluginLoadError
            If its module cannot be imported, or the class is not of the registered kind.
        """
        found = self.target if isinstance(self.target, type) else self._import(self.target)
        if not (isinstance(found, type) and issubclass(found, Component) and found.kind == self.kind):
            raise PluginLoadError(
                f"{self.id} ({self.distribution}): {self.target} is not a {self.kind} class"
            )
        return found

    def _import(self, target: str) -> object:
        module_name, _, class_name = target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), class_name)
        except (Exception, SystemExit) as error:
            raise PluginLoadError(
                f"{self.id} ({self.distribution}) cannot be imported: {last_words(error)}"
            ) from error


LIBRARIES = frozenset({"h5py", "numpy", "pandas", "scipy", "sklearn", "torch"})
"""Folders whose frames do not tell an author where to look."""


class Register:
    """What a registration hook receives; ``register("pgd", "my_package.pgd:PGD")`` imports nothing."""

    def __init__(self, kind: str, namespace: str, distribution: str) -> None:
        self.kind, self.namespace, self.distribution = kind, namespace, distribution
        self.entries: list[Entry] = []

    def __call__(self, name: str, target: str | type[Component]) -> None:
        """Register ``target``, a class or ``"module:Class"``, as ``namespace/name``."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise PluginError(f"{name!r} is no component name: lower-case letters, digits and hyphens only")
        if isinstance(target, str) and not re.fullmatch(r"[\w.]+:\w+", target):
            raise PluginError(f"{target!r} is not of the form 'package.module:Class'")
        if any(entry.name == name for entry in self.entries):
            raise PluginError(f"{self.kind} {name!r} is registered twice")
        self.entries.append(Entry(self.kind, f"{self.namespace}/{name}", target, self.distribution))


class Registry:
    """All entries of the loaded plugins."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = {(entry.kind, entry.id): entry for entry in entries}

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: (entry.kind, entry.id)))

    def find(self, kind: str, reference: str) -> Entry:
        """The entry of a full id, or of a short name while it is unique.

        Raises
        ------
        UserError
            If there is none, or more than one; the message proposes what is near.
        """
        exact = self._entries.get((kind, reference))
        if exact is not None:
            return exact
        entries = [entry for entry in self if entry.kind == kind]
        named = [entry for entry in entries if entry.name == reference]
        if len(named) == 1:
            return named[0]
        if named:
            raise UserError(f"{kind} {reference!r} is ambiguous: {', '.join(entry.id for entry in named)}")
        known = [entry.id for entry in entries]
        near = difflib.get_close_matches(reference, known + [entry.name for entry in entries], n=1)
        others = sorted({entry.kind for entry in self if reference in (entry.id, entry.name)})
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        hint = f" ({reference!r} is a {others[0]})" if others else hint
        raise UserError(f"unknown {kind} {reference!r}{hint}; `advbench list {kind}s` shows what there is")


def last_words(error: BaseException) -> str:
    """An exception in one line: type, message and the innermost place outside the libraries that everybody uses."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    known = [frame for frame in frames if not frame.filename.startswith("<")]
    told = [frame for frame in known if not LIBRARIES & set(Path(frame.filename).parts)] or known
    place = f" ({Path(told[-1].filename).name}:{told[-1].lineno})" if told else ""
    first = (str(error).strip().split("\n") or [""])[0]
    return f"{type(error).__name__}: {first}{place}"


def _docstring(target: str) -> str:
    module_name, _, class_name = target.partition(":")
    try:
        spec = importlib.util.find_spec(module_name)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else None
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""
    for node in tree.body if tree else []:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return ast.get_docstring(node) or ""
    return ""
