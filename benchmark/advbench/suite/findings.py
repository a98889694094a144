"""Collects the mistakes of a suite, each with its place, while the checks go on."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from advbench.errors import Problem
from advbench.suite.document import Document, KeyPath, path_text


def near(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"``, or what there is if nothing known is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def shown(value: Any) -> str:
    """A value as a message quotes it."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = json.dumps(value) if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Findings:
    """The mistakes found in one document. Each check returns something usable for the next."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._problems = dict.fromkeys(document.problems)
        self._unreadable = {(problem.file, problem.line, problem.column) for problem in document.problems}

    @property
    def problems(self) -> list[Problem]:
        """Without repetitions, in the order of the file; mistakes of the command line come last."""
        return sorted(self._problems, key=lambda problem: (problem.line == 0, problem.line, problem.column))

    def add(self, path: KeyPath, message: str, *, at: KeyPath | None = None, key: bool = False) -> None:
        """A mistake in the value at ``path``; ``at`` (its value, or its ``key``) is the place shown."""
        place = self.document.place(path if at is None else at, key=key)
        # A number that could not be read was replaced; what follows from the replacement is noise.
        if (place.file, place.line, place.column) not in self._unreadable:
            self._problems[place.problem(message, path_text(path))] = None

    def unknown(self, path: KeyPath, known: Iterable[str], what: str = "key") -> None:
        """The last key of ``path`` is not one of the known ones."""
        name = str(path[-1])
        self.add(path[:-1], f"unknown {what} {name!r}{near(name, known)}", at=path, key=True)

    def mapping(self, path: KeyPath, value: Any, known: Sequence[str] | None = None) -> dict[str, Any]:
        """``value``, less the keys that are not known; empty if it is no mapping."""
        if not isinstance(value, dict):
            self.add(path, f"must be a mapping of keys and values, got {shown(value)}")
            return {}
        for key in value:
            if known is not None and key not in known:
                self.unknown((*path, key), known)
        return {key: entry for key, entry in value.items() if known is None or key in known}

    def items(
        self, path: KeyPath, value: Any, what: str, *, empty: bool = False
    ) -> list[tuple[KeyPath, Any]]:
        """The entries of a list and their paths; none if it is no list. ``what`` says what it should hold."""
        if not isinstance(value, list):
            self.add(path, f"must be a list of {what}, got {shown(value)}")
            return []
        if not value and not empty:
            self.add(path, f"is empty; it must hold {what}")
        return [((*path, index), entry) for index, entry in enumerate(value)]

    def text(self, path: KeyPath, value: Any) -> str | None:
        """``value`` if it is text, else None."""
        if isinstance(value, str) and value:
            return value
        hint = "; quote it" if isinstance(value, (bool, int, float)) else ""
        self.add(path, f"must be text, got {shown(value)}{hint}")
        return None

    def integer(self, path: KeyPath, value: Any, at_least: int) -> int | None:
        """``value`` if it is an integer and not too small, else None."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= at_least:
            return value
        self.add(path, f"must be an integer >= {at_least}, got {shown(value)}")
        return None
