"""Where components are tried: tiny input spaces, networks and samples, put together as the harness does."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from advbench.components.base import Attack, Component, Perturbation
from advbench.components.identity import Spec
from advbench.components.loader import Plugins, Source
from advbench.runtime import tasks
from advbench.runtime.cell import Case, Crafted, Limits, Samples, craft
from advbench.runtime.network import Network, freeze
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.rng import SampleRng, isolated_rng
from advbench.runtime.target import Meter, PipelineTarget
from advbench.testing.check import Broken, Skip, Subject
from advbench.testing.toybox import toys
from advbench.values import Classification, InputSpace, Regression, Task

CHUNK = 8
CPU = torch.device("cpu")
Some = TypeVar("Some", bound=Component)


@dataclass(frozen=True)
class Brightness:
    """A link to physical units: an arcsinh stretch."""

    unit: str = "nJy"

    def to_physical(self, x: Tensor) -> Tensor:
        """Input space to nanojansky."""
        return torch.sinh(x) * 10

    def from_physical(self, value: Tensor) -> Tensor:
        """Nanojansky to input space."""
        return torch.asinh(value / 10)


def space_of(*shape: int, low: float = 0.0, high: float = 1.0, link: Any = None) -> InputSpace:
    """An input space with the same bounds for all channels."""
    channels = shape[0]
    names = tuple(f"band{i}" for i in range(channels))
    return InputSpace(shape, (low,) * channels, (high,) * channels, names, link=link)


SPACES = (
    space_of(3, 12, 12),
    space_of(1, 12, 12),
    space_of(3, 32, 32),
    space_of(3, 12, 12, low=-1.0, high=4.0, link=Brightness()),
    space_of(6),
)
"""Spaces to try a component in, in this order."""

WIDE = space_of(5, 8, 8, low=-4.0, high=50.0)
"""Five bands with bounds that nobody may take for 0 and 1."""


def classes(count: int) -> Classification:
    """A task of so many classes."""
    return Classification(tuple(f"class{i}" for i in range(count)))


REGRESSION = Regression(("redshift",), tolerance=0.5)


def a_task(component: Component, count: int = 3) -> Task:
    """A task that the component is for: classification if it can."""
    return classes(count) if "classification" in component.tags.tasks else REGRESSION


def fitting(component: Component, task: Task, spaces: Sequence[InputSpace] = SPACES) -> InputSpace:
    """The first of these spaces that the component supports.

    Raises
    ------
    Skip
        With the component's own reason if it supports none of them.
    """
    reasons = [component.supports(space, task) for space in spaces]
    for space, reason in zip(spaces, reasons):
        if reason is None:
            return space
    raise Skip(f"supports none of the spaces that were tried: {reasons[0]}")


def changed(component: Some, **parameters: Any) -> Some | None:
    """The component with other parameters, or None if it does not take them."""
    try:
        return type(component)(**{**component.model_dump(mode="json"), **parameters})
    except ValidationError:
        return None


@dataclass(frozen=True)
class Stage:
    """A network and samples that it predicts correctly."""

    network: Network
    space: InputSpace
    task: Task
    samples: Samples

    @property
    def pipeline(self) -> Pipeline:
        """The undefended pipeline."""
        return Pipeline(self.network, (), self.space, self.task, CHUNK, CPU)

    def take(self, rows: Sequence[int]) -> Stage:
        """Some of the samples, in this order."""
        index = torch.tensor(list(rows))
        extras = {name: value[index] for name, value in self.samples.extras.items()}
        some = Samples(self.samples.x[index], self.samples.y[index], extras, self.samples.ids[index.numpy()])
        return replace(self, samples=some)

    def target(self, budget: int | None = None, meter: Meter | None = None) -> PipelineTarget:
        """The network as an attack sees it."""
        samples = self.samples
        meter = meter or Meter(samples.x, samples.y, budget)
        rng = samples.rng(0, "defense under attack")
        return PipelineTarget(self.pipeline, samples.extras, rng, meter, torch.arange(len(samples)))

    def output(self, x: Tensor | None = None) -> Tensor:
        """Outputs of the network."""
        return self.pipeline.predict(
            self.samples.x if x is None else x, self.samples.extras, self.samples.rng(0, "")
        )


def a_stage(
    space: InputSpace,
    task: Task,
    *,
    count: int = 12,
    extras: Mapping[str, Tensor] | None = None,
    module: nn.Module | None = None,
    x: Tensor | None = None,
) -> Stage:
    """A stage with seeded random inputs ``x`` (count, c, ...) and a small network."""
    lower, upper = np.reshape(space.lower, (-1,) + (1,) * len(space.shape[1:])), np.asarray(space.upper)
    width = upper.reshape(lower.shape) - lower
    draws = np.random.default_rng(7).random((count, *space.shape)) * 0.8 + 0.1
    inputs = torch.from_numpy((lower + width * draws).astype(np.float32)) if x is None else x
    with isolated_rng(0):
        network = Network(
            module or toys.SmallModule(space.shape, task.outputs, len(extras or {})), space, task, "small"
        )
    frozen = freeze(network)
    assert isinstance(frozen, Network)
    ids = np.array([f"sample{i:03d}" for i in range(len(inputs))])
    given = dict(extras or {})
    empty = torch.zeros(len(inputs), dtype=torch.int64)
    stage = Stage(frozen, space, task, Samples(inputs, empty, given, ids))
    predicted = tasks.prediction(stage.output(), task)
    # A regressor without any error has no gradient to follow.
    y = predicted if isinstance(task, Classification) else predicted[:, 0] + task.tolerance / 5
    return replace(stage, samples=Samples(inputs, y, given, ids))


def craft_with(
    stage: Stage,
    perturbation: Perturbation,
    name: str,
    *,
    batch: int = 256,
    budget: int | None = None,
    knowledge: str = "adaptive",
) -> Crafted:
    """Perturb and verify as the harness does."""
    spec = Spec(perturbation.kind, name, "{}", perturbation.version)
    pipeline = stage.pipeline
    case = Case(
        stage.samples, perturbation, spec, pipeline, pipeline, None, None, knowledge, 0, budget, Limits(batch)
    )
    return craft(case)


def craft_clean(stage: Stage, perturbation: Perturbation, name: str, **how: Any) -> Crafted:
    """`craft_with`, where nothing may have had to be repaired.

    Raises
    ------
    Broken
        If a value is not finite or a budget is exceeded.
    """
    crafted = craft_with(stage, perturbation, name, **how)
    broken = int(crafted.violation.sum())
    if broken:
        promise = perturbation.constraint() if isinstance(perturbation, Attack) else None
        what = f"more than {promise.eps.json()} in {promise.norm}, or not finite" if promise else "not finite"
        raise Broken(f"{broken} of {len(stage.samples)} results are {what}")
    return crafted


class NoDraws:
    """Stands for the random draws of a component that says it is not stochastic."""

    def __getattr__(self, name: str) -> Any:
        raise Broken("draws random numbers, but tags.stochastic is False")


def draws_for(component: Component, stage: Stage) -> Any:
    """Random draws if the component says that it draws, else a `NoDraws`."""
    return stage.samples.rng(0, "check") if component.tags.stochastic else NoDraws()


def global_state() -> tuple[Any, ...]:
    """State of all global generators, comparable with ``==``."""
    keys = np.random.get_state()  # noqa: NPY002 - the legacy generator is what must stay untouched
    numpy = tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in keys)
    return torch.get_rng_state().numpy().tobytes(), numpy, random.getstate()


def sample_draws(ids: NDArray[np.str_], purpose: str = "check") -> SampleRng:
    """Random draws for samples of these names."""
    return SampleRng(0, purpose, ids, CPU)


def with_toys(subject: Subject) -> Plugins:
    """The plugin of the component, and the toys."""
    own = subject.plugins.plugin(subject.entry.namespace)
    module = own.hooks.get_plugin(own.namespace) if own.hooks is not None else None
    if not isinstance(module, ModuleType):
        raise Broken(own.error or "its plugin is not a module")
    return Plugins(
        [Source(own.namespace, own.distribution, lambda: module), Source("toys", "advbench", lambda: toys)]
    )
