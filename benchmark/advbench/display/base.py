"""What every display does, and which one suits the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

KINDS = ("auto", "rich", "plain", "none")


@dataclass(frozen=True)
class Outlook:
    """What can be said of a run before it begins.

    Parameters
    ----------
    costs
        Relative cost of every cell to be computed, by its label; all are equal if there is none.
    trainings
        Networks that will have to be trained.
    common
        End of all labels that need not be shown, ``" / seed 0"`` where there is only one seed.
    """

    costs: Mapping[str, float] = field(default_factory=dict)
    trainings: int = 0
    common: str = ""


class Display(Protocol):
    """A context manager that is called with every event of a run (see `advbench.runtime.events`)."""

    def __enter__(self) -> Display:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was found."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show an event."""

    def expect(self, outlook: Outlook) -> None:
        """Take note of what is to come; said before the event ``plan``."""

    def print(self, text: str) -> None:
        """A line for the user that stays."""


class NoDisplay:
    """Shows nothing."""

    def __enter__(self) -> NoDisplay:
        """Nothing to begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to clean up."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Nothing."""

    def expect(self, outlook: Outlook) -> None:
        """Nothing."""

    def print(self, text: str) -> None:
        """Nothing."""


def open_display(kind: str, console: Console) -> Display:
    """The display of this name; ``auto`` is rich in a terminal and plain lines elsewhere."""
    if kind == "auto":
        kind = "rich" if console.is_terminal and not console.is_dumb_terminal else "plain"
    if kind == "none":
        return NoDisplay()
    if kind == "plain":
        from advbench.display.plain import PlainDisplay

        return PlainDisplay(console.file)
    from advbench.display.live import LiveDisplay

    return LiveDisplay(console)
