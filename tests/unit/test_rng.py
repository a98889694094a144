"""Draws depend on seed, purpose and sample alone."""

import random

import numpy as np
import pytest
import torch

from advbench.runtime.rng import SampleRng, isolated_rng

CPU = torch.device("cpu")
IDS = [f"s{i}" for i in range(7)]


def draws(rng: SampleRng) -> torch.Tensor:
    return torch.cat([rng.uniform(3), rng.normal(2), rng.integers(10, 2).float()], 1)


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [2], [0, 3]])
def test_rows_do_not_depend_on_companions(order: list[int]) -> None:
    whole = draws(SampleRng(1, "p", IDS, CPU))
    part = draws(SampleRng(1, "p", [IDS[i] for i in order], CPU))
    assert torch.equal(whole[order], part)


def test_streams_go_on_when_others_leave() -> None:
    stay = torch.tensor([1, 4])
    alone = SampleRng(1, "p", [IDS[1], IDS[4]], CPU)
    alone.uniform(3)
    whole = SampleRng(1, "p", IDS, CPU)
    whole.uniform(3)
    assert torch.equal(whole.take(stay).uniform(3), alone.uniform(3))


def test_seed_purpose_and_call_matter() -> None:
    rows = [draws(SampleRng(seed, purpose, IDS, CPU)) for seed, purpose in ((1, "p"), (2, "p"), (1, "q"))]
    rng = SampleRng(1, "p", IDS, CPU)
    assert not torch.equal(rng.uniform(3), rng.uniform(3))
    assert len({row.numpy().tobytes() for row in rows}) == 3


def test_moments() -> None:
    rng = SampleRng(0, "moments", [str(i) for i in range(200)], CPU)
    normal, uniform = rng.normal(500), rng.uniform(500, low=-1.0, high=3.0)
    # Standard errors at 1e5 draws: 0.003 for the mean, 0.002 for the standard deviation.
    assert abs(float(normal.mean())) < 0.015
    assert abs(float(normal.std()) - 1) < 0.012
    assert abs(float(uniform.mean()) - 1) < 0.02
    assert float(uniform.min()) >= -1
    assert float(uniform.max()) < 3
    assert abs(float(rng.poisson(torch.full((200, 500), 4.0)).mean()) - 4) < 0.03


def test_isolated_rng_leaves_the_global_generators_as_found() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    with isolated_rng(5):
        first = torch.rand(2), np.random.rand(), random.random()  # noqa: NPY002
    with pytest.raises(KeyError), isolated_rng(6):
        raise KeyError(str(torch.rand(2)))
    with isolated_rng(5):
        second = torch.rand(2), np.random.rand(), random.random()  # noqa: NPY002
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]
