"""CPU time of compare and rank on large leaderboards.

``PYTHONPATH=tests/support python -m tests.peers.boards_speed [--rows N] [--samples N]``

Two leaderboards of which three rows in five differ, once as CSV files alone and once as run folders with the outcomes
of every sample. Times are those of a process of its own, its start and the reading of all files included.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boards
import numpy as np
import reports

COMMANDS = (
    "compare {0}.csv {1}.csv",
    "compare {0} {1}",
    "compare {0} {1} --figure l2_median",
    "rank {0}.csv",
    "rank {0}",
)


def made(count: int, samples: int, changed: bool) -> Iterator[dict[str, Any]]:
    """Rows with outcomes; every attack has a rate of its own."""
    for number, row in enumerate(itertools.islice(reports.many(), count)):
        rng = np.random.default_rng(number)
        clean = rng.random(samples) < 0.9
        after = clean & (rng.random(samples) < rng.random())
        identity = {name: row[name] for name in boards.IDENTITY if name not in ("status", "reason")}
        if changed and number % 5 < 3:
            after ^= clean & (rng.random(samples) < 0.05)
            identity["defense_params"] = '[{"bit_depth": 3}]'
        sizes = {"l2": rng.gamma(2.0, size=samples)}
        yield boards.cell(boards.classified(clean, after, **sizes), **identity) | {
            "cell_id": f"{number:016x}"
        }


def seconds(command: list[str]) -> float:
    """CPU time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "advbench", *command], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print the least of three times for each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder, name)) for name in "ab"]
        for name, changed in zip(names, (False, True)):
            rows = list(made(options.rows, options.samples, changed))
            boards.write_csv(Path(f"{name}.csv"), rows)
            boards.write_run(Path(name), rows)
        for command in COMMANDS:
            words = command.format(*names).split()
            least = min(seconds(words) for _ in range(3))
            sys.stdout.write(f"{least:5.2f} s  advbench {command.format('A', 'B')}\n")


if __name__ == "__main__":
    main()
