"""Pictures as data URIs: the figures that plugins drew, made smaller where they are huge."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from advbench.report.rows import Source

LISTING = "figures.json"

TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
"""What a browser shows as an image, where no script runs and nothing is fetched, SVG included."""

TEXTS = (".csv", ".txt", ".md", ".json")
WIDEST = 1600
"""Pixels; a still picture that is wider is scaled down."""

HUGE = 1_500_000
"""Bytes beyond which a still picture is scaled down though it is not too wide."""

LARGEST_MOVING = 4_000_000
"""Bytes of an animation, or of an SVG, that is still embedded whole."""

LONGEST_TEXT = 20_000
ALL_OF_THEM = 40_000_000
"""Bytes of all pictures of a page together; those beyond are named instead."""


@dataclass
class Picture:
    """One picture of a figure: its caption, and a data URI, a text, or a word on why there is neither."""

    run: str
    figure: str
    path: str
    caption: str
    uri: str = ""
    text: str = ""
    note: str = ""
    width: int = 0
    height: int = 0


def figures(sources: Sequence[Source]) -> list[Picture]:
    """What ``figures.json`` of each run lists, in its order. A file outside the run's folder is not read."""
    left, found = ALL_OF_THEM, []
    for source in sources:
        home = source.home
        if home is None:
            continue
        for picture in _listed(source.name, home):
            path = (home / picture.path).resolve()
            if not path.is_relative_to(home.resolve()):
                picture.note = "not shown: it lies outside the run's folder"
            elif not path.is_file():
                picture.note = "not shown: the file is gone"
            else:
                _fill(picture, path, left)
            left -= len(picture.uri)
            found.append(picture)
    return found


def _listed(run: str, home: Path) -> Iterator[Picture]:
    try:
        entries = json.loads((home / LISTING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for entry in entries if isinstance(entries, list) else []:
        pictures = entry.get("pictures") if isinstance(entry, Mapping) else None
        for one in pictures if isinstance(pictures, list) else []:
            if isinstance(one, Mapping) and "path" in one:
                yield Picture(
                    run, str(entry.get("figure", "")), str(one["path"]), str(one.get("caption", ""))
                )


def _fill(picture: Picture, path: Path, left: int) -> None:
    suffix = path.suffix.lower()
    if suffix in TEXTS:
        with path.open(encoding="utf-8", errors="replace") as handle:
            picture.text = handle.read(LONGEST_TEXT)
        return
    if suffix not in TYPES:
        picture.note = f"a file {suffix or 'without a suffix'}, which a page cannot show"
        return
    try:
        data, kind = _embedded(path, picture)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        picture.note = f"not shown: {error}"
        return
    uri = data_uri(data, kind) if data else ""
    if len(uri) > left:
        picture.note = f"not shown: the page would be larger than {ALL_OF_THEM / 1e6:.0f} MB"
        return
    picture.uri = uri


def _embedded(path: Path, picture: Picture) -> tuple[bytes, str]:
    """The bytes to embed and their type; nothing, and a note, where there is no way to make them fewer."""
    suffix, size = path.suffix.lower(), path.stat().st_size
    if suffix == ".svg":
        if size <= LARGEST_MOVING:
            return path.read_bytes(), TYPES[suffix]
        picture.note = f"not shown: an SVG of {size / 1e6:.1f} MB"
        return b"", TYPES[suffix]
    with Image.open(path) as image:
        picture.width, picture.height = image.size
        moving = bool(getattr(image, "is_animated", False))
        if size <= LARGEST_MOVING if moving else (size <= HUGE and image.width <= WIDEST):
            return path.read_bytes(), TYPES[suffix]
        if moving:
            picture.note = f"the first picture of an animation of {size / 1e6:.1f} MB"
        return _smaller(image, picture), TYPES[".png"]


def _smaller(image: Image.Image, picture: Picture) -> bytes:
    """A PNG that is at most three quarters as wide as the widest, of the picture or of its first frame."""
    image.seek(0)
    still = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
    still.thumbnail((WIDEST * 3 // 4, 4 * WIDEST))
    picture.width, picture.height = still.size
    buffer = io.BytesIO()
    still.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """``data:image/png;base64,...``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(pixels: Any) -> str:
    """Data URI of an image: bytes (h, w) for grey or (h, w, 3) for colours."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), TYPES[".png"])
