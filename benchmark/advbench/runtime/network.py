"""A network as the harness uses it: normalisation inside, any kind of output unified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.errors import PluginError
from advbench.values import InputSpace, Task, task_name

Frozen = TypeVar("Frozen", bound=nn.Module)

OwnLoss = Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], "Tensor | None"]


class Network(nn.Module):
    """Normalisation, then the model's own module; returns logits (b, K) or predictions (b, t).

    Attacks and corruptions see the data set's input space only: mean and standard deviation are buffers of
    this first layer and travel with the weights.
    """

    mean: Tensor
    std: Tensor
    low: torch.dtype | None = None
    """Lower precision of its convolutions and products, for the passes of attacks."""
    plain = False
    """Whether mean and standard deviation are known to be 0 and 1, and left out."""

    def __init__(
        self, module: nn.Module, space: InputSpace, task: Task, name: str, own_loss: OwnLoss | None = None
    ) -> None:
        super().__init__()
        self.module = module
        self._own_loss = own_loss
        self._outputs, self._task, self._name = task.outputs, task_name(task), name
        view = (1, space.shape[0]) + (1,) * (len(space.shape) - 1)
        self.register_buffer("mean", torch.zeros(view))
        self.register_buffer("std", torch.ones(view))

    def normalise_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set mean and standard deviation per channel."""
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != self.mean.numel():
                raise PluginError(
                    f"{self._name}: {name} has {len(values)} entries for {self.mean.numel()} channels"
                )
        if min(std) <= 0:
            raise PluginError(f"{self._name}: std must be positive, got {list(std)}")
        self.mean.copy_(torch.tensor(mean).view_as(self.mean))
        self.std.copy_(torch.tensor(std).view_as(self.std))

    def forward(self, x: Tensor, extras: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits (b, K), or predictions (b, t)."""
        return self.features(x, extras)[1]

    def own_loss(self, x: Tensor, y: Tensor, extras: Mapping[str, Tensor]) -> Tensor | None:
        """The mean loss that the model wants to be trained by, a scalar, or None."""
        normalised = (x - self.mean) / self.std
        return None if self._own_loss is None else self._own_loss(self.module, normalised, y, extras)

    def features(self, x: Tensor, extras: Mapping[str, Tensor] | None = None) -> tuple[Tensor | None, Tensor]:
        """Features (b, d) where the module returns them, and the output."""
        with torch.autocast(x.device.type, self.low or torch.bfloat16, enabled=self.low is not None):
            normal = x if self.plain else (x - self.mean) / self.std
            result = self.module(normal, **(extras or {}))
        features, output = result if isinstance(result, tuple) and len(result) == 2 else (None, result)
        if not isinstance(output, Tensor):
            raise PluginError(
                f"{self._name} returned {type(output).__name__}; expected logits, (features, logits) or predictions"
            )
        if output.dim() == 1 and self._task == "regression":
            output = output[:, None]
        if output.shape != (len(x), self._outputs):
            need = f"{self._outputs} {'classes' if self._task == 'classification' else 'targets'}"
            raise PluginError(
                f"{self._name} returned shape {tuple(output.shape)} for {len(x)} samples and {need}"
            )
        return features, output.float()


class Ensemble(nn.Module):
    """The mean of several networks' outputs, for attacks that shall fool them all."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor, extras: Mapping[str, Tensor] | None = None) -> Tensor:
        """Mean logits (b, K) or predictions (b, t)."""
        return torch.stack([network(x, extras) for network in self.networks]).mean(0)

    def features(self, x: Tensor, extras: Mapping[str, Tensor] | None = None) -> tuple[None, Tensor]:
        """No features, and the output."""
        return None, self(x, extras)


def freeze(network: Frozen) -> Frozen:
    """Eval mode, no gradients for parameters."""
    for parameter in network.parameters():
        parameter.grad = None
    return network.eval().requires_grad_(False)


LINE = 16
"""Values of float32 in a cache line."""


def align(network: Frozen) -> Frozen:
    """Let linear layers on the CPU multiply rows that begin at cache lines, for a frozen network.

    Where a row begins in memory decides how a product is rounded, and with it a sample's place in its chunk
    would. Zeros are added to inputs and weights; weights and state dict stay as they are.
    """
    for module in network.modules():
        if type(module) is nn.Linear and module.in_features % LINE and module.weight.device.type == "cpu":
            missing = -module.in_features % LINE
            weight = F.pad(module.weight.detach(), (0, missing))
            module.__dict__["forward"] = partial(_aligned, weight=weight, bias=module.bias, missing=missing)
    return network


def _aligned(x: Tensor, *, weight: Tensor, bias: Tensor | None, missing: int) -> Tensor:
    return F.linear(F.pad(x, (0, missing)), weight, bias)


class Untouched:
    """Remembers a frozen network and tells what somebody changed in it."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._versions = self._current()

    def _current(self) -> list[int]:
        return [value._version for value in (*self._network.parameters(), *self._network.buffers())]

    def complaint(self) -> str | None:
        """One line saying what is no longer as it was, or None."""
        if any(module.training for module in self._network.modules()):
            return "left the network in train mode"
        if any(parameter.requires_grad for parameter in self._network.parameters()):
            return "left requires_grad on for parameters of the network"
        if any(parameter.grad is not None for parameter in self._network.parameters()):
            return "left gradients in the parameters of the network"
        if self._current() != self._versions:
            return "changed parameters or buffers of the network"
        return None
