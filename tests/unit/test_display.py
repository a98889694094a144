"""What a person sees while a run goes on: the remaining time, lines of text, bars of the right width."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from advbench.display.base import KINDS, NoDisplay, Outlook, open_display
from advbench.display.live import LiveDisplay
from advbench.display.plain import PlainDisplay
from advbench.display.tracker import Tracker
from advbench.display.words import duration, plural, size

Event = dict[str, Any]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def label(cell: str) -> str:
    return f"data / net / none / {cell} / seed 0"


def planned(pending: int, cells: int = 0) -> Event:
    return {"event": "plan", "cells": cells or pending, "pending": pending}


def started(cell: str) -> Event:
    return {"event": "cell_started", "cell": cell, "label": label(cell)}


def finished(cell: str, seconds: float, status: str = "ok", reason: str = "") -> Event:
    told = {"status": status, "reason": reason, "seconds": seconds, "computed": True}
    return {"event": "cell_finished", "cell": cell, "label": label(cell), **told}


def epoch(number: int, of: int = 5, name: str = "net on data") -> Event:
    figures = {"train_loss": 1.25, "valid_loss": 1.5, "valid_metric": 0.625}
    return {"event": "epoch", "label": name, "epoch": number, "epochs": of, **figures}


def network(seconds: float, how: str = "trained", name: str = "net on data") -> Event:
    return {"event": "network", "label": name, "how": how, "seconds": seconds}


def progress(done: int, total: int = 100) -> Event:
    return {"event": "progress", "label": "toys/blobs: samples", "done": done, "total": total}


def tracker(clock: Clock, *events: tuple[float, Event], **outlook: Any) -> Tracker:
    """A tracker that heard these events, each so many seconds after the one before."""
    found = Tracker(clock, Outlook(**outlook))
    for wait, event in events:
        clock.now += wait
        found.hear(event)
    return found


# --- the remaining time -------------------------------------------------------------------------------------------


def test_nothing_is_promised_before_a_cell_is_done() -> None:
    assert tracker(Clock(), (0, planned(4)), (0, started("a"))).remaining is None


def test_remaining_time_is_that_of_the_cells_left() -> None:
    found = tracker(Clock(), (0, planned(4)), (0, started("a")), (2, finished("a", 2)), (0, started("b")))
    assert found.remaining == pytest.approx(6)
    assert found.elapsed == 2


def test_costs_weigh_the_cells() -> None:
    costs = {label("a"): 1.0, label("b"): 5.0, label("c"): 10.0}
    found = tracker(Clock(), (0, planned(3)), (0, started("a")), (2, finished("a", 2)), costs=costs)
    assert found.remaining == pytest.approx(30)


def test_the_training_of_a_network_is_no_part_of_its_cell() -> None:
    events = [(0, planned(3)), (0, started("a")), (10, network(9.5)), (1, finished("a", 11))]
    assert tracker(Clock(), *events).remaining == pytest.approx(2 * 1.5)


def test_a_network_is_told_to_the_cell_that_waited_for_it() -> None:
    other = {**started("b"), "label": "data / other / none / b / seed 0"}
    events = [(0, planned(3)), (0, other), (0, started("a")), (10, network(9.5)), (1, finished("a", 11))]
    assert tracker(Clock(), *events).remaining == pytest.approx(2 * 1.5)


def test_cells_at_work_together_share_the_time() -> None:
    events = [(0, planned(5)), (0, started("a")), (2, finished("a", 2)), (0, started("b")), (0, started("c"))]
    assert tracker(Clock(), *events).remaining == pytest.approx(4 * 2 / 2)


def test_epochs_of_the_running_training_are_added() -> None:
    done = [(0, planned(2)), (0, started("a")), (2, finished("a", 2)), (0, started("b"))]
    found = tracker(Clock(), *done, (3, epoch(1)), (4, epoch(2)))
    assert found.remaining == pytest.approx(2 + 3 * 4)


def test_trainings_to_come_last_as_long_as_those_done() -> None:
    first = [(0, planned(2)), (0, started("a")), (3, epoch(1, 2)), (3, epoch(2, 2)), (0, network(6))]
    found = tracker(Clock(), *first, (2, finished("a", 8)), trainings=2)
    assert found.remaining == pytest.approx(2 + 6)


def test_an_unknown_training_to_come_leaves_the_end_open() -> None:
    done = [(0, planned(2)), (0, started("a")), (2, finished("a", 2))]
    assert tracker(Clock(), *done, trainings=1).remaining is None


def test_between_events_time_runs_down_but_only_by_what_is_at_work() -> None:
    clock = Clock()
    found = tracker(clock, (0, planned(4)), (0, started("a")), (2, finished("a", 2)), (0, started("b")))
    clock.now += 1
    assert found.remaining == pytest.approx(5)
    clock.now += 100
    assert found.remaining == pytest.approx(4)


def test_the_time_of_a_failure_says_nothing_of_the_rest() -> None:
    done = [(0, planned(3)), (0, started("a")), (2, finished("a", 2)), (0, started("b"))]
    assert tracker(Clock(), *done, (50, finished("b", 50, "timeout", "slow"))).remaining == pytest.approx(2)


def test_a_training_that_starts_again_is_a_new_one() -> None:
    clock = Clock()
    events = [(0, planned(1)), (0, started("a")), (1, epoch(1)), (1, epoch(2)), (7, epoch(1)), (5, epoch(2))]
    found = tracker(clock, *events)
    assert found.trainings["net on data"].seconds_per_epoch == 5


def test_a_failed_cell_ends_the_training_of_its_network() -> None:
    events = [(0, planned(2)), (0, started("a")), (0, started("b")), (1, epoch(1))]
    found = tracker(Clock(), *events, (1, finished("a", 2, "failed", "diverged")))
    assert found.trainings == {}


# --- lines of text ------------------------------------------------------------------------------------------------


def lines(clock: Clock, *events: tuple[float, Event], **outlook: Any) -> list[str]:
    stream = io.StringIO()
    with PlainDisplay(stream, clock) as display:
        display.expect(Outlook(**outlook))
        for wait, event in events:
            clock.now += wait
            display(event)
    return stream.getvalue().splitlines()


def test_plain_lines() -> None:
    events = [
        (0, planned(12, 20)),
        (0, started("a")),
        (1, epoch(1, 10)),
        (9, network(10)),
        (3, finished("a", 13.2)),
        (1, finished("b", 0.25, "failed", "perturb: ValueError: no")),
        (0, {"event": "note", "text": "two files are unreadable"}),
    ]
    assert lines(Clock(), *events, common=" / seed 0") == [
        "20 cells, 12 to compute",
        "training net on data: epoch  1/10  loss 1.25/1.5  metric 0.625",
        "network net on data trained in 10 s",
        "[ 1/12] ok      data / net / none / a  13 s   about 35 s left",
        "[ 2/12] failed  data / net / none / b  0.2 s   about 32 s left",
        "        perturb: ValueError: no",
        "note: two files are unreadable",
    ]


def test_slow_work_is_told_every_few_seconds_and_at_its_end() -> None:
    steps = [(1.0, progress(done)) for done in range(0, 100, 10)]
    told = lines(Clock(), *steps, (1.0, progress(100)))
    assert told == [f"toys/blobs: samples: {n}" for n in ("0/100", "50/100")] + ["toys/blobs: samples: done"]


# --- bars in a terminal -------------------------------------------------------------------------------------------


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def rendered(display: LiveDisplay, width: int, height: int = 24) -> list[str]:
    console = terminal(width, height)
    console.print(display.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_line_in_progress_fits_the_terminal(width: int) -> None:
    clock = Clock()
    display = LiveDisplay(terminal(width), clock)
    display.expect(Outlook(common=" / seed 0"))
    long = "x" * 150
    for event in (
        planned(30),
        progress(3),
        started("a"),
        started(long),
        epoch(3),
        epoch(4, 5, f"net on {long}"),
    ):
        clock.now += 1
        display(event)
    found = rendered(display, width)
    assert len(found) == 6  # overall, one bar, two trainings, two cells
    assert max(map(len, found)) <= width - 3
    assert found[0].startswith("0/30 cells")
    assert "3/100" in found[1]
    assert "3/5  loss 1.25/1.5  metric 0.625" in found[2]
    assert "…" in found[3]
    assert found[4].split() == ["cell", "data", "/", "net", "/", "none", "/", "a", "3.0", "s"]
    assert "…" in found[5]


def test_no_more_lines_than_the_terminal_has() -> None:
    display = LiveDisplay(terminal(80, 10), Clock())
    display(planned(50))
    for index in range(50):
        display(started(f"cell {index}"))
    assert len(rendered(display, 80, 10)) <= 10


def test_finished_cells_scroll_by_and_the_bars_vanish() -> None:
    console = terminal()
    with LiveDisplay(console, Clock()) as display:
        display.expect(Outlook(common=" / seed 0"))
        for event in (
            planned(2),
            started("a"),
            finished("a", 2),
            finished("b", 1, "failed", "judge: [x] is odd"),
        ):
            display(event)
        display.print("a line for the user")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for words in (
        "data / net / none / a",
        "failed   data / net / none / b",
        "judge: [x] is odd",
        "a line for the user",
    ):
        assert words in text
    assert "seed 0" not in text


def test_the_display_suits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    pipe = Console(file=io.StringIO())
    kinds = {kind: type(open_display(kind, pipe)).__name__ for kind in KINDS}
    assert kinds == {
        "auto": "PlainDisplay",
        "rich": "LiveDisplay",
        "plain": "PlainDisplay",
        "none": "NoDisplay",
    }
    assert isinstance(open_display("auto", terminal()), LiveDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_display("auto", terminal()), PlainDisplay)


def test_no_display_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with NoDisplay() as display:
        for event in (planned(1), started("a"), finished("a", 1)):
            display(event)
        display.print("nothing")
    assert capsys.readouterr() == ("", "")


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (5400, "90 min"),
        (7860, "2 h 11 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123_456, "123 kB"), (2.5e9, "2.5 GB"), (3e13, "30.0 TB")],
)
def test_sizes(count: float, words: str) -> None:
    assert size(count) == words


def test_plurals() -> None:
    assert [plural(1, "cell"), plural(0, "cell"), plural(2, "entry")] == ["1 cell", "0 cells", "2 entries"]
