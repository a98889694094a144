"""Transfer learning: training goes on from a prepared network, of which a part may stay as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import Self

from advbench.api import Classification, Defense, InputSpace, Tags, Task, Training, UserError, param
from advbench_defenses.few_shots import few_shots

SHOWN = 4  # names in a message
COUNTER = "num_batches_tracked"  # of batch normalisation; absent from old files, and used by no network here


class PartlyFrozen(nn.Module):
    """A network of which some parameters and buffers never change, whatever it is told.

    Parameters
    ----------
    network
        The network.
    frozen
        Names of its state dict. Their parameters get no gradient. What has a frozen buffer of its own, and all that
        lies within a part whose names are all frozen, stays in eval mode: batch normalisation keeps its running
        statistics and uses them, dropout is off.
    """

    def __init__(self, network: nn.Module, frozen: Collection[str]) -> None:
        super().__init__()
        self.network, self._frozen = network, frozenset(frozen)
        self._resting = frozenset(_resting(network, self._frozen))

    def forward(self, x: Tensor, extras: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs (b, k) of the network."""
        output: Tensor = self.network(x, extras)
        return output

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """For the parameters that are not frozen, under any of their names."""
        super().requires_grad_(requires_grad)
        for name, parameter in self.network.named_parameters(remove_duplicate=False):
            if name in self._frozen:
                parameter.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> Self:
        """For the parts that do not rest."""
        super().train(mode)
        for name, module in self.network.named_modules():
            module.training = mode and name not in self._resting
        return self


def _resting(network: nn.Module, frozen: Collection[str]) -> list[str]:
    """Names of the parts that stay in eval mode."""
    found = []
    for name, module in network.named_modules():
        start = f"{name}." if name else ""
        names = [start + key for key in module.state_dict()]
        own = [start + key for key, _ in module.named_buffers(recurse=False)]
        if names and all(key in frozen for key in names):
            found += [start + inner if inner else name for inner, _ in module.named_modules()]
        elif any(key in frozen for key in own):
            found.append(name)
    return found


def head_of(network: nn.Module, outputs: int) -> list[str]:
    """Names, in the state dict, of the last layer whose weights have one row for each of the ``outputs``."""
    state = network.state_dict()
    rows = [name for name, value in state.items() if value.dim() > 1 and len(value) == outputs]
    if not rows:
        raise UserError(
            f"no layer of the network has {outputs} outputs; give trainable: all and frozen: [...]"
        )
    layer = rows[-1].rpartition(".")[0]
    return [name for name in state if name.rpartition(".")[0] == layer]


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Names that fit a glob pattern, with or without the prefix ``module.`` that all of a network's layers have.

    Raises
    ------
    UserError
        If a pattern fits no name.
    """
    fits = {pattern: [name for name in names if _fits(name, pattern)] for pattern in patterns}
    for pattern, found in fits.items():
        if not found:
            raise UserError(f"frozen: no weight is called {pattern!r}; there are {_some(names)}")
    return [name for name in names if any(name in found for found in fits.values())]


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.removeprefix("module."), pattern)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file, or in what ``torch.save`` wrote; no code of the file is run."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises almost anything on a damaged file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as weights without running code from it ({first})") from None
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state dict")
    return dict(state)


def load_into(network: nn.Module, state: Mapping[str, Tensor], without: Collection[str]) -> None:
    """Copy all weights but those called ``without`` from a state dict, of the network or of its module alone.

    Raises
    ------
    UserError
        If one is missing or has another shape.
    """
    wanted = network.state_dict()
    for name, value in wanted.items():
        if name in without:
            continue
        given = state.get(name, state.get(name.removeprefix("module.")))
        # A file of the module alone brings no normalisation: that of the network stays.
        if given is None and (name in ("mean", "std") or name.endswith(COUNTER)):
            continue
        if given is None:
            raise UserError(f"the weights to start from lack {name}; there are {_some(list(state))}")
        if given.shape != value.shape:
            raise UserError(
                f"the weights to start from: {name} has shape {tuple(given.shape)}, not {tuple(value.shape)}"
            )
        wanted[name] = given
    network.load_state_dict(wanted)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


class TransferLearning(Defense):
    """Transfer learning: a prepared network learns a data set, with some of its layers frozen or none.

    It starts from ``weights``, of a network of the same architecture trained elsewhere, or from the undefended
    network. It learns the data set that the network is trained on, or, where the suite names another one by
    ``adapt_to``, that one: ``shots`` labelled samples of each class, the first in hash order of their names, repeated
    until an epoch is as long as one of the source, and validated on no more. Frozen layers end bit-identical, running
    statistics of batch normalisation included. That what transfers is robustness, too, is found in Shafahi et al.
    2020, https://arxiv.org/abs/1905.08232.
    """

    tags: ClassVar[Tags] = Tags(trains=True, adapts="labelled", reference="https://arxiv.org/abs/1905.08232")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"trainable": "all", "fresh_head": False},
        {"trainable": "all", "fresh_head": False, "shots": 8},
    )

    weights: str | None = param(
        None,
        "file with weights to start from, .safetensors or a state dict; unless given the undefended network",
    )
    trainable: Literal["head", "all"] = param("head", "what is trained: the last layer, or all layers")
    frozen: tuple[str, ...] = param(
        (), "more weights that stay, as glob patterns of names: [conv1.*, body.0.*]"
    )
    lr: float | None = param(None, "peak learning rate; that of the recipe unless given", gt=0)
    fresh_head: bool = param(
        True, "let the last layer begin with new weights; its old shape does not matter then"
    )
    shots: int | None = param(
        None, "with adapt_to: labelled samples of each class that it learns from; all unless given", ge=1
    )

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """The weights."""
        found = self._locate(data_dirs)
        return [found] if found else []

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Shots are counted by class."""
        return (
            None if self.shots is None or isinstance(task, Classification) else "shots is for classification"
        )

    def train(self, training: Training) -> nn.Module:
        """A network trained by the recipe, except for what is frozen."""
        data, target = None, training.target_data
        if target is not None:
            data = few_shots(training.data, target, self.shots)
        elif self.shots is not None:
            raise UserError(
                "shots are of another data set; say of which by `adapt_to: LABEL`, or leave them out"
            )
        network = training.build()
        names = list(network.state_dict())
        only_head = self.trainable == "head"
        head = head_of(network, training.data.task.outputs) if only_head or self.fresh_head else []
        load_into(network, self._start(training), head if self.fresh_head else ())
        frozen = {name for name in names if only_head and name not in head}
        frozen.update(matching(names, self.frozen))
        if all(name in frozen for name, _ in network.named_parameters()):
            raise UserError("frozen: nothing is left to train")
        recipe = training.recipe if self.lr is None else training.recipe.model_copy(update={"lr": self.lr})
        fitted = training.fit(PartlyFrozen(network, frozen), purpose="transfer", recipe=recipe, data=data)
        assert isinstance(fitted, PartlyFrozen)
        return fitted.network

    def _start(self, training: Training) -> Mapping[str, Tensor]:
        if self.weights is None:
            return training.undefended().state_dict()
        path = self._locate(training.data_dirs)
        if path is None:
            raise UserError(f"weights {self.weights!r} not found in a data folder or the current one")
        return read_state(path)

    def _locate(self, data_dirs: Sequence[Path]) -> Path | None:
        """The first such file in a data folder or the current one; an absolute name stands for itself."""
        places = [folder / self.weights for folder in (*data_dirs, Path())] if self.weights else []
        return next((place for place in places if place.exists()), None)
