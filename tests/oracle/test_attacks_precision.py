"""What attacks are made of keeps the precision of its inputs; the harness itself only passes float32."""

from __future__ import annotations

import pytest
import torch
from tests.oracle.stand_in import random_tensor

from advbench_attacks.flow import smoothness, warp
from advbench_attacks.hyperplane import nearest_step
from advbench_attacks.l1 import onto_ball_and_box, sparse_step
from advbench_attacks.odds import log_odds

SHAPE = (3, 2, 6, 5)
X, GRADIENT = random_tensor(*SHAPE, seed=1), random_tensor(*SHAPE, seed=2, low=-1)
FLOW = random_tensor(3, 2, 6, 5, seed=3, low=-2, high=2)


def bounds(like):
    return torch.zeros_like(like), torch.ones_like(like)


def column(value, like):
    return torch.full((3, 1, 1, 1), value, dtype=like.dtype)


PIECES = {
    "nearest step": lambda x, g, f: nearest_step(x, g, torch.full((3,), 0.3).to(x), "l2", *bounds(x)),
    "sparse step": lambda x, g, f: sparse_step(x, g, column(0.5, x), torch.tensor([1, 4, 60]), bounds(x)),
    "l1 projection": lambda x, g, f: onto_ball_and_box(x + g, x, column(2.0, x), bounds(x)),
    "warp": lambda x, g, f: warp(x, f).image,
    "slope of a warp": lambda x, g, f: warp(x, f).pull_back(g),
    "smoothness": lambda x, g, f: smoothness(f)[0],
    "log-odds": lambda x, g, f: log_odds(g.flatten(1), torch.arange(60).expand(3, -1) < 9),
}


@pytest.mark.parametrize("name", PIECES)
def test_double_precision_in_double_precision_out(name):
    single = PIECES[name](X, GRADIENT, FLOW)
    double = PIECES[name](X.double(), GRADIENT.double(), FLOW.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.allclose(single.double(), double, rtol=1e-4, atol=2e-5)
