from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from advbench.api import Budget, Regression, ball_norm
from advbench.testing.stage import Stage, a_stage, craft_clean, global_state
from advbench.values import Mask
from advbench_attacks.square import Square, pattern, square

from .stand_in import classes, linear, random_tensor, small_network, space_of

BANDS = space_of((5, 8, 8), (-4.0, 0.0, 10.0, -1.0, 2.0), (50.0, 1.0, 30.0, 1.0, 4.0))
EPS = {"linf": [3.0, 0.2, 2.0, 0.1, 0.0], "l2": [30.0, 2.0, 20.0, 1.0, 0.0]}


def stage_of(space, count=12, outputs=3, **how) -> Stage:
    return a_stage(space, classes(outputs), module=small_network(space.shape[0], outputs), count=count, **how)


def perturb(attack: Square, stage: Stage, **how) -> torch.Tensor:
    target = stage.target(**how)
    return attack.perturb(stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t"))


def linear_stage(space, side: float, count: int = 6) -> tuple[Stage, torch.Tensor]:
    """A linear network of two classes whose logits differ by ``side`` at every sample, and its weights."""
    size = torch.Size(space.shape).numel()
    weight = random_tensor(1, size, seed=1, low=-1)
    x = random_tensor(count, *space.shape, seed=2, low=0.4, high=0.6)
    network = linear(torch.cat([weight, torch.zeros_like(weight)]))
    # The bias cannot be a sample's own, so a pixel that the weights reach makes up for the rest.
    weight[0, 0], network[1].weight.data[0, 0] = 1.0, 1.0
    x.flatten(1)[:, 0] += side - x.flatten(1) @ weight[0]
    return a_stage(space, classes(2), module=network, x=x), weight


def test_linf_comes_near_the_closed_form_on_a_linear_network():
    space = space_of((1, 6, 6), -50, 50)
    stage, weight = linear_stage(space, 1.0)
    best = 0.01 * weight.abs().sum()  # by which no point of the ball can lower the margin more
    found = perturb(Square(eps=0.01, queries=1500), stage)
    target = stage.target()
    before, after = (target.margin(target.output(x), stage.samples.y) for x in (stage.samples.x, found))
    assert ((before - after) / best > 0.99).all()
    assert ((before - after) / best < 1 + 1e-3).all()


def test_l2_finds_most_of_the_steepest_descent_on_a_linear_network():
    wave = torch.cos(torch.arange(12) * 0.5)
    weight = (wave[:, None] * wave).reshape(1, 144)
    network = linear(torch.cat([weight, torch.zeros_like(weight)]), torch.tensor([99.0, 0.0]))
    x = random_tensor(4, 1, 12, 12, seed=2)
    stage = a_stage(space_of((1, 12, 12), -50, 50), classes(2), module=network, x=x)
    found = perturb(Square(norm="l2", eps=1.0, queries=600), stage)
    drop = ((x - found).flatten(1) * weight).sum(1) / weight.norm()
    # It goes on rising (0.8 after 2500 queries); a random direction has about 1 / 12.
    assert (drop > 0.6).all()
    assert (drop < 1 + 1e-4).all()


def test_the_pattern_is_that_of_the_paper():
    # Two pyramids of height 5; eq. 2 by hand: n = 2, steps 1/9, 1/9 + 1/4, 1/9 + 1/4 + 1.
    low, middle, high = 1 / 9, 1 / 9 + 1 / 4, 1 / 9 + 1 / 4 + 1
    rise = torch.tensor([[low, low], [middle, middle], [middle, high], [middle, middle], [low, low]])
    assert torch.allclose(pattern(5)[:, :2], rise)
    assert torch.allclose(pattern(5)[2, 2:], -torch.tensor([middle, high, middle]))
    assert pattern(1).abs().min() > 0
    for side in range(1, 9):
        assert pattern(side).shape == (side, side)


def test_the_first_point_is_stripes_and_every_later_one_differs_in_a_square():
    class Same(nn.Module):
        def forward(self, x):
            seen.append(x[:1].clone())
            return (
                torch.stack([torch.full((len(x),), -float(len(seen))), torch.zeros(len(x)) - 1e6], 1).neg()
                * -1
            )

    seen: list[torch.Tensor] = []
    space = space_of((2, 12, 12))
    x = torch.full((1, 2, 12, 12), 0.5)
    stage = a_stage(space, classes(2), module=Same(), x=x, y=torch.zeros(1, dtype=torch.int64))
    seen.clear()
    perturb(Square(eps=0.125, queries=40, p=0.5), stage)
    changes = [point[0] - 0.5 for point in seen]
    assert all(torch.equal(change.abs(), torch.full_like(change, 0.125)) for change in changes)
    assert torch.equal(changes[0], changes[0][:, :1].expand(2, 12, 12))
    assert len(changes) == 40
    # Every margin is lower than the one before, so every proposal stays.
    for before, after in pairwise(changes):
        rows, columns = torch.nonzero((before != after).any(0)).unbind(1)
        if len(rows):
            assert rows.max() - rows.min() < 9  # round(sqrt(0.5 * 144)) = 8 and less later
            assert columns.max() - columns.min() < 9


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_budget_bounds_and_mask_hold_on_five_bands(norm):
    stage = stage_of(BANDS, count=20)
    for mask in (None, Mask(channels=(0, 2), box=(1, 2, 5, 4))):
        attack = Square(norm=norm, eps=EPS[norm], queries=40, mask=mask)
        crafted = craft_clean(stage, attack, "attacks/square")
        change = crafted.x - stage.samples.x
        assert (ball_norm(change, norm, attack.eps.like(change)) <= 1 + 1e-6).all()
        assert (change != 0).flatten(1).any(1).all()
        assert (change[:, 4] == 0).all()
        if mask is not None:
            assert (change[:, :, ~mask.like(change, BANDS)[0].any(0)] == 0).all()
            assert (change[:, [1, 3, 4]] == 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_results_do_not_depend_on_companions(norm, monkeypatch):
    monkeypatch.setattr("advbench_attacks.square.BLOCK", 8)  # several blocks of draws
    stage = stage_of(BANDS, count=24)
    attack = Square(norm=norm, eps=EPS[norm], queries=20)
    whole = craft_clean(stage, attack, "s")
    assert whole.forward.unique().numel() > 2  # samples did leave at different times
    for batch in (1, 7):
        found = craft_clean(stage, attack, "s", batch=batch)
        assert torch.equal(found.x, whole.x)
        assert torch.equal(found.forward, whole.forward)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(craft_clean(stage.take(order.tolist()), attack, "s").x, whole.x[order])


def test_budgets_per_sample():
    stage = stage_of(space_of((3, 8, 8)), count=6)
    eps = torch.linspace(0, 0.2, 6).view(-1, 1, 1, 1)
    x, y = stage.samples.x, stage.samples.y
    for norm in ("linf", "l2"):
        found = square(x, y, stage.target(), stage.samples.rng(0, "t"), norm=norm, eps=eps, queries=20)
        size = ball_norm(found - x, norm)
        assert torch.equal(found[0], x[0])
        assert (size <= eps.flatten().double() * (1 + 1e-6)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_queries_never_hurt_and_success_ends_them(norm):
    stage = stage_of(space_of((3, 8, 8)), count=16)
    margins, spent = [], []
    for queries in (1, 20, 200):
        attack = Square(norm=norm, eps=0.03 if norm == "linf" else 0.3, queries=queries)
        target = stage.target()
        found = attack.perturb(stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t"))
        output = stage.output(found)
        margins.append(target.is_adversarial(output, stage.samples.y).float().mean())
        spent.append(target.meter.forward)
        assert target.meter.backward.sum() == 0
        wrong = target.is_adversarial(output, stage.samples.y)
        assert (spent[-1][~wrong] == queries).all()
        assert (spent[-1] <= queries).all()
    assert margins[2] > margins[0]


def test_it_beats_its_own_start_on_a_targeted_goal():
    stage = stage_of(space_of((3, 8, 8)), count=12)
    attack = Square(eps=0.1, queries=150, goal="next")
    crafted = craft_clean(stage, attack, "s")
    reached = stage.output(crafted.x).argmax(1) == (stage.samples.y + 1) % 3
    start = craft_clean(stage, Square(eps=0.1, queries=1, goal="next"), "s")
    assert reached.sum() > (stage.output(start.x).argmax(1) == (stage.samples.y + 1) % 3).sum()


def test_a_regressor_is_driven_to_the_end():
    space = space_of((3, 8, 8))
    stage = a_stage(space, Regression(("z",), 0.05), module=small_network(3, 1), count=5)
    target = stage.target()
    found = Square(eps=0.05, queries=30).perturb(
        stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t")
    )
    assert (target.meter.forward == 30).all()
    error = [(stage.output(x)[:, 0] - stage.samples.y).abs() for x in (stage.samples.x, found)]
    assert (error[1] > error[0]).all()


def test_outputs_that_are_not_numbers_break_nothing():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2), torch.nan)

    stage = a_stage(
        space_of((1, 6, 6)), classes(2), module=Broken(), y=torch.zeros(3, dtype=torch.int64), count=3
    )
    for norm in ("linf", "l2"):
        assert perturb(Square(norm=norm, queries=10), stage).isfinite().all()


def test_it_leaves_everything_else_alone():
    stage = stage_of(space_of((3, 8, 8)), count=4)
    before, x = global_state(), stage.samples.x.clone()
    for norm in ("linf", "l2"):
        perturb(Square(norm=norm, eps=0.2, queries=20), stage)
    assert global_state() == before
    assert torch.equal(stage.samples.x, x)


def test_what_it_says_of_itself():
    assert Square(queries=77).passes() == 77
    assert Square(norm="l2", eps=[1, 2, 3]).constraint().eps == Budget.of([1, 2, 3])
    assert "needs images" in (Square().supports(space_of((6,)), classes(2)) or "")
