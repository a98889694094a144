"""The ensemble against closed forms, and against each of its members."""

import pytest
import torch
from tests.oracle.stand_in import classes, linear, random_tensor, small_network
from torch import Tensor

from advbench.api import InputSpace, Regression
from advbench.testing.stage import Stage, a_stage
from advbench_attacks.apgd import apgd
from advbench_attacks.auto import auto
from advbench_attacks.square import square

SPACE = InputSpace((2, 4, 4), (-4.0, 0.0), (50.0, 90.0), ("u", "g"))
WIDE = InputSpace((2, 4, 4), (-4000.0, -3000.0), (5000.0, 9000.0), ("u", "g"))


def run(stage: Stage, norm: str, eps: float, **options: int) -> Tensor:
    """Which samples the ensemble breaks, bool (b,)."""
    target = stage.target()
    x, y = stage.samples.x, stage.samples.y
    size = torch.full((1, 1, 1, 1), eps)
    given = {"steps": 20, "queries": 30, **options}
    point = auto(x, y, target, stage.samples.rng(0, "auto"), norm=norm, eps=size, **given)
    return stage.target().is_adversarial(stage.target().output(point), y)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("count", [2, 3, 4, 10])
def test_on_a_linear_network_it_breaks_whoever_is_in_reach(norm: str, count: int) -> None:
    weight = random_tensor(count, 32, seed=count, low=-1.0)
    x = random_tensor(40, 2, 4, 4, seed=1, low=15.0, high=25.0)
    stage = a_stage(WIDE, classes(count), module=linear(weight), x=x)
    output, y = stage.output(), stage.samples.y
    gap = output.gather(1, y[:, None]) - output
    apart = weight[y][:, None] - weight[None]
    dual = {"linf": apart.abs().sum(2), "l2": apart.norm(dim=2), "l1": apart.abs().amax(2)}[norm]
    distance = (gap / dual).masked_fill(dual == 0, torch.inf).amin(1)
    eps = float(distance.median()) * 1.001
    broken = run(stage, norm, eps)
    near, far = distance < eps * 0.99, distance > eps
    assert near.any()
    assert far.any()
    assert broken[near].all()
    assert not broken[far].any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_breaks_whatever_one_of_its_members_breaks(norm: str) -> None:
    stage = a_stage(SPACE, classes(3), module=small_network(2, 3), count=40)
    eps = 0.4 if norm == "linf" else 1.5
    size = torch.full((1, 1, 1, 1), eps)
    x, y = stage.samples.x, stage.samples.y
    broken = run(stage, norm, eps)
    assert 0 < int(broken.sum()) < 40
    for point in (
        apgd(x, y, stage.target(), stage.samples.rng(0, "auto"), norm=norm, eps=size, steps=20, loss="ce"),
        square(x, y, stage.target(), stage.samples.rng(0, "auto"), norm=norm, eps=size, queries=30),
    ):
        alone = stage.target().is_adversarial(stage.target().output(point), y)
        assert not (alone & ~broken).any()


def test_what_is_broken_costs_nothing_more() -> None:
    stage = a_stage(SPACE, classes(3), module=small_network(2, 3), count=20)
    target = stage.target()
    size = torch.full((1, 1, 1, 1), 100.0)
    auto(stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "a"), norm="linf", eps=size)
    assert target.meter.forward.max() < 100


def test_a_regressor_is_driven_to_the_corner_that_is_worse() -> None:
    weight = random_tensor(1, 32, seed=3, low=-1.0)
    space = InputSpace((2, 4, 4), (-100.0, -100.0), (100.0, 100.0), ("u", "g"))
    x = random_tensor(16, 2, 4, 4, seed=1)
    y = (x.flatten(1) @ weight.T)[:, 0] + torch.linspace(-0.5, 0.5, 16)
    stage = a_stage(space, Regression(("z",), tolerance=0.1), module=linear(weight), x=x, y=y[:, None])
    size = torch.full((1, 1, 1, 1), 0.3)
    point = auto(
        x, y[:, None], stage.target(), stage.samples.rng(0, "a"), norm="linf", eps=size, steps=30, queries=5
    )
    error = (stage.output(point)[:, 0] - y).abs()
    best = torch.linspace(-0.5, 0.5, 16).abs() + 0.3 * weight.abs().sum()
    assert torch.allclose(error, best, rtol=1e-3)
