"""``advbench run``."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from advbench.cli import plan
from advbench.cli.forecast import outlook
from advbench.cli.main import COMMANDS, INTERRUPTED
from advbench.cli.selection import ONLY_EPILOG, Selection, selects, writable
from advbench.cli.summary import show_result
from advbench.components.loader import Plugins
from advbench.components.registry import last_words
from advbench.display.base import KINDS, Display, open_display
from advbench.engines.planning import Options, Planner
from advbench.engines.session import Session
from advbench.errors import AdvbenchError, UserError

DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")
WIDE = 110
"""Columns where there is no terminal that says how many it has."""


def _device(ctx: click.Context, option: click.Parameter, value: str) -> str:
    if not DEVICES.fullmatch(value):
        raise click.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:N")
    return value


EXECUTION = (
    click.option(
        "--device", default="auto", show_default=True, callback=_device, help="auto, cpu, cuda or cuda:N."
    ),
    click.option(
        "--engine", metavar="ID", help="Engine: serial, process, or the id of another  [default: serial]"
    ),
    click.option(
        "--workers",
        metavar="N",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Workers at a time; more than one without --engine means --engine process.",
    ),
    click.option(
        "--batch-size",
        metavar="N",
        type=click.IntRange(min=1),
        default=256,
        show_default=True,
        help="Samples that are perturbed together. Changes no number, but few are slow.",
    ),
    click.option(
        "--cell-timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Give up a cell's perturbation after so long.",
    ),
    click.option("--fail-fast", is_flag=True, help="Start nothing more after the first failure."),
    click.option("--download", is_flag=True, help="Allow data sets to fetch missing files."),
    click.option("--no-report", is_flag=True, help="Write no report.html beside the leaderboard."),
    click.option("--dry-run", is_flag=True, help="Only show the plan, as `advbench plan` does."),
    click.option("--display", type=click.Choice(KINDS), default="auto", show_default=True, help="Progress."),
)


def executes(command: Any) -> Any:
    """Add every option that says how to run."""
    for option in reversed(EXECUTION):
        command = option(command)
    return command


@click.command("run", help=COMMANDS["run"], epilog=ONLY_EPILOG)
@selects
@executes
def command(
    device: str,
    engine: str | None,
    workers: int,
    batch_size: int,
    cell_timeout: float | None,
    fail_fast: bool,
    download: bool,
    no_report: bool,
    dry_run: bool,
    display: str,
    **selection: Any,
) -> int:
    """Run, and show how it goes and what came out."""
    selected = Selection(**selection)
    if dry_run:
        plan.show(selected)
        return 0
    plugins = selected.plugins()
    engine_id = find_engine(plugins, engine, workers)
    check_device(device)
    grid = selected.grid(plugins)
    options = Options(
        **selected.execution(grid),
        device=device,
        engine=engine_id,
        workers=workers,
        batch=batch_size,
        cell_seconds=cell_timeout,
        fail_fast=fail_fast,
        download=download,
    )
    writable(options.out, "--out")
    writable(options.store, "--cache")
    return run(grid, options, plugins, display, report=not no_report)


def run(grid: Any, options: Options, plugins: Plugins, display: str, report: bool) -> int:
    """Run with a display, and write the page about it; returns the exit code."""
    console = open_console()
    started = time.monotonic()
    try:
        with open_display(display, console) as shown:
            session = Session(grid, options, plugins, lambda event: hear(session, shown, event))
            result = session.run(sys.argv)
    except KeyboardInterrupt:
        click.echo("interrupted while the data were looked at; run the same command again to go on", err=True)
        return INTERRUPTED
    if report and not result.interrupted:
        result = replace(result, problems=(*result.problems, *_write_page(options.out)))
    show_result(result, options.out, time.monotonic() - started, console)
    return result.exit_code


def _write_page(out: Path) -> list[str]:
    """Write the page about a run; what stands in its way is a line, for the results are there without it."""
    try:
        from advbench.report.page import PAGE, write_report  # nobody waits for it before the run

        write_report([out], out / PAGE)
    except Exception as error:  # noqa: BLE001 - whatever it is, the leaderboard stands
        words = str(error) if isinstance(error, (AdvbenchError, OSError)) else last_words(error)
        return [f"report.html could not be written: {words}"]
    return []


def hear(session: Session, shown: Display, event: Mapping[str, Any]) -> None:
    """Hand an event on; before the first cell, tell the display what is to come."""
    if event["event"] == "plan":
        planner = Planner(session.grid, session.options, session.environment, session.records)
        shown.expect(outlook(planner.plan(load_data=False), session.environment))
    shown(event)


def open_console() -> Console:
    """The terminal, or a stream of lines that are wide enough for the table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def find_engine(plugins: Plugins, name: str | None, workers: int) -> str:
    """The full id of an engine.

    Raises
    ------
    UserError
        If there is none of this name, or it cannot have so many workers.
    """
    name = name or ("process" if workers > 1 else "serial")
    # A short name would load every plugin.
    entry = plugins.find("engine", f"core/{name}" if name in ("serial", "process") else name)
    if workers > 1 and "workers" not in entry.load().model_fields:
        raise UserError(
            f"--workers {workers}: the engine {entry.id} has one worker; leave out one of the options"
        )
    return entry.id


def check_device(device: str) -> None:
    """Refuse a device that is not there before anything is computed.

    Raises
    ------
    UserError
        If it is not there.
    """
    if device in ("auto", "cpu"):
        return
    from advbench.runtime.machine import describe  # imports torch

    present = [one.name for one in describe().accelerators]
    if not present or (":" in device and device not in present):
        raise UserError(
            f"--device {device}: there is no such device here; there are {', '.join(['cpu', *present])}"
        )
