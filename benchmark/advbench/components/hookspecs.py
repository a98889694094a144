"""Every hook that a plugin may implement.

A plugin is a module (usually a package's ``__init__``) named by an entry point of group ``advbench``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

if TYPE_CHECKING:
    from advbench.components.registry import Register

API_VERSION = 1
"""A plugin that needs a newer API says so with a module attribute ``ADVBENCH_API``."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
hookspec = pluggy.HookspecMarker("advbench")
_marker = pluggy.HookimplMarker("advbench")


def hookimpl(function: _Function) -> _Function:
    """Mark a module-level function as the implementation of the hook of the same name."""
    return _marker(function)


@dataclass(frozen=True)
class RunStarted:
    """A run begins: its suite, its folder and the number of cells."""

    suite: str
    run_dir: str
    cells: int


@dataclass(frozen=True)
class CellFinished:
    """A cell has a record: its id, its status and its leaderboard row."""

    cell_id: str
    status: str
    row: Mapping[str, Any]


@dataclass(frozen=True)
class RunFinished:
    """A run ends: its folder, its leaderboard and how many cells have each status."""

    suite: str
    run_dir: str
    leaderboard: str
    counts: Mapping[str, int]


@hookspec
def register_models(register: Register) -> None:
    """Register models: ``register("name", "package.module:Class")``."""


@hookspec
def register_datasets(register: Register) -> None:
    """Register datasets."""


@hookspec
def register_perturbations(register: Register) -> None:
    """Register attacks and corruptions."""


@hookspec
def register_defenses(register: Register) -> None:
    """Register defenses."""


@hookspec
def register_metrics(register: Register) -> None:
    """Register metrics, which a suite adds to its leaderboard with ``metrics: [namespace/name]``."""


@hookspec
def register_engines(register: Register) -> None:
    """Register engines, which ``advbench run --engine namespace/name`` selects."""


@hookspec
def register_figures(register: Register) -> None:
    """Register figures, which a suite asks for with ``figures: [namespace/name]``."""


@hookspec
def run_started(event: RunStarted) -> None:
    """Called once, before the first cell."""


@hookspec
def cell_finished(event: CellFinished) -> None:
    """Called in the main process for every cell that this run computed or reused."""


@hookspec
def run_finished(event: RunFinished) -> None:
    """Called once, after the leaderboard was written."""
