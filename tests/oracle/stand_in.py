"""A small target and small random streams that keep the contracts of the harness, for tests of plugins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.api import Classification, Evaluation, InputSpace, Regression, Task

CHUNK = 16


class KeyedRng:
    """Row i depends on the key of sample i and on how many draws that sample has made."""

    def __init__(self, keys: Sequence[Any], made: dict[Any, int] | None = None) -> None:
        self.keys, self.made = list(keys), {} if made is None else made

    def take(self, index: Tensor) -> KeyedRng:
        rows = torch.arange(len(self.keys))[index].tolist()
        return KeyedRng([self.keys[row] for row in rows], self.made)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return self._draw(lambda g, _: low + (high - low) * torch.rand(shape, generator=g))

    def normal(self, *shape: int) -> Tensor:
        return self._draw(lambda g, _: torch.randn(shape, generator=g))

    def integers(self, high: int, *shape: int) -> Tensor:
        return self._draw(lambda g, _: torch.randint(high, shape, generator=g))

    def poisson(self, rate: Tensor) -> Tensor:
        return self._draw(lambda g, i: torch.poisson(rate[i].float(), generator=g))

    def _draw(self, draw: Callable[[torch.Generator, int], Tensor]) -> Tensor:
        rows = []
        for i, key in enumerate(self.keys):
            call = self.made.get(key, 0)
            raw = hashlib.blake2b(f"{key}:{call}".encode(), digest_size=7).digest()
            rows.append(draw(torch.Generator().manual_seed(int.from_bytes(raw, "little")), i))
            self.made[key] = call + 1
        return torch.stack(rows)


@dataclass
class Visits:
    """What a target was asked, over all its `take`s; ``points`` holds (row, input, output) in order."""

    forward: Tensor
    backward: Tensor
    points: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)


class StandIn:
    """A `Target` over a bare module, in chunks of one fixed size, counting passes per sample."""

    mask = None

    def __init__(
        self,
        module: nn.Module,
        task: Task,
        space: InputSpace,
        count: int,
        visits: Visits | None = None,
        rows: Tensor | None = None,
    ) -> None:
        zeros = torch.zeros(count, dtype=torch.int64)
        self.module, self.task, self.space = module.eval().requires_grad_(False), task, space
        self.visits = Visits(zeros, zeros.clone()) if visits is None else visits
        self.rows = torch.arange(count) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> StandIn:
        rows = self.rows[index]
        return StandIn(self.module, self.task, self.space, len(rows), self.visits, rows)

    def margin(self, output: Tensor, y: Tensor) -> Tensor:
        if isinstance(self.task, Regression):
            return self.task.tolerance - (output - y.view_as(output)).abs().amax(1)
        others = output.scatter(1, y[:, None], float("-inf")).amax(1)
        return output.gather(1, y[:, None])[:, 0] - others

    def is_adversarial(self, output: Tensor, y: Tensor) -> Tensor:
        margin = self.margin(output, y)
        return ~(margin > 0 if isinstance(self.task, Classification) else margin >= 0)

    def output(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            output = torch.cat([self.module(part)[:real] for part, real in self._chunks(x)])
        self._note(x, output, 0)
        return output

    def evaluate(self, x: Tensor, y: Tensor, loss: Any = "margin") -> Evaluation:
        losses, gradients, outputs = [], [], []
        for (part, real), (target, _) in zip(self._chunks(x), self._chunks(y)):
            point = part.detach().requires_grad_(True)
            output = self.module(point)
            value = self._loss(output, target, loss)
            (gradient,) = torch.autograd.grad(value.sum(), point)
            for found, kept in ((value, losses), (gradient, gradients), (output, outputs)):
                kept.append(found.detach()[:real])
        evaluation = Evaluation(torch.cat(losses), torch.cat(gradients), torch.cat(outputs))
        self._note(x, evaluation.output, 1)
        return evaluation

    def input_gradient(self, x: Tensor, y: Tensor, loss: Any = "margin") -> Tensor:
        return self.evaluate(x, y, loss).gradient

    def _loss(self, output: Tensor, y: Tensor, loss: Any) -> Tensor:
        if callable(loss):
            return loss(output, y)
        if isinstance(self.task, Regression):
            return (output - y.view_as(output)).square().sum(1)
        return {
            "margin": lambda: -self.margin(output, y),
            "ce": lambda: F.cross_entropy(output, y, reduction="none"),
        }[loss]()

    def _chunks(self, x: Tensor) -> list[tuple[Tensor, int]]:
        starts = range(0, len(x), CHUNK)
        rows = [torch.arange(start, start + CHUNK).clamp_max(len(x) - 1) for start in starts]
        return [(x[row], min(CHUNK, len(x) - start)) for row, start in zip(rows, starts)]

    def _note(self, x: Tensor, output: Tensor, backward: int) -> None:
        assert len(x) == len(self.rows), "one input for each sample of the target"
        self.visits.forward[self.rows] += 1
        self.visits.backward[self.rows] += backward
        self.visits.points += list(zip(self.rows.tolist(), x.detach().clone(), output.clone()))


def space_of(
    shape: tuple[int, ...], lower: float | Sequence[float] = 0.0, upper: float | Sequence[float] = 1.0
) -> InputSpace:
    """An input space with these bounds, the same for all channels if they are numbers."""
    bounds = [tuple([v] * shape[0]) if isinstance(v, (int, float)) else tuple(v) for v in (lower, upper)]
    return InputSpace(shape, bounds[0], bounds[1], tuple(f"band{i}" for i in range(shape[0])))


def classes(count: int) -> Classification:
    """A task of so many classes."""
    return Classification(tuple(f"class{i}" for i in range(count)))


def random_tensor(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform values that leave the global generator alone."""
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """``weight`` (k, d) times the flattened input."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.data = weight.clone()
    layer.bias.data = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias.clone()
    return nn.Sequential(nn.Flatten(), layer)


def small_network(channels: int, outputs: int, seed: int = 0) -> nn.Module:
    """A convolutional network with random weights for images of any size, smooth but far from linear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.Tanh(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, outputs),
        )  # fmt: skip
        network[-1].weight.data *= 30
    return network


class KinkedFirstPixel(nn.Module):
    """Logits from the second and the third pixel; the derivative for the first pixel is 0/0."""

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(1)
        kink = (pixels[:, 0] - pixels[:, 0].detach()).abs().sqrt()
        return torch.stack([pixels[:, 1] + kink + 1, pixels[:, 2]], 1)
