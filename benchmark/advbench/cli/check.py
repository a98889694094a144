"""``advbench check``."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import click

from advbench.cli.find import find_entries
from advbench.cli.main import COMMANDS
from advbench.cli.options import data_folders, plugins_dir
from advbench.components.loader import Plugins

MARKS = {"passed": "green", "failed": "red", "skipped": "yellow"}


@click.command("check", help=COMMANDS["check"])
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--verbose", "-v", is_flag=True, help="Show the checks that passed, too.")
@plugins_dir
@data_folders
def command(
    ids: tuple[str, ...], verbose: bool, plugins_dirs: tuple[Path, ...], data: tuple[Path, ...]
) -> int:
    """Run the contract kit over components; exit code 1 if a check fails."""
    plugins = Plugins.discover(plugins_dirs)
    failed = 0
    entries = [entry for name in ids for entry in find_entries(plugins, name)]
    kit: Any = importlib.import_module("advbench.testing")  # needs torch; a misspelt id does not
    for entry in entries:
        results = list(kit.run_checks(plugins, entry, data_dirs=data))
        counts = Counter(result.status for result in results)
        failed += counts["failed"]
        told = ", ".join(f"{counts[status]} {status}" for status in MARKS if counts[status]) or "no checks"
        click.echo(f"{click.style(entry.id, bold=True)} ({entry.kind}): {told}")
        for result in results:
            if verbose or result.status != "passed":
                message = f": {result.message}" if result.message else ""
                click.echo(
                    f"  {click.style(f'{result.status:<7}', fg=MARKS.get(result.status))} {result.name}{message}"
                )
    return 1 if failed else 0
