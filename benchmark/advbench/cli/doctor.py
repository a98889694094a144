"""``advbench doctor``."""

from __future__ import annotations

import importlib
import os
import platform
import re
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import click

from advbench import __version__
from advbench.cli.main import COMMANDS
from advbench.cli.options import cache_folder, plugins_dir
from advbench.components.hookspecs import API_VERSION
from advbench.components.loader import Plugins
from advbench.display.words import plural, size
from advbench.store.artifacts import default_root

WIDTH = 90
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+).*?(extra == ['\"](?P<extra>[^'\"]+)['\"])?$")


@click.command("doctor", help=COMMANDS["doctor"])
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    envvar="ADVBENCH_DATA",
    help="Data folder to look for. Repeatable; takes the place of $ADVBENCH_DATA.",
)
@cache_folder
@plugins_dir
def command(data: tuple[Path, ...], cache: Path | None, plugins_dirs: tuple[Path, ...]) -> int:
    """Print what there is; exit code 1 if something is broken."""
    report = Report()
    report.line("advbench", f"{__version__} (plugin API {API_VERSION})")
    report.line("python", f"{platform.python_version()} ({sys.executable})")
    report.line("platform", platform.platform())
    _packages(report)
    _machine(report)
    _cache(report, cache or default_root())
    _data(report, data)
    _plugins(report, Plugins.discover(plugins_dirs))
    click.echo(
        "\n" + (f"{plural(report.broken, 'thing')} broken, see above" if report.broken else "all is well")
    )
    return 1 if report.broken else 0


class Report:
    """Prints lines and counts what is broken."""

    def __init__(self) -> None:
        self.broken = 0

    def title(self, text: str) -> None:
        """A heading."""
        click.echo("\n" + click.style(text, bold=True))

    def line(self, name: str, text: str, *, broken: bool = False) -> None:
        """A line, with a mark if what it says is broken."""
        self.broken += broken
        mark = click.style("  <- broken", fg="red", bold=True) if broken else ""
        click.echo(f"  {name:<16} {text}{mark}")


def _packages(report: Report) -> None:
    report.title("packages")
    groups: dict[str, list[str]] = {}
    for requirement in metadata.requires("advbench") or []:
        match = _REQUIREMENT.match(requirement)
        if match and match["name"] != "advbench" and match["extra"] != "all":
            groups.setdefault(match["extra"] or "", []).append(match["name"])
    for name in groups.pop("", []):
        version = _version(name)
        report.line(name, version or "missing", broken=version is None)
    for extra, names in groups.items():
        missing = [name for name in names if _version(name) is None]
        found = ", ".join(f"{name} {_version(name)}" for name in names if name not in missing)
        words = f"not installed: {', '.join(missing)}" if missing else found
        for index, line in enumerate(textwrap.wrap(words, WIDTH)):
            report.line("" if index else f"[{extra}]", line)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine(report: Report) -> None:
    report.title("machine")
    try:
        machine = importlib.import_module("advbench.runtime.machine").describe()
    except Exception as error:  # noqa: BLE001 - whatever keeps torch from working is what this command is for
        report.line("torch", f"{type(error).__name__}: {error}", broken=True)
        return
    build = f"built for CUDA {machine.cuda}" if machine.cuda else "built for CPU"
    report.line("torch", f"{machine.torch} ({build}), {plural(machine.threads, 'thread')}")
    memory = f", {size(machine.memory_bytes)} of memory" if machine.memory_bytes else ""
    report.line("cpu", f"{plural(machine.cores, 'core')}{memory}")
    for device in machine.accelerators:
        report.line(device.name, f"{device.model}, {size(device.memory_bytes)}")
    if not machine.accelerators:
        report.line("cuda", "no device")


def _cache(report: Report, root: Path) -> None:
    report.title("folders")
    if not root.is_dir():
        report.line("cache", f"{root} (not there yet; the first run makes it)")
        return
    total = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    locked = not os.access(root, os.W_OK)
    report.line("cache", f"{root} ({size(total)}{', cannot be written to' if locked else ''})", broken=locked)


def _data(report: Report, folders: tuple[Path, ...]) -> None:
    for folder in folders:
        found = folder.is_dir()
        count = plural(sum(1 for _ in folder.iterdir()), "entry") if found else ""
        report.line("data", f"{folder} ({count if found else 'missing'})", broken=not found)
    if not folders:
        report.line("data", "no folder given (--data DIR or ADVBENCH_DATA)")


def _plugins(report: Report, plugins: Plugins) -> None:
    report.title("plugins")
    for plugin in plugins.all():
        words = plugin.error or f"{plural(len(plugin.entries), 'component')} from {plugin.distribution}"
        report.line(plugin.namespace, words, broken=bool(plugin.error))
