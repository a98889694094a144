"""What a defense has inside: the network behind the defenses that follow, for one chunk of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advbench.components.base import Defense
from advbench.errors import PluginError
from advbench.runtime.network import Ensemble, Network
from advbench.runtime.rng import SampleRng
from advbench.values import Task

if TYPE_CHECKING:
    from advbench.runtime.pipeline import Pipeline


class _Replace(torch.autograd.Function):
    """Forward value of one tensor, gradient of another."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: Tensor) -> Tensor:
        """The value."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient goes to the surrogate."""
        return gradients[0], None


def _replace(surrogate: Tensor, value: Tensor) -> Tensor:
    result: Tensor = _Replace.apply(surrogate, value)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True)
class Inside:
    """A `Prediction` for a chunk of ``count`` samples: the network behind the defenses from ``depth`` on."""

    pipeline: Pipeline
    depth: int
    count: int
    extras: Mapping[str, Tensor]  # each (rows, k)
    rng: SampleRng
    differentiable: bool
    network: Network | Ensemble
    learned: Mapping[str, Tensor] = field(default_factory=dict)
    spent: list[int] = field(default_factory=lambda: [0])  # passes per sample, shared by all that is inside

    @property
    def task(self) -> Task:
        """The task."""
        return self.pipeline.task

    @property
    def members(self) -> tuple[Inside, ...]:
        """The same with each of the independently trained networks."""
        return tuple(replace(self, network=network) for network in self.pipeline.members)

    def output(self, x: Tensor) -> Tensor:
        """Outputs (rows, k)."""
        own = self._rows(x)
        for place, defense in enumerate(self.pipeline.defenses[self.depth :], self.depth):
            if defense.tags.purifies:
                x = own._purified(defense, x)
            if defense.tags.wraps:
                return own._wrapped(defense, place, x)
        return own._passed(x)[1]

    def features(self, x: Tensor) -> Tensor:
        """Features (rows, d) of the network, behind what purifies."""
        self._refuse_wrapped("features")
        own = self._rows(x)
        found, _ = own._passed(own._all_purified(x))
        if found is None:
            raise PluginError("this network returns no features")
        return found.flatten(1)

    def output_with_dropout(self, x: Tensor) -> Tensor:
        """Outputs (rows, k) with dropout, behind what purifies."""
        self._refuse_wrapped("dropout")
        own = self._rows(x)
        x = own._all_purified(x)
        with _dropping(self.network, self.rng, len(x) // self.count):
            return own._passed(x)[1]

    def behind(self, defense: Defense, x: Tensor) -> tuple[Inside, Tensor]:
        """What ``defense`` has inside, and inputs (b, c, ...) as they come to it."""
        place = self.pipeline.defenses.index(defense)
        for outer in self.pipeline.defenses[self.depth : place]:
            if outer.tags.purifies:
                x = self._purified(outer, x)
        return replace(self, depth=place + 1), x

    def _refuse_wrapped(self, what: str) -> None:
        wrapper = next((one for one in self.pipeline.defenses[self.depth :] if one.tags.wraps), None)
        if wrapper is not None:
            raise PluginError(
                f"there is no {what} behind {type(wrapper).__name__}, which passes the network often"
            )

    def _rows(self, x: Tensor) -> Inside:
        """With draws and extras for each row of x, whose samples may stand several times."""
        times = len(x) // self.count
        if times == 1:
            return self
        rows = torch.arange(self.count, device=x.device).repeat_interleave(times)
        return replace(self, count=len(x), extras=take(self.extras, rows), rng=self.rng.take(rows))

    def _passed(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        self.spent[0] += len(x)
        return self.network.features(fast_layout(x), self.extras)

    def _wrapped(self, defense: Defense, place: int, x: Tensor) -> Tensor:
        learned = self.pipeline.learned.get(place, {})
        inner = replace(self, depth=place + 1, learned=learned)
        predict = defense.surrogate_predict if self.differentiable else defense.predict
        output = predict(x, inner, self.pipeline.space, self.rng)
        expected = (len(x), self.pipeline.task.outputs)
        if output.shape != expected:
            raise PluginError(
                f"{type(defense).__name__}: predict returned shape {tuple(output.shape)}, not {expected}"
            )
        return output

    def _all_purified(self, x: Tensor) -> Tensor:
        for defense in self.pipeline.defenses[self.depth :]:
            if defense.tags.purifies:
                x = self._purified(defense, x)
        return x

    def _purified(self, defense: Defense, x: Tensor) -> Tensor:
        space = self.pipeline.space
        # The surrogate's gradient is that of the same draws as the value.
        twin = self.rng.copy() if self.differentiable and defense.tags.stochastic else self.rng
        clean = defense.purify(x.detach(), space, self.rng)
        if clean.shape != x.shape:
            raise PluginError(
                f"{type(defense).__name__}.purify changed the shape {tuple(x.shape)} to {tuple(clean.shape)}"
            )
        return _replace(defense.surrogate(x, space, twin), clean) if self.differentiable else clean


def take(extras: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The same extras for some rows."""
    return {name: value[rows] for name, value in extras.items()}


def fast_layout(x: Tensor) -> Tensor:
    """Images in the layout that convolutions are fastest on."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


@contextmanager
def _dropping(network: nn.Module, rng: SampleRng, times: int) -> Iterator[None]:
    """Dropout layers draw, ``times`` for each sample of ``rng``, whatever the mode of the network."""
    layers = [module for module in network.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    if not layers:
        raise PluginError("this network has no dropout layer")
    try:
        for layer in layers:
            layer.__dict__["forward"] = partial(_dropped, layer, rng, times)
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _dropped(layer: nn.modules.dropout._DropoutNd, rng: SampleRng, times: int, x: Tensor) -> Tensor:
    whole_channels = isinstance(layer, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d))
    shape = (x.shape[1], *(1 for _ in x.shape[2:])) if whole_channels else x.shape[1:]
    keep = rng.uniform(times, *shape).flatten(0, 1) >= layer.p
    return x * keep / (1 - layer.p) if layer.p < 1 else torch.zeros_like(x)
