"""Makes the reference results again, and the tables of results/README.md that speak of them.

``python -m tests.reference.make [NAME ...] --data DIR`` from the repository's root; ``--tables`` writes tables alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.reference import tables

ROOT = Path(__file__).parents[2]
DATA = ROOT / ".." / "shared" / "data"


class Made(NamedTuple):
    """How one reference is made: what has to be in the data folder, which modules, and further options of ``run``."""

    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    data: str = "DIR"
    options: tuple[str, ...] = ()
    left_out: str = ""

    def command(self, name: str) -> str:
        """The command as a reader would type it."""
        data = ("--data", self.data) if self.needs else ()
        return " ".join(["advbench run", f"suites/{name}.yaml", *data, *self.options])

    def lacks(self, data: Path) -> str:
        """Why it cannot be made here, or an empty string."""
        if self.left_out:
            return self.left_out
        missing = [f"{place}/" for place in self.needs if not (data / place).is_dir()]
        missing += [name for name in self.modules if find_spec(name) is None]
        return f"there is no {' and no '.join(missing)}" if missing else ""


SUITES = {
    "smoke": Made(),
    "cross-check": Made(modules=("torchattacks", "art", "foolbox")),
    "lenet5": Made(("mnist", "models")),
    "mnist": Made(("mnist",)),
    "stadv": Made(("mnist",)),
    "mnist-defenses": Made(("mnist",)),
    "lsst": Made(),
    "openset": Made(),
    "mergers": Made(),
    "photoz": Made(("photoz",)),
    "galaxyzoo": Made(("galaxy_gz1", "galaxy_domains")),
    "animals10": Made(("animals3",), data="DIR/animals3"),
    "adaptation": Made(),
    "lsst-paper": Made(("lsst",), left_out="needs a GPU and 14 GB of files"),
}
"""All suites, those first that are done soon."""


def make(name: str, data: Path, cache: Path | None = None) -> str:
    """Run a suite and export its leaderboard; returns what became of it.

    All is computed, so that ``seconds`` say how long that takes: with an empty cache and in an empty run folder, which
    are thrown away. With a ``cache`` they are that and ``results/NAME``, and what is there is taken.
    """
    how = SUITES[name]
    lack = how.lacks(data)
    if lack:
        return f"skipped: {lack}"
    folder = str(data) if how.data == "DIR" else str(data / how.data.removeprefix("DIR/"))
    if cache is not None:
        return _made(name, how, folder, str(cache), f"results/{name}")
    with tempfile.TemporaryDirectory(prefix="advbench-make-") as place:
        return _made(name, how, folder, f"{place}/cache", f"{place}/{name}")


def _made(name: str, how: Made, folder: str, cache: str, run: str) -> str:
    out = f"results/reference/{name}.csv"
    commands = [
        [
            "run",
            f"suites/{name}.yaml",
            *(["--data", folder] if how.needs else []),
            *how.options,
            "--out",
            run,
            "--cache",
            cache,
        ],
        ["export", run, "--format", "reference", "--out", out],
    ]
    for command in commands:
        code = subprocess.run([sys.executable, "-m", "advbench", *command], cwd=ROOT, check=False).returncode
        if code:
            return f"advbench {command[0]} ended with {code}; no reference was written"
    return f"made {out}"


def main(arguments: Sequence[str]) -> int:
    """Make what can be made; returns 1 if a suite that could run did not end well."""
    parser = argparse.ArgumentParser(prog="python -m tests.reference.make", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[[], *SUITES], metavar="NAME", help="suites; all if none is given"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder with data")
    parser.add_argument(
        "--cache", type=Path, help="take what is here and in results/NAME, and keep what is new"
    )
    parser.add_argument("--tables", action="store_true", help="write the tables of results/README.md alone")
    given = parser.parse_args(arguments)
    told = {}
    for name in () if given.tables else given.names or SUITES:
        told[name] = make(name, given.data.resolve(), given.cache.resolve() if given.cache else None)
        sys.stdout.write(f"{name}: {told[name]}\n")
    tables.write({name: (how.command(name), how.left_out) for name, how in SUITES.items()})
    return int(any(" ended with " in word for word in told.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
