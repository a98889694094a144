"""Files that a suite names: relative to a data folder or the current folder, or absolute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def locate(name: str, data_dirs: Sequence[Path]) -> Path | None:
    """The first existing file of this name, or None; an absolute name stands for itself."""
    return next((folder / name for folder in (*data_dirs, Path()) if (folder / name).exists()), None)
