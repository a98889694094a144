"""The smallest components that work: what the contract kit trains, attacks and draws with."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from advbench.api import (
    Attack,
    Budget,
    Classification,
    Data,
    DataContext,
    Dataset,
    InputSpace,
    Model,
    Recipe,
    Register,
    Rng,
    Split,
    Tags,
    Target,
    Task,
    hookimpl,
    param,
    split_indices,
)


class Blobs(Dataset):
    """Noisy copies of three random images, two channels of 6x6, easily told apart."""

    samples: int = param(120, "number of samples", ge=20)
    shift: float = param(0.0, "added to all values")

    def load(self, context: DataContext) -> Data:
        """Generated from a fixed seed."""
        generator = np.random.default_rng(0)
        y = np.arange(self.samples) % 3
        centres = generator.normal(size=(3, 2, 6, 6))
        noise = generator.normal(size=(self.samples, 2, 6, 6))
        x = (centres[y] + 0.5 * noise + self.shift).clip(-4, 4).astype(np.float32)
        ids = np.array([f"blob{i:04d}" for i in range(self.samples)])
        fractions = {"train": 0.5, "valid": 0.2, "calibration": 0.1, "test": 0.2}
        parts = split_indices(ids, fractions, labels=y)
        space = InputSpace((2, 6, 6), (-4.0, -4.0), (4.0, 4.0), ("a", "b"))
        splits = {name: Split(x[rows], y[rows], ids[rows]) for name, rows in parts.items()}
        return Data(space, Classification(("first", "second", "third")), splits)


class Small(Model):
    """A network with one hidden layer, for inputs of any shape."""

    recipe: Recipe = param(Recipe(epochs=4, batch_size=16, lr=0.02), "how it is trained")

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network."""
        return SmallModule(space.shape, task.outputs)


class SmallModule(nn.Module):
    """Inputs (b, c, ...), and any extra scalars, to features (b, 16) and outputs (b, k)."""

    def __init__(self, shape: tuple[int, ...], outputs: int, extras: int = 0) -> None:
        super().__init__()
        self.hidden = nn.Linear(int(np.prod(shape)) + extras, 16)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor, **extras: Tensor) -> tuple[Tensor, Tensor]:
        """Features and outputs."""
        features = torch.tanh(self.hidden(torch.cat([x.flatten(1), *extras.values()], 1)))
        return features, self.head(self.drop(features))


class Step(Attack):
    """One step along the sign of the gradient."""

    tags: ClassVar[Tags] = Tags(norms=("linf",), needs_gradient=True, strength="eps")

    eps: Budget = param(0.3, "size of the step")

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """The step."""
        return x + self.eps.like(x) * target.input_gradient(x, y).sign()


@hookimpl
def register_datasets(register: Register) -> None:
    """Register the data set."""
    register("blobs", Blobs)


@hookimpl
def register_models(register: Register) -> None:
    """Register the network."""
    register("small", Small)


@hookimpl
def register_perturbations(register: Register) -> None:
    """Register the attack."""
    register("step", Step)
