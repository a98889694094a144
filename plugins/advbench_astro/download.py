"""Fetching one published file."""

from __future__ import annotations

import logging
from pathlib import Path

import pooch

from advbench.api import DataError, Progress


class PercentBar:
    """What pooch calls while it downloads, said in percent to the harness's progress bar."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.total = 0
        self._bytes = 0
        self._percent = 0

    def update(self, count: int) -> None:
        """``count`` more bytes have come."""
        self._bytes += count
        percent = min(100, 100 * self._bytes // self.total) if self.total else 0
        self.bar.advance(percent - self._percent)
        self._percent = percent

    def reset(self) -> None:
        """The download is over; pooch rewinds the bar before it completes it with one last update."""
        self._bytes = 0

    def close(self) -> None:
        """Nothing to close: the harness does."""


def fetch(url: str, path: Path, sha256: str | None, bar: Progress, advice: str) -> None:
    """Download ``url`` to ``path`` and check its SHA-256, where it is known.

    Raises
    ------
    DataError
        Naming the file, the address and what to do instead.
    """
    log = pooch.get_logger()
    level = log.level
    log.setLevel(logging.WARNING)  # its INFO lines would tear the progress display
    try:
        downloader = pooch.HTTPDownloader(progressbar=PercentBar(bar), chunk_size=2**20, timeout=60)
        pooch.retrieve(
            url,
            known_hash=sha256 and f"sha256:{sha256}",
            fname=path.name,
            path=path.parent,
            downloader=downloader,
        )
    except (
        OSError,
        ValueError,
    ) as error:  # what requests and pooch raise for the network and for a wrong hash
        raise DataError(f"{path.name} could not be downloaded from {url}: {error}; {advice}") from None
    finally:
        log.setLevel(level)
