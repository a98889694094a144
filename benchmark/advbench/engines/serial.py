"""One job after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from advbench.components.base import Engine
from advbench.runtime.events import Emit
from advbench.runtime.jobs import Job
from advbench.runtime.worker import run_job


class Serial(Engine):
    """Runs every job in this process, one after the other."""

    def run(self, jobs: Sequence[Path], emit: Emit, stop: Callable[[], bool]) -> None:
        """Run the job files."""
        for path in jobs:
            if not stop():
                run_job(Job.read(path), emit, stop)
