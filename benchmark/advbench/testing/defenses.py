"""Checks of defenses, stage by stage."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advbench.components.base import Component, Defense
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.target import Meter, PipelineTarget
from advbench.testing import defense_training
from advbench.testing.check import CheckFunction, Skip, Subject, require
from advbench.testing.spaces import SPACES, WIDE, a_task, fitting
from advbench.testing.stage import CHUNK, CPU, Stage, a_stage, draws_for, global_state, sample_draws


def checks(cls: type[Component]) -> list[CheckFunction]:
    """For defenses, by their stages."""
    chosen: list[CheckFunction] = []
    if cls.tags.purifies:
        chosen += [purifies_to_the_same_kind, purifies_any_bounds, purify_is_independent, gradient_flows]
    if cls.tags.trains:
        chosen += [defense_training.trains_a_network]
    if cls.tags.detects:
        chosen += [scores_every_sample, threshold_is_a_number]
    return chosen


def _stage(defense: Defense, count: int = CHUNK) -> Stage:
    task = a_task(defense)
    return a_stage(fitting(defense, task), task, count=count)


# --- purification -----------------------------------------------------------------------------------------------


def purifies_to_the_same_kind(subject: Subject) -> None:
    """Same shape, dtype and device; inputs and global generators are left alone; draws are declared."""
    defense = subject.as_a(Defense)
    stage = _stage(defense)
    x, state = stage.samples.x.clone(), global_state()
    result = defense.purify(stage.samples.x, stage.space, draws_for(defense, stage))
    require(isinstance(result, Tensor), f"purify returned {type(result).__name__}, not a tensor")
    require(result.shape == x.shape, f"purify returned shape {tuple(result.shape)} for {tuple(x.shape)}")
    require(result.dtype == x.dtype, f"purify returned {result.dtype} for inputs of {x.dtype}")
    require(
        result.device == x.device, f"purify returned a tensor on {result.device} for inputs on {x.device}"
    )
    require(torch.equal(stage.samples.x, x), "purify changes x in place")
    require(global_state() == state, "purify draws from a global generator; draw from `rng`")


def purifies_any_bounds(subject: Subject) -> None:
    """Finite values on every space that it supports, at the bounds too."""
    defense = subject.as_a(Defense)
    task = a_task(defense)
    spaces = [space for space in (*SPACES, WIDE) if defense.supports(space, task) is None]
    if not spaces:
        raise Skip(defense.supports(WIDE, task) or "")
    for space in spaces:
        stage = a_stage(space, task)
        lower, upper = (bound.expand_as(stage.samples.x) for bound in space.bounds_like(stage.samples.x))
        for x in (stage.samples.x, lower, upper):
            result = defense.purify(x, space, stage.samples.rng(0, "check"))
            require(
                bool(torch.isfinite(result).all()),
                f"purify is not finite within {space.lower}..{space.upper}",
            )


def purify_is_independent(subject: Subject) -> None:
    """What a sample becomes does not depend on its companions or its place, bit for bit."""
    defense = subject.as_a(Defense)
    stage = _stage(defense)
    x, ids = stage.samples.x, stage.samples.ids
    everyone = defense.purify(x, stage.space, sample_draws(ids))
    order = torch.tensor([5, 0, 7, 3, 3, 3, 3, 3])
    some = defense.purify(x[order], stage.space, sample_draws(ids[order.numpy()]))
    require(torch.equal(some, everyone[order]), "a sample is purified otherwise in other company")


def gradient_flows(subject: Subject) -> None:
    """Adaptive attacks get through: the surrogate's gradient is finite, and not zero everywhere."""
    defense = subject.as_a(Defense)
    stage = _stage(defense)
    samples = stage.samples
    point = samples.x.clone().requires_grad_(True)
    stand_in = defense.surrogate(point, stage.space, draws_for(defense, stage))
    require(stand_in.shape == point.shape, f"surrogate returned shape {tuple(stand_in.shape)}")
    pipeline = Pipeline(stage.network, (defense,), stage.space, stage.task, CHUNK, CPU)
    meter, rows = Meter(samples.x, samples.y), torch.arange(len(samples))
    target = PipelineTarget(pipeline, samples.extras, samples.rng(0, "check"), meter, rows)
    gradient = target.input_gradient(samples.x, samples.y)
    require(bool(torch.isfinite(gradient).all()), "the gradient through surrogate is not finite")
    require(bool(gradient.any()), "the gradient through surrogate is zero: adaptive attacks would be blind")


# --- detection --------------------------------------------------------------------------------------------------


class _Undefended:
    """A `Prediction`."""

    def __init__(self, stage: Stage) -> None:
        self._network = stage.network

    def output(self, x: Tensor) -> Tensor:
        """Outputs (b, k)."""
        output: Tensor = self._network(x)
        return output


def _scores(defense: Defense, stage: Stage) -> Tensor:
    with torch.no_grad():
        return defense.score(stage.samples.x, _Undefended(stage), stage.space, draws_for(defense, stage))


def scores_every_sample(subject: Subject) -> None:
    """One finite score for each sample, whatever its companions; inputs are left alone."""
    defense = subject.as_a(Defense)
    stage = _stage(defense)
    before = stage.samples.x.clone()
    scores = _scores(defense, stage)
    require(scores.shape == (CHUNK,), f"score returned shape {tuple(scores.shape)} for {CHUNK} samples")
    require(bool(torch.isfinite(scores).all()), "score is not finite")
    require(torch.equal(stage.samples.x, before), "score changes x in place")
    order = [5, 0, 7, 3, 3, 3, 3, 3]
    require(
        torch.equal(_scores(defense, stage.take(order)), scores[order]), "a score depends on other samples"
    )


def threshold_is_a_number(subject: Subject) -> None:
    """The threshold is a finite number and lets most clean samples pass."""
    defense = subject.as_a(Defense)
    scores = _scores(defense, _stage(defense, count=CHUNK)).double().numpy()
    threshold = float(defense.threshold(scores))
    require(math.isfinite(threshold), f"the threshold is {threshold}")
    rejected = float((scores > threshold).mean())
    require(rejected <= 0.5, f"the threshold rejects {rejected:.0%} of the clean samples that it was set on")
