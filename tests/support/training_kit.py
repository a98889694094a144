"""The training kit of the harness on small data, with notes of what a defense did with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import toys
from torch import Tensor, nn

from advbench.api import (
    Batch,
    Classification,
    Data,
    Defense,
    InputSpace,
    Model,
    Recipe,
    Register,
    Split,
    Task,
    Use,
    hookimpl,
    param,
)
from advbench.components.identity import specify
from advbench.components.loader import Plugins, Source
from advbench.runtime.data import Card, Environment
from advbench.runtime.prepare import Kit, Kitchen
from advbench.runtime.rng import SampleRng
from advbench.runtime.target import PipelineTarget
from advbench.runtime.training import batch_to
from advbench.store.artifacts import Store
from advbench.suite.grid import Cell
from advbench.suite.model import DatasetItem, DefenseItem, Item, PerturbationItem

BANDS = 5
RECIPE = Recipe(epochs=2, batch_size=16, lr=5e-3)


class Linear(Model):
    """A linear classifier without normalisation."""

    recipe: Recipe = param(RECIPE, "recipe")

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network."""
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(space.shape)), task.outputs))

    def normalisation(self) -> str:
        """None."""
        return "none"


def _plugins() -> Plugins:
    module = ModuleType("mine")

    def register_models(register: Register) -> None:
        register("linear", Linear)

    module.register_models = hookimpl(register_models)  # type: ignore[attr-defined]
    installed = Plugins.discover()._sources
    return Plugins(
        [
            *installed.values(),
            Source("toys", "toys 1", lambda: toys),
            Source("mine", "mine 1", lambda: module),
        ]
    )


PLUGINS = _plugins()


@dataclass(frozen=True)
class Fit:
    """A call of `Kit.fit`."""

    module: nn.Module
    start: dict[str, Tensor]
    loss: Callable[..., Tensor] | None
    validation: Callable[..., Tensor] | None
    purpose: str
    recipe: Recipe | None
    data: Data | None


@dataclass(frozen=True)
class Workshop(Kit):
    """A `Kit` that notes its trainings and its targets; with ``idle`` it trains nothing."""

    fits: list[Fit] = field(default_factory=list)
    targets: list[PipelineTarget] = field(default_factory=list)
    idle: bool = False

    @classmethod
    def at(
        cls,
        folder: Path,
        source: Data | None = None,
        *,
        model: str = "toys/net",
        recipe: Recipe = RECIPE,
        seed: int = 0,
        idle: bool = False,
        data_dirs: tuple[Path, ...] = (),
    ) -> Workshop:
        """On a new store in a folder."""
        source = source or toys.data(n=80)
        environment = Environment(PLUGINS, Store(Path(tempfile.mkdtemp(dir=folder))), data_dirs)
        sizes = {name: len(split) for name, split in source.splits.items()}
        card = Card("none", sizes, source.space, source.task, ())
        kitchen = Kitchen(environment, source, card, toys.CPU, threads=1)
        params = {"recipe": recipe.model_dump()}
        item = DatasetItem("data", specify(PLUGINS, "dataset", "toys/blobs", {}), None, None, "test")
        network = Item("net", specify(PLUGINS, "model", model, params))
        cell = Cell(
            item, item, network, DefenseItem("none", ()), PerturbationItem("none", None), "none", seed
        )
        loaded = (toys.Net if model == "toys/net" else Linear)(recipe=recipe)
        return cls(kitchen, cell, loaded, recipe, idle=idle)

    def fit(self, module: nn.Module, **how: Any) -> nn.Module:
        """Train, unless idle."""
        noted = {"loss": None, "validation": None, "purpose": "fit", "recipe": None, "data": None} | how
        self.fits.append(Fit(module, state(module), **noted))
        return module.eval() if self.idle else super().fit(module, **how)

    def target(self, module: nn.Module, batch: Batch) -> PipelineTarget:
        """As the kit's."""
        self.targets.append(super().target(module, batch))
        return self.targets[-1]

    def accuracy(self, network: nn.Module, use: Use | None = None) -> float:
        """On the test split, under an attack if there is one."""
        split = self.data.splits["test"]
        x, y, extras = batch_to(split, np.arange(len(split)), self.data, self.device)
        batch = Batch(x, y, extras, SampleRng(7, "accuracy", split.ids, self.device))
        x = x if use is None else self.perturb(use, network, batch)
        with torch.no_grad():
            return float((network(x, extras).argmax(1) == y).double().mean())


def captured(shop: Workshop, defense: Defense) -> Callable[..., Tensor]:
    """The loss that a defense trains with, without training anything."""
    idle = replace(shop, idle=True)
    defense.train(idle)
    loss = shop.fits[-1].loss
    assert loss is not None
    return loss


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def robust_and_weak(n: int = 600, weak: int = 100) -> Data:
    """One feature that is robust and right nine times in ten, and many that are weak and together always right.

    As in Tsipras et al. 2019 (https://arxiv.org/abs/1805.12152): the first value is +-2, the others are N(+-0.3, 1).
    """
    generator = np.random.default_rng(3)
    y = generator.integers(2, size=n)
    sign = 2 * y - 1
    x = generator.normal(size=(n, 1, 1, weak + 1)) + 0.3 * sign[:, None, None, None]
    x[:, 0, 0, 0] = 2 * sign * np.where(generator.random(n) < 0.9, 1, -1)
    x = x.clip(-4, 4).astype(np.float32)
    ids = np.array([f"s{i}" for i in range(n)])
    bounds = {"train": (0, n // 2), "valid": (n // 2, 2 * n // 3), "test": (2 * n // 3, n)}
    splits = {name: Split(x[a:b], y[a:b], ids[a:b]) for name, (a, b) in bounds.items()}
    return Data(
        InputSpace((1, 1, weak + 1), (-4.0,), (4.0,), ("value",)), Classification(("no", "yes")), splits
    )
