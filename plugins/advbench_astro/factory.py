"""Making many stamps at once, in several processes, straight into a memory-mapped file.

What a stamp contains depends on its row alone, never on the number of processes. No torch here: worker processes
import this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from advbench_astro.morphology import galaxy
from advbench_astro.rendering import STAMP, render
from advbench_astro.survey import BANDS, observe

CHUNK = 100
SHAPE = (len(BANDS), STAMP, STAMP)
PROCESSES_AT_MOST = 32


class Maker(Protocol):
    """Makes the stamp (3, STAMP, STAMP) of a row; can be sent to another process."""

    def __call__(self, row: int) -> NDArray[np.float32]:
        """The stamp, in e-/s."""


@dataclass(frozen=True)
class Galaxies:
    """Noiseless galaxies."""

    seed: int

    def __call__(self, row: int) -> NDArray[np.float32]:
        """The galaxy of this row, without noise."""
        return render(galaxy(self.seed, row))


@dataclass(frozen=True)
class Exposures:
    """The noiseless galaxies of a file as the survey sees them at one depth."""

    noiseless: Path
    depth: str
    seed: int

    def __call__(self, row: int) -> NDArray[np.float32]:
        """The galaxy of this row, with the noise that belongs to its name and this depth."""
        flux = np.load(self.noiseless, mmap_mode="r")[row]
        return observe(flux, self.depth, sample_name(row), self.seed)


def sample_name(row: int) -> str:
    """Name of the galaxy of this row, the same at every depth."""
    return f"g{row:06d}"


def fill(
    path: Path, count: int, maker: Maker, advance: Callable[[int], None], processes: int | None = None
) -> None:
    """Write the stamps of ``count`` rows to ``path``, a ``.npy`` file (count, 3, STAMP, STAMP) float32.

    ``advance(n)`` is called in this process whenever n more are done. ``processes`` defaults to the processors that
    this process may use; few stamps are made right here.
    """
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, *SHAPE)).flush()
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    workers = min(processes or _processors(), len(chunks), PROCESSES_AT_MOST)
    if workers < 2:
        for rows in chunks:
            advance(_write(path, maker, rows))
        return
    # A forked child of a process that runs threads (torch does) can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for done in as_completed([pool.submit(_write, path, maker, rows) for rows in chunks]):
                advance(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write(path: Path, maker: Maker, rows: range) -> int:
    stamps = np.lib.format.open_memmap(path, mode="r+")
    for row in rows:
        stamps[row] = maker(row)
    stamps.flush()
    return len(rows)


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
