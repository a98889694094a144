"""JPEG compression by libjpeg, through Pillow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from advbench.api import InputSpace, Rng, Tags, param
from advbench_corruptions.graded import Graded

LEVELS = 255


def recompress(image: NDArray[np.uint8], quality: int, subsampling: str) -> NDArray[np.uint8]:
    """An 8-bit image (h, w) or (h, w, 3) after a round trip through a JPEG file."""
    file = io.BytesIO()
    chroma = {"subsampling": subsampling} if image.ndim == 3 else {}
    Image.fromarray(image).save(file, format="JPEG", quality=quality, **chroma)
    with Image.open(file, formats=["JPEG"]) as decoded:
        return np.asarray(decoded)


def jpeg(x: Tensor, lower: Tensor, upper: Tensor, *, quality: int, subsampling: str = "4:2:0") -> Tensor:
    """Images (b, c, h, w) after JPEG compression, in their own units.

    Parameters
    ----------
    x
        Images; three channels are compressed together as RGB, any other number one by one as grey images.
    lower, upper
        Values of the 8-bit levels 0 and 255, broadcast against ``x``; between them values are rounded to
        the nearest level, beyond them clipped.
    quality
        libjpeg's quality, 1 to 100.
    subsampling
        Chroma subsampling of RGB images.
    """
    levels = ((x - lower) / (upper - lower) * LEVELS).round().clamp(0, LEVELS).to(torch.uint8).cpu()
    colour = x.shape[1] == 3
    images = levels.permute(0, 2, 3, 1) if colour else levels.flatten(0, 1)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        decoded = list(
            pool.map(lambda image: recompress(image, quality, subsampling), images.contiguous().numpy())
        )
    joined = torch.from_numpy(np.stack(decoded)).to(x.device)
    restored = joined.permute(0, 3, 1, 2) if colour else joined.view(levels.shape)
    return (lower + restored.to(x.dtype) / LEVELS * (upper - lower)).contiguous()


class JPEG(Graded):
    """JPEG compression in 8 bits between the bounds; as RGB for 3 channels, else channel by channel."""

    tags: ClassVar[Tags] = Tags(
        strength="quality",
        unit="JPEG quality",
        stronger="lower",
        reference="https://www.w3.org/Graphics/JPEG/itu-t81.pdf",
    )

    needs_images: ClassVar[str] = "JPEG"
    severities: ClassVar[Mapping[str, Sequence[Any]]] = {"quality": (75, 50, 25, 15, 7)}

    quality: int = param(50, "libjpeg's quality; lower is stronger", unit="JPEG quality", ge=1, le=100)
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = param("4:2:0", "chroma subsampling of RGB images")

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`jpeg` between the bounds of the input space."""
        return jpeg(x, *space.bounds_like(x), quality=self.quality, subsampling=self.subsampling)
