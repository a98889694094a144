from __future__ import annotations

import pytest
import torch
from torch import nn

from advbench.api import Regression
from advbench.testing.stage import a_stage, craft_clean
from advbench_attacks.apgd import APGD, Run, apgd, checkpoints
from advbench_attacks.apgd_targeted import TargetedAPGD, targeted_dlr
from advbench_attacks.pgd import PGD
from advbench_attacks.search import Ball

from .stand_in import classes, linear, random_tensor, small_network, space_of

SHAPE = (3, 4, 4)
WIDE = space_of(SHAPE, -10.0, 10.0)


def linear_stage(outputs):
    weight = random_tensor(outputs, 48, seed=outputs, low=-1)
    x = random_tensor(8, *SHAPE, seed=2)
    stage = a_stage(WIDE, classes(outputs), module=linear(weight), x=x)
    y, output = stage.samples.y, stage.output()
    gap = output.gather(1, y[:, None]) - output
    distance = {}
    for norm, order in (("linf", 1), ("l2", 2)):
        slope = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=order, dim=2)
        distance[norm] = torch.where(gap > 0, gap / slope, torch.inf).amin(1).view(-1, 1, 1, 1)
    return stage, distance


def test_the_checkpoints_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_two_linear_classes_are_parted_exactly_at_the_distance(norm):
    stage, distance = linear_stage(2)
    for factor, success in ((0.999, False), (1.001, True)):
        target = stage.target()
        found = apgd(
            stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t"),
            norm=norm, eps=distance[norm] * factor, steps=40,
        )  # fmt: skip
        assert target.is_adversarial(target.output(found), stage.samples.y).tolist() == [success] * 8


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("outputs", [2, 3, 4, 10])
def test_aimed_runs_part_any_number_of_classes_exactly(norm, outputs):
    stage, distance = linear_stage(outputs)
    for factor, success in ((0.999, False), (1.001, True)):
        # One budget for each sample: as many attacks as there are samples.
        hits = []
        for row in range(8):
            attack = TargetedAPGD(norm=norm, eps=float(distance[norm][row]) * factor, steps=30)
            one = stage.take([row])
            crafted = craft_clean(one, attack, "attack")
            target = one.target()
            hits.append(bool(target.is_adversarial(target.output(crafted.x), one.samples.y)))
        assert hits == [success] * 8


@pytest.mark.parametrize(("outputs", "runs"), [(2, 1), (3, 2), (4, 3), (10, 9), (12, 9)])
def test_as_many_classes_as_there_are_but_nine_at_most(outputs, runs):
    stage, _ = linear_stage(outputs)
    crafted = craft_clean(stage, TargetedAPGD(eps=1e-5, steps=4), "attack")
    assert crafted.forward.tolist() == [1 + runs * 5] * 8
    assert crafted.backward.tolist() == [runs * 4] * 8
    assert TargetedAPGD(steps=4).passes() == 1 + 9 * 9


class Decoy(nn.Module):
    """The second class is always close and never reached; the third is far off and can be reached."""

    def forward(self, x):
        value = x.flatten(1)[:, 0]
        return torch.stack([0 * value, 0 * value - 0.1, 4 * value - 3], 1)


def test_a_class_that_cannot_be_reached_does_not_hide_another():
    x = torch.full((5, *SHAPE), 0.5)
    stage = a_stage(space_of(SHAPE), classes(3), module=Decoy(), x=x)
    margin = craft_clean(stage, APGD(eps=0.4, steps=10, random_start=False, loss="margin"), "attack")
    assert torch.equal(stage.output(margin.x).argmax(1), torch.zeros(5).long())
    odds = craft_clean(stage, APGD(eps=0.4, steps=10, random_start=False), "attack")
    assert torch.equal(stage.output(odds.x).argmax(1), torch.full((5,), 2))  # all classes pull
    aimed = craft_clean(stage, TargetedAPGD(eps=0.4, steps=10, random_start=False), "attack")
    assert torch.equal(stage.output(aimed.x).argmax(1), torch.full((5,), 2))
    assert aimed.forward.tolist() == [1 + 11 + 2] * 5  # ranks, the decoy to the end, one step and its success


def test_the_targeted_ratio_of_logits():
    output = torch.tensor([[4.0, 3.0, 2.0, 0.0, -1.0]])
    pair = torch.tensor([[0, 3]])
    assert targeted_dlr(output, pair).tolist() == pytest.approx([-4 / 3])
    assert torch.equal(targeted_dlr(7 * output, pair), targeted_dlr(output, pair))
    assert targeted_dlr(torch.ones(1, 4), pair).tolist() == [0.0]
    three = TargetedAPGD(loss="dlr").supports(WIDE, classes(3))
    assert three == "loss: dlr needs at least 4 classes, the data have 3; use margin"
    assert TargetedAPGD(loss="dlr").supports(WIDE, classes(4)) is None


def a_run(count):
    ball = Ball("linf", torch.zeros(count, 1, 1, 2), torch.ones(count, 1, 1, 1), (None, None), None, None, 2)
    zeros = torch.zeros(count, 1, 1, 2)
    return Run.start(zeros, torch.zeros(count), zeros, ball), ball


def test_steps_are_halved_for_each_sample_on_its_own():
    run, _ = a_run(3)
    # Rising always; rising in 2 of 4 steps; never.
    paths = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 0.5, 2.0, 1.5], [-1.0, -2.0, -3.0, -4.0]])
    for k in range(4):
        run.observe(torch.full((3, 1, 1, 2), float(k + 1)), paths[:, k], torch.zeros(3, 1, 1, 2))
    assert run.halve(4).tolist() == [False, True, True]
    assert run.eta.tolist() == [2.0, 1.0, 1.0]
    assert run.top[:, 0, 0, 0].tolist() == [4.0, 3.0, 0.0]
    assert run.top_value.tolist() == [4.0, 2.0, 0.0]


def test_a_best_loss_that_stands_still_halves_once_then_waits():
    run, _ = a_run(1)
    zero = torch.zeros(1, 1, 1, 2)
    run.observe(zero, torch.tensor([5.0]), zero)
    run.halve(1)
    halved = []
    for _ in range(3):  # rises from low to less than the best: condition 1 is content, condition 2 is not
        run.value = torch.tensor([0.0])
        for value in (1.0, 2.0, 3.0, 4.0):
            run.observe(zero, torch.tensor([value]), zero)
        halved.append(bool(run.halve(4)))
    assert halved == [True, False, True]


def test_l1_shares_follow_the_support_of_the_best_point():
    _, ball = a_run(1)
    run = Run.start(torch.zeros(1, 1, 1, 2), torch.zeros(1), torch.zeros(1, 1, 1, 2), ball)
    run.eta = torch.ones(1)
    run.top = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert run.thin(ball).tolist() == [True]
    assert run.share.tolist() == pytest.approx([1 / 3])
    assert run.thin(ball).tolist() == [False]
    assert run.eta.tolist() == pytest.approx([1 / 1.5])


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_best_iterate_comes_back(norm):
    task = Regression(("a", "b"), tolerance=0.5)
    x = random_tensor(6, *SHAPE)
    stage = a_stage(space_of(SHAPE), task, module=small_network(3, 2), x=x, y=torch.zeros(6, 2))
    target, points = stage.target(), []
    real = type(target).output, type(target).evaluate

    class Watching(type(target)):
        def output(self, point):
            points.append((point.clone(), real[0](self, point)))
            return points[-1][1]

        def evaluate(self, point, y, loss="margin"):
            evaluation = real[1](self, point, y, loss)
            points.append((point.clone(), evaluation.output))
            return evaluation

    watched = Watching(**{name: getattr(target, name) for name in target.__dataclass_fields__})
    eps = torch.full((1, 1, 1, 1), {"linf": 0.1, "l2": 0.5, "l1": 3.0}[norm])
    found = apgd(x, stage.samples.y, watched, stage.samples.rng(0, "t"), norm=norm, eps=eps, steps=12)
    margins = torch.stack([target.margin(output, stage.samples.y) for _, output in points])
    best = torch.stack([point for point, _ in points])[margins.argmin(0), torch.arange(6)]
    assert len(points) == 13
    assert torch.equal(found, best)


def test_it_finds_no_less_than_pgd_with_the_same_steps():
    x = random_tensor(60, *SHAPE, seed=3)
    stage = a_stage(space_of(SHAPE), classes(4), module=small_network(3, 4), x=x)
    target = stage.target()

    def wronged(attack):
        found = craft_clean(stage, attack, "attack").x
        return int(target.is_adversarial(target.output(found), stage.samples.y).sum())

    for norm, eps in (("linf", 0.03), ("l2", 0.15), ("l1", 0.7)):
        plain = wronged(PGD(norm=norm, eps=eps, steps=20))
        auto = wronged(APGD(norm=norm, eps=eps, steps=20))
        aimed = wronged(TargetedAPGD(norm=norm, eps=eps, steps=20))
        assert 5 < plain <= auto + 1
        assert aimed >= auto
        assert aimed < 60
