"""Checks that every component has to pass."""

from __future__ import annotations

import inspect
import json

from pydantic import BaseModel, ValidationError

from advbench.components.base import Attack, Component, Defense
from advbench.components.identity import canonical
from advbench.components.tags import TASKS
from advbench.testing.check import CheckFunction, Subject, require
from advbench.values import NORMS, Budget

STAGES = {"trains": "train", "purifies": "purify", "wraps": "predict", "detects": "score"}
LONGEST_SUMMARY = 140


def checks(cls: type[Component]) -> list[CheckFunction]:
    """For every kind."""
    return [
        parameters_are_frozen,
        unknown_parameters_are_refused,
        parameters_round_trip,
        parameters_have_help,
        has_summary,
        version_counts,
        tags_are_consistent,
    ]


def parameters_are_frozen(subject: Subject) -> None:
    """A component never changes after it was made."""
    component = subject.component
    for name in type(component).model_fields:
        try:
            setattr(component, name, getattr(component, name))
        except ValidationError:
            continue
        require(False, f"the parameter {name} can be assigned; keep `frozen=True` in model_config")


def unknown_parameters_are_refused(subject: Subject) -> None:
    """A misspelt parameter is an error, not ignored."""
    try:
        type(subject.component)(**{**subject.params, "no_such_parameter": 1})
    except ValidationError:
        return
    require(False, 'accepts unknown parameters; keep `extra="forbid"` in model_config')


def parameters_round_trip(subject: Subject) -> None:
    """Parameters go to JSON and back without loss: cell ids are made of them."""
    component = subject.component
    text = canonical(component.model_dump(mode="json"))
    again = type(component)(**json.loads(text))
    require(again == component, f"parameters change on the way through JSON: {text}")
    require(canonical(again.model_dump(mode="json")) == text, f"JSON of the parameters is not stable: {text}")


def parameters_have_help(subject: Subject) -> None:
    """Every parameter says what it is: `advbench info` shows it."""
    missing = [name for name, field in type(subject.component).model_fields.items() if not field.description]
    require(
        not missing, f"no help text for {', '.join(missing)}; make parameters with param(default, 'help')"
    )


def has_summary(subject: Subject) -> None:
    """The docstring begins with one line that says what it is: `advbench list` shows it."""
    summary = subject.entry.summary()
    inherited = {inspect.getdoc(base) for base in type(subject.component).__mro__[1:]}
    require(summary, "the class has no docstring")
    require(inspect.getdoc(type(subject.component)) not in inherited, "the class has no docstring of its own")
    require(len(summary) <= LONGEST_SUMMARY, f"the first line has {len(summary)} characters: {summary}")


def version_counts(subject: Subject) -> None:
    """The version is an integer from 1 up."""
    version = subject.component.version
    require(type(version) is int and version >= 1, f"version is {version!r}, not an integer >= 1")


def tags_are_consistent(subject: Subject) -> None:
    """Tags name what exists and fit each other and the parameters."""
    component, tags = subject.component, subject.component.tags
    fields = type(component).model_fields
    require(tags.tasks, "tags.tasks is empty: it fits nothing")
    require(set(tags.tasks) <= TASKS, f"tags.tasks {sorted(tags.tasks)} are not among {sorted(TASKS)}")
    require(set(tags.norms) <= set(NORMS), f"tags.norms {sorted(tags.norms)} are not among {NORMS}")
    require(not tags.strength or tags.strength in fields, f"tags.strength: no parameter {tags.strength!r}")
    if tags.strength:
        require(
            not isinstance(getattr(component, tags.strength), (str, BaseModel)), "tags.strength: no number"
        )
    if isinstance(component, Defense):
        _stages_are_consistent(component)
    if isinstance(component, Attack):
        _budget_is_consistent(component)
    else:
        claims = tags.norms or tags.needs_gradient or tags.minimum_norm or tags.targeted
        require(not claims, "norms, needs_gradient, minimum_norm and targeted are tags of attacks")


def _stages_are_consistent(defense: Defense) -> None:
    require(
        any(getattr(defense.tags, tag) for tag in STAGES),
        "a defense trains, purifies, wraps or detects: set a tag",
    )
    for tag, method in STAGES.items():
        defined = getattr(type(defense), method) is not getattr(Defense, method)
        require(
            getattr(defense.tags, tag) == defined,
            f"tags.{tag} is {not defined}, but {method}() tells otherwise",
        )


def _budget_is_consistent(attack: Attack) -> None:
    norm = getattr(attack, "norm", None)
    require(norm is None or norm in attack.tags.norms, f"norm {norm!r} is not among tags.norms")
    eps = getattr(attack, "eps", None)
    require(
        eps is None or isinstance(eps, Budget), "`eps` must be a Budget, so that the harness can verify it"
    )
    constraint = attack.constraint()
    if constraint is not None:
        require(constraint.norm in NORMS, f"the norm {constraint.norm!r} is not among {NORMS}")
        require(not attack.tags.minimum_norm, "a minimum-norm attack has no `eps`")
