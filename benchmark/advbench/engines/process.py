"""One worker process for each job, several at a time; a process that dies costs one cell."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advbench.components.base import Engine, param
from advbench.runtime.events import Emit
from advbench.runtime.jobs import Job


@dataclass
class _Running:
    """A worker and what it has told so far."""

    path: Path
    slot: int
    process: subprocess.Popen[str]
    reader: threading.Thread
    started: dict[str, str] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)


class Process(Engine):
    """Runs every job in a process of its own; when one dies its cell is marked and the rest goes on."""

    workers: int = param(1, "worker processes at a time", ge=1)

    def run(self, jobs: Sequence[Path], emit: Emit, stop: Callable[[], bool]) -> None:
        """Run the job files."""
        waiting, running = deque(jobs), dict[int, _Running]()
        events: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
        try:
            while (waiting and not stop()) or running:
                while waiting and len(running) < self.workers and not stop():
                    slot = min(set(range(self.workers)) - set(running))
                    running[slot] = _start(waiting.popleft(), slot, events)
                slot, event = events.get()
                if event is None:
                    again = _bury(running.pop(slot), emit, stop)
                    waiting.extendleft([again] if again else [])
                else:
                    _note(running[slot], event)
                    emit(event)
                if stop():
                    break
        finally:
            for worker in running.values():
                worker.process.terminate()
                worker.reader.join()


def _start(path: Path, slot: int, events: queue.Queue[tuple[int, dict[str, Any] | None]]) -> _Running:
    with path.with_suffix(".log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "advbench.runtime.worker", str(path)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # Threads of several workers share the cores: waiting ones must not spin.
            env={**os.environ, "ADVBENCH_WORKER_INDEX": str(slot), "OMP_WAIT_POLICY": "PASSIVE"},
        )

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                try:
                    events.put((slot, json.loads(line)))
                except ValueError:
                    continue  # a library printed something
        process.wait()
        events.put((slot, None))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return _Running(path, slot, process, reader)


def _note(worker: _Running, event: dict[str, Any]) -> None:
    if event["event"] == "cell_started":
        worker.started[event["cell"]] = event["label"]
    elif event["event"] == "cell_finished":
        worker.finished.add(event["cell"])


def _bury(worker: _Running, emit: Emit, stop: Callable[[], bool]) -> Path | None:
    """Mark the cell that a dead worker was at; returns a job file with the rest, if there is any."""
    job = Job.read(worker.path)
    left = job.without(worker.finished)
    if worker.process.returncode == 0 or stop() or not left.cells:
        return None
    culprits = set(worker.started) & set(left.cells) or set(left.cells)
    reason = f"the worker process died ({_cause(worker)})"
    for cell_id in sorted(culprits):
        label = left.cells[cell_id].label
        emit(
            {
                "event": "cell_finished",
                "cell": cell_id,
                "label": label,
                "status": "crashed",
                "reason": reason,
                "seconds": 0.0,
                "computed": False,
            }
        )
    rest = left.without(culprits)
    return rest.write(worker.path.with_name(f"{worker.path.stem}-again.json")) if rest.cells else None


def _cause(worker: _Running) -> str:
    code = worker.process.returncode
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    log = worker.path.with_suffix(".log").read_text(encoding="utf-8", errors="replace").strip()
    return f"exit code {code}: {log.splitlines()[-1] if log else 'no message'}"
