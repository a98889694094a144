"""The parameters of a component in words: names, types with limits, defaults, units."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from advbench.components.base import Attack
from advbench.components.identity import canonical
from advbench.values import Budget

NAMES = {
    bool: "true | false",
    int: "integer",
    float: "number",
    str: "text",
    type(None): "null",
    Any: "anything",
}
LISTS = (list, tuple, set, frozenset, Sequence)
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}


@dataclass(frozen=True)
class Parameter:
    """One parameter; ``recipe.epochs`` is a parameter inside another one."""

    name: str
    type: str
    default: str
    unit: str
    help: str


def parameters(model: type[BaseModel], prefix: str = "") -> list[Parameter]:
    """All parameters of a component, those inside others after them, those that every attack has at the end."""
    found = []
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] in Attack.model_fields):
        unit = field.json_schema_extra.get("unit", "") if isinstance(field.json_schema_extra, dict) else ""
        inner = _model(field.annotation)
        default = _default(field, inner is not None)
        words = type_name(field.annotation) + limits(field)
        found.append(Parameter(prefix + name, words, default, str(unit), field.description or ""))
        if inner is not None:
            found += _inside(inner, field, f"{prefix}{name}.")
    return found


def _inside(model: type[BaseModel], field: FieldInfo, prefix: str) -> list[Parameter]:
    """Parameters of a nested model, with the defaults that its owner gives them."""
    given = field.default.model_dump(mode="json") if isinstance(field.default, BaseModel) else {}
    listed = []
    for one in parameters(model, prefix):
        value: Any = given
        for part in one.name.removeprefix(prefix).split("."):
            value = value.get(part, ...) if isinstance(value, dict) else ...
        default = one.default if value is ... or isinstance(value, dict) else text_of(value)
        listed.append(Parameter(one.name, one.type, default, one.unit, one.help))
    return listed


def type_name(annotation: Any) -> str:
    """An annotation as a person says it: ``"linf | l2"``, ``"list of number"``."""
    if annotation in NAMES:
        return NAMES[annotation]
    if get_origin(annotation) is Annotated:
        return type_name(get_args(annotation)[0])
    if annotation is Budget:
        return "number or one per channel"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join("null" if value is None else str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    if origin in LISTS:
        inside = [type_name(argument) for argument in arguments if argument is not ...]
        fixed = origin is tuple and ... not in arguments
        return f"[{', '.join(inside)}]" if fixed else f"list of {inside[0]}" if inside else "list"
    if origin is dict or annotation is dict or _model(annotation) is not None:
        return "mapping"
    return getattr(annotation, "__name__", str(annotation))


def limits(field: FieldInfo) -> str:
    """``" >= 1, <= 64"``: the constraints of a field."""
    found = []
    for constraint in field.metadata:
        found += [
            f"{sign} {getattr(constraint, name)}" for name, sign in SIGNS.items() if hasattr(constraint, name)
        ]
        for name, word in (("min_length", "at least"), ("max_length", "at most")):
            if hasattr(constraint, name):
                found.append(f"{word} {getattr(constraint, name)} long")
    return f" {', '.join(found)}" if found else ""


def _default(field: FieldInfo, nested: bool) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if nested and isinstance(value, BaseModel) else text_of(value)


def text_of(value: Any) -> str:
    """A default as one would write it in a suite."""
    if isinstance(value, Budget):
        value = value.json()
    if isinstance(value, str):
        return value or '""'
    try:
        return canonical(value)
    except (TypeError, ValueError):  # a value that has no JSON
        return str(value)


def _model(annotation: Any) -> type[BaseModel] | None:
    """The nested model of an annotation, also of ``Model | None``."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
