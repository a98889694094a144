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

from advbench_astro.rendering import render
from advbench_astro.scene import USUAL, Scene
from advbench_astro.survey import LSST, Exposure, View, observe

CHUNK = 100
PROCESSES_AT_MOST = 32


class Maker(Protocol):
    """Makes the stamp (filters, side, side) of a row; can be sent to another process."""

    @property
    def view(self) -> View:
        """What decides the shape of a stamp."""

    def __call__(self, row: int) -> NDArray[np.float32]:
        """The stamp, in e-/s."""


@dataclass(frozen=True)
class Galaxies:
    """Noiseless galaxies."""

    seed: int
    scene: Scene = USUAL
    view: View = LSST

    def __call__(self, row: int) -> NDArray[np.float32]:
        """The galaxy of this row, without noise."""
        return render(self.scene.galaxy(self.seed, row, self.view.field_arcsec), self.view)


@dataclass(frozen=True)
class Exposures:
    """The noiseless galaxies of a file as the survey sees them at one depth.

    Noise belongs to the name of the galaxy, ``prefix`` and row, and to ``variant``: what else differs.
    """

    noiseless: Path
    exposure: Exposure
    seed: int
    view: View = LSST
    prefix: str = "g"
    variant: str = ""

    def __call__(self, row: int) -> NDArray[np.float32]:
        """The galaxy of this row, with the noise that belongs to its name and this depth."""
        flux = np.load(self.noiseless, mmap_mode="r")[row]
        name = sample_name(row, self.prefix)
        return observe(flux, self.exposure, name, self.seed, self.view, self.variant)


def sample_name(row: int, prefix: str = "g") -> str:
    """Name of the galaxy of this row, the same at every depth."""
    return f"{prefix}{row:06d}"


def fill(
    path: Path, count: int, maker: Maker, advance: Callable[[int], None], processes: int | None = None
) -> None:
    """Write the stamps of ``count`` rows to ``path``, a ``.npy`` file (count, filters, side, side) float32.

    ``advance(n)`` is called in this process whenever n more are done. ``processes`` defaults to the processors that
    this process may use; few stamps are made right here.
    """
    view = maker.view
    shape = (count, len(view.filters), view.side, view.side)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()
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
