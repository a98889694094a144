"""Training on perturbed samples: adversarial training, TRADES, augmentation. Losses by hand, then whole trainings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy.special import log_softmax as scipy_log_softmax
from torch import nn
from toys import data
from training_kit import BANDS, Workshop, captured, robust_and_weak, state

from advbench.api import Batch, Recipe, Use, ball_norm
from advbench.runtime.rng import SampleRng
from advbench.runtime.training import class_weights
from advbench_attacks.ddn import DDN
from advbench_attacks.fgsm import FGSM
from advbench_attacks.pgd import PGD
from advbench_defenses.adversarial_training import (
    AdversarialTraining,
    DDNTraining,
    FGSMTraining,
    PGDTraining,
    mixed,
    part,
)
from advbench_defenses.augmentation import Augmentation
from advbench_defenses.trades import TRADES, ascend_divergence, divergence, evaluating

NOISE = {"use": "corruptions/gaussian-noise", "params": {"sigma": 3.0}}
DARK = {"use": "corruptions/brightness", "params": {"offset": -0.2}}
SHORT = {
    "attack": {"use": "attacks/pgd", "params": {"eps": 2, "steps": 3, "loss": "ce", "stop_on_success": False}}
}
TRAININGS = [
    AdversarialTraining(**SHORT, fraction=0.5),
    FGSMTraining(eps=1.0),
    PGDTraining(eps=1.0, step=0.5, steps=3),
    DDNTraining(max_norm=5.0, steps=4),
    TRADES(eps=1.0, step=0.5, steps=3),
    Augmentation(perturbations=[NOISE]),
]


pytestmark = pytest.mark.usefixtures("one_thread")


def a_batch(n=8, classes=3):
    generator = torch.Generator().manual_seed(1)
    x = -4 + 54 * torch.rand(n, 5, 6, 6, generator=generator)
    y = torch.arange(n) % classes if classes > 1 else torch.rand(n, generator=generator)
    extras = {"ebv": torch.arange(float(n))[:, None]}
    return Batch(x, y, extras, SampleRng(0, "test", [f"s{i}" for i in range(n)], torch.device("cpu")))


# The mix


@pytest.mark.parametrize(
    ("n", "fraction", "count"), [(8, 0.5, 4), (8, 1.0, 8), (8, 0.25, 2), (3, 0.1, 0), (7, 0.6, 4)]
)
def test_so_many_samples_of_a_batch_are_perturbed(n, fraction, count):
    batch = a_batch(n)
    seen = []

    def perturb(some):
        seen.append(some)
        return some.x + 1

    x = mixed(batch, fraction, perturb)
    assert (x != batch.x).flatten(1).any(1).tolist() == [True] * count + [False] * (n - count)
    assert torch.equal(x[:count], batch.x[:count] + 1)
    if not count:
        assert not seen
        return
    (some,) = seen
    assert torch.equal(some.y, batch.y[:count])
    assert torch.equal(some.extras["ebv"], batch.extras["ebv"][:count])
    assert torch.equal(some.rng.normal(2), a_batch(n).rng.normal(2)[:count])


def test_a_part_of_a_batch():
    some = part(a_batch(), torch.tensor([5, 2]))
    assert some.y.tolist() == [2, 2]
    assert some.extras["ebv"].flatten().tolist() == [5, 2]
    assert torch.equal(some.rng.uniform(), a_batch().rng.uniform()[[5, 2]])


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_the_loss_is_that_of_plain_training(tmp_path, weighted, classes):
    source = data(classes)
    if classes > 1:  # most of one class
        split = source.splits["train"]
        y = np.where(np.arange(len(split)) < 60, 1, split.y)
        source = replace(source, splits={**source.splits, "train": replace(split, y=y)})
    recipe = Recipe(class_weights=weighted, label_smoothing=0.1)
    shop = Workshop.at(tmp_path, source, recipe=recipe)
    batch = a_batch(classes=classes)._replace(extras={})
    network = shop.build().eval()
    output = network(batch.x)
    weights = class_weights(source.splits["train"].y, classes) if weighted and classes > 1 else None
    expected = (
        F.cross_entropy(output, batch.y, weights, label_smoothing=0.1)
        if classes > 1
        else F.mse_loss(output, batch.y.view_as(output))
    )
    assert torch.equal(shop.loss(network, batch), expected)
    assert torch.equal(shop.loss(network, batch, output), expected)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_the_loss_of_adversarial_training_by_hand(tmp_path, fraction):
    shop = Workshop.at(tmp_path)
    defense = AdversarialTraining(
        attack={"use": "attacks/fgsm", "params": {"eps": 2, "loss": "ce"}}, fraction=fraction
    )
    loss, network = captured(shop, defense), shop.build()
    batch = a_batch()._replace(extras={})
    count = round(fraction * 8)
    point = batch.x.clone().requires_grad_(True)
    logits = network.eval()(point)
    F.cross_entropy(logits, batch.y, reduction="sum").backward()
    x = batch.x.clone()
    x[:count] = (batch.x + 2 * point.grad.sign()).clamp(-4, 50)[:count]
    network.zero_grad()
    # Dropout draws nothing in eval mode, so that the two can be compared.
    assert loss(network, batch).item() == pytest.approx(F.cross_entropy(network(x), batch.y).item(), rel=1e-6)


# The attacks of the presets


@pytest.mark.parametrize(
    ("defense", "attack"),
    [
        (FGSMTraining(eps=[0.1, 0.2]), FGSM(eps=[0.1, 0.2], loss="ce")),
        (PGDTraining(), PGD(eps=0.3, alpha=0.01, steps=40, loss="ce", stop_on_success=False)),
        (
            PGDTraining(norm="l2", eps=2, step=0.5, steps=7),
            PGD(norm="l2", eps=2, alpha=0.5, steps=7, loss="ce", stop_on_success=False),
        ),
        (DDNTraining(), DDN(steps=100, line_search=0)),
    ],
)
def test_attacks_of_the_presets(defense, attack):
    (use,) = defense.uses()
    assert use.use == f"attacks/{type(attack).__name__.lower()}"
    assert type(attack)(**use.params) == attack


def test_another_attack_has_its_own_parameters():
    defense = AdversarialTraining(attack={"use": "attacks/fgsm"})
    assert defense.uses() == (Use(use="attacks/fgsm"),)
    assert AdversarialTraining(**AdversarialTraining(**SHORT).model_dump(mode="json")) == AdversarialTraining(
        **SHORT
    )


def test_one_step_training_is_attacked_by_many():
    (use,) = FGSMTraining(eps=0.2).adaptive_attacks()
    assert (use.use, use.params) == ("attacks/pgd", {"eps": 0.2})
    assert not PGDTraining().adaptive_attacks()


def test_pgd_spends_all_its_steps_on_everybody(tmp_path):
    shop = Workshop.at(tmp_path)
    network, batch = shop.build(), a_batch()._replace(extras={})
    (use,) = PGDTraining(eps=2.0, step=0.5, steps=5).uses()
    x = shop.perturb(use, network, batch)
    (target,) = shop.targets
    right = network.eval()(batch.x).argmax(1) == batch.y
    assert 0 < int(right.sum()) < 8  # some are wrong before they are attacked
    assert target.meter.forward.tolist() == [6] * 8
    assert target.meter.backward.tolist() == [5] * 8
    again = shop.perturb(use, network, batch)
    assert not torch.equal(x, again)  # another random start
    assert float((x - batch.x).abs().max()) <= 2
    losses = [F.cross_entropy(network(point), batch.y, reduction="none") for point in (batch.x, x)]
    assert bool((losses[1] > losses[0]).all())  # also of those that were wrong


def test_ddn_moves_no_further_than_it_may(tmp_path):
    shop = Workshop.at(tmp_path)
    network, batch = shop.build().eval(), a_batch()._replace(extras={})
    use = DDNTraining(steps=20).attack_used()
    free = shop.perturb(use, network, batch) - batch.x
    length = ball_norm(free, "l2")
    limit = float(length[length > 0].median())
    seen = []
    loss = captured(shop, DDNTraining(steps=20, max_norm=limit))
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    loss(network, batch._replace(rng=a_batch().rng))
    moved = seen[-1] - batch.x
    right = network(batch.x).argmax(1) == batch.y
    assert not bool(moved[~right].any())
    assert bool((ball_norm(moved, "l2") <= limit * (1 + 1e-5)).all())
    assert {bool(far) for far in length[right] > limit} == {True, False}
    for row in torch.nonzero(right)[:, 0]:
        share = min(1.0, limit / float(length[row]))
        assert torch.allclose(moved[row], share * free[row], atol=2e-5)


@pytest.mark.parametrize(
    ("defense", "name"),
    [
        (PGDTraining(eps=[1, 2]), "eps"),
        (PGDTraining(step=[1, 2]), "step"),
        (FGSMTraining(eps=[1, 2]), "eps"),
        (DDNTraining(max_norm=[1, 2]), "max_norm"),
        (TRADES(step=[1, 2]), "step"),
    ],
)
def test_budgets_must_fit_the_channels(defense, name):
    source = data()
    assert defense.supports(source.space, source.task) == f"{name} has 2 entries for 5 channels"
    assert type(defense)().supports(source.space, source.task) is None


# TRADES


def test_divergence_by_hand():
    z, other = (
        torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.5, 0.0]]),
        torch.tensor([[0.0, 2.0, 3.0], [0.5, 0.5, 0.0]]),
    )
    log_p, log_q = (scipy_log_softmax(value.double().numpy(), axis=1) for value in (z, other))
    expected = (np.exp(log_p) * (log_p - log_q)).sum(1)
    np.testing.assert_allclose(divergence(z, other), expected, rtol=1e-5, atol=1e-7)
    far = divergence(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]]))
    assert float(far) == pytest.approx(1e4)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_ascent_by_hand(steps):
    # Two classes and a linear network: the divergence grows along +-(w_1 - w_0), away from x.
    weight = torch.tensor([[1.0, -2.0, 0.0], [0.5, 1.0, 0.0]])
    x = torch.tensor([[0.2, 0.5, 0.5], [0.9, 0.99, 0.1]])
    start = x + torch.tensor([[0.01, 0.0, 0.02], [-0.01, 0.0, 0.0]])
    bounds = torch.zeros(1, 1), torch.ones(1, 1)
    eps, step = torch.tensor([[0.1]]), torch.tensor([[0.05]])
    found = ascend_divergence(
        lambda p: p @ weight.T, x, start, eps=eps, step=step, steps=steps, bounds=bounds
    )
    w = (weight[0] - weight[1]).sign()
    # The first row starts with more of class 0 than x has, the second with less: w . (start - x) is +-.
    signs = ((start - x) @ (weight[0] - weight[1])).sign()
    expected = torch.minimum(
        torch.maximum(start + steps * 0.05 * signs[:, None] * w, x - 0.1), x + 0.1
    ).clamp(0, 1)
    assert signs.tolist() == [1, -1]
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_loss_of_trades_by_hand(tmp_path):
    shop = Workshop.at(tmp_path)
    defense = TRADES(eps=2.0, step=1.0, steps=4, beta=3.0)
    loss, network = captured(shop, defense), shop.build().eval()
    batch = a_batch()._replace(extras={})
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    value = loss(network, batch).item()
    x = seen[-1]  # x' goes through the network last
    p, q = network(batch.x).softmax(1), network(x).softmax(1)
    expected = F.cross_entropy(network(batch.x), batch.y) + 3 * (p * (p / q).log()).sum() / 8
    assert value == pytest.approx(expected.item(), rel=1e-5)
    assert float((x - batch.x).abs().max()) <= 2
    assert float(x.min()) >= -4
    assert float(x.max()) <= 50
    # Ascended: more than a random point of the ball's surface.
    corner = (
        batch.x + 2 * torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0)).sign()
    ).clamp(-4, 50)
    reached = divergence(network(batch.x), network(x)).sum()
    assert reached.item() > 3 * divergence(network(batch.x), network(corner)).sum().item()


def test_trades_without_a_ball_is_plain_training(tmp_path):
    shop = Workshop.at(tmp_path)
    network, batch = shop.build().eval(), a_batch()._replace(extras={})
    value = captured(shop, TRADES(eps=0.0))(network, batch)
    assert value.item() == pytest.approx(F.cross_entropy(network(batch.x), batch.y).item(), abs=1e-6)


def test_a_row_of_the_ascent_depends_on_its_sample_alone():
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    start = x + 0.01
    how = {"eps": torch.tensor([[0.1]]), "step": torch.tensor([[0.03]]), "steps": 3}
    how["bounds"] = torch.zeros(1, 1), torch.ones(1, 1)
    order = torch.tensor([4, 1, 1, 0])
    everyone = ascend_divergence(lambda p: p @ weight.T, x, start, **how)
    assert torch.equal(
        ascend_divergence(lambda p: p @ weight.T, x[order], start[order], **how), everyone[order]
    )


def test_every_part_gets_its_mode_back():
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    module[1][0].eval()
    with evaluating(module):
        assert not any(one.training for one in module.modules())
    assert [one.training for one in module.modules()] == [True, True, True, False, True]
    with pytest.raises(ZeroDivisionError), evaluating(module):
        raise ZeroDivisionError
    assert [one.training for one in module.modules()] == [True, True, True, False, True]


# Augmentation


def test_each_sample_gets_one_of_the_perturbations(tmp_path):
    shop = Workshop.at(tmp_path)
    defense = Augmentation(
        perturbations=[{"use": "corruptions/gaussian-noise", "params": {"sigma": 0.0}}, DARK], fraction=0.75
    )
    batch, seen = a_batch(40)._replace(extras={}), []
    network = shop.build()
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    captured(shop, defense)(network, batch)
    change = (seen[0] - batch.x).flatten(1)
    darker = change.mean(1) < -1
    drawn = a_batch(40).rng.take(torch.arange(30)).integers(2)
    assert darker.tolist() == [bool(value) for value in drawn == 1] + [False] * 10
    assert 5 < int(darker.sum()) < 25
    assert not bool(change[~darker].any())


def test_there_must_be_a_perturbation():
    with pytest.raises(ValidationError):
        Augmentation(perturbations=[])
    assert [use.use for use in Augmentation().uses()] == ["corruptions/gaussian-noise"]
    assert len(Augmentation(perturbations=[NOISE, DARK]).uses()) == 2


# What all keep


@pytest.mark.parametrize("defense", TRAININGS, ids=lambda defense: type(defense).__name__)
def test_the_network_is_left_as_a_plain_loss_leaves_it(tmp_path, defense):
    shop = Workshop.at(tmp_path)
    loss, network, batch = captured(shop, defense), shop.build().train(), a_batch()._replace(extras={})
    before, weights, seen = batch.x.clone(), state(network), []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    value = loss(network, batch)
    assert seen[-1]
    assert all(part.training for part in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert torch.equal(batch.x, before)
    # Only the passes of the loss itself move the batch statistics: one, or two of TRADES.
    name = next(name for name in weights if name.endswith("num_batches_tracked"))
    passes = 2 if isinstance(defense, TRADES) else 1
    assert int(network.state_dict()[name] - weights[name]) == passes == sum(seen)
    value.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())
    assert any(bool(parameter.grad.any()) for parameter in network.parameters())


@pytest.mark.parametrize("defense", TRAININGS, ids=lambda defense: type(defense).__name__)
def test_the_seed_decides(tmp_path, defense):
    source, recipe = data(n=48), Recipe(epochs=1, batch_size=16, lr=5e-3)
    generator = torch.get_rng_state()
    shops = [Workshop.at(tmp_path, source, recipe=recipe, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (state(defense.train(shop)) for shop in shops)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["module.head.weight"], other["module.head.weight"])
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    "defense",
    [
        AdversarialTraining(
            attack={"use": "attacks/pgd", "params": {"eps": 0.6, "steps": 5, "loss": "ce"}}, fraction=0.5
        ),
        PGDTraining(eps=0.6, step=0.2, steps=5),
        FGSMTraining(eps=0.6, fraction=1.0),
        TRADES(eps=0.6, step=0.2, steps=5),
    ],
    ids=lambda defense: type(defense).__name__,
)
def test_it_makes_robust(tmp_path, defense):
    source = robust_and_weak()
    shop = Workshop.at(tmp_path, source, model="mine/linear", recipe=Recipe(epochs=8, batch_size=32, lr=0.05))
    attack = Use(use="attacks/pgd", params={"eps": 0.6, "steps": 10, "loss": "ce", "stop_on_success": False})
    clean, robust = shop.accuracy(shop.fit(shop.build())), shop.accuracy(shop.fit(shop.build()), attack)
    assert clean > 0.97
    assert robust < 0.1
    trained = defense.train(shop)
    assert shop.accuracy(trained) > 0.85
    assert shop.accuracy(trained, attack) > robust + 0.5


def test_ddn_makes_robust_in_l2(tmp_path):
    shop = Workshop.at(tmp_path, data(n=400), recipe=Recipe(epochs=8, batch_size=32, lr=1e-2))
    attack = Use(use="attacks/pgd", params={"norm": "l2", "eps": 20, "steps": 20})
    plain, trained = shop.fit(shop.build()), DDNTraining(max_norm=20, steps=6).train(shop)
    assert shop.accuracy(plain) > 0.97
    assert shop.accuracy(trained) > 0.97
    assert shop.accuracy(trained, attack) > shop.accuracy(plain, attack) + 0.15


@pytest.mark.parametrize("defense", TRAININGS, ids=lambda defense: type(defense).__name__)
def test_the_best_epoch_is_that_of_the_loss_that_is_trained(tmp_path, defense):
    shop = Workshop.at(tmp_path, idle=True)
    defense.train(shop)
    (fit,) = shop.fits
    assert fit.validation is fit.loss is not None
    network = shop.build().eval()
    with torch.no_grad():
        value = fit.validation(network, a_batch()._replace(extras={}))
    assert not value.requires_grad
    assert value.item() == pytest.approx(fit.loss(network, a_batch()._replace(extras={})).item())


def test_a_validation_loss_of_its_own_decides(tmp_path):
    shop = Workshop.at(tmp_path, recipe=Recipe(epochs=5, batch_size=16, patience=2))
    values, states, draws = iter([3.0, 1.0, 2.0, 1.0]), [], []

    def validation(module, batch):
        assert not module.training
        assert not torch.is_grad_enabled()
        states.append(state(module))
        draws.append(batch.rng.normal(2))
        return torch.tensor(next(values))

    trained = state(shop.fit(shop.build(), validation=validation))
    assert len(states) == 4  # the fourth epoch was the second without a better one
    assert all(torch.equal(trained[name], states[1][name]) for name in trained)
    assert all(torch.equal(draw, draws[0]) for draw in draws)
    assert len(draws[0]) == len(shop.data.splits["valid"])


@pytest.mark.parametrize(
    "defense",
    [
        FGSMTraining(eps=1.0),
        PGDTraining(eps=1.0, step=0.5, steps=3),
        DDNTraining(steps=4),
        Augmentation(perturbations=[NOISE]),
    ],
    ids=lambda defense: type(defense).__name__,
)
def test_a_regressor_is_trained_too(tmp_path, defense):
    source = data(1, n=160)
    shop = Workshop.at(tmp_path, source, recipe=Recipe(epochs=4, batch_size=16, lr=5e-3))
    trained = defense.train(shop)
    test = source.splits["test"]
    error = (trained(torch.from_numpy(test.x))[:, 0] - torch.from_numpy(test.y)).square().mean()
    untrained = (
        (shop.build().eval()(torch.from_numpy(test.x))[:, 0] - torch.from_numpy(test.y)).square().mean()
    )
    assert error.item() < 0.5 * untrained.item()
    assert "regression" in defense.tags.tasks


@pytest.mark.parametrize("classes", [2, 4])
def test_any_number_of_classes_and_bands(tmp_path, classes):
    shop = Workshop.at(tmp_path, data(classes, n=60), recipe=Recipe(epochs=1, batch_size=16))
    for defense in (
        PGDTraining(eps=[1.0] * BANDS, step=[0.5] * BANDS, steps=2),
        TRADES(eps=[1.0] * BANDS, steps=2),
    ):
        assert defense.train(shop)(torch.zeros(2, BANDS, 6, 6)).shape == (2, classes)
