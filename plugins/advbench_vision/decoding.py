"""Decodes image files once and keeps their 8-bit pixels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.api import DataContext
from advbench_vision.pictures import UNREADABLE, read_picture

PIXELS, INDEX = "pixels.npy", "index.json"
AT_ONCE = 256  # pictures held in memory while they are decoded


class Decoded(NamedTuple):
    """Pictures (n, c, size, size) of the files that could be read, their names, and why the others could not."""

    pixels: NDArray[np.uint8]
    names: list[str]
    broken: dict[str, str]


@dataclass(frozen=True)
class Decoder:
    """How pictures become squares; see `advbench_vision.pictures.read_picture`."""

    size: int
    crop: int | None
    grey: bool

    def decode(self, root: Path, names: Sequence[str], context: DataContext) -> Decoded:
        """Pictures of the files ``names`` below ``root``, from the cache if they were decoded before."""
        key = {"size": self.size, "crop": self.crop, "grey": self.grey, "content": _content(root, names)}
        folder = context.artifact("pixels", key, lambda made: self._write(made, root, names, context))
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        pixels = np.load(folder / PIXELS, mmap_mode="r")[: len(index["names"])]
        return Decoded(pixels, index["names"], index["broken"])

    def _write(self, folder: Path, root: Path, names: Sequence[str], context: DataContext) -> None:
        shape = (len(names), 1 if self.grey else 3, self.size, self.size)
        pixels = np.lib.format.open_memmap(folder / PIXELS, mode="w+", dtype=np.uint8, shape=shape)
        kept: list[str] = []
        broken: dict[str, str] = {}
        with (
            context.progress("decoding images", len(names)) as bar,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for start in range(0, len(names), AT_ONCE):
                chunk = names[start : start + AT_ONCE]
                for name, result in zip(chunk, pool.map(lambda one: self._read(root, one), chunk)):
                    if isinstance(result, str):
                        broken[name] = result
                    else:
                        pixels[len(kept)] = result
                        kept.append(name)
                bar.advance(len(chunk))
        pixels.flush()  # rows beyond the kept ones stay empty
        (folder / INDEX).write_text(json.dumps({"names": kept, "broken": broken}), encoding="utf-8")

    def _read(self, root: Path, name: str) -> NDArray[np.uint8] | str:
        try:
            return read_picture(root / name, size=self.size, crop=self.crop, grey=self.grey)
        except UNREADABLE as error:
            return str(error).replace(str(root / name), name) or type(error).__name__


def _content(root: Path, names: Sequence[str]) -> str:
    """Hash of names and contents; a file that is missing counts as empty."""
    hasher = hashlib.sha256()
    for name in names:
        path = root / name
        content = path.read_bytes() if path.is_file() else b""
        hasher.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return hasher.hexdigest()
