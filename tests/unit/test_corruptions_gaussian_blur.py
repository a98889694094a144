from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench_corruptions.gaussian_blur import GaussianBlur, blur_matrix

SHAPE = (2, 20, 13)
SPACE = space_of(SHAPE, -4.0, 50.0)


def blur(x, sigma):
    return GaussianBlur(sigma=sigma).corrupt(x, SPACE, KeyedRng(range(len(x))))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.7, 4.0, 30.0])  # the last one: many reflections
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_it_equals_scipy_borders_included(sigma, dtype, tolerance):
    x = random_tensor(3, *SHAPE, low=-1).to(dtype)
    expected = torch.tensor(gaussian_filter(x.double().numpy(), sigma, axes=(2, 3)))
    assert (blur(x, sigma).double() - expected).abs().max() <= tolerance


def test_a_point_becomes_the_gaussian():
    x = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    x[0, 0, 20, 20] = 1
    axis = torch.arange(-20, 21).double()
    profile = torch.exp(-0.5 * (axis / 2).square()) / (2 * (2 * torch.pi) ** 0.5)
    # Truncation at 4 sigma and sampling in pixels cost 6e-5 of the total.
    assert torch.allclose(blur(x, 2.0)[0, 0], torch.outer(profile, profile), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.3, 1.5, 10.0])
def test_flux_and_constants_are_kept(sigma):
    x = random_tensor(2, *SHAPE).double()
    assert torch.allclose(blur(x, sigma).sum((2, 3)), x.sum((2, 3)), rtol=1e-12)
    constant = torch.full_like(x, 37.0)
    assert torch.allclose(blur(constant, sigma), constant, rtol=1e-12)
    assert torch.allclose(blur_matrix(9, sigma).sum(1), torch.ones(9).double(), rtol=1e-12)


def test_stronger_blur_leaves_less_contrast_and_none_changes_nothing():
    x = random_tensor(2, *SHAPE)
    assert torch.equal(blur(x, 0), x)
    contrast = [float(blur(x, sigma).std()) for sigma in (0, 0.5, 1, 2, 5)]
    assert contrast == sorted(contrast, reverse=True)
    assert contrast[-1] < 0.1 * contrast[0]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 50, 50), (5, 33, 20)])
def test_results_do_not_depend_on_companions(shape):
    x = random_tensor(9, *shape)
    whole = blur(x, 1.3)
    for rows in (torch.tensor([7, 0, 3]), torch.tensor([5]), torch.tensor([8, 6, 4, 2, 1])):
        assert torch.equal(blur(x[rows], 1.3), whole[rows])


def test_inputs_and_the_global_generator_are_left_alone():
    state = torch.get_rng_state()
    for sigma in (0, 1.5):
        x = random_tensor(3, *SHAPE)
        original = x.clone()
        found = blur(x, sigma)
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
        assert found.data_ptr() != x.data_ptr()
        assert torch.equal(x, original)
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters():
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        GaussianBlur(sigma=-1)
    assert GaussianBlur(sigma=2).strength() == 2
    assert GaussianBlur().supports(SPACE, classes(2)) is None
    assert GaussianBlur().supports(space_of((5,)), classes(2)) == "a blur needs images (c, h, w)"
