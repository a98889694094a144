"""``advbench list``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import click

from advbench.cli.main import COMMANDS
from advbench.cli.options import plugins_dir
from advbench.components.base import KINDS
from advbench.components.loader import Plugins
from advbench.components.registry import Entry
from advbench.errors import UserError
from advbench.suite.findings import near

PLURALS = tuple(f"{kind}s" for kind in KINDS)


@click.command("list", help=COMMANDS["list"])
@click.argument("kind", required=False, metavar=f"[{'|'.join(PLURALS)}]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@plugins_dir
def command(kind: str | None, as_json: bool, plugins_dirs: tuple[Path, ...]) -> None:
    """Ids and summaries by kind, then the plugins that are broken."""
    wanted = kind_of(kind) if kind else None
    plugins = Plugins.discover(plugins_dirs)
    entries = [entry for entry in plugins.registry() if wanted in (None, entry.kind)]
    broken = [
        (plugin.namespace, plugin.distribution, plugin.error) for plugin in plugins.all() if plugin.error
    ]
    if as_json:
        components = [
            {"kind": e.kind, "id": e.id, "summary": e.summary(), "distribution": e.distribution}
            for e in entries
        ]
        names = ("namespace", "distribution", "error")
        complaints = [dict(zip(names, one, strict=True)) for one in broken]
        click.echo(json.dumps({"components": components, "broken": complaints}, indent=1))
        return
    _show(entries)
    if wanted and not entries:
        click.echo(f"there are no {wanted}s")
    if broken:
        click.echo(("\n" if entries else "") + click.style("broken plugins", bold=True, fg="red"))
        for _, _, error in broken:
            click.echo(f"  {error}")


def kind_of(name: str) -> str:
    """A kind from its name in the singular or the plural.

    Raises
    ------
    UserError
        If there is no such kind.
    """
    kind = name.lower().removesuffix("s")
    if kind not in KINDS:
        raise UserError(f"there is no kind {name!r}{near(name, PLURALS)}")
    return kind


def _show(entries: list[Entry]) -> None:
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    width = max((len(entry.id) for entry in entries), default=0)
    groups = [[entry for entry in entries if entry.kind == kind] for kind in KINDS]
    for index, group in enumerate(group for group in groups if group):
        click.echo(("\n" if index else "") + click.style(f"{group[0].kind}s", bold=True))
        for entry in group:
            line = f"  {entry.id:<{width}}  {entry.summary() or '(no summary)'}"
            click.echo(f"{line[: room - 1]}…" if room and len(line) > room else line)
