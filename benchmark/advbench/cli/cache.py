"""``advbench cache``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from advbench.cli.main import COMMANDS
from advbench.cli.options import cache_folder
from advbench.display.words import duration, plural, size
from advbench.store.artifacts import MANIFEST, Artifact, Store, default_root


@click.group("cache", help=COMMANDS["cache"])
def command() -> None:
    """Commands on the cache folder."""


@command.command("ls")
@cache_folder
def ls(cache: Path | None) -> None:
    """List what is kept: kind, key, size, time since its last use, what it is."""
    store = Store(cache or default_root())
    artifacts = list(store.artifacts())
    for artifact in artifacts:
        columns = f"{artifact.kind:<8} {artifact.key:<24} {size(artifact.size()):>8} {_age(artifact):>11}"
        click.echo(f"{columns}  {describe(artifact)}")
    records = [path for path in (store.root / "cells").glob("*.json") if not path.name.startswith(".")]
    total = size(_size([store.root]))
    click.echo(
        f"{plural(len(artifacts), 'artifact')}, {plural(len(records), 'cell record')}, {total} in {store.root}"
    )


@command.command("verify")
@cache_folder
def verify(cache: Path | None) -> int:
    """Compare every file with what was written; exit code 1 if something is damaged."""
    from advbench.store.records import Records

    store = Store(cache or default_root())
    artifacts = list(store.artifacts())
    damaged = [lines for artifact in artifacts if (lines := artifact.damage())]
    for lines in damaged:
        for line in lines:
            click.echo(f"{click.style('damaged', fg='red')} {line}")
    folder = store.root / "cells"
    names = sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))
    broken = [name for name in names if Records([folder]).get(name) is None]
    for name in broken:
        click.echo(
            f"{click.style('damaged', fg='red')} {folder / name}.json: the cell is computed again when needed"
        )
    checked = f"{plural(len(artifacts), 'artifact')} and {plural(len(names), 'cell record')} checked"
    click.echo(f"{checked}, {len(damaged) + len(broken)} damaged")
    if damaged:
        click.echo("`advbench cache gc` removes damaged artifacts; they are made again when they are needed")
    return 1 if damaged or broken else 0


@command.command("gc")
@click.option(
    "--older-than", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="DAYS",
    help="Remove what was not used for so many days.",
)  # fmt: skip
@cache_folder
def gc(older_than: float, cache: Path | None) -> None:
    """Remove what was not used for long, what is damaged, and what killed runs left behind."""
    store = Store(cache or default_root())
    before = {path: _size([path]) for path in _candidates(store)}
    removed = store.collect_garbage(older_than)
    for path in removed:
        if path.parent != store.root / "cells":
            click.echo(f"removed {path.relative_to(store.root)} ({size(before.get(path, 0))})")
    records = sum(path.suffix == ".json" for path in removed if path.parent == store.root / "cells")
    if records:
        click.echo(f"removed {plural(records, 'cell record')}")
    freed = sum(before.get(path, 0) for path in removed)
    click.echo(f"{size(freed)} freed, {size(_size([store.root]))} left in {store.root}")


def describe(artifact: Artifact) -> str:
    """What an artifact is, from its manifest, in one line."""
    try:
        made_from = artifact.manifest()["made_from"]
    except (OSError, ValueError, KeyError):
        return "damaged: its manifest cannot be read; `advbench cache gc` removes it"
    if artifact.kind == "network":
        defenses = "".join(f" + {spec['id']}" for spec in made_from["defenses"])
        data = made_from["trained_on"]
        return f"{made_from['model']['id']}{defenses} trained on data {data}, seed {made_from['seed']}"
    if artifact.kind == "data":
        return f"{made_from['component']}: {made_from['name']} {_short(made_from['key'])}".rstrip()
    return _short(made_from)


def _short(values: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name}={value}" for name, value in values.items())
    return text if len(text) <= 60 else f"{text[:59]}…"


def _age(artifact: Artifact) -> str:
    try:
        seconds = max(0.0, time.time() - (artifact.path / MANIFEST).stat().st_mtime)
    except OSError:
        return ""
    return f"{seconds / 86400:.0f} days" if seconds > 2 * 86400 else duration(seconds)


def _candidates(store: Store) -> Iterable[Path]:
    return [path for pattern in ("artifacts/*/*", "cells/*", "tmp/*") for path in store.root.glob(pattern)]


def _size(paths: Iterable[Path]) -> int:
    """Bytes of files and of all files below folders."""
    total = 0
    for path in paths:
        files = [path] if path.is_file() else path.rglob("*")
        total += sum(file.stat().st_size for file in files if file.is_file())
    return total
