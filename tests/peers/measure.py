"""Passes that a library spends, and the memory that it takes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

MIB = 2.0**20


class Counted(nn.Module):
    """A network that counts the rows that go forward and backward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forwards = self.backwards = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (b, k)."""
        self.forwards += len(x)
        output: Tensor = self.network(x)
        if output.requires_grad:
            output.register_hook(lambda gradient: self._backward(len(gradient)))
        return output

    def _backward(self, rows: int) -> None:
        self.backwards += rows


@dataclass
class Peak:
    """Memory beyond what there was at the start."""

    mib: float = 0.0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Peak of the block: of the GPU where there is one, else of the process, looked at every 2 ms."""
    peak, base = Peak(), _memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.mib = torch.cuda.max_memory_allocated() / MIB - base
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak.mib = max(peak.mib, _memory() - base)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / MIB
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
