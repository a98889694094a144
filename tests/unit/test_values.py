"""Numbers and fractions, budgets, the input space, tasks."""

from fractions import Fraction
from typing import Any

import pytest
from pydantic import ValidationError

from advbench.api import Attack, Budget, Classification, InputSpace, Regression, param
from advbench.values import as_number, task_name


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (3, 3.0),
        (0.25, 0.25),
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("1e-3", 1e-3),
        ("-1/4", -0.25),
        (Fraction(1, 8), 0.125),
    ],
)
def test_numbers_and_fractions(given: Any, number: float) -> None:
    assert as_number(given) == number


@pytest.mark.parametrize(
    "given", [True, None, "", "a", "1/0", "1/2/3", "nan", "inf", float("nan"), 10**400, [1], {}, "8/x"]
)
def test_what_is_no_finite_number_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="expected a"):
        as_number(given)


@pytest.mark.parametrize(
    ("given", "values"),
    [("8/255", (8 / 255,)), (0, (0.0,)), ([1, "1/2"], (1.0, 0.5)), (Budget((2.0,)), (2.0,))],
)
def test_budgets(given: Any, values: tuple[float, ...]) -> None:
    budget = Budget.of(given)
    assert budget.values == values
    assert Budget.of(budget.json()) == budget


@pytest.mark.parametrize("given", [-1, [1, -1], [], True, [True], "x", {"g": 1}, float("inf")])
def test_what_is_no_budget_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"budget|expected a"):
        Budget.of(given)


@pytest.mark.torch
def test_budgets_broadcast_over_channels() -> None:
    import torch

    x = torch.ones(2, 3, 4, 5)
    assert Budget.of(2).like(x).shape == (1, 1, 1, 1)
    assert (x * Budget.of([1, 2, 3]).like(x))[1, :, 3, 4].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"2 entries .* 3 channels"):
        Budget.of([1, 2]).like(x)


class Ball(Attack):
    """An attack with a budget."""

    eps: Budget = param("8/255", "budget")


@pytest.mark.parametrize("given", ["8/255", [0.1, 0.2], 3])
def test_budgets_as_parameters_survive_json(given: Any) -> None:
    ball = Ball(eps=given)
    assert ball.eps == Budget.of(given)
    assert Ball(**ball.model_dump(mode="json")) == ball
    assert Ball().eps.values == (8 / 255,)


@pytest.mark.parametrize("given", [-1, True, "a", None])
def test_wrong_budgets_as_parameters_name_the_parameter(given: Any) -> None:
    with pytest.raises(ValidationError, match="eps"):
        Ball(eps=given)


def test_an_input_space_has_one_bound_for_every_channel() -> None:
    with pytest.raises(ValueError, match="lower has 1 entries for 2 channels"):
        InputSpace((2, 4, 4), (0.0,), (1.0, 1.0), ("a", "b"))
    with pytest.raises(ValueError, match="channels has 3 entries for 2 channels"):
        InputSpace((2, 4, 4), (0.0, 0.0), (1.0, 1.0), ("a", "b", "c"))


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (float("-inf"), 1.0), (0.0, float("nan"))])
def test_bounds_are_finite_and_in_order(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="channel b has bounds"):
        InputSpace((2, 4, 4), (0.0, bounds[0]), (1.0, bounds[1]), ("a", "b"))


@pytest.mark.torch
def test_bounds_have_the_shape_of_one_sample_per_channel() -> None:
    import torch

    space = InputSpace((2, 4, 4), (-4.0, 0.0), (50.0, 1.0), ("a", "b"))
    lower, upper = space.bounds_like(torch.zeros(3, 2, 4, 4, dtype=torch.float64))
    assert lower.shape == upper.shape == (1, 2, 1, 1)
    assert lower.dtype == torch.float64
    assert (lower.flatten().tolist(), upper.flatten().tolist()) == ([-4, 0], [50, 1])


def test_tasks_know_their_outputs() -> None:
    assert Classification(("a", "b")).outputs == 2
    assert Regression(("z", "mass"), tolerance=0.15).outputs == 2
    assert task_name(Classification(("a", "b"))) == "classification"
    assert task_name(Regression(("z",), tolerance=0.15)) == "regression"
    with pytest.raises(ValueError, match="at least two classes, not 1"):
        Classification(("only",))
