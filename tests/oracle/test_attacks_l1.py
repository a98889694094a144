"""Sparse steps, the projection on l1 ball and box, and l1 attacks on models with a known optimum."""

from __future__ import annotations

import pytest
import torch

from advbench.api import ball_norm
from advbench.testing.stage import a_stage
from advbench_attacks.apgd import apgd
from advbench_attacks.l1 import onto_ball_and_box, sparse_step
from advbench_attacks.pgd import pgd

from .stand_in import classes, linear, random_tensor, space_of

ONE = torch.ones(1, 1, 1, 1)
FREE = (-100 * ONE, 100 * ONE)


def row(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


def test_a_step_moves_the_largest_gradients_by_equal_parts():
    step = sparse_step(torch.zeros(1, 1, 1, 4), row(3.0, -5.0, 1.0, 0.0), ONE, torch.tensor([2]), FREE)
    assert step.flatten().tolist() == [0.5, -0.5, 0.0, 0.0]


def test_what_cannot_move_outwards_is_passed_over():
    point = row(1.0, 0.0, 0.5, 0.5)
    step = sparse_step(point, row(9.0, -8.0, 2.0, 1.0), ONE, torch.tensor([1]), (0 * ONE, ONE))
    assert step.flatten().tolist() == [0.0, 0.0, 1.0, 0.0]
    inwards = sparse_step(point, row(-9.0, -8.0, 2.0, 1.0), ONE, torch.tensor([1]), (0 * ONE, ONE))
    assert inwards.flatten().tolist() == [-1.0, 0.0, 0.0, 0.0]


def test_samples_move_as_many_values_as_each_is_told():
    gradient = random_tensor(3, 2, 4, 4, low=-1)
    alpha = torch.tensor([0.1, 2.0]).view(1, 2, 1, 1)
    step = sparse_step(torch.zeros_like(gradient), gradient, alpha, torch.tensor([1, 7, 32]), FREE)
    assert (step != 0).flatten(1).sum(1).tolist() == [1, 7, 32]
    assert torch.allclose(ball_norm(step, "l1", alpha), torch.ones(3).double(), rtol=1e-6)
    assert torch.equal(step.sign()[2], gradient.sign()[2])
    largest = (gradient * alpha)[0].abs().argmax()
    assert step[0].flatten()[largest] != 0


def test_no_gradient_no_step():
    step = sparse_step(torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2), ONE, torch.tensor([3, 1]), FREE)
    assert torch.equal(step, torch.zeros(2, 1, 2, 2))


def nearest_by_bisection(point, x, eps, lower, upper):
    """The same projection in units of eps, by 200 halvings of the multiplier in float64."""
    point, x, eps = point.double(), x.double(), eps.double().expand_as(x)
    u = (point - x) / eps
    room = torch.where(u > 0, upper.double() - x, x - lower.double()) / eps
    low, high = torch.zeros(len(x), 1).double(), u.flatten(1).abs().amax(1, keepdim=True)
    for _ in range(200):
        middle = (low + high) / 2
        kept = torch.minimum((u.flatten(1).abs() - middle).clamp_min(0), room.flatten(1))
        over = kept.sum(1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    inside = torch.minimum(u.flatten(1).abs(), room.flatten(1)).sum(1, keepdim=True) <= 1
    shift = torch.where(inside, 0.0, high)
    kept = torch.minimum((u.flatten(1).abs() - shift).clamp_min(0), room.flatten(1)).view_as(x)
    return x + u.sign() * kept * eps


@pytest.mark.parametrize("spread", [0.02, 0.3, 3.0])
def test_the_projection_is_the_nearest_point(spread):
    lower, upper = (torch.tensor(v).view(1, 2, 1, 1) for v in ([-4.0, 10.0], [50.0, 11.0]))
    x = (lower + (upper - lower) * random_tensor(20, 2, 9, 9, seed=1, low=-0.2, high=1.2)).clamp(lower, upper)
    eps = torch.tensor([8.0, 0.5]).view(1, 2, 1, 1) * torch.linspace(0.1, 2, 20).view(-1, 1, 1, 1)
    point = x + spread * (upper - lower) * random_tensor(20, 2, 9, 9, seed=2, low=-1)
    found = onto_ball_and_box(point, x, eps, (lower, upper))
    expected = nearest_by_bisection(point, x, eps, lower, upper)
    # A hundred-thousandth of the ball may be left unused, and rounding takes as much at 50 as 4e-6.
    assert torch.allclose(found.double(), expected, rtol=0, atol=5e-5)
    assert ball_norm(found - x, "l1", eps).max() <= 1 + 1e-6
    assert ((found >= lower) & (found <= upper)).all()
    alone = torch.cat([onto_ball_and_box(point[i : i + 1], x[i : i + 1], eps[i : i + 1], (lower, upper))
                       for i in range(20)])  # fmt: skip
    assert torch.equal(alone, found)


def test_points_inside_and_channels_without_budget():
    x = random_tensor(3, 2, 4, 4)
    eps = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    bounds = (0 * ONE, ONE)
    near = (x + 0.01 * random_tensor(3, 2, 4, 4, seed=3, low=-1)).clamp(0, 1)
    near[:, 1] = x[:, 1]
    assert torch.allclose(onto_ball_and_box(near, x, eps, bounds), near, rtol=0, atol=1e-7)
    found = onto_ball_and_box(near + 0.5, x, eps, bounds)
    assert torch.equal(found[:, 1], x[:, 1])
    assert ball_norm(found - x, "l1", eps).max() <= 1 + 1e-6


def linear_case(outputs):
    """A linear classifier without near bounds and the exact l1 distance of each input."""
    weight = random_tensor(outputs, 48, seed=outputs, low=-1)
    x = random_tensor(8, 3, 4, 4, seed=2)
    stage = a_stage(space_of((3, 4, 4), -50.0, 50.0), classes(outputs), module=linear(weight), x=x)
    y, output = stage.samples.y, stage.output()
    gap = output.gather(1, y[:, None]) - output
    slope = (weight[y][:, None] - weight).abs().amax(2)
    return stage, torch.where(gap > 0, gap / slope, torch.inf).amin(1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("outputs", [2, 3, 4, 10])
def test_linear_classes_are_parted_at_the_distance(outputs):
    stage, distance = linear_case(outputs)
    for factor, success in ((0.999, False), (1.02, True)):
        rng, target = stage.samples.rng(0, "t"), stage.target()
        found = apgd(
            stage.samples.x, stage.samples.y, target, rng, norm="l1", eps=distance * factor, steps=100,
            loss="margin" if outputs == 2 else "dlr",
        )  # fmt: skip
        hit = target.is_adversarial(target.output(found), stage.samples.y)
        # With more classes the nearest one is not always the one that the loss follows.
        assert int(hit.sum()) == 0 if not success else int(hit.sum()) >= (8 if outputs == 2 else 5)


def test_pgd_with_one_value_at_a_time_parts_two_linear_classes():
    stage, distance = linear_case(2)
    for factor, success in ((0.999, 0), (1.01, 8)):
        target, eps = stage.target(), distance * factor
        found = pgd(
            stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t"),
            norm="l1", eps=eps, alpha=eps / 4, steps=40, density=1e-6,
        )  # fmt: skip
        assert int(target.is_adversarial(target.output(found), stage.samples.y).sum()) == success


def test_in_a_box_the_budget_goes_where_there_is_room():
    """Weights fall off; every value has room 0.1: the optimum fills the values of the largest weights."""
    weight = torch.zeros(2, 16)
    weight[1] = torch.linspace(1, 0.1, 16)
    x = torch.full((1, 1, 4, 4), 0.9)
    module = linear(weight, torch.tensor([100.0, 0.0]))
    stage = a_stage(space_of((1, 4, 4)), classes(2), module=module, x=x)
    eps = torch.full((1, 1, 1, 1), 0.5)
    found = apgd(x, stage.samples.y, stage.target(), stage.samples.rng(0, "t"), norm="l1", eps=eps, steps=100)
    best = float(weight[1][:5].sum()) * 0.1
    gained = float(stage.output(found)[0, 1] - stage.output(x)[0, 1])
    assert 0.98 * best < gained <= best * 1.0001  # steps do not get shorter than eps / 10
