"""What a cell is made of: samples, perturbations, pipelines; and what comes of perturbing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.components.base import Attack, Perturbation
from advbench.components.identity import Spec
from advbench.runtime.inside import take
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.rng import SampleRng, isolated_rng, seed_of

if TYPE_CHECKING:
    from advbench.runtime.detection import Guard


@dataclass(frozen=True)
class Samples:
    """The evaluated samples of a data set, on the device."""

    x: Tensor  # (n, c, ...)
    y: Tensor  # (n,) or (n, t)
    extras: Mapping[str, Tensor]
    ids: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Samples:
        """Some of the samples (int64 index)."""
        return Samples(self.x[rows], self.y[rows], take(self.extras, rows), self.ids[rows.cpu().numpy()])

    def of_known_class(self) -> Samples:
        """Those that are not labelled -1, none of the classes."""
        unknown = (self.y < 0) if self.y.dtype == torch.int64 else torch.zeros(len(self), dtype=torch.bool)
        return self.take(torch.nonzero(~unknown)[:, 0]) if unknown.any() else self

    def rng(self, seed: int, purpose: str) -> SampleRng:
        """Draws per sample for a purpose."""
        return SampleRng(seed, purpose, self.ids, self.x.device)


class Gradients(NamedTuple):
    """Input gradients of the margin at clean inputs, NaN for samples that were not looked at."""

    norm: Tensor  # (n,) l2; NaN where one is not finite
    agreement: Tensor  # (n,) cosine of two gradients with independent draws


@dataclass(frozen=True)
class Crafted:
    """Perturbed inputs as they were verified, and what they cost; first axis = all evaluated samples."""

    x: Tensor
    violation: Tensor
    forward: Tensor
    backward: Tensor
    aim: Tensor | None = None  # what a targeted attack drove each sample to, see `tasks.aims`
    size: Tensor | None = None  # in the attack's own measure, where its tags name one
    gradients: Gradients | None = None  # what an attack that knows everything has to go by


@dataclass(frozen=True)
class Limits:
    """How a cell is executed; none of it changes a number on a CPU."""

    batch: int = 256
    seconds: float | None = None


class Step(NamedTuple):
    """One perturbation of a cell, and its spec, which names its random draws."""

    perturbation: Perturbation
    spec: Spec


@dataclass(frozen=True)
class Case:
    """What a cell is made of, ready to run.

    ``crafting`` is the pipeline that the attacker works on (the undefended network for oblivious attacks, other
    networks for transfer), ``judged`` the whole defended pipeline that decides.
    """

    samples: Samples
    steps: tuple[Step, ...]
    crafting: Pipeline
    judged: Pipeline
    guard: Guard | None
    learning: Samples | None
    knowledge: str
    seed: int
    budget: int | None
    limits: Limits = field(default_factory=Limits)
    loss: str | None = None  # what the defenses ask adaptive attacks to use
    memo: dict[Any, Any] = field(default_factory=dict)  # clean outputs, for all cells that share it

    @property
    def attack(self) -> Attack | None:
        """The attack, if there is one; it comes last."""
        last = self.steps[-1].perturbation if self.steps else None
        return last if isinstance(last, Attack) else None


def predict(pipeline: Pipeline, samples: Samples, seed: int, x: Tensor | None = None) -> Tensor:
    """Outputs (n, k) of a pipeline, by a fresh fp32 forward pass; random defenses draw anew for each sample."""
    inputs = samples.x if x is None else x
    with isolated_rng(seed_of(seed, "judge")):
        return pipeline.predict(inputs, samples.extras, samples.rng(seed, "judge"))


def clean_output(case: Case, pipeline: Pipeline) -> Tensor:
    """Outputs (n, k) of the unperturbed samples, computed once for all cells that share them."""
    owners = (pipeline.network, case.samples.x)
    key = (*map(id, owners), *map(repr, pipeline.defenses), pipeline.chunk, case.seed)
    found = case.memo.get(key)
    # The owners are kept with what they gave, so that no later one can have their place in memory.
    if found is None or found[0] is not owners[0] or found[1] is not owners[1]:
        found = case.memo[key] = (*owners, predict(pipeline, case.samples, case.seed))
    output: Tensor = found[2]
    return output


def clean_scores(case: Case) -> Tensor:
    """Scores (n,) of the detector on the unperturbed samples, computed once for all cells that share them."""
    guard = case.guard
    assert guard is not None
    key = ("scores", id(guard), id(case.judged.network), id(case.samples.x))
    if key not in case.memo:
        # The owners are kept with what they gave, so that no later one can have their place in memory.
        owners = (guard, case.judged.network, case.samples.x)
        case.memo[key] = (*owners, guard.scores(case.judged, case.samples, case.seed))
    found: Tensor = case.memo[key][-1]
    return found
