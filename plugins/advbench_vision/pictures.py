"""From an image file to a square of 8-bit pixels."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for a damaged file; which one depends on the format and on the damage."""

_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


def is_picture(path: Path) -> bool:
    """Whether the name is that of an image file that is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_picture(path: Path, *, size: int, crop: int | None, grey: bool) -> NDArray[np.uint8]:
    """A picture as a square of pixels, (c, size, size) with c = 1 (grey, ITU-R 601 luma) or 3.

    It is turned as its EXIF orientation says; transparent parts become black; 16-bit greyscale keeps its upper 8 bits,
    rounded. Then the central ``crop`` x ``crop`` pixels are taken, if given, the largest central square is
    taken of what is left, and resized (bicubic, with antialiasing).

    Raises
    ------
    ValueError
        If the picture is smaller than ``crop``, or has values beyond 16 bits.
    OSError, SyntaxError, EOFError, LookupError, struct.error
        See `UNREADABLE`; the file is damaged or no image.
    """
    with Image.open(path) as image:
        image.load()
        upright = _eight_bits(ImageOps.exif_transpose(image), "L" if grey else "RGB")
    if crop is not None:
        upright = _centre(upright, crop)
    square = ImageOps.fit(upright, (size, size), method=Image.Resampling.BICUBIC)
    pixels = np.asarray(square, dtype=np.uint8)
    return np.ascontiguousarray(pixels[None] if grey else pixels.transpose(2, 0, 1))


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values {values.min()} to {values.max()} are not 16-bit greyscale")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known range; bring them as an array")
    elif image.mode in _WITH_ALPHA or "transparency" in image.info:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured)
    return image.convert(mode)


def _centre(image: Image.Image, side: int) -> Image.Image:
    if min(image.size) < side:
        raise ValueError(f"{image.width} x {image.height} pixels are smaller than the crop of {side}")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
