"""The product of a sweep and the labels of its combinations."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from advbench.suite.document import KeyPath

LABEL_MARKS = r"\w.,:;=()<>%~@+-"
"""Characters of a label beside single spaces, as the inside of a character class."""


class Combination(NamedTuple):
    """One combination of a sweep: what the label ends in, the values, and where each stands."""

    suffix: str
    values: dict[str, Any]
    places: dict[str, KeyPath]


def combinations(path: KeyPath, sweep: Mapping[str, Sequence[Any]]) -> list[Combination]:
    """The product of the sweep of the entry at ``path``, or one that is empty."""
    texts = {name: _texts(values) for name, values in sweep.items()}
    found = []
    for chosen in itertools.product(*(range(len(values)) for values in sweep.values())):
        at = dict(zip(sweep, chosen))
        inside = ",".join(f"{name}={texts[name][index]}" for name, index in at.items())
        suffix = re.sub(rf"[^{LABEL_MARKS}]", "_", f"({inside})") if at else ""
        values = {name: sweep[name][index] for name, index in at.items()}
        found.append(Combination(suffix, values, {name: (*path, "sweep", name, i) for name, i in at.items()}))
    return found


def same(value: Any, other: Any) -> bool:
    """Whether two values of a sweep are one; true is not 1."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _texts(values: Sequence[Any]) -> list[str]:
    """Texts for the values of one sweep: six digits, or all where six do not tell values apart."""
    short = [_text(value, ".6g") for value in values]
    return short if len(set(short)) == len(short) else [_text(value, "") for value in values]


def _text(value: Any, digits: str) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return format(value, digits)
    if isinstance(value, list):
        return ":".join(_text(entry, digits) for entry in value)
    if isinstance(value, dict):
        return ";".join(f"{name}:{_text(entry, digits)}" for name, entry in value.items())
    return str(value)
