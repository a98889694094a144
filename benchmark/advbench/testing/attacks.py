"""Checks of attacks, on a tiny network under the real harness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advbench.components.base import Attack, Component
from advbench.errors import PluginError, Stop
from advbench.runtime.cell import Crafted
from advbench.runtime.network import Untouched
from advbench.runtime.target import Meter
from advbench.testing import attack_results as results
from advbench.testing.check import CheckFunction, Subject, require
from advbench.testing.spaces import a_task, fitting
from advbench.testing.stage import Stage, a_stage, craft_clean, craft_with, draws_for, global_state


def checks(cls: type[Component]) -> list[CheckFunction]:
    """For attacks."""
    chosen: list[CheckFunction] = [
        returns_inputs_of_the_same_kind,
        inputs_are_left_alone,
        network_is_left_alone,
        global_rng_is_left_alone,
        results.keeps_its_budget,
        gradients_only_if_declared,
        extra_inputs,
        results.constant_network,
    ]
    if not cls.tags.universal:  # what is learned from many inputs depends on them, and has no budget for each
        chosen += [batch_independence, stops_when_told, results.stronger_than_noise]
    if "classification" in cls.tags.tasks:
        chosen.append(results.any_number_of_classes)
    if "regression" in cls.tags.tasks:
        chosen.append(results.regression)
    return chosen


def _stage(attack: Attack, count: int = 12) -> Stage:
    task = a_task(attack)
    return a_stage(fitting(attack, task), task, count=count)


def _perturb(attack: Attack, stage: Stage) -> Tensor:
    x, y = stage.samples.x, stage.samples.y
    target, rng = stage.target(), draws_for(attack, stage)
    return (
        x + attack.universal(x, y, target, rng)
        if attack.tags.universal
        else attack.perturb(x, y, target, rng)
    )


def returns_inputs_of_the_same_kind(subject: Subject) -> None:
    """Shape, dtype and device are those of the inputs, the result hangs on no graph; draws are declared."""
    attack = subject.as_a(Attack)
    stage = _stage(attack)
    result, x = _perturb(attack, stage), stage.samples.x
    require(isinstance(result, Tensor), f"returned {type(result).__name__}, not a tensor")
    require(
        result.shape == x.shape, f"returned shape {tuple(result.shape)} for inputs of shape {tuple(x.shape)}"
    )
    require(result.dtype == x.dtype, f"returned {result.dtype} for inputs of {x.dtype}")
    require(result.device == x.device, f"returned a tensor on {result.device} for inputs on {x.device}")
    require(not result.requires_grad, "the result requires a gradient; detach it")


def inputs_are_left_alone(subject: Subject) -> None:
    """Inputs and targets are not changed in place."""
    attack = subject.as_a(Attack)
    stage = _stage(attack)
    x, y = stage.samples.x.clone(), stage.samples.y.clone()
    _perturb(attack, stage)
    require(torch.equal(stage.samples.x, x), "changes x in place")
    require(torch.equal(stage.samples.y, y), "changes y in place")
    require(not stage.samples.x.requires_grad, "leaves requires_grad on for x")


def network_is_left_alone(subject: Subject) -> None:
    """The network stays in eval mode, frozen and without gradients; gradients stay as enabled as they were."""
    attack = subject.as_a(Attack)
    stage = _stage(attack)
    guard, enabled = Untouched(stage.network), torch.is_grad_enabled()
    _perturb(attack, stage)
    require(guard.complaint() is None, guard.complaint() or "")
    require(torch.is_grad_enabled() == enabled, "switches gradients on or off for everyone")


def global_rng_is_left_alone(subject: Subject) -> None:
    """Random numbers come from `rng`, never from the global generators."""
    attack = subject.as_a(Attack)
    stage = _stage(attack)
    before = global_state()
    _perturb(attack, stage)
    require(global_state() == before, "draws from a global generator; draw from `rng`")


def batch_independence(subject: Subject) -> None:
    """The result for a sample depends neither on its companions nor on the order."""
    attack = subject.as_a(Attack)
    stage, name = _stage(attack), subject.entry.id
    everyone = craft_with(stage, attack, name)
    for batch in (1, 7):
        _require_same(everyone, craft_with(stage, attack, name, batch=batch), f"batches of {batch}")
    order = [5, 0, 11, 3, 8, 2, 7]
    some = craft_with(stage.take(order), attack, name)
    kept = Crafted(
        everyone.x[order], everyone.violation[order], everyone.forward[order], everyone.backward[order]
    )
    _require_same(kept, some, "some of the samples in another order")


def _require_same(expected: Crafted, found: Crafted, how: str) -> None:
    apart = (expected.x != found.x).flatten(1).any(1)
    require(not bool(apart.any()), f"{int(apart.sum())} of {len(apart)} results differ with {how}")
    require(torch.equal(expected.forward, found.forward), f"another number of passes with {how}")


def gradients_only_if_declared(subject: Subject) -> None:
    """It asks for gradients if, and only if, tags.needs_gradient says so."""
    attack = subject.as_a(Attack)
    stage = _stage(attack)
    crafted = craft_with(stage, attack, subject.entry.id)
    asked = bool(crafted.backward.any())
    if attack.tags.needs_gradient:
        require(asked, "never asks for a gradient, but tags.needs_gradient bars it from black boxes")
        return
    require(not asked, "asks for gradients, but tags.needs_gradient is False")
    try:
        craft_with(stage, attack, subject.entry.id, knowledge="blackbox")
    except PluginError as error:
        require(False, f"does not work on a black box: {error}")


@dataclass
class _Ringing(Meter):
    """A meter that remembers whether it has told the attack to stop."""

    rang: bool = False

    def charge(self, rows: Tensor, forward: int, backward: int) -> Tensor:
        """Count passes."""
        try:
            return super().charge(rows, forward, backward)
        except Stop:
            self.rang = True
            raise


def stops_when_told(subject: Subject) -> None:
    """`Stop`, raised when the budget of passes is spent, goes through it; what it cost is counted."""
    attack = subject.as_a(Attack)
    stage = _stage(attack)
    meter = _Ringing(stage.samples.x, stage.samples.y, budget=1)
    try:
        attack.perturb(stage.samples.x, stage.samples.y, stage.target(meter=meter), draws_for(attack, stage))
    except Stop:
        pass
    else:
        require(not meter.rang, "catches advbench.api.Stop; let it pass")
    crafted = craft_clean(stage, attack, subject.entry.id, budget=5)
    spent = int((crafted.forward + crafted.backward).max())
    require(spent <= 5, f"spent {spent} passes of a budget of 5")


def extra_inputs(subject: Subject) -> None:
    """Extra scalar inputs of the network are used as they are."""
    attack = subject.as_a(Attack)
    task = a_task(attack)
    reddening = torch.linspace(0, 1, 12)[:, None]
    stage = a_stage(fitting(attack, task), task, extras={"reddening": reddening.clone()})
    _perturb(attack, stage)
    require(torch.equal(stage.samples.extras["reddening"], reddening), "changes the extra inputs in place")
    craft_clean(stage, attack, subject.entry.id, batch=5)
