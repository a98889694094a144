from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from advbench.api import Regression, ball_norm
from advbench.testing.stage import a_stage, craft_clean
from advbench_attacks.noise import RandomNoise

from .stand_in import classes, linear, random_tensor, space_of

SHAPE = (3, 8, 8)
WIDE = space_of(SHAPE, -10.0, 10.0)


def linear_stage(count=64, tolerance=None):
    """A regressor, or two classes, whose output is the first value."""
    weight = torch.zeros(1 if tolerance else 2, 192)
    weight[-1, 0] = 1
    x = torch.zeros(count, *SHAPE)
    if tolerance:
        task, y = Regression(("z",), tolerance=tolerance), torch.zeros(count)
        return a_stage(WIDE, task, module=linear(weight), x=x, y=y)
    return a_stage(WIDE, classes(2), module=linear(weight, torch.tensor([0.25, 0.0])), x=x)


def test_uniform_draws_cross_a_plane_as_often_as_they_must():
    """One draw in [-1, 1] exceeds 1/4 with probability 3/8, two or fewer of three with 1 - (5/8)^3 = .756."""
    stage = linear_stage(400)
    for draws, share in ((1, 3 / 8), (3, 1 - (5 / 8) ** 3)):
        crafted = craft_clean(stage, RandomNoise(eps=1.0, draws=draws), "noise")
        wrong = stage.output(crafted.x).argmax(1) == 1
        assert float(wrong.float().mean()) == pytest.approx(share, abs=4 * (share * (1 - share) / 400) ** 0.5)


def test_corners_move_every_value_by_the_budget():
    stage = linear_stage(200)
    crafted = craft_clean(stage, RandomNoise(eps=[1.0, 2.0, 0.0], distribution="corners", draws=1), "noise")
    assert torch.equal(crafted.x.abs().amax((0, 2, 3)), torch.tensor([1.0, 2.0, 0.0]))
    assert torch.equal(crafted.x[:, :2].abs().amin((0, 2, 3)), torch.tensor([1.0, 2.0]))
    assert float((crafted.x[:, 0, 0, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_radii_are_those_of_uniform_points(norm):
    """In d dimensions the norm of a uniform point of the unit ball has the mean d / (d + 1)."""
    stage = linear_stage(200, tolerance=1e3)
    crafted = craft_clean(stage, RandomNoise(norm=norm, eps=3.0, draws=1), "noise")
    size = ball_norm(crafted.x, norm) / 3
    assert size.max() <= 1 + 1e-6
    assert float(size.mean()) == pytest.approx(192 / 193, abs=2e-3)


def test_the_best_draw_is_kept_and_more_draws_are_never_worse():
    stage = linear_stage(50, tolerance=1e3)
    error = [
        stage.output(craft_clean(stage, RandomNoise(eps=1.0, draws=draws), "noise").x).abs()
        for draws in (1, 2, 5, 20)
    ]
    for fewer, more in pairwise(error):
        assert (more >= fewer).all()
    assert error[-1].mean() > 0.9 > error[0].mean()  # the largest of 20 has the mean 20 / 21


def test_who_is_wrong_is_drawn_for_no_more():
    stage = linear_stage(100)
    crafted = craft_clean(stage, RandomNoise(eps=1.0, draws=6), "noise")
    wrong = stage.output(crafted.x).argmax(1) == 1
    assert set(crafted.forward[~wrong].tolist()) <= {6}
    assert 1 <= crafted.forward[wrong].float().mean() < 4
    assert not crafted.backward.any()
    every = craft_clean(stage, RandomNoise(eps=1.0, draws=6, stop_on_success=False), "noise")
    assert every.forward.tolist() == [6] * 100


def test_a_black_box_will_do():
    stage = linear_stage(10)
    x = random_tensor(10, *SHAPE)
    assert craft_clean(stage, RandomNoise(eps=1.0), "noise", knowledge="blackbox").x.shape == x.shape


def test_parameters():
    with pytest.raises(ValidationError, match="an l2 ball has no corners"):
        RandomNoise(norm="l2", distribution="corners")
    assert RandomNoise(draws=7).passes() == 7
