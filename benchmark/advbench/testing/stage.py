"""Where components are tried: tiny input spaces, networks and samples, put together as the harness does."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advbench.components.base import Attack, Component, Defense, Perturbation
from advbench.components.identity import Spec
from advbench.components.loader import Plugins, Source
from advbench.runtime import tasks
from advbench.runtime.cell import Case, Crafted, Limits, Samples, Step
from advbench.runtime.crafting import craft
from advbench.runtime.network import Network, align, freeze
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.rng import SampleRng, isolated_rng
from advbench.runtime.target import Meter, PipelineTarget
from advbench.testing.check import Broken, Subject
from advbench.testing.toybox import advbench_toys
from advbench.values import Classification, InputSpace, Task

CHUNK = 8
CPU = torch.device("cpu")


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
    y: Tensor | None = None,
) -> Stage:
    """A stage with seeded random inputs ``x`` (count, c, ...) and a small network.

    ``y`` are the targets; the network's own predictions unless given.
    """
    lower, upper = np.reshape(space.lower, (-1,) + (1,) * len(space.shape[1:])), np.asarray(space.upper)
    width = upper.reshape(lower.shape) - lower
    draws = np.random.default_rng(7).random((count, *space.shape)) * 0.8 + 0.1
    inputs = torch.from_numpy((lower + width * draws).astype(np.float32)) if x is None else x
    with isolated_rng(0):
        network = Network(
            module or advbench_toys.SmallModule(space.shape, task.outputs, len(extras or {})),
            space,
            task,
            "small",
        )
    frozen = align(freeze(network))
    assert isinstance(frozen, Network)
    ids = np.array([f"sample{i:03d}" for i in range(len(inputs))])
    given = dict(extras or {})
    empty = torch.zeros(len(inputs), dtype=torch.int64)
    stage = Stage(frozen, space, task, Samples(inputs, empty, given, ids))
    if y is not None:
        return replace(stage, samples=Samples(inputs, y, given, ids))
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
    steps = (Step(perturbation, spec),)
    samples = stage.samples
    limits = Limits(batch)
    case = Case(samples, steps, pipeline, pipeline, None, samples, knowledge, 0, budget, limits)
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
        size = ", ".join(f"{value:.4g}" for value in promise.eps.values) if promise else ""
        what = f"more than {size} in {promise.norm}, or not finite" if promise else "not finite"
        raise Broken(f"{broken} of {len(stage.samples)} results are {what}")
    return crafted


class NoDraws:
    """Stands for the random draws of a component that says it is not stochastic."""

    def take(self, index: Any) -> NoDraws:
        """No draws for others either."""
        return self

    def copy(self) -> NoDraws:
        """No draws later on."""
        return self

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
    """The plugin of the component, those of the perturbations that it uses, and the toys."""
    component = subject.component
    used = component.uses() if isinstance(component, Defense) else ()
    names = [subject.plugins.find("perturbation", one.use).namespace for one in used]
    sources = [_source(subject.plugins, name) for name in {subject.entry.namespace, *names}]
    return Plugins([*sources, Source("advbench-toys", "advbench", lambda: advbench_toys)])


def _source(plugins: Plugins, name: str) -> Source:
    own = plugins.plugin(name)
    module = own.hooks.get_plugin(own.namespace) if own.hooks is not None else None
    if not isinstance(module, ModuleType):
        raise Broken(own.error or "its plugin is not a module")
    return Source(own.namespace, own.distribution, lambda: module)
