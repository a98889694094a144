"""Progress in a terminal: finished cells scroll by, what is at work stays at the bottom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import monotonic
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from advbench.display.base import Outlook
from advbench.display.plain import epoch_figures
from advbench.display.tracker import Tracker
from advbench.display.words import duration

STYLES = {
    "ok": "green",
    "skipped": "yellow",
    "failed": "bold red",
    "timeout": "bold red",
    "crashed": "bold red",
}
"""Colour of each status."""

WIDE = 100
"""Columns from which on there is room for the time that a training still takes."""

MARGIN = 4
"""Lines of the terminal that stay free below what is at work."""


class LiveDisplay:
    """An overall bar, and a line for every cell, training and slow work in progress."""

    def __init__(self, console: Console, clock: Callable[[], float] = monotonic) -> None:
        self._console = console
        self._tracker = Tracker(clock)
        self._lock = threading.RLock()  # the terminal is refreshed by another thread
        self._spinner = Spinner("dots", Text("looking at the data", "cyan"), style="cyan")
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=8, transient=True)

    def __enter__(self) -> LiveDisplay:
        """Begin to show."""
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is in progress; finished lines stay."""
        self._live.stop()

    def expect(self, outlook: Outlook) -> None:
        """Take note of what is to come."""
        with self._lock:
            self._tracker.outlook = outlook

    def print(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(Text(text))

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show an event."""
        with self._lock:
            self._tracker.hear(event)
        tell = getattr(self, f"_{event['event']}", None)
        if tell is not None:
            self._console.print(tell(event), soft_wrap=False)

    def _cell_finished(self, event: Mapping[str, Any]) -> RenderableType:
        style = STYLES.get(event["status"], "")
        label = self._tracker.shown(event["label"])
        line = _row(event["status"], label, duration(event["seconds"]), style=style)
        if not event["reason"]:
            return line
        return Group(line, Padding(Text(event["reason"], style), (0, 0, 0, 9)))

    def _network(self, event: Mapping[str, Any]) -> RenderableType:
        return _row("network", f"{event['label']} {event['how']}", duration(event["seconds"]))

    def _note(self, event: Mapping[str, Any]) -> RenderableType:
        return Text(f"note: {event['text']}", "yellow")

    # --- what is in progress ------------------------------------------------------------------------------------

    def render(self) -> RenderableType:
        """The lines at the bottom."""
        with self._lock:
            rows = [*self._bars(), *self._trainings(), *self._cells()]
            at_work = rows[: max(1, self._console.height - MARGIN)]
            first = self._spinner if self._tracker.started_at is None else self._overall()
            # The terminal writes ^C behind the last line; where it has no room all lines would shift.
            return Constrain(Group(first, *at_work), self._console.width - 3)

    def _overall(self) -> RenderableType:
        tracker = self._tracker
        left = tracker.remaining
        words = f"{duration(tracker.elapsed)}" + (
            f", about {duration(left)} left" if left is not None else ""
        )
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        bar = ProgressBar(total=max(1, tracker.pending), completed=tracker.finished)
        line.add_row(Text(f"{tracker.finished}/{tracker.pending} cells", "bold"), bar, Text(words, "bold"))
        return line

    def _bars(self) -> list[RenderableType]:
        return [
            _row("data", label, _bar(bar.done, bar.total), f"{bar.done}/{bar.total}")
            for label, bar in self._tracker.bars.items()
        ]

    def _trainings(self) -> list[RenderableType]:
        rows = []
        for one in self._tracker.trainings.values():
            detail = f"{one.epoch}/{one.epochs}  {epoch_figures(one.figures)}"
            if self._console.width >= WIDE:
                detail += f"  {duration(one.seconds_per_epoch * (one.epochs - one.epoch))} left"
            rows.append(_row("training", one.label, _bar(one.epoch, one.epochs), detail))
        return rows

    def _cells(self) -> list[RenderableType]:
        now, shown = self._tracker.clock(), self._tracker.shown
        cells = self._tracker.running.values()
        return [_row("cell", shown(cell.label), duration(now - cell.since)) for cell in cells]


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=max(1, total), completed=done, width=12)


def _row(what: str, label: str, *details: RenderableType, style: str = "cyan") -> RenderableType:
    """A line in columns: what, its label as far as there is room, and details."""
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(width=8, no_wrap=True, style=style)
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for _ in details:
        line.add_column(no_wrap=True, justify="right", style="" if len(details) > 1 else "dim")
    line.add_row(what, Text(label), *details)
    return line
