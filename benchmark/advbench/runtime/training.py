"""The training loop."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advbench.components.protocols import Batch, StepLoss
from advbench.components.recipe import Recipe
from advbench.errors import DataError, PluginError
from advbench.runtime import tasks
from advbench.runtime.events import Emit
from advbench.runtime.network import Network, freeze
from advbench.runtime.reading import batches, read
from advbench.runtime.rng import SampleRng, isolated_rng, seed_of
from advbench.runtime.splits import sample_order
from advbench.values import Classification, Data, Split, Task


@dataclass(frozen=True)
class Trainer:
    """Trains networks by a recipe on the source data set."""

    data: Data
    recipe: Recipe
    device: torch.device
    seed: int
    label: str
    emit: Emit
    other: Data | None = None  # what the network is adapted to
    history: list[dict[str, Any]] = field(default_factory=list)  # gets one entry for each epoch

    def fit(
        self,
        module: nn.Module,
        *,
        loss: StepLoss | None = None,
        validation: StepLoss | None = None,
        purpose: str = "fit",
    ) -> nn.Module:
        """Train ``module`` and return it with its best weights, in eval mode and frozen.

        Gradients are cleared once per step; every epoch ends with the whole validation split, in eval mode; the
        weights with the lowest validation loss, the plain one unless ``validation`` is given, are kept as a copy.

        Raises
        ------
        PluginError
            If the loss is not finite.
        """
        train, valid = self._split("train"), self._split("valid")
        module = place(module, self.device)
        step_loss = loss or self._default_loss(train)
        self.emit({"event": "note", "text": f"training {self.label}: at most {self.recipe.epochs} epochs"})
        with isolated_rng(seed_of(self.seed, purpose, "global")):
            best = self._epochs(module.requires_grad_(True), train, valid, step_loss, validation, purpose)
        module.load_state_dict(best)
        module.zero_grad(set_to_none=True)
        return freeze(module)

    def _epochs(
        self,
        module: nn.Module,
        train: Split,
        valid: Split,
        loss: StepLoss,
        validation: StepLoss | None,
        purpose: str,
    ) -> dict[str, Tensor]:
        recipe = self.recipe
        steps = len(self._batches(len(train)))
        optimizer = _optimizer(module, recipe)
        schedule = _schedule(optimizer, recipe, steps)
        best, best_loss, waited = _copy(module), math.inf, 0
        others = self._others(purpose)
        for epoch in range(recipe.epochs):
            module.train()
            terms: dict[str, float] = defaultdict(float)
            for batch in self._training_batches(train, epoch, purpose, others):
                optimizer.zero_grad(set_to_none=True)
                found = _terms(loss(module, batch))
                found["loss"].backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                for name, value in found.items():
                    terms[name] += float(value.detach())
            valid_loss, metric = self.validate(module, valid)
            if validation is not None:
                valid_loss = self._validation_loss(
                    module, valid, validation, purpose, (epoch + 1) / recipe.epochs
                )
            if not math.isfinite(terms["loss"] + valid_loss):
                raise PluginError(
                    f"training of {self.label} diverged in epoch {epoch + 1}: the loss is not finite"
                )
            means = {name: total / steps for name, total in terms.items() if name != "loss"}
            losses = {"train_loss": terms["loss"] / steps, "valid_loss": valid_loss, "valid_metric": metric}
            self.emit(
                {"event": "epoch", "label": self.label, "epoch": epoch + 1, "epochs": recipe.epochs} | losses
            )
            self.history.append({"purpose": purpose, "epoch": epoch + 1, **losses, **means})
            waited = 0 if valid_loss < best_loss else waited + 1
            if valid_loss < best_loss:
                best, best_loss = _copy(module), valid_loss
            if waited >= recipe.patience:
                break
        return best

    def _split(self, name: str) -> Split:
        if not len(self.data.splits.get(name, ())):
            raise PluginError(f"{self.label} has to be trained, but its data set has no split {name!r}")
        split = self.data.splits[name]
        if isinstance(self.data.task, Classification) and (np.asarray(split.y) < 0).any():
            sample = str(split.ids[int((np.asarray(split.y) < 0).argmax())])
            words = f"sample {sample!r} of split {name!r} belongs to none of the classes (label -1)"
            raise DataError(f"{self.label} cannot be trained: {words}")
        return split

    def _batches(self, count: int) -> list[NDArray[np.int64]]:
        """Positions in the order of an epoch; a last batch of one sample is left out unless all are that small."""
        found = list(batches(count, self.recipe.batch_size))
        # Batch normalisation has no statistics of a single sample.
        return found[:-1] if len(found[-1]) == 1 < len(found[0]) else found

    def _default_loss(self, train: Split) -> StepLoss:
        weights = recipe_weights(self.data, self.recipe, self.device)

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            return default_loss(module, batch, self.data.task, weights, self.recipe.label_smoothing)

        return loss

    def _training_batches(
        self, split: Split, epoch: int, purpose: str, others: Others | None
    ) -> Iterator[Batch]:
        order = np.random.Generator(
            np.random.Philox(seed_of(self.seed, purpose, "order", epoch))
        ).permutation(len(split))
        parts = self._batches(len(split))
        for step, rows in enumerate(parts):
            progress = (epoch + step / len(parts)) / self.recipe.epochs
            batch = self._augmented(self.data, split, order[rows], f"{purpose}:{epoch}")
            other = None
            if others is not None:
                assert self.other is not None
                taken, turn = others.take(len(rows))
                other = self._augmented(self.other, others.split, taken, f"{purpose}:other {turn}")
            yield batch._replace(progress=progress, other=other)

    def _augmented(self, data: Data, split: Split, index: NDArray[np.int64], purpose: str) -> Batch:
        rng = SampleRng(self.seed, purpose, split.ids[index], self.device)
        x, y, extras = batch_to(split, index, data, self.device)
        if data.augment is not None and self.recipe.augment:
            x = data.augment(x, rng.uniform(16))
        return Batch(x, y, extras, rng, rows=torch.from_numpy(index).to(self.device))

    def _others(self, purpose: str) -> Others | None:
        if self.other is None:
            return None
        if not len(self.other.splits.get("train", ())):
            raise PluginError(f"{self.label} has to be adapted, but its target data set has no split 'train'")
        return Others(self.other.splits["train"], seed_of(self.seed, purpose, "order of the others"))

    def batch(self, split: Split, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """Inputs, targets and extras of some rows, on the device."""
        return batch_to(split, rows, self.data, self.device)

    def validate(self, module: nn.Module, split: Split) -> tuple[float, float]:
        """Mean loss and metric (accuracy, or mean absolute error) over a whole split; the mode is restored."""
        was_training = module.training
        module.eval()
        loss, metric = 0.0, 0.0
        with torch.no_grad():
            for rows in batches(len(split), 128):
                x, y, extras = self.batch(split, rows)
                output = module(x, extras)
                loss += float(tasks.training_loss(output, y, self.data.task)) * len(rows)
                if isinstance(self.data.task, Classification):
                    metric += float((output.argmax(1) == y).sum())
                else:
                    metric += float((output - y.view_as(output)).abs().mean()) * len(rows)
        module.train(was_training)
        return loss / len(split), metric / len(split)

    def _validation_loss(
        self, module: nn.Module, split: Split, loss: StepLoss, purpose: str, progress: float
    ) -> float:
        """Mean of a given loss over a whole split, in eval mode and with the same draws in every epoch."""
        was_training, total = module.training, 0.0
        module.eval()
        with torch.no_grad():
            for rows in batches(len(split), 128):
                rng = SampleRng(self.seed, f"{purpose}:valid", split.ids[rows], self.device)
                batch = Batch(*self.batch(split, rows), rng, progress, self._other_valid(rows, purpose))
                total += float(_terms(loss(module, batch))["loss"]) * len(rows)
        module.train(was_training)
        return total / len(split)

    @cached_property
    def _other_order(self) -> NDArray[np.int64]:
        """Validation samples of the target data set in hash order: a batch has all classes even if they are sorted."""
        return sample_order(self.other.splits["valid"].ids) if self.other else np.empty(0, np.int64)

    def _other_valid(self, rows: NDArray[np.int64], purpose: str) -> Batch | None:
        """As many validation samples of the target data set, in hash order and again from the first after the last."""
        if self.other is None:
            return None
        if not len(self.other.splits.get("valid", ())):
            raise PluginError(f"{self.label} has to be adapted, but its target data set has no split 'valid'")
        split = self.other.splits["valid"]
        index = self._other_order[rows % len(split)]
        rng = SampleRng(self.seed, f"{purpose}:valid", split.ids[index], self.device)
        where = torch.from_numpy(index).to(self.device)
        return Batch(*batch_to(split, index, self.other, self.device), rng, rows=where)


@dataclass
class Others:
    """Samples of another split, in passes that are each in a new random order."""

    split: Split
    seed: int
    turn: int = -1
    waiting: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def take(self, count: int) -> tuple[NDArray[np.int64], int]:
        """The rows of the next samples (count,), and the number of the pass that the last of them belongs to."""
        while len(self.waiting) < count:
            self.turn += 1
            order = np.random.Generator(np.random.Philox(self.seed + self.turn)).permutation(len(self.split))
            self.waiting = np.concatenate([self.waiting, order])
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken, self.turn


def _terms(found: Any) -> dict[str, Tensor]:
    """A loss, or a mapping of terms, as a mapping with the key ``loss``.

    Raises
    ------
    PluginError
        If it is neither.
    """
    terms = dict(found) if isinstance(found, Mapping) else {"loss": found}
    if not isinstance(terms.get("loss"), Tensor):
        raise PluginError("a training loss must be a scalar tensor, or a mapping of them with the key 'loss'")
    return terms


def default_loss(
    module: nn.Module,
    batch: Batch,
    task: Task,
    weights: Tensor | None,
    label_smoothing: float,
    output: Tensor | None = None,
) -> Tensor:
    """What a training without a defense minimises: the model's own loss, else that of the recipe."""
    network = next((part for part in module.modules() if isinstance(part, Network)), None)
    own = None if network is None else network.own_loss(batch.x, batch.y, batch.extras)
    if own is not None:
        return own
    output = module(batch.x, batch.extras) if output is None else output
    return tasks.training_loss(output, batch.y, task, weights, label_smoothing)


def recipe_weights(data: Data, recipe: Recipe, device: torch.device) -> Tensor | None:
    """Class weights (K,) that the recipe asks for."""
    if not recipe.class_weights or not isinstance(data.task, Classification):
        return None
    return class_weights(data.splits["train"].y, data.task.outputs).to(device)


def class_weights(y: Any, classes: int) -> Tensor:
    """Weights ``N / (K n_c)`` in class-index order, (K,) float32; an absent class weighs 0."""
    counts = np.bincount(np.asarray(y), minlength=classes)
    return torch.tensor(
        np.divide(len(y), classes * counts, out=np.zeros(classes), where=counts > 0), dtype=torch.float32
    )


def batch_to(
    split: Split, rows: NDArray[np.int64], data: Data, device: torch.device
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Inputs (b, c, h, w), targets and extras (b, k) of some rows as tensors on a device."""
    x = torch.from_numpy(read(split, rows)).to(device)
    kind = np.int64 if isinstance(data.task, Classification) else np.float32
    y = torch.from_numpy(np.asarray(split.y[rows], dtype=kind)).to(device)
    extras = {
        name: torch.from_numpy(np.asarray(value[rows], dtype=np.float32).reshape(len(rows), -1)).to(device)
        for name, value in split.extras.items()
    }
    return x, y, extras


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on a device, convolutions in channels-last layout: a quarter faster on a CPU."""
    moved: nn.Module = module.to(device)
    return moved.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=nesterov,
        )
    return torch.optim.Adam(parameters, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)


def _schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    total = max(1, recipe.epochs * steps)
    if recipe.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.lr, total_steps=total + 1, cycle_momentum=False
        )
    if recipe.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
