from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tests.oracle.stand_in import KeyedRng, random_tensor, space_of

from advbench_corruptions.resampling import Pixelate, Resample, resize_matrix

X = random_tensor(3, 2, 30, 41)
SPACE = space_of((2, 30, 41))
FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@pytest.mark.parametrize("up", FILTERS)
@pytest.mark.parametrize("down", FILTERS)
def test_down_and_up_is_pillows(down, up):
    found = Resample(scale=0.4, down=down, up=up).corrupt(X, SPACE, KeyedRng(range(3)))
    for image, resampled in zip(X.flatten(0, 1), found.flatten(0, 1)):
        small = Image.fromarray(image.numpy()).resize((16, 12), FILTERS[down])
        expected = np.asarray(small.resize((41, 30), FILTERS[up]))
        assert np.abs(resampled.numpy() - expected).max() < 2e-5


@pytest.mark.parametrize("kind", FILTERS)
def test_constants_are_kept_and_a_scale_of_one_is_the_identity(kind):
    assert torch.allclose(resize_matrix(17, 5, kind).sum(1), torch.ones(5).double())
    assert torch.allclose(resize_matrix(17, 17, kind), torch.eye(17).double(), atol=1e-12)


def test_blocks_are_their_means():
    found = Pixelate(size=4).corrupt(X, SPACE, KeyedRng(range(3)))
    for row in range(0, 30, 4):
        for column in range(0, 41, 4):
            block = (..., slice(row, row + 4), slice(column, column + 4))
            mean = X[block].mean((2, 3), keepdim=True)
            assert torch.allclose(found[block], mean.expand_as(found[block]), atol=1e-6)
    assert torch.allclose(Pixelate(size=4).corrupt(found, SPACE, KeyedRng(range(3))), found, atol=1e-6)
    assert torch.allclose(found.mean((2, 3)), X.mean((2, 3)), atol=1e-6)
