from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from advbench.api import Regression, ball_norm
from advbench.testing.stage import a_stage, craft_clean
from advbench.values import Mask
from advbench_attacks.bisection import Bisection, bisect
from advbench_attacks.fgsm import fgsm
from advbench_attacks.nearest import farthest
from advbench_attacks.pgd import pgd

from .stand_in import classes, linear, random_tensor, small_network, space_of

SHAPE = (3, 4, 4)
WIDE = space_of(SHAPE, -10.0, 10.0)
DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}


def linear_stage(outputs, space=WIDE, count=8):
    weight = random_tensor(outputs, 48, seed=outputs, low=-1)
    x = random_tensor(count, *SHAPE, seed=2)
    stage = a_stage(space, classes(outputs), module=linear(weight), x=x)
    y, output = stage.samples.y, stage.output()
    gap = output.gather(1, y[:, None]) - output
    distance = {}
    for norm, order in DUAL.items():
        slope = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=order, dim=2)
        distance[norm] = torch.where(gap > 0, gap / slope, torch.inf).amin(1).double()
    return stage, distance


def signed_step(x, y, target, rng, eps):
    return fgsm(x, y, target, eps=eps)


def steps_of(norm):
    def attack(x, y, target, rng, eps):
        return pgd(x, y, target, rng, norm=norm, eps=eps, alpha=eps / 4, steps=40, random_start=False)

    return attack


def verified(stage, smallest, norm):
    """What was found is adversarial and as far away as it says."""
    target, samples = stage.target(), stage.samples
    wrong = target.is_adversarial(target.output(smallest.point), samples.y)
    assert torch.equal(wrong, smallest.eps.isfinite())
    size = ball_norm(smallest.point - samples.x, norm)
    assert torch.equal(size[wrong], smallest.eps[wrong])
    assert torch.equal(smallest.point[~wrong], samples.x[~wrong])
    return smallest.eps


@pytest.mark.parametrize(("norm", "limit"), [("linf", 1.001), ("l2", 1.001), ("l1", 1.01)])
def test_the_distance_of_two_linear_classes(norm, limit):
    stage, distance = linear_stage(2)
    samples = stage.samples
    smallest = bisect(
        samples.x, samples.y, stage.target(), samples.rng(0, "t"), steps_of(norm), norm=norm, search_steps=12
    )
    ratio = verified(stage, smallest, norm) / distance[norm]
    assert ratio.min() > 0.9999
    assert ratio.max() <= limit


def test_one_step_is_enough_on_a_line():
    stage, distance = linear_stage(2)
    samples, target = stage.samples, stage.target()
    smallest = bisect(
        samples.x, samples.y, target, samples.rng(0, "t"), signed_step, norm="linf", search_steps=12
    )
    assert (verified(stage, smallest, "linf") / distance["linf"]).max() <= 1.001
    assert target.meter.forward.tolist() == [1 + 12 * 2] * 8
    assert target.meter.backward.tolist() == [1 + 12] * 8


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("outputs", [3, 4, 10])
def test_any_number_of_classes(norm, outputs):
    stage, distance = linear_stage(outputs)
    crafted = craft_clean(stage, Bisection(norm=norm, search_steps=12), "attack")
    ratio = ball_norm(crafted.x - stage.samples.x, norm) / distance[norm]
    assert ratio.min() > 0.9999
    # The margin follows the runner-up, which is not always the class next to the sample.
    assert ratio.median() <= 1.05
    assert ratio.max() <= 2


@pytest.mark.parametrize("goal", ["untargeted", "up", "down"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_regression(norm, goal):
    weight = random_tensor(1, 48, low=-1)
    x = random_tensor(6, *SHAPE, seed=2)
    error = torch.linspace(-0.15, 0.15, 6)
    task = Regression(("z",), tolerance=0.2)
    stage = a_stage(WIDE, task, module=linear(weight), x=x, y=x.flatten(1) @ weight[0] - error)
    crafted = craft_clean(stage, Bisection(norm=norm, goal=goal, search_steps=12), "attack")
    slope = torch.linalg.vector_norm(weight[0], ord=DUAL[norm])
    gap = {"untargeted": 0.2 - error.abs(), "up": 0.2 - error, "down": 0.2 + error}[goal]
    ratio = ball_norm(crafted.x - x, norm) / (gap / slope)
    assert ratio.min() > 0.999
    assert ratio.max() <= 1.01


class Window(nn.Module):
    """Wrong where the mean lies between .6 and .62, far from the start and easily overshot."""

    def forward(self, x):
        value = x.flatten(1).mean(1)
        return torch.stack([10 * (value - 0.61).abs() - 0.1, 0 * value], 1)


def test_an_attack_that_overshoots_with_more_than_it_needs():
    stage = a_stage(space_of(SHAPE), classes(2), module=Window(), x=torch.full((1, *SHAPE), 0.5))
    samples = stage.samples
    smallest = bisect(
        samples.x, samples.y, stage.target(), samples.rng(0, "t"), signed_step, norm="linf", search_steps=12
    )
    assert float(verified(stage, smallest, "linf")) == pytest.approx(0.1, rel=1e-2)


def test_out_of_reach_stays_as_it_is_and_costs_little():
    stage, distance = linear_stage(2)
    samples, target = stage.samples, stage.target()
    limit = distance["l2"] * torch.tensor([0.5, 1.5] * 4)
    smallest = bisect(
        samples.x, samples.y, target, samples.rng(0, "t"), steps_of("l2"),
        norm="l2", search_steps=10, eps_max=limit,
    )  # fmt: skip
    size = verified(stage, smallest, "l2")
    assert size.isfinite().tolist() == [False, True] * 4
    assert (size[1::2] <= limit[1::2]).all()
    assert target.meter.backward[::2].tolist() == [41] * 4


def test_points_that_are_adversarial_already_need_nothing():
    stage, _ = linear_stage(2)
    samples, target = stage.samples, stage.target()
    smallest = bisect(
        samples.x, 1 - samples.y, target, samples.rng(0, "t"), steps_of("l2"), norm="l2", search_steps=4
    )
    assert smallest.eps.tolist() == [0.0] * 8
    assert torch.equal(smallest.point, samples.x)
    assert target.meter.forward.tolist() == [1] * 8


def test_how_far_bounds_and_mask_reach():
    space = space_of((2, 2, 2), [-4.0, 0.0], [50.0, 1.0])
    x = torch.tensor([[[[0.0, 10.0], [30.0, 50.0]], [[0.0, 0.25], [0.5, 1.0]]]])
    stage = a_stage(space, classes(2), module=small_network(2, 2), x=x)
    assert farthest(x, "linf", stage.target()).tolist() == [54.0]
    assert farthest(x, "l1", stage.target()).tolist() == pytest.approx(
        [50 + 40 + 34 + 54 + 1 + 0.75 + 0.5 + 1]
    )
    second = replace(stage.target(), mask=Mask(channels=(1,)).like(x, space))
    assert farthest(x, "linf", second).tolist() == [1.0]


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "apgd"])
def test_within_bounds_and_mask(attack):
    space = space_of(SHAPE, -4.0, 50.0)
    x = 25 + 5 * random_tensor(12, *SHAPE, low=-1)
    stage = a_stage(space, classes(3), module=nn.Sequential(nn.BatchNorm2d(3), small_network(3, 3)), x=x / 10)
    mask = Mask(channels=(0, 2), box=(0, 1, 3, 3))
    steps = {} if attack == "fgsm" else {"steps": 8}
    crafted = craft_clean(stage, Bisection(attack=attack, norm="linf", mask=mask, **steps), "attack")
    outside = ~mask.like(x, space).expand_as(x)
    assert torch.equal(crafted.x[outside], stage.samples.x[outside])
    target = stage.target()
    wrong = target.is_adversarial(target.output(crafted.x), stage.samples.y)
    assert torch.equal(wrong, (crafted.x != stage.samples.x).flatten(1).any(1))
    assert wrong.any()


def test_it_is_no_further_than_a_grid_of_budgets():
    """Every sample that the attack wrongs with a budget of a grid has been found within it, or nearly."""
    x = random_tensor(30, *SHAPE, seed=3)
    stage = a_stage(space_of(SHAPE), classes(3), module=small_network(3, 3), x=x)
    samples, attack = stage.samples, steps_of("linf")
    smallest = bisect(
        x, samples.y, stage.target(), samples.rng(0, "t"), attack, norm="linf", search_steps=10
    ).eps
    for eps in (0.01, 0.02, 0.04, 0.08):
        target = stage.target()
        found = attack(x, samples.y, target, samples.rng(0, "t"), torch.full((30, 1, 1, 1), eps))
        wrong = target.is_adversarial(target.output(found), samples.y)
        assert (smallest[wrong] <= 1.02 * eps).float().mean() >= 0.95


def test_parameters():
    with pytest.raises(ValidationError, match="fgsm takes a step in linf, not in l2"):
        Bisection(attack="fgsm")
    assert Bisection(attack="fgsm", norm="linf", search_steps=10).passes() == 2 + 10 * 3
    assert Bisection(steps=40, search_steps=10).passes() == 2 + 10 * 82
    stage, _ = linear_stage(2)
    crafted = craft_clean(stage, Bisection(steps=5, search_steps=3), "attack")
    assert int((crafted.forward + crafted.backward).max()) <= Bisection(steps=5, search_steps=3).passes()
