"""JPEG equals Pillow bit for bit; ART's, through the bridge, is the one that truncates."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tests.oracle.stand_in import KeyedRng, random_tensor, space_of
from tests.peers.peers import installed

from advbench_corruptions.jpeg import JPEG


def by_pillow(levels: np.ndarray, quality: int) -> np.ndarray:
    """8-bit images (b, c, h, w) saved and read again one by one."""
    decoded = []
    for image in levels:
        picture = Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=quality)
        array = np.asarray(Image.open(file))
        decoded.append(array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0))
    return np.stack(decoded)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 75, 95])
def test_jpeg_is_that_of_pillow(channels: int, quality: int) -> None:
    space = space_of((channels, 40, 56), -2.0, 6.0)
    levels = (random_tensor(4, channels, 10, 14) * 255).round()
    levels = torch.nn.functional.interpolate(levels, (40, 56), mode="nearest")
    x = -2 + levels / 255 * 8
    found = JPEG(quality=quality).corrupt(x, space, KeyedRng(range(4)))
    expected = by_pillow(levels.numpy().astype(np.uint8), quality)
    assert np.array_equal(((found + 2) / 8 * 255).round().numpy(), expected)
    assert not np.array_equal(expected, levels.numpy())


def test_art_is_within_two_levels_of_it() -> None:
    if not installed("art"):
        pytest.skip("art is not installed")
    from advbench_bridges.art_preprocessor import ArtPreprocessor

    space = space_of((3, 40, 56))
    x = torch.nn.functional.interpolate(random_tensor(4, 3, 5, 7), (40, 56), mode="bilinear")
    ours = JPEG(quality=75).corrupt(x, space, KeyedRng(range(4)))
    theirs = ArtPreprocessor(preprocessor="JpegCompression", params={"quality": 75}).purify(
        x, space, KeyedRng(range(4))
    )
    assert (ours - theirs).abs().mean() < 2 / 255
