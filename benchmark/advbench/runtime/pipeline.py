"""The whole defended pipeline: purifying defenses in their order, then the network, in chunks of one fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advbench.components.base import Defense
from advbench.components.protocols import Rng
from advbench.errors import PluginError
from advbench.runtime.network import Ensemble, Network
from advbench.values import InputSpace, Task


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
class Pipeline:
    """A network behind its purifying defenses.

    ``chunk`` samples go through at a time, the last chunk padded by repeating a sample: on a CPU outputs and input
    gradients then depend on nothing but the sample.
    """

    network: Network | Ensemble
    defenses: tuple[Defense, ...]
    space: InputSpace
    task: Task
    chunk: int
    device: torch.device

    @property
    def draws(self) -> int:
        """Draws that an adaptive attack averages over: more than one if a defense is random."""
        return max([defense.draws for defense in self.defenses if defense.tags.stochastic], default=1)

    def forward(
        self, x: Tensor, extras: Mapping[str, Tensor], rng: Rng, differentiable: bool = False
    ) -> Tensor:
        """Output (b, k) of one chunk."""
        for defense in self.defenses:
            clean = defense.purify(x.detach(), self.space, rng)
            if clean.shape != x.shape:
                raise PluginError(
                    f"{type(defense).__name__}.purify changed the shape {tuple(x.shape)} to {tuple(clean.shape)}"
                )
            x = _replace(defense.surrogate(x, self.space, rng), clean) if differentiable else clean
        output: Tensor = self.network(_fast_layout(x), extras)
        return output

    def chunks(self, count: int) -> Iterator[tuple[Tensor, int]]:
        """Row indices (chunk,) padded by repeating the last sample, and how many of them are real."""
        for start in range(0, count, self.chunk):
            rows = torch.arange(start, start + self.chunk, device=self.device).clamp_max(count - 1)
            yield rows, min(self.chunk, count - start)

    def map(self, function: Callable[[Tensor], Sequence[Tensor]], count: int) -> list[Tensor]:
        """Apply ``function(rows)`` chunk by chunk and join each of its results, padding removed."""
        parts = [[part[:real] for part in function(rows)] for rows, real in self.chunks(count)]
        return [torch.cat(column) for column in zip(*parts)]

    def predict(self, x: Tensor, extras: Mapping[str, Tensor], rng: Rng) -> Tensor:
        """Outputs (n, k) without gradients."""
        with torch.no_grad():
            return self.map(lambda rows: [self.forward(x[rows], take(extras, rows), rng.take(rows))], len(x))[
                0
            ]

    def features(self, x: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """Features (n, d) of the bare network."""

        def one(rows: Tensor) -> list[Tensor]:
            found = self.network.features(_fast_layout(x[rows]), take(extras, rows))[0]
            if found is None:
                raise PluginError("this network returns no features")
            return [found.flatten(1)]

        with torch.no_grad():
            return self.map(one, len(x))[0]


def take(extras: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The same extras for some rows."""
    return {name: value[rows] for name, value in extras.items()}


def _fast_layout(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
