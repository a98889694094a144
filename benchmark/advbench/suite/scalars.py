"""Plain scalars as YAML 1.2 (core schema) reads them, and fractions such as ``8/255``."""

from __future__ import annotations

import math
import re

Scalar = str | int | float | bool | None

_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_FLOAT = re.compile(_NUMBER)
_FRACTION = re.compile(rf"({_NUMBER})\s*/\s*({_NUMBER})")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_INTEGERS = {10: re.compile(r"[-+]?[0-9]+"), 8: re.compile(r"0o[0-7]+"), 16: re.compile(r"0x[0-9a-fA-F]+")}
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def plain_scalar(text: str) -> Scalar:
    """Value of an unquoted scalar: null, a boolean, an integer, a number, or else the text itself.

    ``no``, ``on`` and ``1_000`` are text, ``1e-3`` is a number and ``8/255`` is the number 8/255.

    Raises
    ------
    ValueError
        If it is a number that a suite cannot hold: infinite, undefined, or an integer of more than 64 bits.
    """
    if text in _WORDS:
        return _WORDS[text]
    for base, pattern in _INTEGERS.items():
        if pattern.fullmatch(text):
            return _integer(text, base)
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        numerator, denominator = (float(part) for part in fraction.groups())
        return _finite(numerator / denominator if denominator else math.nan, text)
    if _FLOAT.fullmatch(text):
        return _finite(float(text), text)
    if _NOT_FINITE.fullmatch(text):
        return _finite(math.nan, text)
    return text


def _integer(text: str, base: int) -> int:
    # Python refuses to convert thousands of digits, and libraries overflow long before.
    value = int(text, base) if len(text) <= 80 else 2**63
    if not -(2**63) <= value < 2**63:
        raise ValueError("an integer of more than 64 bits")
    return value


def _finite(value: float, text: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value
