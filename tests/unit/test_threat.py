"""Balls and projections: closed forms, then properties on data far from [0, 1]."""

import pytest
import torch

from advbench.api import ball_norm, project, random_in_ball, steepest_step
from advbench.runtime.rng import SampleRng

LOWER, UPPER = torch.full((1, 5, 1, 1), -4.0), torch.full((1, 5, 1, 1), 50.0)
PER_BAND = torch.tensor([0.01, 0.1, 0.5, 1.0, 3.0]).view(1, 5, 1, 1)
PER_SAMPLE = torch.linspace(0.01, 4, 16).view(16, 1, 1, 1)
SCALAR = torch.full((1, 1, 1, 1), 0.3)


def rng(n: int = 16) -> SampleRng:
    return SampleRng(0, "t", [str(i) for i in range(n)], torch.device("cpu"))


def inputs() -> torch.Tensor:
    return LOWER + (UPPER - LOWER) * rng().uniform(5, 9, 9)


def excess(y: torch.Tensor, x: torch.Tensor, norm: str, eps: torch.Tensor) -> float:
    return float(ball_norm(y - x.double(), norm, eps).max())


@pytest.mark.parametrize("eps", [SCALAR, PER_BAND, PER_SAMPLE], ids=["scalar", "band", "sample"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_projection_keeps_ball_and_bounds_after_rounding(norm: str, eps: torch.Tensor) -> None:
    x = inputs()
    for far in (0.01, 1.0, 30.0):
        y = project(x + far * rng().normal(5, 9, 9), x, norm, eps, LOWER, UPPER)
        assert excess(y.double(), x, norm, eps) <= 1 + 1e-6
        assert bool(((y >= LOWER) & (y <= UPPER)).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0", "pixels"])
def test_points_inside_are_returned_bit_for_bit(norm: str) -> None:
    x = inputs()
    eps = torch.full((1, 1, 1, 1), 5.0)
    y = random_in_ball(x, norm, eps, LOWER, UPPER, rng())
    assert torch.equal(project(y, x, norm, eps, LOWER, UPPER), y)


def test_l2_projection_is_radial() -> None:
    x, delta = torch.zeros(1, 5, 1, 1), torch.tensor([3.0, 0, 4.0, 0, 0]).view(1, 5, 1, 1)
    y = project(x + delta, x, "l2", torch.ones(1, 1, 1, 1), LOWER, UPPER)
    torch.testing.assert_close(y.flatten(), torch.tensor([0.6, 0, 0.8, 0, 0]))


def test_l1_projection_soft_thresholds() -> None:
    x, delta = torch.zeros(1, 5, 1, 1), torch.tensor([3.0, -1.0, 0.5, 0, 0]).view(1, 5, 1, 1)
    y = project(x + delta, x, "l1", torch.full((1, 1, 1, 1), 2.0), LOWER, UPPER)
    torch.testing.assert_close(y.flatten(), torch.tensor([2.0, 0, 0, 0, 0]))
    y = project(x + delta, x, "l1", torch.full((1, 1, 1, 1), 4.0), LOWER, UPPER)
    # Shift s with (3-s) + (1-s) + (0.5-s) = 4: s = 1/6.
    torch.testing.assert_close(y.flatten(), torch.tensor([3 - 1 / 6, -1 + 1 / 6, 0.5 - 1 / 6, 0, 0]))


@pytest.mark.parametrize("norm", ["l0", "pixels"])
def test_counting_projections_keep_the_largest(norm: str) -> None:
    x = inputs()
    y = project(x + rng().normal(5, 9, 9), x, norm, torch.full((1, 1, 1, 1), 7.0), LOWER, UPPER)
    assert ball_norm(y - x, norm).tolist() == [7.0] * 16


def test_norms_have_their_closed_form() -> None:
    delta = torch.zeros(1, 5, 2, 2)
    delta[0, :2, 0, 0] = torch.tensor([3.0, -4.0])
    values = {norm: float(ball_norm(delta, norm)) for norm in ("linf", "l2", "l1", "l0", "pixels")}
    assert values == {"linf": 4, "l2": 5, "l1": 7, "l0": 2, "pixels": 1}
    assert float(ball_norm(delta, "linf", PER_BAND)) == pytest.approx(300)


def test_zero_budget_allows_nothing() -> None:
    x = inputs()
    for norm in ("linf", "l2", "l1", "l0", "pixels"):
        assert torch.equal(project(x + 1, x, norm, torch.zeros(1, 1, 1, 1), LOWER, UPPER), x), norm


@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_random_start_is_uniform_in_the_ball(norm: str) -> None:
    n = 20000
    many = SampleRng(0, "u", [str(i) for i in range(n)], torch.device("cpu"))
    x, bound = torch.zeros(n, 1, 3, 3), torch.full((1, 1, 1, 1), 10.0)
    y = random_in_ball(x, norm, torch.ones(1, 1, 1, 1), -bound, bound, many)
    size = ball_norm(y, norm)
    # P(norm < r) = r**9 in nine dimensions; at r = 0.9 that is 0.387 +- 0.0035.
    assert float((size < 0.9).double().mean()) == pytest.approx(0.9**9, abs=0.014)
    assert abs(float(y.mean())) < 0.005


def test_steepest_steps() -> None:
    gradient = torch.tensor([3.0, -4.0, 0, 0, 0]).view(1, 5, 1, 1)
    one = torch.ones(1, 1, 1, 1)
    assert steepest_step(gradient, "linf", one).flatten().tolist() == [1, -1, 0, 0, 0]
    torch.testing.assert_close(
        steepest_step(gradient, "l2", one).flatten(), torch.tensor([0.6, -0.8, 0, 0, 0])
    )
    assert steepest_step(gradient, "l1", one).flatten().tolist() == [0, -1, 0, 0, 0]
    for norm in ("linf", "l2", "l1"):
        assert not steepest_step(gradient * 0, norm, one).any()
    tiny = steepest_step(gradient * 1e-30, "l2", one)  # the squares underflow in float32
    torch.testing.assert_close(tiny.flatten(), torch.tensor([0.6, -0.8, 0, 0, 0]))
