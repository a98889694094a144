from __future__ import annotations

import pytest
import torch

from advbench.api import Budget, Regression
from advbench_attacks.fgsm import FGSM, fgsm

from .stand_in import (
    KeyedRng,
    KinkedFirstPixel,
    StandIn,
    classes,
    linear,
    random_tensor,
    small_network,
    space_of,
)

SHAPE = (3, 4, 4)
EPS = Budget.of(["8/255", 0.02, 0.3])


def two_classes(count: int = 6):
    weight = random_tensor(2, 48, seed=1, low=-1)
    weight[:, 5] = 0.0  # a pixel that the network ignores
    x = random_tensor(count, *SHAPE, seed=2)
    y = torch.arange(count) % 2
    toward_other = torch.stack([weight[1] - weight[0], weight[0] - weight[1]])[y].view(count, *SHAPE)
    return x, y, StandIn(linear(weight), classes(2), space_of(SHAPE), count), toward_other


@pytest.mark.parametrize("loss", ["margin", "ce"])
def test_on_a_linear_model_it_is_the_closed_form_bit_for_bit(loss):
    x, y, target, toward_other = two_classes()
    found = FGSM(eps=EPS, loss=loss).perturb(x, y, target, KeyedRng(range(6)))
    assert torch.equal(found, x + EPS.like(x) * toward_other.sign())
    assert torch.equal(found.flatten(1)[:, 5], x.flatten(1)[:, 5])


@pytest.mark.parametrize("outputs", [2, 3, 4, 10])
def test_on_a_linear_model_the_margin_loss_rises_by_eps_times_the_l1_norm(outputs):
    weight, x = random_tensor(outputs, 48, seed=3, low=-1).double(), random_tensor(9, *SHAPE, seed=4).double()
    target = StandIn(linear(weight), classes(outputs), space_of(SHAPE), 9)
    y = target.output(x).argmax(1)
    before = target.evaluate(x, y)
    rival = target.output(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    after = target.evaluate(fgsm(x, y, target, eps=torch.full((1, 1, 1, 1), 1e-3).double()), y)
    rise = 1e-3 * (weight[rival] - weight[y]).abs().sum(1)
    # Another class may become the rival, which only helps.
    assert (after.loss - before.loss >= rise * (1 - 1e-6)).all()
    assert torch.isclose(after.loss - before.loss, rise, rtol=1e-6).float().mean() > 0.5


def test_a_regressor_is_pushed_further_from_its_target():
    weight, x = random_tensor(1, 48, seed=5, low=-1), random_tensor(4, *SHAPE, seed=6)
    target = StandIn(linear(weight), Regression(("z",), tolerance=0.1), space_of(SHAPE), 4)
    side = torch.tensor([1.0, -1.0, 1.0, -1.0])
    y = target.output(x) - 0.01 * side[:, None]
    expected = x + 0.1 * side.view(-1, 1, 1, 1) * weight.view(1, *SHAPE).sign()
    assert torch.equal(FGSM(eps=0.1).perturb(x, y, target, KeyedRng(range(4))), expected)


def test_budgets_per_sample():
    x, y, target, toward_other = two_classes()
    eps = torch.linspace(0, 0.5, 6).view(-1, 1, 1, 1)
    assert torch.equal(fgsm(x, y, target, eps=eps), x + eps * toward_other.sign())


def test_the_margin_loss_moves_a_saturated_network_and_cross_entropy_does_not():
    weight, x = random_tensor(3, 48, seed=7, low=-1) * 1e4, random_tensor(5, *SHAPE, seed=8)
    target = StandIn(linear(weight), classes(3), space_of(SHAPE), 5)
    y, rng = target.output(x).argmax(1), KeyedRng(range(5))
    assert torch.equal(FGSM(loss="ce").perturb(x, y, target, rng), x)
    assert ((FGSM().perturb(x, y, target, rng) - x).abs() > 0.03).all()


def test_an_entry_without_a_gradient_stays():
    x, y = random_tensor(3, *SHAPE), torch.zeros(3, dtype=torch.int64)
    target = StandIn(KinkedFirstPixel(), classes(2), space_of(SHAPE), 3)
    change = (FGSM(eps=0.25).perturb(x, y, target, KeyedRng(range(3))) - x).flatten(1)
    assert (change[:, 0] == 0).all()
    assert torch.allclose(change[:, 1], torch.tensor(-0.25))
    assert torch.allclose(change[:, 2], torch.tensor(0.25))


def test_it_costs_one_pass_each_way_and_touches_nothing_else():
    x, y = random_tensor(5, *SHAPE), torch.tensor([0, 1, 2, 0, 1])
    target, state, original = (
        StandIn(small_network(3, 3), classes(3), space_of(SHAPE), 5),
        torch.get_rng_state(),
        x.clone(),
    )
    found = FGSM().perturb(x, y, target, KeyedRng(range(5)))
    assert target.visits.forward.tolist() == target.visits.backward.tolist() == [1] * 5
    assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
    assert torch.equal(x, original)
    assert torch.equal(torch.get_rng_state(), state)


def test_results_do_not_depend_on_companions():
    x, y, network = random_tensor(13, *SHAPE), torch.arange(13) % 3, small_network(3, 3)
    whole = FGSM().perturb(x, y, StandIn(network, classes(3), space_of(SHAPE), 13), KeyedRng(range(13)))
    for rows in torch.arange(13).flip(0).split(4):
        target = StandIn(network, classes(3), space_of(SHAPE), len(rows))
        assert torch.equal(FGSM().perturb(x[rows], y[rows], target, KeyedRng(rows.tolist())), whole[rows])


def test_a_budget_that_does_not_fit_the_channels_is_refused_beforehand():
    assert FGSM(eps=[0.1, 0.2]).supports(space_of(SHAPE), classes(3)) == "eps has 2 entries for 3 channels"
    assert FGSM(eps=[0.1, 0.2, 0.3]).supports(space_of(SHAPE), classes(3)) is None
    assert FGSM(eps="8/255").constraint().norm == "linf"
