"""What every attack with a fixed budget, and bisection around them, has to keep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from advbench.api import InputSpace, Regression, ball_norm
from advbench.runtime.cell import Samples
from advbench.testing import stage as stages
from advbench.testing.stage import a_stage, craft_clean, craft_with, global_state
from advbench.values import Mask
from advbench_attacks.apgd import APGD
from advbench_attacks.apgd_targeted import TargetedAPGD
from advbench_attacks.bim import BIM
from advbench_attacks.bisection import Bisection
from advbench_attacks.mim import MomentumPGD
from advbench_attacks.noise import RandomNoise
from advbench_attacks.pgd import PGD

from .stand_in import classes, linear, random_tensor, small_network, space_of

SHAPE = (3, 6, 6)
SIZES = {"linf": 0.03, "l2": 0.2, "l1": 1.0}
KINDS = [
    (PGD, "linf", {"steps": 10}),
    (PGD, "l2", {"steps": 10}),
    (PGD, "l1", {"steps": 10, "restarts": 2}),
    (BIM, "linf", {}),
    (BIM, "l2", {}),
    (MomentumPGD, "linf", {}),
    (MomentumPGD, "l2", {"random_start": True}),
    (APGD, "linf", {"steps": 10}),
    (APGD, "l2", {"steps": 10, "restarts": 2}),
    (APGD, "l1", {"steps": 10}),
    (TargetedAPGD, "linf", {"steps": 6}),
    (TargetedAPGD, "l2", {"steps": 6}),
    (TargetedAPGD, "l1", {"steps": 6}),
    (RandomNoise, "linf", {}),
    (RandomNoise, "linf", {"distribution": "corners"}),
    (RandomNoise, "l2", {}),
    (RandomNoise, "l1", {}),
]
NEAREST = [
    (Bisection, "linf", {"attack": "fgsm", "search_steps": 5}),
    (Bisection, "l2", {"attack": "pgd", "steps": 6, "search_steps": 4}),
    (Bisection, "l1", {"attack": "apgd", "steps": 6, "search_steps": 4}),
]


@pytest.fixture(autouse=True)
def larger_chunks(monkeypatch):
    monkeypatch.setattr(stages, "CHUNK", 32)  # the tests are about attacks, not about chunks


def named(kinds):
    return [
        pytest.param(*kind, id="-".join([kind[0].__name__, kind[1], *map(str, kind[2].values())]))
        for kind in kinds
    ]


def build(cls, norm, options, **more):
    return cls(norm=norm, **({} if cls is Bisection else {"eps": SIZES[norm]}), **options, **more)


def network_stage(count, scale=1.0, outputs=4):
    module = small_network(3, outputs)
    module[-1].weight.data *= scale
    module[-1].bias.data *= scale
    x = random_tensor(count, *SHAPE, seed=4)
    return a_stage(space_of(SHAPE), classes(outputs), module=module, x=x)


def success(stage, attack):
    crafted = craft_clean(stage, attack, "attack")
    target = stage.target()
    return target.is_adversarial(target.output(crafted.x), stage.samples.y), crafted


@pytest.mark.parametrize(("cls", "norm", "options"), named(KINDS))
def test_the_scale_of_the_logits_does_not_matter(cls, norm, options):
    rates = []
    for scale in (1, 5, 20, 100):
        stage = network_stage(100, scale)
        rates.append(float(success(stage, build(cls, norm, options))[0].float().mean()))
    assert max(rates) - min(rates) <= 0.01 + 1e-6
    assert cls is RandomNoise or 0.1 < rates[0] < 0.98  # so that there is something to lose and to gain


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_nor_with_the_other_losses(loss):
    rates = [
        float(success(network_stage(100, scale), APGD(eps=0.03, steps=10, loss=loss))[0].float().mean())
        for scale in (20, 100)
    ]
    assert abs(rates[0] - rates[1]) <= 0.01 + 1e-6
    assert rates[0] > 0.1


@pytest.mark.parametrize(("cls", "norm", "options"), named(NEAREST))
def test_nor_for_the_nearest_points(cls, norm, options):
    found, sizes = [], []
    for scale in (1, 20):
        stage = network_stage(30, scale)
        wrong, crafted = success(stage, build(cls, norm, options))
        found.append(wrong)
        sizes.append(ball_norm(crafted.x - stage.samples.x, norm))
    assert torch.equal(*found)
    assert found[0].float().mean() > 0.9
    assert torch.allclose(*(size.median() for size in sizes), rtol=0.02)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("cls", "norm", "options"), named(KINDS))
def test_bands_bounds_and_masks_are_kept(cls, norm, options, masked):
    draws = np.random.default_rng(5)
    for _ in range(3):
        low = draws.uniform(-4, 40, 5)
        high = low + draws.uniform(0.1, 50 - low)
        space = InputSpace((5, 6, 6), tuple(low), tuple(high), tuple("ugriz"))
        eps = (high - low) * draws.uniform(0.01, 0.3, 5) * {"linf": 1, "l2": 3, "l1": 9}[norm]
        eps[draws.integers(5)] = 0
        lower, upper = space.bounds_like(torch.zeros(1, 5, 6, 6))
        at_bounds = random_tensor(8, 5, 6, 6, low=-0.3, high=1.3).clamp(0, 1)  # many values on a bound
        x = (lower + (upper - lower) * at_bounds).clamp(lower, upper)
        stage = a_stage(space, classes(3), x=x, module=small_network(5, 3))
        mask = Mask(channels=("g", 3), box=(1, 2, 3, 4)) if masked else None
        stops = {} if cls is BIM else {"stop_on_success": False}
        attack = cls(norm=norm, eps=eps.tolist(), mask=mask, **options, **stops)
        crafted = craft_with(stage, attack, "attack")
        assert not crafted.violation.any()
        assert ((crafted.x >= lower) & (crafted.x <= upper)).all()
        size = ball_norm(crafted.x - x, norm, attack.eps.like(x))
        assert size.max() <= 1 + 1e-6
        if mask is not None:
            allowed = mask.like(x, space).expand_as(x)
            assert torch.equal(crafted.x[~allowed], x[~allowed])
        assert (crafted.x != x).any()


@pytest.mark.parametrize(("cls", "norm", "options"), named(KINDS + NEAREST))
def test_order_and_companions_do_not_matter(cls, norm, options):
    stage, attack = network_stage(42), build(cls, norm, options)
    whole = craft_clean(stage, attack, "attack", batch=64)
    order = np.random.default_rng(0).permutation(42)
    shuffled = craft_clean(stage.take(order), attack, "attack", batch=7)
    assert torch.equal(shuffled.x, whole.x[order])
    assert torch.equal(shuffled.forward, whole.forward[order])
    alone = craft_clean(stage.take([5, 3, 40]), attack, "attack", batch=1)
    assert torch.equal(alone.x, whole.x[[5, 3, 40]])


@pytest.mark.parametrize(("cls", "norm", "options"), named(KINDS + NEAREST))
def test_without_a_gradient_nothing_breaks(cls, norm, options):
    flat = linear(torch.zeros(3, 108), torch.tensor([1.0, 0.5, 0.0]))
    x = random_tensor(4, *SHAPE, seed=1)
    stage = a_stage(space_of(SHAPE), classes(3), module=flat, x=x)
    before = global_state()
    crafted = craft_clean(stage, build(cls, norm, options), "attack")
    assert global_state() == before
    assert torch.isfinite(crafted.x).all()
    if cls in (BIM, Bisection):
        assert torch.equal(crafted.x, x)


@pytest.mark.parametrize(
    ("cls", "norm", "options"), named([kind for kind in KINDS if kind[0] is not TargetedAPGD] + NEAREST)
)
@pytest.mark.parametrize("goal", ["untargeted", "up", "down"])
def test_regressors_are_driven_where_the_goal_says(cls, norm, options, goal):
    task = Regression(("z",), tolerance=0.05)
    weight = random_tensor(1, 108, low=-1)
    x = random_tensor(6, *SHAPE, seed=1, low=0.2, high=0.8)
    truth = x.flatten(1) @ weight[0]
    stage = a_stage(space_of(SHAPE), task, module=linear(weight), x=x, y=truth + 0.01)
    crafted = craft_clean(stage, build(cls, norm, options, goal=goal), "attack")
    error = stage.output(crafted.x)[:, 0] - stage.samples.y
    moved = {"untargeted": error.abs(), "up": error, "down": -error}[goal]
    start = {"untargeted": 0.01, "up": -0.01, "down": 0.01}[goal]
    assert (moved > start).all()
    if cls is not RandomNoise:
        assert (moved > 0.05).all()


def test_inputs_stay_as_they_are():
    stage = network_stage(4)
    x = stage.samples.x.clone()
    for cls, norm, options in KINDS + NEAREST:
        attack = build(cls, norm, options)
        found = attack.perturb(stage.samples.x, stage.samples.y, stage.target(), stage.samples.rng(0, "t"))
        assert found.data_ptr() != stage.samples.x.data_ptr()
    assert torch.equal(stage.samples.x, x)


def test_a_budget_per_sample_is_the_budget_of_that_sample():
    from advbench_attacks.apgd import apgd

    stage = network_stage(6)
    x, y = stage.samples.x, stage.samples.y
    eps = torch.linspace(0, 0.05, 6).view(-1, 1, 1, 1)
    together = apgd(x, y, stage.target(), stage.samples.rng(0, "t"), norm="linf", eps=eps, steps=6)
    assert torch.equal(together[0], x[0])
    for row in range(6):
        one = stage.take([row])
        samples: Samples = one.samples
        alone = apgd(
            samples.x, samples.y, one.target(), samples.rng(0, "t"), norm="linf", eps=eps[[row]], steps=6
        )
        assert torch.equal(alone[0], together[row])


def test_classes_that_are_aimed_at_are_reached():
    stage = network_stage(20, outputs=3)
    for cls in (PGD, BIM, MomentumPGD, APGD):
        attack = cls(eps=0.4, steps=20, goal="least-likely")
        crafted = craft_clean(stage, attack, "attack")
        reached = stage.output(crafted.x).argmax(1)
        assert float((reached == crafted.aim).float().mean()) > 0.9


def test_the_mask_of_a_target_confines_a_pure_function():
    from advbench_attacks.noise import random_noise

    stage = network_stage(4)
    mask = Mask(box=(0, 0, 2, 2)).like(stage.samples.x, stage.space)
    target = replace(stage.target(), mask=mask)
    found = random_noise(
        stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t"),
        norm="l2", eps=torch.full((1, 1, 1, 1), 0.5), draws=2,
    )  # fmt: skip
    changed = (found != stage.samples.x).any(0)
    assert torch.equal(changed, mask[0])
