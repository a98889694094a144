"""Rings of three sizes."""

import numpy as np
import torch
from torch import Tensor

from advbench.api import (
    Classification,
    Data,
    DataContext,
    Dataset,
    InputSpace,
    Split,
    Tags,
    param,
    split_indices,
)

RADII = np.array([2.0, 4.0, 6.0])
FRACTIONS = {"train": 0.5, "valid": 0.15, "calibration": 0.1, "test": 0.25}


class Rings(Dataset):
    """Rings of three sizes on a noisy sky, 16x16 pixels, fluxes from -1 to 4 nJy."""

    tags = Tags(tasks={"classification"})
    examples = ({"samples": 60},)

    samples: int = param(600, "number of images", ge=30)
    noise: float = param(0.3, "standard deviation of the sky", unit="nJy", ge=0)

    def load(self, context: DataContext) -> Data:
        """Draw the rings; a fixed seed makes them the same each time."""
        generator = np.random.default_rng(0)
        y = np.arange(self.samples) % len(RADII)
        centre = generator.uniform(6.5, 8.5, size=(2, self.samples, 1, 1))
        radius = np.hypot(*(np.indices((16, 16))[:, None] - centre))
        ring = 2 * np.exp(-((radius - RADII[y][:, None, None]) ** 2))
        x = np.clip(ring + self.noise * generator.normal(size=ring.shape), -1, 4)[:, None].astype(np.float32)
        ids = np.array([f"ring{i:05d}" for i in range(self.samples)])
        rows = split_indices(ids, FRACTIONS, labels=y)
        space = InputSpace((1, 16, 16), lower=(-1.0,), upper=(4.0,), channels=("flux",), unit="nJy")
        splits = {name: Split(x[index], y[index], ids[index]) for name, index in rows.items()}
        return Data(space, Classification(("small", "medium", "large")), splits, augment=mirror)


def mirror(x: Tensor, draws: Tensor) -> Tensor:
    """Mirror about half of the images (b, c, h, w); ``draws`` (b, 16) are uniform in [0, 1)."""
    return torch.where(draws[:, :1, None, None] < 0.5, x.flip(-1), x)
