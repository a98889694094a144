"""Content-addressed artifacts: generated data sets, trained networks, and what is known of files.

Layout of the cache folder::

    artifacts/<kind>/<key>/manifest.json     what it was made from, and the hash of every file
    cells/<cell id>.json, .npz               records, shared by all suites
    cards/<key>.json                         fingerprints of data sets, so that a rerun need not load them
    hashes/<key>.json                        content hashes of files by path, size and time of change
    locks/, tmp/
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from advbench.components.identity import digest
from advbench.store.files import sha256, write_json

MANIFEST = "manifest.json"
SETTLED_NS = 2 * 10**9  # the coarsest clock of a file system in use ticks every two seconds


def default_root() -> Path:
    """``ADVBENCH_CACHE``, or the platform's cache folder for advbench."""
    return Path(os.environ.get("ADVBENCH_CACHE") or platformdirs.user_cache_dir("advbench"))


@dataclass(frozen=True)
class Artifact:
    """One artifact in the store."""

    kind: str
    key: str
    path: Path

    def manifest(self) -> dict[str, Any]:
        """What it was made from (``made_from``) and its files' hashes (``files``)."""
        return dict(json.loads((self.path / MANIFEST).read_text(encoding="utf-8")))

    def damage(self) -> list[str]:
        """One line for each file that is missing or not as it was written."""
        try:
            files = dict(self.manifest()["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [f"{self.path}: unreadable manifest ({error})"]
        lines = []
        for name, expected in sorted(files.items()):
            path = self.path / name
            if not path.is_file():
                lines.append(f"{path}: missing")
            elif sha256(path) != expected:
                lines.append(f"{path}: content differs from what was written")
        return lines

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


class Store:
    """The cache folder. Safe for several processes: one makes, the others wait."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def lock(self, name: str) -> FileLock:
        """An inter-process lock; the system frees it when its holder dies."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(
            folder / f"{name}.lock", is_singleton=True
        )  # re-entrant: training a student trains its teacher

    def find(self, kind: str, made_from: Mapping[str, Any]) -> Path | None:
        """The artifact made from exactly this, if it is there."""
        path = self._path(kind, made_from)
        return path if (path / MANIFEST).is_file() else None

    def obtain(self, kind: str, made_from: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The artifact's folder; ``make(folder)`` fills it if it is not there yet."""
        path = self._path(kind, made_from)
        with self.lock(path.name):
            if not (path / MANIFEST).is_file():
                self._publish(path, made_from, make)
        os.utime(path / MANIFEST)  # last use, for `gc`
        return path

    def _path(self, kind: str, made_from: Mapping[str, Any]) -> Path:
        return self.root / "artifacts" / kind / digest({"kind": kind, **made_from}, 24)

    def _publish(self, path: Path, made_from: Mapping[str, Any], make: Callable[[Path], None]) -> None:
        temporary = self.root / "tmp" / uuid.uuid4().hex
        temporary.mkdir(parents=True)
        try:
            make(temporary)
            files = {
                str(p.relative_to(temporary)): sha256(p) for p in sorted(temporary.rglob("*")) if p.is_file()
            }
            write_json(temporary / MANIFEST, {"made_from": made_from, "files": files})
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def artifacts(self) -> Iterator[Artifact]:
        """Everything in the store, sorted."""
        for path in sorted((self.root / "artifacts").glob("*/*")):
            if path.is_dir():
                yield Artifact(path.parent.name, path.name, path)

    def collect_garbage(self, older_than_days: float) -> list[Path]:
        """Remove left-overs of killed runs, damaged artifacts and those unused for so long; returns what went."""
        now, removed = time.time(), []
        for path in sorted((self.root / "tmp").glob("*")):
            if now - path.stat().st_mtime > 24 * 3600:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
        for artifact in list(self.artifacts()):
            manifest = artifact.path / MANIFEST
            unused = manifest.is_file() and now - manifest.stat().st_mtime > older_than_days * 24 * 3600
            if unused or artifact.damage():
                shutil.rmtree(artifact.path, ignore_errors=True)
                removed.append(artifact.path)
        for path in sorted((self.root / "cells").glob("*")):
            if now - path.stat().st_mtime > older_than_days * 24 * 3600:
                path.unlink(missing_ok=True)
                removed.append(path)
        return removed

    def content_hash(self, path: Path) -> str:
        """SHA-256 of a file, or of all files of a folder and their names in it; remembered while nothing changes."""
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        stamps = {str(file.relative_to(path)): _stamp(file) for file in files}
        memo = self.root / "hashes" / f"{digest([str(path.resolve()), stamps], 24)}.json"
        if memo.is_file():
            return str(json.loads(memo.read_text(encoding="utf-8")))
        if path.is_dir():
            value = digest([[str(file.relative_to(path)), sha256(file)] for file in files], 64)
        else:
            value = sha256(path)
        # What changed just now may change again within the same tick of the clock, unnoticed.
        last = max((max(stamp[1:3]) for stamp in stamps.values()), default=0)
        if abs(time.time_ns() - last) > SETTLED_NS:
            write_json(memo, value)
        return value


def _stamp(path: Path) -> list[int]:
    """Size, times of change and number of a file: what differs once its content does."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
