"""Checks of corruptions."""

from __future__ import annotations

import torch
from torch import Tensor

from advbench.components.base import Component, Corruption
from advbench.testing.check import CheckFunction, Skip, Subject, require
from advbench.testing.spaces import SPACES, WIDE, a_task, changed, fitting, space_of
from advbench.testing.stage import Stage, a_stage, craft_clean, craft_with, draws_for, global_state
from advbench.values import InputSpace

CHANNELS = (1, 3, 5)


def checks(cls: type[Component]) -> list[CheckFunction]:
    """For corruptions."""
    return [
        returns_inputs_of_the_same_kind,
        inputs_are_left_alone,
        global_rng_is_left_alone,
        batch_independence,
        any_number_of_channels,
        finite_everywhere,
        changes_something,
        weaker_changes_less,
    ]


def _stage(corruption: Corruption) -> Stage:
    task = a_task(corruption)
    return a_stage(fitting(corruption, task), task)


def _corrupt(corruption: Corruption, stage: Stage) -> Tensor:
    return corruption.corrupt(stage.samples.x, stage.space, draws_for(corruption, stage))


def returns_inputs_of_the_same_kind(subject: Subject) -> None:
    """Shape, dtype and device are those of the inputs; draws are declared."""
    corruption = subject.as_a(Corruption)
    stage = _stage(corruption)
    result, x = _corrupt(corruption, stage), stage.samples.x
    require(isinstance(result, Tensor), f"returned {type(result).__name__}, not a tensor")
    require(
        result.shape == x.shape, f"returned shape {tuple(result.shape)} for inputs of shape {tuple(x.shape)}"
    )
    require(result.dtype == x.dtype, f"returned {result.dtype} for inputs of {x.dtype}")
    require(result.device == x.device, f"returned a tensor on {result.device} for inputs on {x.device}")


def inputs_are_left_alone(subject: Subject) -> None:
    """Inputs are not changed in place."""
    corruption = subject.as_a(Corruption)
    stage = _stage(corruption)
    before = stage.samples.x.clone()
    _corrupt(corruption, stage)
    require(torch.equal(stage.samples.x, before), "changes x in place")


def global_rng_is_left_alone(subject: Subject) -> None:
    """Random numbers come from `rng`, never from the global generators."""
    corruption = subject.as_a(Corruption)
    stage = _stage(corruption)
    before = global_state()
    _corrupt(corruption, stage)
    require(global_state() == before, "draws from a global generator; draw from `rng`")


def batch_independence(subject: Subject) -> None:
    """The result for a sample depends neither on its companions nor on the order, bit for bit."""
    corruption, name = subject.as_a(Corruption), subject.entry.id
    stage = _stage(corruption)
    everyone = craft_with(stage, corruption, name).x
    for batch in (1, 7):
        found = craft_with(stage, corruption, name, batch=batch).x
        require(torch.equal(found, everyone), f"results differ with batches of {batch}")
    order = [5, 0, 11, 3, 8, 2, 7]
    found = craft_with(stage.take(order), corruption, name).x
    require(torch.equal(found, everyone[order]), "results differ for some of the samples in another order")


def any_number_of_channels(subject: Subject) -> None:
    """One, three and five channels work, or `supports` says why not."""
    corruption = subject.as_a(Corruption)
    task, worked = a_task(corruption), 0
    for channels in CHANNELS:
        space = space_of(channels, 12, 12)
        if corruption.supports(space, task) is None:
            craft_clean(a_stage(space, task), corruption, subject.entry.id)
            worked += 1
    if not worked:
        raise Skip(f"supports none of {CHANNELS} channels")


def finite_everywhere(subject: Subject) -> None:
    """Constant images and images at both bounds give finite values; so do bounds other than 0 and 1."""
    corruption = subject.as_a(Corruption)
    task = a_task(corruption)
    spaces = [space for space in (*SPACES, WIDE) if corruption.supports(space, task) is None]
    if not spaces:
        raise Skip(corruption.supports(WIDE, task) or "")
    for space in spaces:
        craft_clean(a_stage(space, task, x=_extremes(space)), corruption, subject.entry.id)


def _extremes(space: InputSpace) -> Tensor:
    one = torch.zeros(1, *space.shape)
    lower, upper = (bound.expand_as(one) for bound in space.bounds_like(one))
    checkered = (torch.arange(lower.numel()) % 2).view_as(lower).bool()
    return torch.cat([lower, upper, (lower + upper) / 2, torch.where(checkered, lower, upper)])


def changes_something(subject: Subject) -> None:
    """Images come out otherwise than they went in."""
    corruption = subject.as_a(Corruption)
    stage = _stage(corruption)
    result = craft_with(stage, corruption, subject.entry.id).x
    require(not torch.equal(result, stage.samples.x), "changes nothing with these parameters")


def weaker_changes_less(subject: Subject) -> None:
    """With half the strength (as tags.stronger counts it) the mean change is smaller."""
    corruption = subject.as_a(Corruption)
    strength, tags = corruption.strength(), corruption.tags
    if strength is None:
        raise Skip("tags.strength names no single number")
    value = strength * (0.5 if tags.stronger == "higher" else 1.5)
    whole = isinstance(getattr(corruption, tags.strength), int)
    weaker = changed(corruption, **{tags.strength: round(value) if whole else value})
    if weaker is None or weaker.strength() == strength:
        raise Skip(f"takes no weaker {tags.strength}")
    stage, name = _stage(corruption), subject.entry.id
    weak, strong = (
        (craft_with(stage, one, name).x - stage.samples.x).abs().mean() for one in (weaker, corruption)
    )
    require(
        weak < strong,
        f"changes more with {tags.strength} {value:g} than with {strength:g}; see tags.stronger",
    )
