"""Checks of what attacks achieve: budget, classes, regression, strength."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from advbench.components.base import Attack
from advbench.runtime.threat import ball_norm, random_in_ball
from advbench.testing.check import Skip, Subject, require
from advbench.testing.spaces import REGRESSION, WIDE, a_task, changed, classes, fitting
from advbench.testing.stage import Stage, a_stage, craft_clean
from advbench.values import Constraint

BANDS = {
    "linf": [0.3, 0.5, 1.0, 0.2, 0.7],
    "l2": [3.0, 5.0, 10.0, 2.0, 7.0],
    "l1": [30.0, 50.0, 100.0, 20.0, 70.0],
    "l0": 5,
    "pixels": 3,
}
"""Budgets for the five bands of `stage.WIDE`; counts have no bands."""


def keeps_its_budget(subject: Subject) -> None:
    """No violation on five bands within [-4, 50] with a budget of its own for each, in every norm."""
    attack = subject.as_a(Attack)
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
    attack = subject.as_a(Attack)
    task = a_task(attack)
    stage = a_stage(fitting(attack, task), task, module=_Constant(task.outputs))
    craft_clean(stage, attack, subject.entry.id)


def any_number_of_classes(subject: Subject) -> None:
    """Two, three, four and ten classes all work."""
    attack = subject.as_a(Attack)
    for count in (2, 3, 4, 10):
        stage = a_stage(fitting(attack, classes(count)), classes(count))
        craft_clean(stage, attack, subject.entry.id)


def regression(subject: Subject) -> None:
    """Regressors can be attacked; the error grows."""
    attack = subject.as_a(Attack)
    # So far off that no step overshoots; a minimum-norm attack leaves alone what it cannot reach.
    far = REGRESSION if attack.tags.minimum_norm else replace(REGRESSION, tolerance=100.0)
    stage = a_stage(fitting(attack, far), far)
    crafted = craft_clean(stage, attack, subject.entry.id)
    y = stage.samples.y[:, None]
    before, after = ((stage.output(x) - y).abs().mean() for x in (stage.samples.x, crafted.x))
    require(after > before, f"the mean error went from {float(before):.3g} to {float(after):.3g}")


def stronger_than_noise(subject: Subject) -> str:
    """On a linear model it breaks at least as many samples as one draw of noise of the same budget, and some."""
    attack = subject.as_a(Attack)
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
    per_channel = torch.Size(space.shape[1:]).numel()
    weight = torch.randn(
        (task.outputs, space.shape[0], per_channel), generator=torch.Generator().manual_seed(1)
    )
    # With weights that sum to zero over every channel the middle lies on the boundary between all classes.
    weight = weight - weight.mean(2, keepdim=True) if per_channel > 1 else weight
    linear = nn.Linear(space.shape[0] * per_channel, task.outputs, bias=False)
    linear.weight.data = weight.flatten(1)
    x = a_stage(space, task, count=32).samples.x
    lower, upper = space.bounds_like(x)
    middle = (lower + upper) / 2
    contrast = torch.logspace(-3, 0, 32).view(-1, *(1,) * len(space.shape))
    return a_stage(
        space, task, module=nn.Sequential(nn.Flatten(), linear), x=middle + contrast * (x - middle)
    )


def _broken(stage: Stage, x: Tensor) -> int:
    target = stage.target()
    return int(target.is_adversarial(target.output(x), stage.samples.y).sum())


def _noise(stage: Stage, constraint: Constraint) -> Tensor:
    x = stage.samples.x
    eps = constraint.eps.like(x)
    bounds = stage.space.bounds_like(x)
    return random_in_ball(x, constraint.norm, eps, *bounds, stage.samples.rng(0, "noise"))
