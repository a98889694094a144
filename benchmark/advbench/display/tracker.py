"""What is known of a run while it goes on, and how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from advbench.display.base import Outlook


@dataclass
class RunningCell:
    """A cell at work; ``preparing`` are the seconds that its network took."""

    label: str
    since: float
    preparing: float = 0.0


@dataclass
class Training:
    """A network in training, as told by its last epoch."""

    label: str
    since: float
    first_epoch_at: float
    last_epoch_at: float
    first_epoch: int
    epoch: int
    epochs: int
    figures: Mapping[str, float]

    @property
    def seconds_per_epoch(self) -> float:
        """Mean so far; the first epoch alone counts only while there is no other."""
        done = self.epoch - self.first_epoch
        if done:
            return (self.last_epoch_at - self.first_epoch_at) / done
        return self.last_epoch_at - self.since


@dataclass
class Bar:
    """Slow work of a plugin."""

    since: float
    done: int
    total: int


@dataclass
class Tracker:
    """Listens to the events of a run."""

    clock: Callable[[], float] = time.monotonic
    outlook: Outlook = field(default_factory=Outlook)
    cells: int = 0
    pending: int = 0
    finished: int = 0
    started_at: float | None = None
    running: dict[str, RunningCell] = field(default_factory=dict)
    trainings: dict[str, Training] = field(default_factory=dict)
    bars: dict[str, Bar] = field(default_factory=dict)
    _cost_finished: float = 0.0
    _cost_measured: float = 0.0  # of the finished cells whose time tells something
    _seconds: float = 0.0  # that these took, without the preparation of networks
    _networks: int = 0
    _trained_in: list[float] = field(default_factory=list)
    _estimate: tuple[float, float, float] | None = None

    def hear(self, event: Mapping[str, Any]) -> None:
        """Take note of an event."""
        handler = getattr(self, f"_hear_{event['event']}", None)
        if handler is not None:
            handler(event)
            self._estimate = self._look_ahead()

    def shown(self, label: str) -> str:
        """A cell's label without what all of them share."""
        return label.removesuffix(self.outlook.common)

    @property
    def elapsed(self) -> float:
        """Seconds since the plan was known."""
        return 0.0 if self.started_at is None else self.clock() - self.started_at

    @property
    def remaining(self) -> float | None:
        """Seconds that the rest will take, or None while there is nothing to go by."""
        if self._estimate is None:
            return None
        at, left, at_work = self._estimate
        # Between two events at most what is at work now can have been done.
        return max(0.0, left - min(self.clock() - at, at_work))

    # --- events -------------------------------------------------------------------------------------------------

    def _hear_plan(self, event: Mapping[str, Any]) -> None:
        self.cells, self.pending, self.started_at = event["cells"], event["pending"], self.clock()

    def _hear_cell_started(self, event: Mapping[str, Any]) -> None:
        self.running[event["cell"]] = RunningCell(event["label"], self.clock())

    def _hear_cell_finished(self, event: Mapping[str, Any]) -> None:
        cell = self.running.pop(event["cell"], None)
        cost = self._cost(event["label"])
        self.finished += 1
        self._cost_finished += cost
        if cell is not None and event["status"] == "ok":
            self._cost_measured += cost
            self._seconds += max(0.0, event["seconds"] - cell.preparing)
        if event["status"] != "ok":  # a training that failed tells nothing
            parts = event["label"].split(" / ")
            self.trainings = {k: v for k, v in self.trainings.items() if k.split(" on ")[0] not in parts}
        if not self.running:
            self.trainings.clear()
            self.bars.clear()

    def _hear_epoch(self, event: Mapping[str, Any]) -> None:
        now, label, epoch = self.clock(), event["label"], event["epoch"]
        figures = {name: event[name] for name in ("train_loss", "valid_loss", "valid_metric")}
        known = self.trainings.get(label)
        if known is None or epoch <= known.epoch:
            begun = [cell.since for cell in self.running.values()] + ([known.last_epoch_at] if known else [])
            since = max(begun, default=now)
            self.trainings[label] = Training(label, since, now, now, epoch, epoch, event["epochs"], figures)
        else:
            known.epoch, known.last_epoch_at, known.figures = epoch, now, figures

    def _hear_network(self, event: Mapping[str, Any]) -> None:
        ended = [label for label in self.trainings if event["label"].startswith(label)]
        for label in ended:
            training = self.trainings.pop(label)
            self._trained_in.append(training.last_epoch_at - training.since)
        self._networks += event["how"] == "trained"
        # The event does not name its cell: take the one that can have waited for it.
        model, now = event["label"].split(" on ")[0], self.clock()
        for cell in self.running.values():
            waited = now - cell.since - cell.preparing
            if model in cell.label.split(" / ") and waited >= 0.9 * event["seconds"]:
                cell.preparing += event["seconds"]
                return

    def _hear_progress(self, event: Mapping[str, Any]) -> None:
        label, done, total = event["label"], event["done"], event["total"]
        if done >= total:
            self.bars.pop(label, None)
        elif label in self.bars:
            self.bars[label].done = done
        else:
            self.bars[label] = Bar(self.clock(), done, total)

    # --- remaining time -----------------------------------------------------------------------------------------

    def _cost(self, label: str) -> float:
        costs = self.outlook.costs
        return costs[label] if label in costs else mean(costs.values()) if costs else 1.0

    def _look_ahead(self) -> tuple[float, float, float] | None:
        """When it was estimated, seconds left, and how many of them go to what is at work now."""
        training = self._training_left()
        unmeasured = self.finished < self.pending and not self._cost_measured
        if self.started_at is None or training is None or unmeasured:
            return None
        rate = self._seconds / self._cost_measured / max(1, len(self.running)) if self._cost_measured else 0.0
        whole = sum(self.outlook.costs.values()) if self.outlook.costs else self.pending
        left = max(0.0, whole - self._cost_finished) * rate
        at_work = min(left, sum(self._cost(cell.label) for cell in self.running.values()) * rate)
        return self.clock(), left + training, at_work + (training if self.trainings else 0.0)

    def _training_left(self) -> float | None:
        """Seconds of training to come, or None if networks will be trained and none has been yet."""
        now = sum(one.seconds_per_epoch * (one.epochs - one.epoch) for one in self.trainings.values())
        waiting = self.outlook.trainings - self._networks - len(self.trainings)
        if waiting <= 0:
            return now
        whole = self._trained_in or [one.seconds_per_epoch * one.epochs for one in self.trainings.values()]
        return now + waiting * mean(whole) if whole else None
