from __future__ import annotations

import torch
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench.api import Budget
from advbench_corruptions.gaussian_noise import GaussianNoise

SHAPE = (5, 16, 16)
SPACE = space_of(SHAPE, -4.0, 50.0)


def test_mean_and_deviation_of_every_channel_are_as_requested():
    sigma = [0.0, 0.01, 0.1, 1.0, 20.0]
    x = random_tensor(64, *SHAPE, low=-4, high=50).double()
    noise = GaussianNoise(sigma=sigma).corrupt(x, SPACE, KeyedRng(range(64))) - x
    count = 64 * 16 * 16  # the standard error of a deviation is 1 / sqrt(2 n) = 0.55 % of it
    assert torch.allclose(noise.std((0, 2, 3)), torch.tensor(sigma).double(), rtol=0.025, atol=0)
    assert (noise.mean((0, 2, 3)).abs() <= 4.5 * torch.tensor(sigma) / count**0.5).all()
    assert torch.equal(noise[:, 0], torch.zeros_like(noise[:, 0]))


def test_it_is_the_draw_times_sigma_and_is_not_clipped():
    x = random_tensor(3, *SHAPE)
    found = GaussianNoise(sigma="1/2").corrupt(x, space_of(SHAPE), KeyedRng(range(3)))
    assert torch.equal(found, x + 0.5 * KeyedRng(range(3)).normal(*SHAPE))
    assert found.min() < 0
    assert found.max() > 1


def test_noise_belongs_to_the_sample():
    x = random_tensor(7, *SHAPE)
    whole = GaussianNoise().corrupt(x, SPACE, KeyedRng(range(7)))
    for rows in torch.tensor([4, 2, 6, 0, 5, 1, 3]).split(2):
        assert torch.equal(GaussianNoise().corrupt(x[rows], SPACE, KeyedRng(rows.tolist())), whole[rows])
    same = GaussianNoise().corrupt(x[:1].expand(7, -1, -1, -1), SPACE, KeyedRng(range(7)))
    assert not torch.equal(same[0], same[1])


def test_inputs_and_the_global_generator_are_left_alone():
    state = torch.get_rng_state()
    for dtype in (torch.float16, torch.float32, torch.float64):
        x = random_tensor(3, *SHAPE).to(dtype)
        original = x.clone()
        found = GaussianNoise().corrupt(x, SPACE, KeyedRng(range(3)))
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
        assert torch.equal(x, original)
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters():
    assert GaussianNoise(sigma=[1, 2]).supports(SPACE, classes(2)) == "sigma has 2 entries for 5 channels"
    assert GaussianNoise(sigma=2).supports(SPACE, classes(2)) is None
    assert GaussianNoise(sigma="1/4").strength() == 0.25
    assert GaussianNoise(sigma="1/4").sigma == Budget((0.25,))
