from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from advbench.api import ball_norm
from advbench.testing.stage import a_stage, craft_clean, global_state
from advbench_attacks.fmn import FMN
from advbench_attacks.hyperplane import nearest_step

from .nearest_cases import (
    BANDS,
    a_flat_stage,
    a_kinked_stage,
    a_linear_stage,
    a_regression_stage,
    a_smooth_stage,
    distances,
    regression_distances,
    sizes,
)
from .stand_in import random_tensor

NORMS = ("linf", "l2", "l1", "l0")
CLOSE = {"linf": 1.001, "l2": 1.01, "l1": 1.01, "l0": 1.0}


def a_half_space(seed: int, values: int = 6):
    """A point in a box of its own, a gradient, and a gap that the box lets it reach."""
    lower, upper = (
        random_tensor(1, values, seed=seed, low=-4, high=0),
        random_tensor(1, values, seed=seed + 1, low=1, high=50),
    )
    x = lower + (upper - lower) * random_tensor(1, values, seed=seed + 2)
    gradient = random_tensor(1, values, seed=seed + 3, low=-1)
    most = torch.where(gradient > 0, (upper - x) * gradient, (lower - x) * gradient).sum(1)
    share = random_tensor(1, seed=seed + 4, low=0.05, high=0.95)
    return x, gradient, most * share, lower, upper


@pytest.mark.parametrize("seed", range(0, 100, 10))
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_the_step_across_a_hyperplane_is_that_of_a_linear_program(norm, seed):
    x, gradient, gap, lower, upper = a_half_space(seed)
    step = nearest_step(x, gradient, gap, norm, lower, upper)
    values = x.shape[1]
    g = gradient[0].double().numpy()
    # Variables: delta, then |delta| bounded by t (linf: one t, l1: one each).
    extra = np.ones((values, 1)) if norm == "linf" else np.eye(values)
    rows = np.vstack([np.hstack([sign * np.eye(values), -extra]) for sign in (1, -1)])
    rows = np.vstack([np.hstack([-g, np.zeros(extra.shape[1])]), rows])
    limits = np.concatenate([[-float(gap)], np.zeros(2 * values)])
    cost = np.concatenate([np.zeros(values), np.ones(extra.shape[1])])
    box = [*zip((lower - x)[0].tolist(), (upper - x)[0].tolist()), *[(0, None)] * extra.shape[1]]
    best = linprog(cost, A_ub=rows, b_ub=limits, bounds=box).fun
    assert float((gradient * step).sum()) >= float(gap) * (1 - 1e-5)
    assert float(ball_norm(step, norm)) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_the_l2_step_fulfils_the_conditions_of_optimality(seed):
    x, gradient, gap, lower, upper = a_half_space(seed)
    step = nearest_step(x, gradient, gap, "l2", lower, upper)
    assert float((gradient * step).sum()) == pytest.approx(float(gap), rel=1e-5)
    free = ((x + step - lower) > 1e-5) & ((upper - x - step) > 1e-5)
    multiplier = (step / gradient)[free]  # the same wherever no bound is met, and larger than at the others
    assert torch.allclose(multiplier, multiplier[:1], rtol=1e-4)
    assert bool(((step / gradient)[~free] <= multiplier.amax() * (1 + 1e-4)).all())


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_the_l0_step_changes_as_few_values_as_any(seed):
    x, gradient, gap, lower, upper = a_half_space(seed)
    step = nearest_step(x, gradient, gap, "l0", lower, upper)
    gain = torch.maximum((upper - x) * gradient, (lower - x) * gradient)[0].tolist()
    enough = [
        count
        for count in range(1, len(gain) + 1)
        if max(map(sum, itertools.combinations(gain, count))) >= float(gap)
    ]
    assert int(ball_norm(step, "l0")) == enough[0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_the_distance_of_a_linear_model(norm, classes):
    stage = a_linear_stage(classes)
    true = distances(stage, norm)
    found = sizes(stage, craft_clean(stage, FMN(norm=norm, steps=10 * classes), "fmn").x, norm)
    assert bool((found <= true * CLOSE[norm] + 1e-9).all())
    assert bool((found >= true * (1 - 1e-4)).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1.0), (100.0, 50000.0), BANDS])
def test_the_distance_where_bounds_are_met(norm, lower, upper):
    stage = a_linear_stage(4, lower=lower, upper=upper)
    true = distances(stage, norm)
    found = sizes(stage, craft_clean(stage, FMN(norm=norm, steps=40), "fmn").x, norm)
    assert bool((found <= true * CLOSE[norm] + 1e-9).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("goal", ["untargeted", "up", "down"])
def test_the_distance_to_the_tolerance_of_a_linear_regressor(norm, goal):
    stage = a_regression_stage()
    true = regression_distances(stage, norm, goal)
    found = sizes(stage, craft_clean(stage, FMN(norm=norm, goal=goal, steps=30), "fmn").x, norm, goal)
    assert bool((found <= true * CLOSE[norm] + 1e-9).all())


@pytest.mark.parametrize("norm", NORMS)
def test_the_distance_to_a_class_and_within_a_mask(norm):
    stage = a_linear_stage(2, lower=-1.0, upper=1.0)
    mask = {"channels": ["band1"], "box": [1, 0, 3, 4]}
    attack = FMN(norm=norm, goal="next", mask=mask, steps=50)
    crafted = craft_clean(stage, attack, "fmn").x
    changed = crafted != stage.samples.x
    allowed = attack.mask.like(crafted, stage.space)
    assert not bool((changed & ~allowed).any())
    aim = 1 - stage.samples.y
    reached = stage.output(crafted).argmax(1) == aim
    true = distances(stage, norm, allowed)
    assert torch.equal(reached, true.isfinite())
    assert int(reached.sum()) > 0
    size = ball_norm(crafted - stage.samples.x, norm)
    assert bool((size[reached] <= true[reached] * CLOSE[norm] + 1e-9).all())
    assert bool((size[~reached] == 0).all())


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_curved_network_it_beats_the_published_schedule(norm):
    stage = a_smooth_stage()
    ours = sizes(stage, craft_clean(stage, FMN(norm=norm, steps=40), "fmn").x, norm)
    published = FMN(norm=norm, steps=40, scale_free=False, line_search=0)
    theirs = sizes(stage, craft_clean(stage, published, "fmn").x, norm)
    assert bool(ours.isfinite().all())
    assert ours.median() <= theirs.median() * 1.002


@pytest.mark.parametrize("norm", NORMS)
def test_samples_do_not_depend_on_their_company(norm):
    stage = a_smooth_stage(64)
    attack = FMN(norm=norm, steps=12)
    before = global_state()
    alone = craft_clean(stage, attack, "fmn", batch=64).x
    for batch in (1, 7):
        some = stage.take(range(9))
        assert torch.equal(craft_clean(some, attack, "fmn", batch=batch).x, alone[:9])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1)).tolist()
    assert torch.equal(craft_clean(stage.take(order), attack, "fmn").x, alone[order])
    assert global_state() == before


@pytest.mark.parametrize("norm", NORMS)
def test_passes(norm):
    stage = a_smooth_stage()
    crafted = craft_clean(stage, FMN(norm=norm, steps=20), "fmn")
    assert int((crafted.forward + crafted.backward).amax()) <= FMN(norm=norm, steps=20).passes()
    assert int(crafted.backward.amin()) >= 20


@pytest.mark.parametrize("norm", NORMS)
def test_the_scale_of_the_logits_does_not_matter(norm):
    medians = []
    for factor in (1, 5, 20, 100):
        stage = a_smooth_stage(scale=factor)
        medians.append(
            float(sizes(stage, craft_clean(stage, FMN(norm=norm, steps=30), "fmn").x, norm).median())
        )
    assert medians == pytest.approx([medians[0]] * 4, rel=0.01)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale_free", [True, False])
def test_gradients_that_vanish_or_are_no_numbers(norm, scale_free):
    attack = FMN(norm=norm, steps=12, scale_free=scale_free)
    stage = a_flat_stage()
    assert torch.equal(craft_clean(stage, attack, "fmn").x, stage.samples.x)
    kinked = a_kinked_stage()
    found = craft_clean(kinked, attack, "fmn").x
    assert bool(sizes(kinked, found, norm).isfinite().all())
    assert torch.equal(found[:, :, 0, 0], kinked.samples.x[:, :, 0, 0])  # its derivative is no number


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_adversarial_already_stays(norm):
    stage = a_regression_stage()
    y = stage.samples.y.clone()
    y[3] += 10
    wrong = a_stage(stage.space, stage.task, module=stage.network.module, x=stage.samples.x, y=y)
    crafted = craft_clean(wrong, FMN(norm=norm, steps=12), "fmn")
    assert torch.equal(crafted.x[3], stage.samples.x[3])
    assert (int(crafted.forward[3]), int(crafted.backward[3])) == (1, 1)
    assert bool(sizes(wrong, crafted.x, norm).isfinite().all())
