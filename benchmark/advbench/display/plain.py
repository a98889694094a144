"""Progress as lines of text, for logs and pipes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, Any

from advbench.display.base import Outlook
from advbench.display.tracker import Tracker
from advbench.display.words import duration, plural

EVERY = 5.0
"""Seconds between two lines about the same slow work."""


class PlainDisplay:
    """One line for every finished cell and every epoch, and now and then one about slow work."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._tracker = Tracker(clock)
        self._told: dict[str, float] = {}

    def __enter__(self) -> PlainDisplay:
        """Nothing to begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to clean up."""

    def expect(self, outlook: Outlook) -> None:
        """Take note of what is to come."""
        self._tracker.outlook = outlook

    def print(self, text: str) -> None:
        """A line."""
        self._stream.write(text + "\n")
        self._stream.flush()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Write what the event says, if it says something."""
        self._tracker.hear(event)
        line = getattr(self, f"_{event['event']}", lambda event: "")(event)
        if line:
            self.print(line)

    def _plan(self, event: Mapping[str, Any]) -> str:
        return f"{plural(event['cells'], 'cell')}, {event['pending']} to compute"

    def _cell_finished(self, event: Mapping[str, Any]) -> str:
        tracker = self._tracker
        width = len(str(tracker.pending))
        left = tracker.remaining
        end = (
            f"   about {duration(left)} left"
            if left is not None and tracker.finished < tracker.pending
            else ""
        )
        reason = f"\n{' ' * (2 * width + 4)}{event['reason']}" if event["reason"] else ""
        return (
            f"[{tracker.finished:{width}d}/{tracker.pending}] {event['status']:<7} "
            f"{tracker.shown(event['label'])}  {duration(event['seconds'])}{end}{reason}"
        )

    def _epoch(self, event: Mapping[str, Any]) -> str:
        width = len(str(event["epochs"]))
        return f"training {event['label']}: epoch {event['epoch']:{width}d}/{event['epochs']}  {epoch_figures(event)}"

    def _network(self, event: Mapping[str, Any]) -> str:
        return f"network {event['label']} {event['how']} in {duration(event['seconds'])}"

    def _progress(self, event: Mapping[str, Any]) -> str:
        label, closes = event["label"], event["done"] >= event["total"]
        told, now = self._told.get(label), self._clock()
        if closes:
            self._told.pop(label, None)
            return f"{label}: done" if told is not None else ""
        if told is not None and now - told < EVERY:
            return ""
        self._told[label] = now
        return f"{label}: {event['done']}/{event['total']}"

    def _note(self, event: Mapping[str, Any]) -> str:
        return f"note: {event['text']}"


def epoch_figures(figures: Mapping[str, Any]) -> str:
    """Losses of training and validation, and the metric, in a few characters."""
    train, valid, metric = (figures[name] for name in ("train_loss", "valid_loss", "valid_metric"))
    return f"loss {train:.3g}/{valid:.3g}  metric {metric:.3g}"
