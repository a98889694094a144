"""The ledger of a run: one line of JSON for everything that happened, with its time. Only ever appended to."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Ledger:
    """``ledger.jsonl`` in a run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):
            self._write("\n")  # a kill cut off the last line

    def append(self, event: Mapping[str, Any]) -> None:
        """Append one event; a single write, so that lines of several processes do not mix."""
        self._write(json.dumps({"time": round(time.time(), 3), **event}, sort_keys=True) + "\n")

    def _write(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All whole lines; one cut off by a kill is passed over."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
