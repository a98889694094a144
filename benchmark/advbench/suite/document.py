"""A document of plain values that knows where each of them stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from advbench.errors import Problem

KeyPath = tuple[str | int, ...]
"""Keys and indices that lead to a value: ``("models", 0, "params", "width")``."""


@dataclass(frozen=True)
class Place:
    """Where something stands; lines and columns count from 1, and 0 says that there is none."""

    file: str
    line: int = 0
    column: int = 0

    def problem(self, message: str, path: str = "") -> Problem:
        """A mistake at this place."""
        return Problem(message, path, self.file, self.line, self.column)


@dataclass
class Document:
    """Plain values, the places of values and of keys, and the mistakes that did not end the reading."""

    value: Any
    places: dict[KeyPath, Place]
    keys: dict[KeyPath, Place]
    problems: list[Problem] = field(default_factory=list)

    def at(self, path: KeyPath) -> Any:
        """The value at a path that exists."""
        value = self.value
        for part in path:
            value = value[part]
        return value

    def place(self, path: KeyPath, *, key: bool = False) -> Place:
        """Place of the value (or of its key), else of the nearest value around it."""
        if key and path in self.keys:
            return self.keys[path]
        while path not in self.places:
            path = path[:-1]
        return self.places[path]


def path_text(path: KeyPath) -> str:
    """A path as people write it: ``models[0].params.width``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
