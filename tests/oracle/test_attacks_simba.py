from __future__ import annotations

import pytest
import scipy.fft
import torch
from torch import nn

from advbench.api import Regression, ball_norm
from advbench.testing.stage import Stage, a_stage, craft_clean, global_state
from advbench.values import Mask
from advbench_attacks.simba import SimBA, Waves, cosines, simba

from .stand_in import classes, linear, random_tensor, small_network, space_of

BANDS = space_of((5, 6, 6), (-4.0, 0.0, 10.0, -1.0, 2.0), (50.0, 1.0, 30.0, 1.0, 4.0))
EPS = {"linf": [3.0, 0.2, 2.0, 0.1, 0.0], "l2": [30.0, 2.0, 20.0, 1.0, 0.0]}


def stage_of(space, count=12, outputs=3) -> Stage:
    return a_stage(space, classes(outputs), module=small_network(space.shape[0], outputs), count=count)


def run(attack: SimBA, stage: Stage):
    target = stage.target()
    return attack.perturb(stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t")), target


def far_stage(weight: torch.Tensor, count: int = 4) -> Stage:
    """A linear network that no attack can fool: its second logit stays far behind."""
    network = linear(torch.cat([weight, torch.zeros_like(weight)]), torch.tensor([1e3, 0.0]))
    size = int(weight.shape[1] ** 0.5)
    x = random_tensor(count, 1, size, size, seed=2)
    return a_stage(space_of((1, size, size), -9, 9), classes(2), module=network, x=x)


def test_linf_on_single_values_is_the_closed_form_after_one_round():
    weight = random_tensor(1, 36, seed=1, low=-1)
    stage = far_stage(weight)
    found, target = run(SimBA(norm="linf", eps=0.125, queries=1 + 2 * 36), stage)
    assert torch.allclose(found, stage.samples.x - 0.125 * weight.sign().view(1, 1, 6, 6), atol=1e-6)
    # One query for a value with a negative weight, two for a positive one; the rest repeats and is of no use.
    assert target.meter.forward.tolist() == [73] * 4


def test_one_query_for_the_input_and_one_or_two_for_a_step():
    weight = random_tensor(1, 36, seed=1, low=-1)
    once = 1 + 36 + int((weight > 0).sum())
    stage = far_stage(weight)
    complete = stage.samples.x - 0.125 * weight.sign().view(1, 1, 6, 6)
    found, _ = run(SimBA(norm="linf", eps=0.125, queries=once), stage)
    assert torch.allclose(found, complete, atol=1e-6)
    found, target = run(SimBA(norm="linf", eps=0.125, queries=once - 1), stage)
    assert ((found - complete).abs() > 0.01).flatten(1).sum(1).tolist() == [1] * 4
    assert target.meter.forward.tolist() == [once - 1] * 4


def test_cosines_are_those_of_scipy_and_orthonormal():
    for size in (1, 5, 8):
        eye = torch.eye(size, dtype=torch.float64)
        assert torch.allclose(cosines(size) @ cosines(size).T, eye)
        assert torch.allclose(
            cosines(size).T, torch.from_numpy(scipy.fft.dct(eye.numpy(), axis=1, norm="ortho"))
        )


def test_basis_vectors_are_numbered_by_channel_row_and_column_and_have_length_one():
    x = torch.zeros(2, 3, 4, 5)
    number = torch.tensor([0, 3, 17, 23, 40, 59])
    single = Waves.of(x, "pixel", "l2").pick(number)
    assert torch.equal(single.flatten(1).argmax(1), number)
    assert torch.equal(single.flatten(1).sum(1), torch.ones(6))
    wave = Waves.of(x, "dct", "l2").pick(number)
    assert torch.allclose(wave.flatten(1).norm(dim=1), torch.ones(6))
    assert torch.allclose(Waves.of(x, "dct", "linf").pick(number).flatten(1).abs().amax(1), torch.ones(6))
    assert wave.flatten(2).abs().amax(2).gt(0).long().argmax(1).tolist() == [0, 0, 0, 1, 2, 2]


def test_low_frequencies_come_first_in_an_order_of_each_sample():
    seen: list[torch.Tensor] = []

    class Recording(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return torch.stack([torch.ones(len(x)), torch.zeros(len(x))], 1)

    x = torch.zeros(2, 1, 8, 8)
    stage = a_stage(space_of((1, 8, 8), -9, 9), classes(2), module=Recording(), x=x)
    seen.clear()
    run(SimBA(norm="l2", eps=1.0, step=1.0, basis="dct", low=0.25, queries=1 + 2 * 64), stage)
    assert len(seen) == 129  # nothing helps, so the negative step is tried as well
    transform = cosines(8).float()
    tried = torch.stack([transform @ point[:2, 0] @ transform.T for point in seen[1::2]]).flatten(2)
    order = tried.abs().argmax(2)  # (64, 2)
    assert torch.allclose(tried.amax(2), torch.ones(64, 2), atol=1e-4)
    assert all(sorted(order[:, i].tolist()) == list(range(64)) for i in range(2))
    assert all(sorted(order[:4, i].tolist()) == [0, 1, 8, 9] for i in range(2))
    assert not torch.equal(order[:, 0], order[:, 1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_budget_bounds_and_mask_hold_on_five_bands(norm, basis):
    stage = stage_of(BANDS)
    for mask in (None, Mask(channels=(0, 2), box=(1, 2, 4, 3))):
        attack = SimBA(norm=norm, eps=EPS[norm], basis=basis, queries=40, mask=mask)
        crafted = craft_clean(stage, attack, "attacks/simba")
        change = crafted.x - stage.samples.x
        assert (ball_norm(change, norm, attack.eps.like(change)) <= 1 + 1e-6).all()
        assert (change != 0).flatten(1).any(1).sum() > 6
        assert (change[:, 4] == 0).all()
        if mask is not None:
            assert (change[:, ~mask.like(change, BANDS)[0]] == 0).all()


@pytest.mark.parametrize(("norm", "basis"), [("linf", "dct"), ("l2", "pixel"), ("l2", "dct")])
def test_results_do_not_depend_on_companions(norm, basis):
    stage = stage_of(BANDS, count=24)
    attack = SimBA(norm=norm, eps=EPS[norm], basis=basis, queries=24)
    whole = craft_clean(stage, attack, "s")
    assert whole.forward.unique().numel() > 1
    for batch in (1, 7):
        found = craft_clean(stage, attack, "s", batch=batch)
        assert torch.equal(found.x, whole.x)
        assert torch.equal(found.forward, whole.forward)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(craft_clean(stage.take(order.tolist()), attack, "s").x, whole.x[order])


def test_success_ends_the_queries_and_margins_never_rise():
    stage = stage_of(space_of((3, 8, 8)), count=24)
    rate = []
    for queries in (1, 30, 300):
        found, target = run(SimBA(eps=0.5, queries=queries, basis="dct"), stage)
        before, after = (target.margin(stage.output(x), stage.samples.y) for x in (stage.samples.x, found))
        wrong = target.is_adversarial(stage.output(found), stage.samples.y)
        assert (after <= before).all()
        assert (target.meter.forward[~wrong] == queries).all()
        assert (target.meter.forward <= queries).all()
        assert target.meter.backward.sum() == 0
        rate.append(wrong.float().mean())
    assert rate[0] == 0
    assert rate[2] > rate[1] > 0


def test_a_goal():
    stage = stage_of(space_of((3, 8, 8)), count=12)
    crafted = craft_clean(stage, SimBA(eps=2.0, basis="dct", queries=300, goal="next"), "s")
    assert (stage.output(crafted.x).argmax(1) == (stage.samples.y + 1) % 3).float().mean() > 0.5


def test_a_regressor_spends_all_queries():
    stage = a_stage(space_of((3, 8, 8)), Regression(("z",), 0.01), module=small_network(3, 1), count=5)
    found, target = run(SimBA(eps=0.5, queries=41), stage)
    assert (target.meter.forward == 41).all()
    error = [(stage.output(x)[:, 0] - stage.samples.y).abs() for x in (stage.samples.x, found)]
    assert (error[1] > error[0]).all()


def test_budgets_per_sample_and_nothing_else_is_touched():
    stage = stage_of(space_of((3, 8, 8)), count=6)
    eps = torch.linspace(0, 0.5, 6).view(-1, 1, 1, 1)
    before, x = global_state(), stage.samples.x.clone()
    found = simba(
        stage.samples.x, stage.samples.y, stage.target(), stage.samples.rng(0, "t"),
        norm="l2", eps=eps, step=eps / 4, queries=40,
    )  # fmt: skip
    assert torch.equal(found[0], x[0])
    assert (ball_norm(found - x, "l2") <= eps.flatten().double() * (1 + 1e-6)).all()
    assert global_state() == before
    assert torch.equal(stage.samples.x, x)


def test_outputs_that_are_not_numbers_break_nothing():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2), torch.nan)

    y = torch.zeros(3, dtype=torch.int64)
    stage = a_stage(space_of((1, 6, 6)), classes(2), module=Broken(), y=y, count=3)
    found, _ = run(SimBA(queries=10), stage)
    assert found.isfinite().all()
