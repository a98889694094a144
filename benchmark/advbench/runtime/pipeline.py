"""The whole defended pipeline: purifying defenses in their order, then the network, in chunks of one fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from advbench.components.base import Defense
from advbench.components.protocols import Rng
from advbench.errors import PluginError
from advbench.runtime import incremental
from advbench.runtime.chain import Chain, chain_of
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

    def predict_pixels(
        self, x: Tensor, extras: Mapping[str, Tensor], rng: Rng, positions: Tensor, values: Tensor
    ) -> Tensor:
        """Outputs (n, m, k) of m candidates for each of the inputs (n, c, h, w), see `Target.outputs_with_pixels`."""
        count, pixels = positions.shape[1], positions.shape[2]
        chain = None if extras or self.network.training else self._chain
        if chain is not None and incremental.pays(chain, count, pixels):
            assert isinstance(self.network, Network)
            with torch.no_grad():
                return incremental.pixel_outputs(self.network, chain, x, positions, values)
        # Where draws are shared within a chunk, no chunk holds candidates of two samples.
        random = any(defense.tags.stochastic for defense in self.defenses)
        step = -(-count // self.chunk) * self.chunk if random else count
        owner = torch.arange(len(x), device=x.device).repeat_interleave(step)
        place = torch.arange(step, device=x.device).clamp_max(count - 1).repeat(len(x))

        def one(rows: Tensor) -> list[Tensor]:
            image, candidate = owner[rows], place[rows]
            points = with_pixels(x[image], positions[image, candidate], values[image, candidate])
            return [self.forward(points, take(extras, image), rng.take(image))]

        with torch.no_grad():
            return self.map(one, len(owner))[0].view(len(x), step, -1)[:, :count]

    @cached_property
    def _chain(self) -> Chain | None:
        if self.defenses or not isinstance(self.network, Network):
            return None
        return chain_of(self.network.module, self.space.shape)

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


def with_pixels(x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Images (n, c, h, w) with pixels at (n, p, 2) set to (n, p, c); of two at the same place the later one stays."""
    changed = x.clone()
    row = torch.arange(len(x), device=x.device)
    for pixel in range(positions.shape[1]):
        changed[row, :, positions[:, pixel, 0], positions[:, pixel, 1]] = values[:, pixel]
    return changed


def _fast_layout(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
