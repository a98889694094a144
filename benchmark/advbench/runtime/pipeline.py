"""The whole defended pipeline: purifying defenses in their order, then the network, in chunks of one fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from advbench.components.base import Defense
from advbench.errors import PluginError
from advbench.runtime import incremental, tasks
from advbench.runtime.chain import Chain, chain_of
from advbench.runtime.inside import Inside, fast_layout, take
from advbench.runtime.network import Ensemble, Network
from advbench.runtime.rng import SampleRng
from advbench.values import InputSpace, Task


@dataclass(frozen=True)
class Pipeline:
    """A network, or several, behind the defenses that purify or wrap, the outermost first.

    ``chunk`` samples go through at a time, the last chunk padded by repeating a sample: on a CPU outputs and input
    gradients then depend on nothing but the sample. ``learned`` is what each defense has learned, by its place.
    """

    network: Network | Ensemble
    defenses: tuple[Defense, ...]
    space: InputSpace
    task: Task
    chunk: int
    device: torch.device
    members: tuple[Network, ...] = ()
    learned: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    _costs: dict[bool, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def draws(self) -> int:
        """Draws that an adaptive attack averages over: more than one if a defense is random."""
        return max([defense.draws for defense in self.defenses if defense.tags.stochastic], default=1)

    @property
    def rounding(self) -> float:
        """Share of the largest output by which the judge's may differ."""
        low = any(getattr(one, "low", None) is not None for one in self.network.modules())
        return tasks.COARSE if low else tasks.ROUNDING

    @property
    def wrapped(self) -> bool:
        """Whether a defense makes the outputs from several passes of what is inside."""
        return any(defense.tags.wraps for defense in self.defenses)

    def forward(
        self, x: Tensor, extras: Mapping[str, Tensor], rng: SampleRng, differentiable: bool = False
    ) -> Tensor:
        """Output (b, k) of one chunk."""
        return self.inside(len(x), extras, rng, differentiable).output(x)

    def inside(
        self,
        count: int,
        extras: Mapping[str, Tensor],
        rng: SampleRng,
        differentiable: bool,
        learned: Mapping[str, Tensor] | None = None,
    ) -> Inside:
        """The whole pipeline for one chunk of samples, as a defense around it sees it."""
        return Inside(self, 0, count, extras, rng, differentiable, self.network, learned or {})

    def passes(self, x: Tensor, extras: Mapping[str, Tensor], rng: SampleRng, differentiable: bool) -> int:
        """Passes of a network in one `forward` of a sample."""
        if not self.wrapped:
            return 1
        if differentiable not in self._costs:
            rows, _ = next(self.chunks(len(x)))
            trial = self.inside(self.chunk, take(extras, rows), rng.copy().take(rows), differentiable)
            with torch.no_grad():
                trial.output(x[rows])
            self._costs[differentiable] = trial.spent[0] // self.chunk
        return self._costs[differentiable]

    def chunks(self, count: int) -> Iterator[tuple[Tensor, int]]:
        """Row indices (chunk,) padded by repeating the last sample, and how many of them are real."""
        for start in range(0, count, self.chunk):
            rows = torch.arange(start, start + self.chunk, device=self.device).clamp_max(count - 1)
            yield rows, min(self.chunk, count - start)

    def map(self, function: Callable[[Tensor], Sequence[Tensor]], count: int) -> list[Tensor]:
        """Apply ``function(rows)`` chunk by chunk and join each of its results, padding removed."""
        parts = [[part[:real] for part in function(rows)] for rows, real in self.chunks(count)]
        return [torch.cat(column) for column in zip(*parts)]

    def predict(self, x: Tensor, extras: Mapping[str, Tensor], rng: SampleRng) -> Tensor:
        """Outputs (n, k) without gradients."""
        with torch.no_grad():
            return self.map(lambda rows: [self.forward(x[rows], take(extras, rows), rng.take(rows))], len(x))[
                0
            ]

    def predict_pixels(
        self, x: Tensor, extras: Mapping[str, Tensor], rng: SampleRng, positions: Tensor, values: Tensor
    ) -> Tensor:
        """Outputs (n, m, k) of m candidates for each of the inputs (n, c, h, w), see `Target.outputs_with_pixels`."""
        count, pixels = positions.shape[1], positions.shape[2]
        chain = None if extras or self.network.training else self._chain
        if chain is not None and incremental.pays(chain, count, pixels):
            assert isinstance(self.network, Network)
            with torch.no_grad():
                return incremental.pixel_outputs(self.network, chain, x, positions, values)
        # Where draws are shared within a chunk, no chunk holds candidates of two samples.
        random = any(defense.tags.stochastic or defense.tags.wraps for defense in self.defenses)
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
            found = self.network.features(fast_layout(x[rows]), take(extras, rows))[0]
            if found is None:
                raise PluginError("this network returns no features")
            return [found.flatten(1)]

        with torch.no_grad():
            return self.map(one, len(x))[0]


def with_pixels(x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Images (n, c, h, w) with pixels at (n, p, 2) set to (n, p, c); of two at the same place the later one stays."""
    changed = x.clone()
    row = torch.arange(len(x), device=x.device)
    for pixel in range(positions.shape[1]):
        changed[row, :, positions[:, pixel, 0], positions[:, pixel, 1]] = values[:, pixel]
    return changed
