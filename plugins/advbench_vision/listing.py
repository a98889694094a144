"""Which image files there are, and their labels: from class folders or from a CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from advbench.api import DataError
from advbench_vision.pictures import is_picture


class Listed(NamedTuple):
    """An image file, relative to the root with forward slashes, and its label."""

    name: str
    label: str


def from_folders(root: Path) -> list[Listed]:
    """Images below the folders of ``root``, each folder a class; sorted by name.

    Files that are no images, hidden files and hidden folders are passed over.

    Raises
    ------
    DataError
        If ``root`` is no folder or there is no image below its folders.
    """
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder of class folders")
    found = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        pictures = (path for path in folder.rglob("*") if is_picture(path) and path.is_file())
        found += [Listed(path.relative_to(root).as_posix(), folder.name) for path in pictures]
    if not found:
        raise DataError(f"{root}: there are no images in folders below it; expected <root>/<class>/<image>")
    return sorted(found)


def from_csv(path: Path, name_template: str, label_column: str, where: Mapping[str, str]) -> list[Listed]:
    """Rows of a CSV with a header, as image files and labels; sorted by name.

    Parameters
    ----------
    path
        The CSV.
    name_template
        File name relative to the root, with columns in braces: ``"images/{objid}.jpeg"``.
    label_column
        Column with the class.
    where
        Columns and the value that a row must have in each to be taken.

    Raises
    ------
    DataError
        If a column is missing, a label or name is empty, a file is named twice, or no row is left.
    """
    found: dict[str, str] = {}
    for line, row in _rows(path, [*re.findall(r"{(\w+)}", name_template), label_column, *where]):
        if any(row[column] != value for column, value in where.items()):
            continue
        name = _filled(name_template, row)
        if not name or not row[label_column]:
            raise DataError(f"{path}, line {line}: the {'label' if name else 'file name'} is empty")
        if name in found:
            raise DataError(f"{path}, line {line}: {name!r} is listed twice")
        found[name] = row[label_column]
    if not found:
        raise DataError(f"{path}: no row {f'with {dict(where)} ' if where else ''}is there")
    return sorted(Listed(name, label) for name, label in found.items())


def choose(listed: Sequence[Listed], classes: Sequence[str], merge: Mapping[str, str]) -> list[Listed]:
    """Images with labels renamed by ``merge``, of ``classes`` only unless it is empty.

    Raises
    ------
    DataError
        If a class to keep or to merge is not there.
    """
    labels = {item.label for item in listed}
    _all_there(merge, labels)
    renamed = [Listed(item.name, merge.get(item.label, item.label)) for item in listed]
    _all_there(classes, {item.label for item in renamed})
    return [item for item in renamed if not classes or item.label in classes]


def _filled(template: str, row: Mapping[str, str]) -> str:
    return re.sub(r"{(\w+)}", lambda match: row[match[1]], template)


def _all_there(wanted: Sequence[str] | Mapping[str, str], labels: set[str]) -> None:
    missing = sorted(set(wanted) - labels)
    if missing:
        raise DataError(
            f"there is no class {', '.join(map(repr, missing))}; there are {', '.join(sorted(labels))}"
        )


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, restval="")
        try:
            header = reader.fieldnames or []
            missing = sorted(set(columns) - set(header))
            if missing:
                raise DataError(
                    f"{path}: there is no column {', '.join(map(repr, missing))}; there are {', '.join(header)}"
                )
            for row in reader:
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a readable CSV ({error})") from None
