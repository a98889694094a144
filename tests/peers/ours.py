"""Our own attacks as the harness runs them: the prepared network, chunks of one size, finished samples leave."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from tests.peers.peers import Task
from tests.peers.scenes import Scene
from torch import Tensor

from advbench.components.base import Attack
from advbench.components.loader import Plugins
from advbench.errors import PluginLoadError, UserError
from advbench.runtime.bench import CHUNK
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.quick import quick
from advbench.runtime.target import Meter, PipelineTarget


class Ours(NamedTuple):
    """Inputs after the attack, and its passes per sample."""

    x: Tensor
    forward: float
    backward: float


def our_attack(task: Task) -> dict[str, Attack]:
    """The attack that is to be compared, under the names of its variants; none where it does not exist."""
    steps = {"steps": task.steps}
    ball = {"norm": task.norm, "eps": task.eps}
    plain = {"loss": "ce", "random_start": False, "alpha": task.alpha}
    parameters: dict[str, dict[str, Any]] = {
        "fgsm": {"eps": task.eps, "loss": "ce"},
        "pgd": {**ball, **steps, **plain},
        "ddn": steps,
        "fmn": {"norm": task.norm, **steps},
        "apgd": {**ball, **steps},
        "square": {**ball, "queries": task.steps},
        "one-pixel": {"generations": task.steps, "population": 400},
        "auto": ball,
    }
    chosen = parameters[task.attack]
    full = (
        _made(task.attack, {**chosen, "stop_on_success": False}) if task.attack in ("pgd", "apgd") else None
    )
    usual = _made(task.attack, chosen)
    if usual is None:
        return {}
    return {"ours": usual} if full is None else {"ours, all steps": full, "ours, stopping": usual}


def _made(name: str, parameters: dict[str, Any]) -> Attack | None:
    try:
        attack = _plugins().find("perturbation", f"attacks/{name}").load()(**parameters)
    except (UserError, PluginLoadError):
        return None
    assert isinstance(attack, Attack)
    return attack


@functools.cache
def _plugins() -> Plugins:
    return Plugins.discover()


@dataclass(frozen=True)
class Prepared:
    """The pipeline that a worker crafts on, and the seconds that it took to prepare its network."""

    pipeline: Pipeline
    seconds: float

    @classmethod
    def of(cls, scene: Scene) -> Prepared:
        """Prepared once for each network, as in a run."""
        device, network = scene.x.device, scene.stage().network
        start = time.perf_counter()
        copy = quick(network, scene.space.shape)
        seconds = time.perf_counter() - start
        return cls(Pipeline(copy, (), scene.space, scene.task, CHUNK[device.type], device), seconds)


def craft_ours(prepared: Prepared, scene: Scene, attack: Attack) -> Ours:
    """Crafted as a worker does it."""
    samples = scene.stage().samples
    meter = Meter(samples.x, samples.y)
    rows = torch.arange(len(samples), device=scene.x.device)
    draws = samples.rng(0, "defense under attack")
    target = PipelineTarget(prepared.pipeline, samples.extras, draws, meter, rows)
    point = attack.perturb(samples.x, samples.y, target, samples.rng(0, "attack")).detach().clamp(0, 1)
    return Ours(point, float(meter.forward.double().mean()), float(meter.backward.double().mean()))
