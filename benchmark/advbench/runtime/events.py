"""Events that workers tell: plain dictionaries with a key ``event``.

========================  ==================================================================
``progress``              ``label``, ``done``, ``total``; ``done == total`` closes the bar
``network``               a network is ready: ``label``, ``how`` (``trained`` or ``loaded``), ``seconds``
``epoch``                 training: ``label``, ``epoch``, ``epochs``, ``train_loss``, ``valid_loss``, ``valid_metric``
``cell_started``          ``cell``, ``label``
``cell_finished``         ``cell``, ``label``, ``status``, ``reason``, ``seconds``, ``computed`` (a record was written)
``note``                  ``text`` for the user
========================  ==================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Emit = Callable[[dict[str, Any]], None]


class _Bar:
    def __init__(self, emit: Emit, label: str, total: int) -> None:
        self._emit, self._label, self._total = emit, label, total
        self._done, self._told = 0, 0.0

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._told > 0.2:
            self._told = now
            self._tell(min(self._done, self._total - 1))

    def _tell(self, done: int) -> None:
        self._emit({"event": "progress", "label": self._label, "done": done, "total": self._total})

    def close(self) -> None:
        self._tell(self._total)


@contextmanager
def progress_bar(emit: Emit, label: str, total: int) -> Iterator[_Bar]:
    """A progress bar that ends with the block."""
    bar = _Bar(emit, label, total)
    try:
        yield bar
    finally:
        bar.close()
