"""The rings are what they say."""

import numpy as np
import torch
from advbench_example.rings import RADII, Rings, mirror


def test_a_ring_without_noise_is_bright_at_its_radius() -> None:
    data = Rings(samples=30, noise=0).load(context=None)  # type: ignore[arg-type]
    for x, label in zip(data.splits["train"].x, data.splits["train"].y):
        # A ring of radius r and Gaussian profile holds 2 * sqrt(pi) * 2 pi r of flux; the largest touches the border.
        expected = 2 * np.sqrt(np.pi) * 2 * np.pi * RADII[label]
        assert 0.9 * expected < x.sum() < 1.05 * expected


def test_mirroring_follows_the_draws() -> None:
    x = torch.arange(8.0).view(2, 1, 1, 4)
    draws = torch.zeros(2, 16)
    draws[1] = 0.9
    assert mirror(x, draws).flatten().tolist() == [3, 2, 1, 0, 4, 5, 6, 7]
