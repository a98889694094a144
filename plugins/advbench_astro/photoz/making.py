"""Making many stamps at once, in several processes. No torch here: worker processes import this module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from advbench_astro.photoz.stamps import SHAPE, Stamps

CHUNK = 100
PROCESSES_AT_MOST = 32


def fill(
    path: Path, count: int, stamps: Stamps, advance: Callable[[int], None], processes: int | None = None
) -> None:
    """Write so many stamps to ``path``, a ``.npy`` file (count, 5, 64, 64) float32.

    What a stamp contains depends on its row alone. ``advance(n)`` is called whenever n more are done; ``processes``
    defaults to the processors that this process may use, and few stamps are made right here.
    """
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, *SHAPE))
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    for rows, images in zip(chunks, _made(stamps, chunks, processes or _processors())):
        written[rows.start : rows.stop] = images
        advance(len(rows))
    written.flush()


def several(stamps: Stamps, rows: range) -> NDArray[np.float32]:
    """The stamps of these rows, (n, 5, 64, 64)."""
    return np.stack([stamps(row) for row in rows])


def _made(stamps: Stamps, chunks: list[range], processes: int) -> Iterator[NDArray[np.float32]]:
    workers = min(processes, len(chunks), PROCESSES_AT_MOST)
    if workers < 2:
        yield from (several(stamps, rows) for rows in chunks)
        return
    # A forked child of a process that runs threads (torch does) can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(several, [stamps] * len(chunks), chunks)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
