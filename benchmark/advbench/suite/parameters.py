"""Parameters of components: validated by the component, explained at their place in the suite."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from advbench.components.base import Component, Defense
from advbench.components.identity import Spec, specify
from advbench.components.loader import Plugins
from advbench.components.registry import last_words
from advbench.errors import PluginLoadError, UserError
from advbench.suite.document import KeyPath
from advbench.suite.findings import Findings, near, shown

_PLAIN = (
    (re.compile(r"^(Value|Assertion) error, "), ""),
    (re.compile(r"^(Input|Value|List|Tuple|Set|Dictionary|String|Data) should "), "must "),
    (re.compile(r", (unable to|got a number).*$"), ""),
    (re.compile(r"a valid (tuple|set|frozenset|list)\b"), "a list"),
    (re.compile(r"a valid dictionary.*$"), "a mapping"),
    (re.compile(r"a valid string\b"), "text"),
    (re.compile(r"a valid boolean\b"), "true or false"),
    (re.compile(r"a valid integer\b"), "an integer"),
    (re.compile(r"a valid number\b"), "a number"),
)


def find_component(
    findings: Findings, plugins: Plugins, kind: str, reference: str, home: KeyPath
) -> tuple[str, type[Component]] | None:
    """Full id and class of the component that the entry at ``home`` uses, or None after noting why not."""
    try:
        entry = plugins.find(kind, reference)
        return entry.id, entry.load()
    except (UserError, PluginLoadError) as error:
        findings.add(home, " ".join(str(error).split()), at=(*home, "use"))
        return None


@dataclass(frozen=True)
class Given:
    """Parameters as an entry gives them.

    Parameters
    ----------
    home
        Path of the entry.
    values
        The parameters by name.
    where
        Where each stands: under ``params``, or an element of ``sweep``.
    unread
        Parameters whose sweep is itself a mistake; that they are missing is not another one.
    """

    home: KeyPath
    values: Mapping[str, Any]
    where: Mapping[str, KeyPath]
    unread: Collection[str] = ()


def spec_of(
    findings: Findings, plugins: Plugins, cls: type[Component], full_id: str, given: Given
) -> Spec | None:
    """The spec of a component with these parameters, or None after noting what is wrong."""
    try:
        spec = specify(plugins, cls.kind, full_id, given.values)
        if issubclass(cls, Defense):
            _check_uses(findings, plugins, cls(**given.values), full_id, given.home)
        return spec
    except ValidationError as error:
        _explain(findings, cls, error, given)
    except Exception as error:  # noqa: BLE001 - the component's own code: the plugin boundary
        findings.add(given.home, f"{full_id} cannot take these parameters: {last_words(error)}")
    return None


def _check_uses(findings: Findings, plugins: Plugins, defense: Defense, full_id: str, home: KeyPath) -> None:
    """The perturbations that a defense trains with, or asks to be attacked by, are there and take their parameters."""
    for use in (*defense.uses(), *defense.adaptive_attacks()):
        problem = ""
        try:
            specify(plugins, "perturbation", use.use, use.params)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            problem = f"{where}: {_message(first)}" if where else _message(first)
        except (UserError, PluginLoadError) as error:
            problem = " ".join(str(error).split())
        if problem:
            findings.add(home, f"{full_id} uses {use.use}: {problem}", at=(*home, "params"))


def _explain(findings: Findings, cls: type[Component], error: ValidationError, given: Given) -> None:
    said: dict[KeyPath, dict[str, None]] = {}
    values: dict[KeyPath, Any] = {}
    for item in error.errors(include_url=False):
        inner = _followed(item["loc"], given.values)
        root = given.where[str(inner[0])] if inner else (*given.home, "params")
        path = (*root, *inner[1:])
        if item["type"] == "extra_forbidden":
            # An unknown parameter of a sweep is shown once, at its name, not at each of its values.
            path = path if inner[1:] else path[: len(given.home) + 2]
            findings.unknown(path, _names(cls, inner[:-1]), "parameter")
        elif item["type"] != "missing":
            said.setdefault(path, {})[_message(item)] = None
            values[path] = item["input"]
        elif item["loc"][0] not in given.unread:
            name = ".".join(map(str, item["loc"]))
            findings.add(path, f"the parameter {name!r} must be given{_help(cls, item['loc'])}")
    for path, messages in said.items():
        # Of a union such as `number | list`, the branch that got further says what is wrong.
        if not any(other != path and other[: len(path)] == path for other in said):
            findings.add(
                path, _with_value(" or ".join(messages), values[path], len(path) > len(given.home) + 1)
            )


def _followed(loc: tuple[int | str, ...], params: Mapping[str, Any]) -> KeyPath:
    """The part of pydantic's location that stands in the suite; names of union branches do not."""
    value: Any = params
    path: KeyPath = ()
    for part in loc:
        inside = range(len(value)) if isinstance(value, list) else value if isinstance(value, Mapping) else ()
        if part in inside:
            value = value[part]
            path = (*path, part)
    return path


def _message(item: ErrorDetails) -> str:
    message = " ".join(item["msg"].split())
    for pattern, words in _PLAIN:
        message = pattern.sub(words, message)
    options = re.findall(r"'([^']*)'", message) if item["type"] in ("literal_error", "enum") else []
    hint = near(item["input"], options) if isinstance(item["input"], str) else ""
    return message + (hint if "did you mean" in hint else "")


def _with_value(message: str, value: Any, one: bool) -> str:
    return f"{message}, got {shown(value)}" if one and "got" not in message.split() else message


def _model(cls: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The model that holds the parameters at ``path``, a nested recipe say."""
    for part in path:
        field = cls.model_fields.get(str(part))
        if (
            field is None
            or not isinstance(field.annotation, type)
            or not issubclass(field.annotation, BaseModel)
        ):
            return None
        cls = field.annotation
    return cls


def _names(cls: type[BaseModel], path: KeyPath) -> list[str]:
    model = _model(cls, path)
    return list(model.model_fields) if model is not None else []


def _help(cls: type[BaseModel], loc: KeyPath) -> str:
    model = _model(cls, loc[:-1])
    field = model.model_fields.get(str(loc[-1])) if model is not None else None
    return f" ({field.description})" if field is not None and field.description else ""
