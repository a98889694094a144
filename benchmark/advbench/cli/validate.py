"""``advbench validate``."""

from __future__ import annotations

from pathlib import Path

import click

from advbench.cli.main import COMMANDS, USER_ERROR, tell
from advbench.cli.options import changes, limit, plugins_dir
from advbench.components.loader import Plugins
from advbench.display.words import plural
from advbench.errors import AdvbenchError
from advbench.suite.grid import expand
from advbench.suite.reader import read_suite


@click.command("validate", help=COMMANDS["validate"])
@click.argument("suites", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SUITE...")
@changes
@limit
@plugins_dir
def command(
    suites: tuple[Path, ...], changes: tuple[str, ...], limit: int | None, plugins_dirs: tuple[Path, ...]
) -> int:
    """Report all mistakes of all suites."""
    plugins = Plugins.discover(plugins_dirs)
    code = 0
    for path in suites:
        try:
            grid = expand(read_suite(path, plugins, changes, limit), plugins)
        except AdvbenchError as error:
            tell(error)
            code = USER_ERROR
        else:
            click.echo(f"{path}: ok: {plural(len(grid.cells), 'cell')}")
    return code
