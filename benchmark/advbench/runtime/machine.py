"""What this machine has to offer. Importing this module imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Accelerator:
    """A device of its own memory."""

    name: str  # as ``--device`` takes it
    model: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """Processor, memory and accelerators, and how torch was built."""

    torch: str
    cuda: str | None  # version of CUDA that torch was built for
    cores: int  # that this process may use
    threads: int  # that torch uses
    memory_bytes: int | None
    accelerators: tuple[Accelerator, ...]


def describe() -> Machine:
    """This machine as torch sees it."""
    return Machine(
        torch.__version__,
        torch.version.cuda,
        usable_cores(),
        torch.get_num_threads(),
        _memory(),
        tuple(_accelerator(index) for index in range(torch.cuda.device_count())),
    )


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        return None


def _accelerator(index: int) -> Accelerator:
    found = torch.cuda.get_device_properties(index)
    return Accelerator(f"cuda:{index}", str(found.name), int(found.total_memory))
