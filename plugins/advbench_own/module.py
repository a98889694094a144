"""A network of your own, with its weights or to be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from advbench.api import InputSpace, Model, Recipe, Task, UserError, param
from advbench_own.checkpoints import fit_names, read_state
from advbench_own.factories import PATTERN, call, sources
from advbench_own.lookup import locate


class Module(Model):
    """Your own network: a factory by import path, with weights from a file or trained by a recipe.

    The factory is a class or function that returns a torch module for ``kwargs``; the module returns logits
    (b, K), (features, logits), or predictions (b, t). Weights are ``.safetensors``, or ``.pt``, ``.pth`` ...
    loaded with ``weights_only=True``. The module gets ``(x - mean) / std``; leave both out if it normalises
    its inputs itself.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "factory": "advbench_own.example:small_network",
            "kwargs": {"outputs": 10},
            "input_shape": [1, 28, 28],
            "outputs": 10,
        },
    )
    factory: str = param(..., "class or function by import path, such as mypkg.nets:build", pattern=PATTERN)
    kwargs: dict[str, Any] = param({}, "arguments of the factory")
    weights: str = param("", "file with the weights, in a data folder or the current one")
    prefix: str = param("", "start of the names of the weights that is taken off, such as backbone.")
    mean: tuple[float, ...] = param((), "mean per channel that the network was trained with")
    std: tuple[float, ...] = param((), "standard deviation per channel that the network was trained with")
    normalise: Literal["none", "train"] = param(
        "none", "train: by the training split, where mean and std are not given"
    )
    input_shape: tuple[int, ...] = param((), "shape of one sample that it is made for; unchecked if empty")
    outputs: int | None = param(None, "number of classes or targets that it is made for", ge=1)
    recipe: Recipe = param(Recipe(), "how it is trained if it has no weights")

    @model_validator(mode="after")
    def _statistics_fit(self) -> Module:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} entries and std {len(self.std)}; give both, one per channel"
            )
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std must be positive, got {list(self.std)}")
        if self.mean and self.normalise == "train":
            raise ValueError("give mean and std, or normalise: train, not both")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """The shape and outputs that it is made for, and as many channels as there are means."""
        if self.input_shape and self.input_shape != space.shape:
            return f"made for inputs {self.input_shape}, the data have {space.shape}"
        if self.outputs is not None and self.outputs != task.outputs:
            return f"made for {self.outputs} outputs, the data need {task.outputs}"
        if self.mean and len(self.mean) != space.shape[0]:
            return f"mean and std are for {len(self.mean)} channels, the inputs have {space.shape[0]}"
        return None

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """The weights, and the factory's source unless it is installed."""
        weights = locate(self.weights, data_dirs) if self.weights else None
        return [*([weights] if weights else []), *sources(self.factory)]

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """What the factory returns."""
        return self._made()

    def normalisation(self) -> tuple[Sequence[float], Sequence[float]] | str:
        """The declared mean and standard deviation."""
        return (self.mean, self.std) if self.mean else self.normalise

    def pretrained(self, data_dirs: Sequence[Path]) -> Mapping[str, Tensor] | None:
        """The weights under the names of the network; None if no file was given."""
        if not self.weights:
            return None
        path = locate(self.weights, data_dirs)
        if path is None:
            folders = ", ".join(map(str, data_dirs)) or "none given"
            raise UserError(
                f"weights {self.weights!r} not found (data folders: {folders}; and the current folder)"
            )
        state = read_state(path)
        with torch.random.fork_rng(devices=[]):  # the network is built only for its names and shapes
            expected = self._made().state_dict()
        return fit_names(state, expected, self.prefix, path)

    def _made(self) -> nn.Module:
        module = call(self.factory, self.kwargs)
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise UserError(f"factory {self.factory!r} returned {kind}, not a torch module")
        return module
