"""From a model to a network: loaded from given weights, from the store, or trained and published."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advbench.components.base import Attack, Corruption, Defense, Model, Use
from advbench.components.identity import Spec
from advbench.components.protocols import Batch
from advbench.components.recipe import Recipe
from advbench.errors import PluginError, UserError
from advbench.runtime.data import Card, Environment
from advbench.runtime.identify import (
    adaptation_target,
    component,
    network_identity,
    training_defenses,
)
from advbench.runtime.network import Network, align, freeze
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.reading import channel_statistics
from advbench.runtime.rng import SampleRng, isolated_rng, seed_of
from advbench.runtime.target import Meter, PipelineTarget
from advbench.runtime.training import Trainer, default_loss, place, recipe_weights
from advbench.runtime.verify import verify
from advbench.store.files import write_json
from advbench.suite.grid import Cell
from advbench.values import Data, Split

WEIGHTS = "network.safetensors"
HISTORY = "history.json"


@dataclass(frozen=True)
class Prepared:
    """A network ready for use, and the hash of its weights."""

    network: Network
    weights_hash: str
    history: tuple[Mapping[str, Any], ...] = ()
    """One entry for each epoch of its training: ``purpose``, ``epoch``, losses, metric and further terms."""


@dataclass(frozen=True)
class Kitchen:
    """Where networks are prepared for the cells of one training data set."""

    environment: Environment
    data: Data
    card: Card
    device: torch.device
    threads: int  # threads while training; part of the numbers on a CPU, so never the engine's choice
    other: tuple[Data, Card] | None = None  # the data set that the network is adapted to

    def prepare(self, cell: Cell, defenses: tuple[Spec, ...]) -> Prepared:
        """The network of a cell under the given training-time defenses."""
        assert cell.model.spec is not None
        model = component(self.environment, cell.model.spec)
        assert isinstance(model, Model)
        given = model.pretrained(self.environment.data_dirs)
        if given is not None and not defenses:
            network = self.build(cell, model)
            _load(network.module, given, cell.model.spec.id)
            return self._finish(network)
        started = time.monotonic()
        other = None if self.other is None else self.other[1]
        made_from = network_identity(self.environment, cell, self.card, defenses, other)
        how = "loaded"  # also when another worker trained it while this one waited

        def make(folder: Path) -> None:
            nonlocal how
            self._train(cell, model, defenses, folder)
            how = "trained"

        path = self.environment.store.obtain("network", made_from, make)
        network = self._bare(cell, model)
        network.load_state_dict(load_file(path / WEIGHTS))  # with mean and standard deviation
        self._tell(cell, defenses, how, time.monotonic() - started)
        return self._finish(network, json.loads((path / HISTORY).read_text(encoding="utf-8")))

    def _bare(self, cell: Cell, model: Model) -> Network:
        """A freshly initialised network; the seed decides, the global generator is left."""
        assert cell.model.spec is not None
        with isolated_rng(seed_of(cell.seed, "init")):
            module = model.build(self.data.space, self.data.task)
        if not isinstance(module, nn.Module):
            raise PluginError(
                f"{cell.model.spec.id}: build returned {type(module).__name__}, not a torch module"
            )
        return Network(module, self.data.space, self.data.task, cell.model.spec.id, model.loss)

    def build(self, cell: Cell, model: Model) -> Network:
        """A freshly initialised network with its normalisation."""
        assert cell.model.spec is not None
        network = self._bare(cell, model)
        how = model.normalisation()
        if how == "train":
            if not len(self.data.splits.get("train", ())):
                raise PluginError(
                    f"{cell.model.spec.id} is normalised by a training split, which the data set lacks"
                )
            network.normalise_by(*channel_statistics(self.data.splits["train"]))
        elif not isinstance(how, str):
            network.normalise_by(list(how[0]), list(how[1]))
        elif how != "none":
            raise PluginError(
                f"{cell.model.spec.id}: normalisation {how!r} is neither 'train', 'none' nor (mean, std)"
            )
        return network

    def _train(self, cell: Cell, model: Model, defenses: tuple[Spec, ...], folder: Path) -> None:
        recipe = getattr(model, "recipe", None)
        if not isinstance(recipe, Recipe):
            name = cell.model.spec.id if cell.model.spec else ""
            need = f"no recipe, which {defenses[0].id} needs to train it" if defenses else ""
            raise UserError(f"{name} has {need or 'neither weights nor a recipe to be trained by'}")
        kit = Kit(self, cell, model, recipe)
        threads = torch.get_num_threads()
        with self.environment.store.lock("training"):  # one training per machine: it uses all threads
            torch.set_num_threads(self.threads)
            try:
                trainers = [component(self.environment, spec) for spec in defenses]
                trained = (
                    trainers[0].train(kit)
                    if trainers and isinstance(trainers[0], Defense)
                    else kit.fit(kit.build())
                )
            finally:
                torch.set_num_threads(threads)
        if not isinstance(trained, Network):
            raise PluginError(f"{defenses[0].id}: train must return a network made by training.build()")
        # Copies, because safetensors refuses weights that two layers share.
        state = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in trained.state_dict().items()
        }
        save_file(state, folder / WEIGHTS)
        write_json(folder / HISTORY, kit.history)

    @contextmanager
    def standing_aside(self) -> Iterator[None]:
        """Let other workers train meanwhile: one of them may be making the very network that is waited for."""
        lock = self.environment.store.lock("training")
        held = lock.is_locked
        if held:
            lock.release()
        try:
            yield
        finally:
            if held:
                lock.acquire()

    def _tell(self, cell: Cell, defenses: tuple[Spec, ...], how: str, seconds: float) -> None:
        label = f"{cell.model.label} on {cell.source.label}" + (
            f" + {cell.defense.label}" if defenses else ""
        )
        self.environment.emit({"event": "network", "label": label, "how": how, "seconds": round(seconds, 3)})

    def _finish(self, network: Network, history: Sequence[Mapping[str, Any]] = ()) -> Prepared:
        frozen = align(place(freeze(network), self.device))
        assert isinstance(frozen, Network)
        return Prepared(frozen, weights_hash(frozen), tuple(history))


@dataclass(frozen=True)
class Kit:
    """The `Training` that a defense gets."""

    kitchen: Kitchen
    cell: Cell
    model: Model
    recipe: Recipe
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def data(self) -> Data:
        """The training data set."""
        return self.kitchen.data

    @property
    def device(self) -> torch.device:
        """The device."""
        return self.kitchen.device

    @property
    def seed(self) -> int:
        """The seed of the cell."""
        return self.cell.seed

    @property
    def data_dirs(self) -> tuple[Path, ...]:
        """The data folders."""
        return self.kitchen.environment.data_dirs

    @property
    def target_data(self) -> Data | None:
        """The data set to adapt to; without its targets, unless a defense may see them."""
        if self.kitchen.other is None:
            return None
        data = self.kitchen.other[0]
        trained = training_defenses(self.kitchen.environment, self.cell)
        if adaptation_target(self.kitchen.environment, self.cell, trained) == "labelled":
            return data
        return replace(data, splits={name: _withheld(split) for name, split in data.splits.items()})

    def build(self) -> Network:
        """A freshly initialised network."""
        return self.kitchen.build(self.cell, self.model)

    def undefended(self) -> nn.Module:
        """The same model trained without the defense."""
        with self.kitchen.standing_aside():
            return replace(self.kitchen, other=None).prepare(self.cell, ()).network

    def fit(
        self,
        module: nn.Module,
        *,
        loss: Callable[..., Any] | None = None,
        validation: Callable[..., Any] | None = None,
        purpose: str = "fit",
        recipe: Recipe | None = None,
        data: Data | None = None,
    ) -> nn.Module:
        """Train by the recipe."""
        label = f"{self.cell.model.label} on {self.cell.source.label}"
        trainer = Trainer(
            data or self.data, recipe or self.recipe, self.device, self.seed, label,
            self.kitchen.environment.emit, None if data else self.target_data, self.history,
        )  # fmt: skip
        return trainer.fit(module, loss=loss, validation=validation, purpose=purpose)

    def loss(self, module: nn.Module, batch: Batch, output: Tensor | None = None) -> Tensor:
        """The model's own loss, or that of the recipe."""
        smoothing = self.recipe.label_smoothing
        return default_loss(module, batch, self.data.task, self._weights, smoothing, output)

    @cached_property
    def _weights(self) -> Tensor | None:
        return recipe_weights(self.data, self.recipe, self.device)

    def perturb(self, use: Use, module: nn.Module, batch: Batch) -> Tensor:
        """Perturbed inputs of a batch; everybody is attacked, and the module is left as it was."""
        perturbation, name = self._perturbation(use)
        space, ball, mask = self.data.space, None, None
        if isinstance(perturbation, Attack):
            modes = [(one, one.training) for one in module.modules()]
            wanted = [(one, one.requires_grad) for one in module.parameters()]
            module.eval().requires_grad_(False)
            try:
                target = self.target(module, batch)
                candidate = perturbation.perturb(batch.x, batch.y, target, batch.rng)
            finally:
                for one, training in modes:
                    one.training = training
                for parameter, requires in wanted:
                    parameter.requires_grad_(requires)
            ball = perturbation.constraint()
            mask = None if perturbation.mask is None else perturbation.mask.like(batch.x, space)
        else:
            candidate = perturbation.corrupt(batch.x, space, batch.rng)
        return verify(candidate, batch.x, space, ball, name, mask).x

    def _perturbation(self, use: Use) -> tuple[Attack | Corruption, str]:
        plugins = self.kitchen.environment.plugins
        entry = plugins.find("perturbation", use.use)
        found = entry.load()(**use.params)
        if not isinstance(found, (Attack, Corruption)):
            raise PluginError(f"{entry.id} is neither an attack nor a corruption")
        if isinstance(found, Attack) and (found.goal != "untargeted" or found.tags.universal):
            raise PluginError(f"{entry.id}: training needs an untargeted attack on each sample")
        reason = found.supports(self.data.space, self.data.task)
        if reason:
            raise PluginError(f"{entry.id} does not fit: {reason}")
        return found, entry.id

    def target(self, module: nn.Module, batch: Batch) -> PipelineTarget:
        """The network in training as an attack sees it: whole batch at once, in the mode that it is in."""
        assert isinstance(module, Network)
        assert isinstance(batch.rng, SampleRng)
        pipeline = Pipeline(module, (), self.data.space, self.data.task, len(batch.x), self.device)
        meter = Meter(batch.x, batch.y)
        rows = torch.arange(len(batch.x), device=self.device)
        return PipelineTarget(pipeline, batch.extras, batch.rng, meter, rows)


def _withheld(split: Split) -> Split:
    """The split with targets -1, or NaN."""
    y = np.asarray(split.y)
    hidden = np.full(y.shape, -1 if np.issubdtype(y.dtype, np.integer) else np.nan, y.dtype)
    return replace(split, y=hidden)


def weights_hash(network: nn.Module) -> str:
    """Hash of names, shapes and values of everything in the state dict."""
    hasher = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().numpy()
        hasher.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    return hasher.hexdigest()[:16]


def _load(module: nn.Module, weights: Any, name: str) -> None:
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[:4])
        raise UserError(f"{name}: the weights do not fit the network: {lines}") from None
