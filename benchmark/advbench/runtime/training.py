"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advbench.components.protocols import Batch, StepLoss
from advbench.components.recipe import Recipe
from advbench.errors import PluginError
from advbench.runtime import tasks
from advbench.runtime.events import Emit
from advbench.runtime.network import freeze
from advbench.runtime.reading import batches, read
from advbench.runtime.rng import SampleRng, isolated_rng, seed_of
from advbench.values import Classification, Data, Split


@dataclass(frozen=True)
class Trainer:
    """Trains networks by a recipe on the source data set."""

    data: Data
    recipe: Recipe
    device: torch.device
    seed: int
    label: str
    emit: Emit

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
        for epoch in range(recipe.epochs):
            module.train()
            total = 0.0
            for batch in self._training_batches(train, epoch, purpose):
                optimizer.zero_grad(set_to_none=True)
                value = loss(module, batch)
                value.backward()
                optimizer.step()
                schedule.step()
                total += float(value.detach())
            valid_loss, metric = self.validate(module, valid)
            if validation is not None:
                valid_loss = self._validation_loss(module, valid, validation, purpose)
            if not math.isfinite(total + valid_loss):
                raise PluginError(
                    f"training of {self.label} diverged in epoch {epoch + 1}: the loss is not finite"
                )
            self.emit(
                {"event": "epoch", "label": self.label, "epoch": epoch + 1, "epochs": recipe.epochs}
                | {"train_loss": total / steps, "valid_loss": valid_loss, "valid_metric": metric}
            )
            waited = 0 if valid_loss < best_loss else waited + 1
            if valid_loss < best_loss:
                best, best_loss = _copy(module), valid_loss
            if waited >= recipe.patience:
                break
        return best

    def _split(self, name: str) -> Split:
        if not len(self.data.splits.get(name, ())):
            raise PluginError(f"{self.label} has to be trained, but its data set has no split {name!r}")
        return self.data.splits[name]

    def _batches(self, count: int) -> list[NDArray[np.int64]]:
        """Positions in the order of an epoch; a last batch of one sample is left out unless all are that small."""
        found = list(batches(count, self.recipe.batch_size))
        # Batch normalisation has no statistics of a single sample.
        return found[:-1] if len(found[-1]) == 1 < len(found[0]) else found

    def _default_loss(self, train: Split) -> StepLoss:
        weights = self._class_weights(train) if self.recipe.class_weights else None

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            output = module(batch.x, batch.extras)
            return tasks.training_loss(output, batch.y, self.data.task, weights, self.recipe.label_smoothing)

        return loss

    def _class_weights(self, train: Split) -> Tensor | None:
        if not isinstance(self.data.task, Classification):
            return None
        return class_weights(train.y, self.data.task.outputs).to(self.device)

    def _training_batches(self, split: Split, epoch: int, purpose: str) -> Iterator[Batch]:
        order = np.random.Generator(
            np.random.Philox(seed_of(self.seed, purpose, "order", epoch))
        ).permutation(len(split))
        for rows in self._batches(len(split)):
            index = order[rows]
            rng = SampleRng(self.seed, f"{purpose}:{epoch}", split.ids[index], self.device)
            x, y, extras = self.batch(split, index)
            if self.data.augment is not None and self.recipe.augment:
                x = self.data.augment(x, rng.uniform(16))
            yield Batch(x, y, extras, rng)

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

    def _validation_loss(self, module: nn.Module, split: Split, loss: StepLoss, purpose: str) -> float:
        """Mean of a given loss over a whole split, in eval mode and with the same draws in every epoch."""
        was_training, total = module.training, 0.0
        module.eval()
        with torch.no_grad():
            for rows in batches(len(split), 128):
                rng = SampleRng(self.seed, f"{purpose}:valid", split.ids[rows], self.device)
                total += float(loss(module, Batch(*self.batch(split, rows), rng))) * len(rows)
        module.train(was_training)
        return total / len(split)


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
    return torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


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
