"""What a command line selects: a suite, changes of it, cells of its grid, and where all of it lies."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from advbench.cli.options import FOLDER, cache_folder, changes, data_folders, limit, plugins_dir
from advbench.components.loader import Plugins
from advbench.errors import UserError
from advbench.store.artifacts import default_root
from advbench.suite.cross import EXCLUDE_AXES as AXES
from advbench.suite.findings import near
from advbench.suite.grid import Grid, expand
from advbench.suite.reader import read_suite

Command = TypeVar("Command", bound=Callable[..., Any])

ONLY_EPILOG = """\b
AXIS is dataset, model, defense, perturbation, knowledge or seed; a PATTERN may hold * ? [...]:
  --only model=convnet,perturbation=attacks/*      both must fit
  --only model=convnet --only perturbation=none    one of them is enough"""


def _only(ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> tuple[dict[str, str], ...]:
    return tuple(parse_only(text) for text in texts)


only = click.option(
    "--only",
    multiple=True,
    callback=_only,
    metavar="AXIS=PATTERN[,...]",
    help="Only cells whose label or id fits: `model=convnet`, `perturbation=attacks/*`. All patterns of one "
    "--only must fit; of several --only any may.",
)

SELECTION = (
    click.argument("suite", type=click.Path(path_type=Path)),
    changes,
    only,
    limit,
    data_folders,
    click.option(
        "--out", metavar="DIR", type=FOLDER, help="Folder of the run  [default: results/NAME OF THE SUITE]"
    ),
    cache_folder,
    click.option("--retry-failed", is_flag=True, help="Compute cells again that failed in an earlier run."),
    click.option(
        "--keep-inputs",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Keep the first N perturbed inputs of every cell, so that they can be judged again.",
    ),
    click.option(
        "--audit",
        is_flag=True,
        help="Add the few cells that red flags need: twice the steps, no bound, one step, noise, a black box.",
    ),
    plugins_dir,
)


def selects(command: Command) -> Command:
    """Add the argument SUITE and every option that says which cells are meant."""
    for option in reversed(SELECTION):
        command = option(command)
    return command


@dataclass(frozen=True)
class Selection:
    """What `selects` gathered from the command line."""

    suite: Path
    changes: tuple[str, ...]
    only: tuple[Mapping[str, str], ...]
    limit: int | None
    data: tuple[Path, ...]
    out: Path | None
    cache: Path | None
    retry_failed: bool
    keep_inputs: int
    audit: bool
    plugins_dirs: tuple[Path, ...]

    def plugins(self) -> Plugins:
        """The plugins, none of them loaded."""
        return Plugins.discover(self.plugins_dirs)

    def grid(self, plugins: Plugins) -> Grid:
        """The grid of the suite.

        Raises
        ------
        SuiteError
            With every mistake of the suite.
        UserError
            If a pattern of ``--only`` fits nothing.
        """
        grid = expand(read_suite(self.suite, plugins, self.changes, self.limit), plugins)
        for patterns in self.only:
            for axis, pattern in patterns.items():
                if not any(cell.matches({axis: pattern}) for cell in grid.cells):
                    labels = {cell.labels[axis] for cell in grid.cells}
                    raise UserError(
                        f"--only {axis}={pattern} fits no {axis} of this suite{near(pattern, labels)}"
                    )
        return grid

    def execution(self, grid: Grid) -> dict[str, Any]:
        """What a plan and a run have in common, as arguments of `Options`."""
        return {
            "store": self.cache or default_root(),
            "out": self.out or Path("results") / grid.suite.name,
            "data_dirs": self.data,
            "plugins_dirs": self.plugins_dirs,
            "only": self.only,
            "retry_failed": self.retry_failed,
            "keep_inputs": self.keep_inputs,
            "audit": self.audit,
        }


def parse_only(text: str) -> dict[str, str]:
    """``"model=convnet,perturbation=pgd(eps=0.1,steps=3)"`` as patterns by axis.

    Raises
    ------
    UserError
        If it is not of this form.
    """
    patterns: dict[str, str] = {}
    for part in _split(text):
        axis, equals, pattern = part.partition("=")
        if not equals or not pattern:
            raise UserError(f"--only {text}: {part!r} is not of the form AXIS=PATTERN")
        if axis not in AXES:
            raise UserError(f"--only {text}: there is no axis {axis!r}{near(axis, AXES)}")
        if axis in patterns:
            raise UserError(f"--only {text}: {axis} is given twice; write a second --only")
        patterns[axis] = pattern
    return patterns


def _split(text: str) -> list[str]:
    """Parts between commas; a comma inside parentheses belongs to a label."""
    return [part.strip() for part in re.findall(r"(?:\([^()]*\)|[^,])+", text)]


def writable(path: Path, option: str) -> Path:
    """``path`` as a folder that can be written to; made if it is not there.

    Raises
    ------
    UserError
        If that cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {path}: the folder cannot be made: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: the folder cannot be written to")
    return path
