"""Checks of metrics, engines and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from advbench.components.base import Component, Engine, Figure, Metric
from advbench.components.loader import Plugins
from advbench.engines.session import Options, Session
from advbench.errors import UserError
from advbench.runtime.finished import FinishedRun
from advbench.runtime.jobs import Execution, Job
from advbench.runtime.network import Untouched
from advbench.store.files import write_text
from advbench.store.records import Records
from advbench.suite.grid import expand
from advbench.suite.reader import read_suite
from advbench.testing.check import CheckFunction, Skip, Subject, require
from advbench.testing.spaces import a_task, fitting
from advbench.testing.stage import a_stage
from advbench.testing.toybox import advbench_toys

TOYBOX = Path(advbench_toys.__file__).parent
SUITE = """\
version: 1
name: toys
datasets:
  - advbench-toys/blobs
  - {name: shifted, use: advbench-toys/blobs, params: {shift: 0.5}, train_on: blobs}
models: [advbench-toys/small]
perturbations: [none, advbench-toys/step]
"""


def metric_checks(cls: type[Component]) -> list[CheckFunction]:
    """For metrics."""
    return [examines_a_network if cls.tags.examines else measures_a_number]


def engine_checks(cls: type[Component]) -> list[CheckFunction]:
    """For engines."""
    return [runs_job_files, starts_nothing_once_stopped]


def figure_checks(cls: type[Component]) -> list[CheckFunction]:
    """For figures."""
    return [draws_below_the_run]


def measures_a_number(subject: Subject) -> None:
    """One float for outcomes of each task, twice the same; the arrays are left alone."""
    metric = subject.as_a(Metric)
    generator = np.random.default_rng(0)
    for task in sorted(metric.tags.tasks):
        outcomes: list[Any] = [generator.integers(3, size=20) for _ in range(3)]
        if task == "regression":
            outcomes = [generator.random((20, 1)) for _ in range(3)]
        before = [array.copy() for array in outcomes]
        first, second = metric.measure(*outcomes), metric.measure(*outcomes)
        require(
            isinstance(first, (float, np.floating)), f"measure returned {type(first).__name__}, not a float"
        )
        require(
            first == second or (first != first and second != second),
            "measure gives two numbers for one input",
        )
        require(all(map(np.array_equal, outcomes, before)), "measure changes its inputs in place")


def examines_a_network(subject: Subject) -> str:
    """One float, maybe NaN, for a frozen network, twice the same; the network is left alone."""
    metric = subject.as_a(Metric)
    task = a_task(metric)
    stage = a_stage(fitting(metric, task), task)
    guard = Untouched(stage.network)
    first, second = (metric.examine(stage.network, stage.space) for _ in range(2))
    require(isinstance(first, (float, np.floating)), f"examine returned {type(first).__name__}, not a float")
    require(
        first == second or (first != first and second != second), "examine gives two numbers for one network"
    )
    complaint = guard.complaint()
    require(complaint is None, f"examine {complaint}")
    return f"{first:.4g}"


def _empty_job(subject: Subject) -> Path:
    execution = Execution(
        store=str(subject.folder / "store"), run_dir=str(subject.folder / "run"), device="cpu"
    )
    return Job("empty", {}, execution).write(subject.folder / "empty.json")


def runs_job_files(subject: Subject) -> None:
    """A job without cells runs through and finishes none."""
    events: list[dict[str, Any]] = []
    subject.as_a(Engine).run([_empty_job(subject)], events.append, lambda: False)
    finished = [event for event in events if event["event"] == "cell_finished"]
    require(not finished, f"tells of cells that the job does not have: {finished}")


def starts_nothing_once_stopped(subject: Subject) -> None:
    """With `stop` true from the beginning no job is read."""
    subject.as_a(Engine).run([subject.folder / "no-such-job.json"], lambda event: None, lambda: True)


def draws_below_the_run(subject: Subject) -> str:
    """Draws a small finished run; the files it returns exist, lie in its folder and have a caption."""
    figure = subject.as_a(Figure)
    run, folder = finished_run(subject.folder), subject.folder / "pictures"
    folder.mkdir()
    try:
        pictures = figure.draw(run, folder)
    except UserError as error:  # it needs another kind of run
        raise Skip(str(error)) from None
    require(
        pictures,
        "draws nothing; a run without anything to show deserves a UserError that says what is needed",
    )
    for path, caption in pictures:
        require(path.is_file() and path.stat().st_size, f"{path.name} was not written")
        require(path.resolve().is_relative_to(folder.resolve()), f"{path} is not below its folder")
        require(len(caption.split()) > 2, f"{path.name} has no caption that says what it shows")
    return ", ".join(picture[0].name for picture in pictures)


def finished_run(folder: Path) -> FinishedRun:
    """A run of toys, with a shifted data set and an attack: leaderboard, records and all."""
    write_text(folder / "toys.yaml", SUITE)
    plugins = Plugins.discover([TOYBOX])
    grid = expand(read_suite(folder / "toys.yaml", plugins), plugins)
    options = Options(folder / "store", folder / "run", plugins_dirs=(TOYBOX,), device="cpu")
    result = Session(grid, options, plugins, lambda event: None).run(["check"])
    require(result.exit_code == 0, f"the run failed: {dict(result.counts)}")
    cells = {one.cell_id: one.cell for one in result.plan.cells}
    execution = Execution(str(options.store), str(options.out), plugins_dirs=(str(TOYBOX),), device="cpu")
    records = Records([options.out / "cells"])
    return FinishedRun(result.rows, cells, records, execution, lambda event: None)
