"""Options that several commands share. Imports nothing that takes time."""

from __future__ import annotations

from pathlib import Path

import click

from advbench.errors import UserError

FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def no_folder(ctx: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    """A file to write.

    Raises
    ------
    UserError
        If it is a folder.
    """
    if value is not None and value.is_dir():
        raise UserError(f"--{option.name} {value}: is a folder; name a file in it")
    return value


plugins_dir = click.option(
    "--plugins-dir",
    "plugins_dirs",
    metavar="DIR",
    multiple=True,
    type=EXISTING_FOLDER,
    help="Folder with plugins: modules or packages, each named as its namespace. Repeatable.",
)
cache_folder = click.option(
    "--cache",
    metavar="DIR",
    type=FOLDER,
    help="Cache folder  [default: $ADVBENCH_CACHE or the user's cache folder]",
)
data_folders = click.option(
    "--data",
    metavar="DIR",
    multiple=True,
    type=EXISTING_FOLDER,
    envvar="ADVBENCH_DATA",
    help="Folder in which data sets look for their files. Repeatable; takes the place of $ADVBENCH_DATA.",
)
changes = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the suite: `seeds=[0,1]`, `datasets.0.limit=100`, `models.*.params.recipe.epochs=3`. Repeatable.",
)
limit = click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    help="Samples of every data set, in place of what the suite says.",
)
