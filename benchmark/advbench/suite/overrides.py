"""``--set key=value``: changes of a suite from the command line, made before it is validated.

A key is a dotted path. Below a list, the next part is an index, ``*`` for every entry, or the name of an
entry: ``seeds=[0,1]``, ``datasets.0.limit=100``, ``datasets.y10.params.depth=y1``,
``models.*.params.recipe.epochs=3``. A value is read as in the file.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from advbench.errors import Problem, SuiteError
from advbench.suite.document import Document, KeyPath, Place, path_text
from advbench.suite.findings import near, shown
from advbench.suite.model import AXES, NONE
from advbench.suite.yaml_marks import parse_document

_ENTRIES = (*AXES, "metrics", "figures")


@dataclass(frozen=True)
class Override:
    """One change: a dotted key, the new value, and how the user wrote it."""

    key: str
    value: Any
    place: Place

    def refuse(self, message: str) -> NoReturn:
        """Raise it as a mistake of the command line."""
        raise SuiteError([self.place.problem(message)])


def parse_override(text: str) -> Override:
    """From ``key=value``.

    Raises
    ------
    SuiteError
        If it has no such form, or the value is no YAML.
    """
    key, equals, value_text = text.partition("=")
    place = Place(f"--set {text}")
    if not equals or not all(key.strip().split(".")):
        raise SuiteError(
            [place.problem("expected key=value, where key is a dotted path such as datasets.0.limit")]
        )
    try:
        document = parse_document(value_text, place.file)
    except SuiteError as error:
        raise SuiteError([_without_line(problem) for problem in error.problems]) from None
    if document.problems:
        raise SuiteError([_without_line(problem) for problem in document.problems])
    return Override(key.strip(), document.value, place)


def with_overrides(document: Document, texts: Sequence[str], limit: int | None = None) -> Document:
    """A changed copy of the document; what cannot be changed is added to its ``problems``."""
    changed = copy.deepcopy(document)
    overrides = []
    for text in texts:
        try:
            overrides.append(parse_override(text))
        except SuiteError as error:
            changed.problems += error.problems
    if limit is not None and isinstance(changed.value.get("datasets"), list):
        overrides.append(Override("datasets.*.limit", limit, Place(f"--limit {limit}")))
    for override in overrides:
        try:
            _Setter(changed, override).descend(changed.value, (), override.key)
        except SuiteError as error:
            changed.problems += error.problems
    return changed


class _Setter:
    """Carries out one override on a document that may be changed."""

    def __init__(self, document: Document, override: Override) -> None:
        self._document, self._override = document, override

    def descend(self, node: Any, path: KeyPath, rest: str) -> None:
        """Set what ``rest``, the part of the key below ``path``, names inside ``node``."""
        if isinstance(node, dict):
            head, _, tail = rest.partition(".")
            self._enter(node, head, path, tail)
        elif isinstance(node, list):
            indices, tail = self._select(node, path, rest)
            for index in indices:
                if not (rest.startswith("*.") and node[index] == NONE):
                    self._enter(node, index, path, tail)
        else:
            self._override.refuse(f"{path_text(path)} is {shown(node)}; there is no {rest!r} in it")

    def _enter(self, node: Any, part: str | int, path: KeyPath, tail: str) -> None:
        here = (*path, part)
        if not tail:
            self._put(node, part, here, copy.deepcopy(self._override.value))
            return
        child = node.get(part) if isinstance(node, dict) else node[part]
        if child is None:
            self._put(node, part, here, {})
        elif isinstance(child, str) and _is_entry(here):
            node[part] = {"use": child}
        self.descend(node[part], here, tail)

    def _put(self, node: Any, part: str | int, path: KeyPath, value: Any) -> None:
        node[part] = value
        for places in (self._document.places, self._document.keys):
            for other in [other for other in places if other[: len(path)] == path]:
                del places[other]
            places[path] = self._override.place

    def _select(self, entries: list[Any], path: KeyPath, rest: str) -> tuple[list[int], str]:
        """Indices of the entries that the first part of ``rest`` names, and what follows it."""
        head, _, tail = rest.partition(".")
        if head == "*":
            return list(range(len(entries))), tail
        if re.fullmatch("[0-9]{1,9}", head) and int(head) < len(entries):
            return [int(head)], tail
        # A name may hold dots, so the longest one that fits is taken; labels go before ids.
        for naming in (_label, _use, _short):
            names = [naming(entry) for entry in entries]
            fitting = [name for name in names if name and (rest == name or rest.startswith(f"{name}."))]
            if fitting:
                name = max(fitting, key=len)
                indices = [index for index, other in enumerate(names) if other == name]
                if len(indices) > 1:
                    where = " and ".join(path_text((*path, index)) for index in indices)
                    self._override.refuse(f"{name!r} is the name of {where}; use an index or *")
                return indices, rest[len(name) + 1 :]
        known = {name for name in map(_label, entries) if name}
        last = f" (the last is {len(entries) - 1})" if entries else " (it is empty)"
        hint = near(head, known) if known else last
        self._override.refuse(f"{path_text(path)} has no entry {head!r}{hint}")


def _is_entry(path: KeyPath) -> bool:
    """Whether an id at this path stands for ``{use: id}``."""
    return (
        path[0] in _ENTRIES
        and len(path) in ((2, 3) if path[0] == "defenses" else (2,))
        and isinstance(path[-1], int)
    )


def _use(entry: Any) -> str:
    use = entry.get("use") if isinstance(entry, dict) else entry
    return use if isinstance(use, str) else ""


def _short(entry: Any) -> str:
    return _use(entry).rpartition("/")[2]


def _label(entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else _short(entry)


def _without_line(problem: Problem) -> Problem:
    """The line and column inside a ``--set`` say nothing to the user."""
    return replace(problem, line=0, column=0)
