"""``advbench info``."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from advbench.cli.find import find_entries
from advbench.cli.main import COMMANDS
from advbench.cli.options import plugins_dir
from advbench.cli.parameters import Parameter, parameters
from advbench.components.base import Attack, Corruption
from advbench.components.loader import Plugins
from advbench.components.registry import Entry
from advbench.components.tags import TASKS, Tags

WIDTH = 100
"""Characters of a line, if the terminal has as many."""


@click.command("info", help=COMMANDS["info"])
@click.argument("id", metavar="ID")
@plugins_dir
def command(id: str, plugins_dirs: tuple[Path, ...]) -> None:
    """Describe the component of an id, full or short."""
    plugins = Plugins.discover(plugins_dirs)
    for index, entry in enumerate(find_entries(plugins, id)):
        click.echo(("\n" if index else "") + "\n".join(_described(entry)))


def _described(entry: Entry) -> Iterator[str]:
    cls = entry.load()
    kind = (
        "attack" if issubclass(cls, Attack) else "corruption" if issubclass(cls, Corruption) else entry.kind
    )
    yield f"{click.style(entry.id, bold=True)}  {kind}, version {cls.version}, from {entry.distribution}"
    yield f"{cls.__module__}:{cls.__name__}"
    yield ""
    yield _reflowed(inspect.getdoc(cls) or "(no docstring)")
    yield ""
    found = parameters(cls)
    yield click.style("parameters", bold=True) if found else "no parameters"
    yield from _table(found)
    tags = list(_tags(cls.tags))
    if tags:
        yield ""
        yield click.style("tags", bold=True)
        yield from tags
    if cls.tags.reference:
        yield ""
        yield f"{click.style('reference', bold=True)}  {cls.tags.reference}"


def _room() -> int:
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def _reflowed(text: str) -> str:
    """Paragraphs as wide as the terminal; whatever is indented stays as it is."""
    paragraphs = text.split("\n\n")
    for index, paragraph in enumerate(paragraphs):
        lines = paragraph.splitlines()
        if max(map(len, lines), default=0) > _room() and not any(line.startswith(" ") for line in lines):
            paragraphs[index] = textwrap.fill(" ".join(lines), _room(), break_long_words=False)
    return "\n\n".join(paragraphs)


def _table(found: list[Parameter]) -> Iterator[str]:
    """Name, type and default in columns; the help stands beside them, or below where they are too wide."""
    columns = [(one.name, one.type, one.default) for one in found]
    widths = [min(32, max((len(row[i]) for row in columns), default=0)) for i in range(3)]
    indent = 2 + sum(widths) + 6
    room = _room()
    for one, row in zip(found, columns):
        cells = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths))
        words = one.help + (f" [{one.unit}]" if one.unit else "")
        fits = all(len(cell) <= width for cell, width in zip(row, widths)) and indent < room - 30
        if fits:
            lines = textwrap.wrap(words, room - indent) or [""]
            yield f"  {cells}  {lines[0]}".rstrip()
            yield from (" " * indent + line for line in lines[1:])
        else:
            yield f"  {'  '.join(row)}".rstrip()
            yield from (" " * 6 + line for line in textwrap.wrap(words, room - 6))


def _tags(tags: Tags) -> Iterator[str]:
    """Only what says something: a tag that is empty or off is left out."""
    for field in fields(tags):
        value: Any = getattr(tags, field.name)
        told = value and field.name != "reference" and not (field.name == "tasks" and set(value) == TASKS)
        if told:
            listed = isinstance(value, Collection) and not isinstance(value, str)
            words = ", ".join(sorted(value)) if listed else "yes" if value is True else str(value)
            yield f"  {field.name:<15} {words}"
