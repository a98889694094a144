"""Reads YAML and remembers where everything stands.

The parser is PyYAML's; what its stock loaders get wrong for a suite is done here: scalars follow YAML 1.2,
duplicate keys are mistakes, and tags, which could construct anything, are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.reader import ReaderError

from advbench.errors import Problem, SuiteError
from advbench.suite.document import Document, KeyPath, Place, path_text
from advbench.suite.scalars import plain_scalar
from advbench.suite.syntax import in_plain_words

MAX_DEPTH = 32
MAX_VALUES = 100_000


def read_document(path: Path) -> Document:
    """Read a UTF-8 file.

    Raises
    ------
    SuiteError
        If it cannot be read or is no YAML. Lesser mistakes are kept in the document's ``problems``.
    """
    place = Place(str(path))
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SuiteError([place.problem("there is no such file")]) from None
    except OSError as error:
        raise SuiteError([place.problem(f"cannot be read: {error.strerror or error}")]) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", errors="replace")
        raise SuiteError(
            [_at(before, str(path)).problem("is not UTF-8 text; save it with that encoding")]
        ) from None
    return parse_document(text, str(path))


def parse_document(text: str, file: str) -> Document:
    """Parse YAML text; see `read_document`."""
    loader = _Loader(text.removeprefix("\ufeff"), file)
    node = loader.root()
    builder = _Builder(file)
    value = None if node is None else builder.build(node, ())
    builder.places.setdefault((), Place(file, 1, 1))
    return Document(value, builder.places, builder.keys, builder.problems)


class _Loader(yaml.BaseLoader):
    """Composes nodes, with limits on what it accepts; every failure is a `SuiteError`."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._depth = 0
        try:
            super().__init__(text)
        except ReaderError as error:
            place = _at(text[: error.position], file)
            raise SuiteError(
                [place.problem(f"the character U+{ord(text[error.position]):04X} cannot stand in YAML")]
            ) from None

    def root(self) -> yaml.Node | None:
        """The node of the only document, None if the text is empty."""
        try:
            return self.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark or self.get_mark()
            raise SuiteError([_place(mark, self._file).problem(in_plain_words(error))]) from None
        except (ValueError, OverflowError):  # from chr() on an escape such as "\UFFFFFFFF"
            place = _place(self.get_mark(), self._file)
            raise SuiteError([place.problem("this escape in quoted text is no character")]) from None

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._refuse(
                event, f"tags are not used in suites: remove {tag.replace('tag:yaml.org,2002:', '!!')}"
            )
        if self._depth > MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, event: yaml.Event, message: str) -> NoReturn:
        raise SuiteError([_place(event.start_mark, self._file).problem(message)])


class _Builder:
    """Turns nodes into plain values; aliased ones into values of their own, so that each path has a place."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.places: dict[KeyPath, Place] = {}
        self.keys: dict[KeyPath, Place] = {}
        self.problems: list[Problem] = []

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.places[path] = place = _place(node.start_mark, self._file)
        if len(path) > MAX_DEPTH:
            raise SuiteError([place.problem("an alias that stands inside its own anchor")])
        if len(self.places) > MAX_VALUES:
            raise SuiteError([place.problem(f"more than {MAX_VALUES} values, with aliases written out")])
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = _place(key_node.start_mark, self._file)
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                self._mistake(place, path, "a key must be text")
                continue
            key = self._text(key_node.value, place, path)
            if key == "<<" and key_node.style is None:
                self._mistake(place, path, "merge keys (<<) are not part of YAML 1.2; write the keys out")
            elif key in mapping:
                first = self.keys[(*path, key)]
                self._mistake(place, path, f"the key {key!r} is given twice (first in line {first.line})")
            else:
                self.keys[(*path, key)] = place
                mapping[key] = self.build(value_node, (*path, key))
        return mapping

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        place = self.places[path]
        if node.style is not None:
            return self._text(node.value, place, path)
        try:
            return plain_scalar(node.value)
        except ValueError as error:
            self._mistake(place, path, str(error))
            return 0

    def _text(self, text: str, place: Place, path: KeyPath) -> str:
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._mistake(place, path, "an escape that is half of a character (a surrogate)")
            return text.encode("utf-8", errors="replace").decode("utf-8")
        return text

    def _mistake(self, place: Place, path: KeyPath, message: str) -> None:
        self.problems.append(place.problem(message, path_text(path)))


def _place(mark: Any, file: str) -> Place:
    return Place(file, mark.line + 1, mark.column + 1)


def _at(before: str, file: str) -> Place:
    """The place after this text."""
    lines = before.split("\n")
    return Place(file, len(lines), len(lines[-1]) + 1)
