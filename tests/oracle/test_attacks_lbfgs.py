from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

from advbench_attacks.adam import adam
from advbench_attacks.lbfgs import PATIENCE, TRIALS, lbfgs

from .stand_in import random_tensor


def rosenbrock(points, rows):
    left, right = points[:, :-1], points[:, 1:]
    bend = right - left.square()
    gradient = torch.zeros_like(points)
    gradient[:, :-1] = -400 * left * bend - 2 * (1 - left)
    gradient[:, 1:] += 200 * bend
    return (100 * bend.square() + (1 - left).square()).sum(1), gradient


def quadratics(count: int, size: int, dtype=torch.float64):
    """Convex quadratics with condition number 100 and values >= 0, and where each is smallest."""
    turn = torch.linalg.qr(random_tensor(count, size, size, seed=1, low=-1).double()).Q
    matrix = turn @ torch.diag(torch.logspace(0, 2, size).double()) @ turn.mT
    middle = random_tensor(count, size, seed=2, low=-5, high=5).double()

    def objective(points, rows):
        gradient = (matrix[rows] @ (points.double() - middle[rows])[..., None])[..., 0]
        value = ((points.double() - middle[rows]) * gradient).sum(1) / 2
        return value.to(dtype), gradient.to(dtype)

    return objective, middle


def start_of(count: int, size: int):
    return random_tensor(count, size, seed=3, low=-2, high=2).double()


def test_quadratics_to_their_minimum():
    objective, middle = quadratics(16, 12)
    found = lbfgs(torch.zeros(16, 12).double(), objective, evaluations=300, tolerance=1e-15)
    assert torch.allclose(found.point, middle, rtol=0, atol=1e-6)
    assert found.evaluations.max() < 300


def test_a_batch_of_rosenbrock_functions_ends_where_scipy_does():
    start = start_of(24, 10)
    found = lbfgs(start, rosenbrock, evaluations=400, first_step=0.1, tolerance=1e-12)
    settings = {"ftol": 1e-15, "gtol": 1e-9}
    scipy = [
        optimize.minimize(optimize.rosen, row, jac=optimize.rosen_der, method="L-BFGS-B", options=settings)
        for row in start.numpy()
    ]
    # Ten dimensions have a second, local minimum (3.986); both must find the same one.
    assert np.allclose(found.value, [one.fun for one in scipy], rtol=1e-6, atol=1e-8)
    assert np.allclose(found.point, [one.x for one in scipy], rtol=0, atol=1e-4)
    assert found.evaluations.double().mean() < 1.5 * np.mean([one.nfev for one in scipy])


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_factor_on_the_function_changes_nothing(factor):
    objective, _ = quadratics(8, 6)

    def scaled(points, rows):
        return tuple(factor * part for part in objective(points, rows))

    start = start_of(8, 6)
    plain, found = (lbfgs(start, one, evaluations=30) for one in (objective, scaled))
    assert torch.allclose(found.point, plain.point, rtol=0, atol=1e-6)
    assert torch.equal(found.evaluations, plain.evaluations)


def test_adam_ends_near_the_minimum_whatever_the_scale():
    objective, middle = quadratics(4, 3)
    for factor in (1e-6, 1.0, 1e6):
        found = adam(
            torch.zeros(4, 3).double(),
            lambda points, rows, factor=factor: tuple(factor * part for part in objective(points, rows)),
            evaluations=1500,
            learning_rate=0.1,
        )
        assert torch.allclose(found, middle, rtol=0, atol=0.05)


def test_a_kink_does_not_stop_it():
    """``max(1 - a x, 0) + tau x^2 / 2`` is smallest on its kink, ``x = a / a^2``, where tau is small."""
    a = random_tensor(16, 8, seed=4, low=-1).double()
    tau = 0.2 * a.square().sum(1)

    def objective(points, rows):
        gap = 1 - (a[rows] * points).sum(1)
        value = gap.clamp_min(0) + tau[rows] * points.square().sum(1) / 2
        return value, tau[rows, None] * points - (gap > 0)[:, None] * a[rows]

    found = lbfgs(start_of(16, 8), objective, evaluations=100)
    assert torch.allclose(found.value, 0.1 + torch.zeros(16).double(), rtol=0.05, atol=0)


def test_problems_do_not_depend_on_their_companions():
    objective, _ = quadratics(16, 6, torch.float32)
    start = start_of(16, 6).float()
    together = lbfgs(start, objective, evaluations=90, tolerance=1e-4)
    assert len(set(together.evaluations.tolist())) > 1, "they must leave at different times"
    for row in range(16):
        alone = lbfgs(
            start[row : row + 1],
            lambda p, _, row=row: objective(p, torch.tensor([row])),
            evaluations=90,
            tolerance=1e-4,
        )
        for one, all_of_them in zip(alone, together):
            assert torch.equal(one[0], all_of_them[row])


def test_the_objective_is_asked_for_unfinished_problems_only_and_within_the_budget():
    objective, _ = quadratics(8, 4)
    asked = torch.zeros(8, dtype=torch.int64)

    def counted(points, rows):
        asked[rows] += 1
        return objective(points, rows)

    start = torch.zeros(8, 4).double()
    found = lbfgs(start, counted, evaluations=12)
    assert torch.equal(found.evaluations, asked)
    assert asked.max() <= 12
    assert torch.equal(start, torch.zeros(8, 4).double())


def test_the_value_never_rises():
    start = start_of(12, 6)
    lowest = rosenbrock(start, None)[0]
    for evaluations in range(1, 40, 3):
        value = lbfgs(start, rosenbrock, evaluations=evaluations).value
        assert (value <= lowest).all()
        lowest = value


def test_flat_and_broken_functions_end():
    def objective(points, rows):
        value = torch.stack([0 * points[:, 0], points[:, 0] * torch.nan, points.sum(1)], 1)
        value[:, 2] = torch.where(points[:, 0] < -1, torch.nan, value[:, 2])
        slope = torch.ones_like(points) * (rows[:, None] != 0)
        return value.gather(1, rows[:, None])[:, 0], slope

    found = lbfgs(torch.zeros(3, 4), objective, evaluations=60)
    assert torch.isfinite(found.point).all()
    assert torch.equal(found.point[:2], torch.zeros(2, 4))
    assert found.evaluations[0] == 1
    assert found.evaluations[1] == TRIALS + 1 > PATIENCE
    assert found.value[2] == -4, "the lowest point before the function ends"
