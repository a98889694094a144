"""Everything that can go wrong on purpose.

::

    AdvbenchError
    ├── UserError            the user can mend it: one clear line, no traceback, exit code 2
    │   ├── SuiteError       mistakes in a suite file, all of them at once, with line and column
    │   └── DataError        a data set is missing, broken or does not say what it must
    ├── PluginError          a plugin broke its contract: named, with its own last traceback lines
    │   └── PluginLoadError  it cannot be imported, or asks for another API version
    └── Stop                 not a mistake: the harness ends an attack from inside
        ├── BudgetExhausted  the pass budget of the threat model is spent
        └── CellTimeout      the time limit of the cell is over

Anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class AdvbenchError(Exception):
    """Root of all deliberate errors."""


class UserError(AdvbenchError):
    """A mistake that the user can mend; the message says what, where and what to do."""


class DataError(UserError):
    """A data set is missing, broken or inconsistent; the message names the file or the sample."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a suite: where it is and what to do about it."""

    message: str
    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return ": ".join(part for part in (place, self.path, self.message) if part)


class SuiteError(UserError):
    """All mistakes of one suite file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PluginError(AdvbenchError):
    """A plugin broke its contract."""


class PluginLoadError(PluginError):
    """A plugin could not be loaded."""


class Stop(AdvbenchError):
    """Raised into an attack by the harness; the best point so far is kept. Do not catch it."""


class BudgetExhausted(Stop):
    """The attack spent the passes per sample that the suite grants."""


class CellTimeout(Stop):
    """The time limit of this cell is over."""
