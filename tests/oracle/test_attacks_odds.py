"""Log-odds in units of the outputs' spread: what APGD ascends."""

from __future__ import annotations

import pytest
import torch
from tests.oracle.stand_in import classes, linear, random_tensor, space_of

from advbench.testing.stage import a_stage
from advbench_attacks.odds import SHARPNESS, goal_classes, log_odds

OUTPUT = random_tensor(5, 5, seed=1, low=-9, high=9)
WRONG = ~torch.eye(5, dtype=torch.bool)


def slope(output, goal):
    output = output.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(log_odds(output, goal).sum(), output)
    return gradient


def test_it_is_cross_entropy_where_the_unit_is_one():
    output = OUTPUT.double() * SHARPNESS / OUTPUT.double().std(1, keepdim=True, correction=0)
    right = output.softmax(1)[~WRONG]
    assert torch.allclose(log_odds(output, WRONG), torch.log((1 - right) / right), rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 20.0, 1e3])
def test_no_factor_or_shift_changes_its_gradient(factor):
    assert torch.allclose(slope(OUTPUT, WRONG), slope(OUTPUT * factor + 3 * factor, WRONG), atol=1e-4)
    assert torch.allclose(log_odds(OUTPUT * factor, WRONG), factor * log_odds(OUTPUT, WRONG), rtol=1e-4)


def test_for_two_classes_it_is_the_margin():
    output, first = OUTPUT[:, :2], torch.tensor([[False, True]] * 5)
    assert torch.allclose(log_odds(output, first), output[:, 1] - output[:, 0], rtol=1e-4, atol=1e-5)


def test_all_classes_pull_and_equal_outputs_leave_it_finite():
    for output in (torch.zeros(5, 5), torch.full((5, 5), 1e6)):
        assert torch.allclose(slope(output, WRONG), torch.where(WRONG, 0.25, -1.0))
        assert log_odds(output, WRONG).isfinite().all()


def test_the_classes_of_a_goal():
    shape = (1, 2, 2)
    stage = a_stage(space_of(shape), classes(3), module=linear(random_tensor(3, 4, seed=2)))
    target, y = stage.target(), stage.samples.y
    assert torch.equal(goal_classes(target, y), ~torch.eye(3, dtype=torch.bool)[y])
