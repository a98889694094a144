"""Checks of attacks, on a tiny network under the real harness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advbench.components.base import Attack, Component
from advbench.errors import PluginError, Stop
from advbench.runtime.cell import Crafted
from advbench.runtime.network import Untouched
from advbench.runtime.target import Meter
from advbench.runtime.threat import ball_norm, random_in_ball
from advbench.testing.check import CheckFunction, Skip, Subject, require
from advbench.testing.stage import (
    REGRESSION,
    WIDE,
    Stage,
    a_stage,
    a_task,
    changed,
    classes,
    craft_clean,
    craft_with,
    draws_for,
    fitting,
    global_state,
)
from advbench.values import Constraint

BANDS = {
    "linf": [0.3, 0.5, 1.0, 0.2, 0.7],
    "l2": [3.0, 5.0, 10.0, 2.0, 7.0],
    "l1": [30.0, 50.0, 100.0, 20.0, 70.0],
    "l0": 5,
    "pixels": 3,
}
"""Budgets for the five bands of `stage.WIDE`; counts have no bands."""


def checks(cls: type[Component]) -> list[CheckFunction]:
    """For attacks."""
    chosen: list[CheckFunction] = [
        returns_inputs_of_the_same_kind,
        inputs_are_left_alone,
        network_is_left_alone,
        global_rng_is_left_alone,
        batch_independence,
        keeps_its_budget,
        gradients_only_if_declared,
        stops_when_told,
        extra_inputs,
        constant_network,
        stronger_than_noise,
    ]
    if "classification" in cls.tags.tasks:
        chosen.append(any_number_of_classes)
    if "regression" in cls.tags.tasks:
        chosen.append(regression)
    return chosen


def _attack(subject: Subject) -> Attack:
    assert isinstance(subject.component, Attack)
    return subject.component


def _stage(attack: Attack, count: int = 12) -> Stage:
    task = a_task(attack)
    return a_stage(fitting(attack, task), task, count=count)


def _perturb(attack: Attack, stage: Stage) -> Tensor:
    return attack.perturb(stage.samples.x, stage.samples.y, stage.target(), draws_for(attack, stage))


def returns_inputs_of_the_same_kind(subject: Subject) -> None:
    """Shape, dtype and device are those of the inputs, the result hangs on no graph; draws are declared."""
    attack = _attack(subject)
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
    attack = _attack(subject)
    stage = _stage(attack)
    x, y = stage.samples.x.clone(), stage.samples.y.clone()
    _perturb(attack, stage)
    require(torch.equal(stage.samples.x, x), "changes x in place")
    require(torch.equal(stage.samples.y, y), "changes y in place")
    require(not stage.samples.x.requires_grad, "leaves requires_grad on for x")


def network_is_left_alone(subject: Subject) -> None:
    """The network stays in eval mode, frozen and without gradients; gradients stay as enabled as they were."""
    attack = _attack(subject)
    stage = _stage(attack)
    guard, enabled = Untouched(stage.network), torch.is_grad_enabled()
    _perturb(attack, stage)
    require(guard.complaint() is None, guard.complaint() or "")
    require(torch.is_grad_enabled() == enabled, "switches gradients on or off for everyone")


def global_rng_is_left_alone(subject: Subject) -> None:
    """Random numbers come from `rng`, never from the global generators."""
    attack = _attack(subject)
    stage = _stage(attack)
    before = global_state()
    _perturb(attack, stage)
    require(global_state() == before, "draws from a global generator; draw from `rng`")


def batch_independence(subject: Subject) -> None:
    """The result for a sample depends neither on its companions nor on the order."""
    attack = _attack(subject)
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


def keeps_its_budget(subject: Subject) -> None:
    """No violation on five bands within [-4, 50] with a budget of its own for each, in every norm."""
    attack = _attack(subject)
    task = a_task(attack)
    variants = [attack if attack.constraint() is None else _in_bands(attack, norm) for norm in _norms(attack)]
    tried = [one for one in variants if one is not None and one.supports(WIDE, task) is None]
    if not tried:
        raise Skip(attack.supports(WIDE, task) or "takes no other budget")
    for one in tried:
        stage = a_stage(WIDE, task)
        crafted = craft_clean(stage, one, subject.entry.id)
        lower, upper = WIDE.bounds_like(crafted.x)
        require(bool(((crafted.x >= lower) & (crafted.x <= upper)).all()), "left the bounds")


def _norms(attack: Attack) -> list[str]:
    return sorted(attack.tags.norms) if "norm" in type(attack).model_fields else [""]


def _in_bands(attack: Attack, norm: str) -> Attack | None:
    constraint = attack.constraint()
    assert constraint is not None
    bands = BANDS[norm or constraint.norm]
    chosen = {"norm": norm} if norm else {}
    per_band = changed(attack, eps=bands, **chosen)
    if per_band is not None and per_band.supports(WIDE, a_task(attack)) is None:
        return per_band
    return changed(attack, eps=bands[0] if isinstance(bands, list) else bands, **chosen)


def gradients_only_if_declared(subject: Subject) -> None:
    """It asks for gradients if, and only if, tags.needs_gradient says so."""
    attack = _attack(subject)
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
    attack = _attack(subject)
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
    attack = _attack(subject)
    task = a_task(attack)
    reddening = torch.linspace(0, 1, 12)[:, None]
    stage = a_stage(fitting(attack, task), task, extras={"reddening": reddening.clone()})
    craft_clean(stage, attack, subject.entry.id, batch=5)
    require(torch.equal(stage.samples.extras["reddening"], reddening), "changes the extra inputs")


class _Constant(nn.Module):
    """The same output for every input; its gradient is zero everywhere."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("output", torch.arange(outputs, 0, -1).float())

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (b, k)."""
        return self.get_buffer("output") + 0 * x.flatten(1).sum(1, keepdim=True)


def constant_network(subject: Subject) -> None:
    """Where the gradient is zero nothing breaks: no NaN, no value beyond the budget."""
    attack = _attack(subject)
    task = a_task(attack)
    stage = a_stage(fitting(attack, task), task, module=_Constant(task.outputs))
    craft_clean(stage, attack, subject.entry.id)


def any_number_of_classes(subject: Subject) -> None:
    """Two, three, four and ten classes all work."""
    attack = _attack(subject)
    for count in (2, 3, 4, 10):
        stage = a_stage(fitting(attack, classes(count)), classes(count))
        craft_clean(stage, attack, subject.entry.id)


def regression(subject: Subject) -> None:
    """Regressors can be attacked; the error grows."""
    attack = _attack(subject)
    stage = a_stage(fitting(attack, REGRESSION), REGRESSION)
    crafted = craft_clean(stage, attack, subject.entry.id)
    y = stage.samples.y[:, None]
    before, after = ((stage.output(x) - y).abs().mean() for x in (stage.samples.x, crafted.x))
    require(after > before, f"the mean error went from {float(before):.3g} to {float(after):.3g}")


def stronger_than_noise(subject: Subject) -> str:
    """On a linear model it breaks at least as many samples as one draw of noise of the same budget, and some."""
    attack = _attack(subject)
    stage = _linear_stage(attack)
    crafted = craft_clean(stage, attack, subject.entry.id)
    broken = _broken(stage, crafted.x)
    require(broken > 0, f"breaks none of {len(stage.samples)} samples, most of which are next to a boundary")
    constraint = attack.constraint()
    if constraint is None:
        return f"breaks {broken} of {len(stage.samples)}"
    noise = _broken(stage, _noise(stage, constraint))
    require(
        broken >= noise, f"breaks {broken} samples of {len(stage.samples)}, noise of the same size {noise}"
    )
    size = ball_norm(crafted.x - stage.samples.x, constraint.norm, constraint.eps.like(crafted.x)).max()
    require(size > 0, "changes nothing")
    return f"breaks {broken} of {len(stage.samples)}, noise {noise}"


def _linear_stage(attack: Attack) -> Stage:
    """A linear model; distances to its boundaries run over three decades."""
    task = a_task(attack)
    space = fitting(attack, task)
    module = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(space.shape).numel(), task.outputs, bias=False))
    weights = torch.randn(module[1].weight.shape, generator=torch.Generator().manual_seed(1))
    module[1].weight.data = weights
    plain = a_stage(space, task, module=module, count=32)
    lower, upper = space.bounds_like(plain.samples.x)
    middle = (lower + upper) / 2
    contrast = torch.logspace(-3, 0, 32).view(-1, *(1,) * len(space.shape))
    x = middle + contrast * (plain.samples.x - middle)
    # With weights that sum to zero over every channel the middle lies on the boundary between all classes.
    centred = module[1].weight.view(task.outputs, space.shape[0], -1)
    module[1].weight.data = (centred - centred.mean(2, keepdim=True)).flatten(1)
    return a_stage(space, task, module=module, x=x)


def _broken(stage: Stage, x: Tensor) -> int:
    target = stage.target()
    return int(target.is_wrong(target.output(x), stage.samples.y).sum())


def _noise(stage: Stage, constraint: Constraint) -> Tensor:
    x = stage.samples.x
    eps = constraint.eps.like(x)
    bounds = stage.space.bounds_like(x)
    return random_in_ball(x, constraint.norm, eps, *bounds, stage.samples.rng(0, "noise"))
