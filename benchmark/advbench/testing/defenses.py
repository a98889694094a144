"""Checks of defenses, stage by stage."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from advbench.components.base import Component, Defense
from advbench.components.identity import specify
from advbench.runtime.detection import Guard, learned
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.target import Meter, PipelineTarget
from advbench.testing import defense_training
from advbench.testing.check import CheckFunction, Skip, Subject, require
from advbench.testing.spaces import SPACES, WIDE, a_task, fitting
from advbench.testing.stage import CHUNK, CPU, Stage, a_stage, draws_for, global_state, sample_draws
from advbench.testing.toybox import advbench_toys


def checks(cls: type[Component]) -> list[CheckFunction]:
    """For defenses, by their stages."""
    chosen: list[CheckFunction] = []
    if cls.tags.purifies:
        chosen += [purifies_to_the_same_kind, purifies_any_bounds, purify_is_independent, gradient_flows]
    if cls.tags.trains:
        chosen += [defense_training.trains_a_network]
    if cls.tags.wraps:
        chosen += [predicts_every_sample, gradient_through_the_wrapper]
    if cls.tags.detects:
        chosen += [scores_every_sample, threshold_is_a_number, gradient_of_the_score]
    if cls.tags.certifies:
        chosen += [certifies_what_it_predicts]
    if not cls.tags.trains:
        chosen += [adaptive_attacks_exist]
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


# --- around the network -----------------------------------------------------------------------------------------


def _stage_for_outputs(defense: Defense, count: int = CHUNK) -> Stage:
    """With dropout in its network, and features, for defenses that ask for them."""
    task = a_task(defense)
    space = fitting(defense, task)
    return a_stage(space, task, count=count, module=advbench_toys.SmallModule(space.shape, task.outputs, 0))


def _pipeline(defense: Defense, stage: Stage) -> Pipeline:
    """The network behind this defense alone, which has learned what it wants to."""
    bare = stage.pipeline
    known = learned(defense, bare, stage.samples, 0) if defense.tags.learns else {}
    around = (defense,) if defense.tags.wraps else ()
    members = (stage.network,) * defense.networks if defense.networks > 1 else ()
    return replace(bare, defenses=around, members=members, learned={0: known})


def _outputs(defense: Defense, stage: Stage, differentiable: bool = False) -> Tensor:
    draws = draws_for(defense, stage)
    return _pipeline(defense, stage).forward(stage.samples.x, stage.samples.extras, draws, differentiable)


def predicts_every_sample(subject: Subject) -> None:
    """One finite output for each sample, whatever its companions; inputs and global generators are left alone."""
    defense = subject.as_a(Defense)
    stage = _stage_for_outputs(defense)
    before, state = stage.samples.x.clone(), global_state()
    with torch.no_grad():
        found = _outputs(defense, stage)
        require(bool(torch.isfinite(found).all()), "predict is not finite")
        require(torch.equal(stage.samples.x, before), "predict changes x in place")
        require(global_state() == state, "predict draws from a global generator; draw from `rng`")
        order = [5, 0, 7, 3, 3, 3, 3, 3]
        require(
            torch.equal(_outputs(defense, stage.take(order)), found[order]),
            "a prediction depends on other samples",
        )


def gradient_through_the_wrapper(subject: Subject) -> None:
    """Adaptive attacks get through: the gradient of `surrogate_predict` is finite, and not zero everywhere."""
    defense = subject.as_a(Defense)
    stage = _stage_for_outputs(defense)
    point = stage.samples.x.clone().requires_grad_(True)
    shown = replace(stage, samples=replace(stage.samples, x=point))
    _require_gradient(
        _outputs(defense, shown, differentiable=True).square().sum(), point, "surrogate_predict"
    )


def certifies_what_it_predicts(subject: Subject) -> None:
    """A class and a radius >= 0 for each sample, -1 and 0 where it abstains, and a confidence within (0, 1)."""
    defense = subject.as_a(Defense)
    stage = _stage_for_outputs(defense)
    inside = stage.pipeline.inside(CHUNK, stage.samples.extras, stage.samples.rng(0, "check"), False)
    with torch.no_grad():
        found = defense.certify(stage.samples.x, inside, stage.space, stage.samples.rng(0, "check"))
    for name, value in found._asdict().items():
        require(value.shape == (CHUNK,), f"certify returned a {name} of shape {tuple(value.shape)}")
    require(bool((found.radius >= 0).all()), "certify returned a negative radius")
    require(
        not bool(found.radius[found.prediction == -1].any()), "certify abstains with a radius that is not 0"
    )
    require(0 < defense.confidence < 1, f"the confidence is {defense.confidence}")


def adaptive_attacks_exist(subject: Subject) -> None:
    """The attacks that it asks for are registered and take these parameters."""
    for use in subject.as_a(Defense).adaptive_attacks():
        specify(subject.plugins, "perturbation", use.use, use.params)


def _require_gradient(value: Tensor, point: Tensor, name: str) -> None:
    gradient = torch.autograd.grad(value, point, allow_unused=True)[0] if value.requires_grad else None
    require(gradient is not None, f"{name} passes no gradient: adaptive attacks would be blind")
    assert gradient is not None
    require(bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite")
    require(bool(gradient.any()), f"the gradient of {name} is zero: adaptive attacks would be blind")


# --- detection --------------------------------------------------------------------------------------------------


def _scores(defense: Defense, stage: Stage, differentiable: bool = False) -> Tensor:
    pipeline = _pipeline(defense, stage)
    guard = Guard(defense, 0.0, 1.0, False, pipeline.learned[0])
    draws = draws_for(defense, stage)
    with torch.set_grad_enabled(differentiable):
        return guard.score(pipeline, stage.samples.x, stage.samples.extras, draws, differentiable)


def scores_every_sample(subject: Subject) -> None:
    """One finite score for each sample, whatever its companions; inputs are left alone."""
    defense = subject.as_a(Defense)
    stage = _stage_for_outputs(defense)
    before = stage.samples.x.clone()
    scores = _scores(defense, stage)
    require(bool(torch.isfinite(scores).all()), "score is not finite")
    require(torch.equal(stage.samples.x, before), "score changes x in place")
    if defense.tags.learns:  # from all samples: others make another detector
        return
    order = [5, 0, 7, 3, 3, 3, 3, 3]
    require(
        torch.equal(_scores(defense, stage.take(order)), scores[order]), "a score depends on other samples"
    )


def threshold_is_a_number(subject: Subject) -> None:
    """The threshold is a finite number and lets most clean samples pass."""
    defense = subject.as_a(Defense)
    scores = _scores(defense, _stage_for_outputs(defense)).double().numpy()
    threshold = float(defense.threshold(scores))
    require(math.isfinite(threshold), f"the threshold is {threshold}")
    rejected = float((scores > threshold).mean())
    if not defense.tags.certifies:  # one that abstains may do so always, on a network of no use
        require(
            rejected <= 0.5, f"the threshold rejects {rejected:.0%} of the clean samples that it was set on"
        )


def gradient_of_the_score(subject: Subject) -> None:
    """Adaptive attacks see the detector: the gradient of `surrogate_score` is finite, and not zero everywhere."""
    defense = subject.as_a(Defense)
    stage = _stage_for_outputs(defense)
    point = stage.samples.x.clone().requires_grad_(True)
    shown = replace(stage, samples=replace(stage.samples, x=point))
    _require_gradient(_scores(defense, shown, differentiable=True).sum(), point, "surrogate_score")
