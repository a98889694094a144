from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy.ndimage import median_filter as scipy_median
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench_defenses.feature_squeezing import FeatureSqueezing
from advbench_defenses.nonlocal_means import NonLocalMeans, non_local_means
from advbench_defenses.squeezers import median_filter, reduce_bit_depth, resample

SHAPE = (3, 12, 9)
OFF = {"bit_depth": None, "median": None, "non_local_means": None, "resample": None}
MEANS = {"non_local_means": {"search": 5, "strength": 0.2}}
EACH = [
    {"bit_depth": 3},
    {"median": 2},
    {"median": 3},
    {"median": 4},
    {"median": 5},
    MEANS,
    {"resample": 0.5},
]


def purify(x, space=None, **parameters):
    space = space_of(tuple(x.shape[1:])) if space is None else space
    return FeatureSqueezing(**parameters).purify(x, space, KeyedRng(range(len(x))))


def surrogate(x, **parameters):
    return FeatureSqueezing(**parameters).surrogate(x, space_of(tuple(x.shape[1:])), KeyedRng(range(len(x))))


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_rounds_to_the_nearest_level(bits):
    x = random_tensor(2, *SHAPE)
    steps = 2**bits - 1
    found = purify(x, **{**OFF, "bit_depth": bits})
    assert torch.equal(found, torch.round(x * steps) / steps)
    assert len(found.unique()) <= 2**bits
    assert (found - x).abs().max() <= 0.5 / steps + 1e-6


def test_eight_bits_leave_an_image_of_eight_bits():
    x = (torch.arange(256) / 255).view(1, 1, 16, 16)
    assert torch.equal(purify(x, **{**OFF, "bit_depth": 8}), x)


def test_levels_lie_between_the_bounds_of_each_channel():
    space = space_of((2, 1, 4), [-4.0, 0.0], [50.0, 1.0])
    x = torch.tensor([[[[-4.0, 22.9, 23.1, 50.0]], [[0.0, 0.4, 0.6, 1.0]]]])
    expected = torch.tensor([[[[-4.0, -4.0, 50.0, 50.0]], [[0.0, 0.0, 1.0, 1.0]]]])
    assert torch.equal(purify(x, space, **{**OFF, "bit_depth": 1}), expected)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("shape", [(2, 3, 12, 9), (1, 1, 3, 2), (1, 2, 1, 1)])
def test_the_median_is_that_of_scipy(size, shape):
    x = random_tensor(*shape, seed=size)
    expected = torch.tensor(scipy_median(x.numpy(), size=(1, 1, size, size), mode="reflect"))
    assert torch.equal(median_filter(x, size=size), expected)
    levels = reduce_bit_depth(x, torch.tensor(0.0), torch.tensor(1.0), bits=2)  # many equal values
    expected = torch.tensor(scipy_median(levels.numpy(), size=(1, 1, size, size), mode="reflect"))
    assert torch.equal(median_filter(levels, size=size), expected)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_median_removes_a_hot_pixel(size):
    x = torch.full((1, 2, 8, 8), 0.25)
    hot = x.clone()
    hot[0, 1, 3, 4] = 1.0
    assert torch.equal(purify(hot, **{**OFF, "median": size}), x)


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("sides", [(12, 9), (7, 5), (1, 1), (100, 101)])
def test_resampling_is_that_of_pillow_and_keeps_the_size(scale, sides):
    x = random_tensor(2, 3, *sides)
    found = resample(x, scale=scale)
    small = [max(1, int(side * scale + 0.5)) for side in sides]
    for image, result in zip(x.flatten(0, 1), found.flatten(0, 1)):
        picture = Image.fromarray(image.numpy()).resize(small[::-1], Image.Resampling.BILINEAR)
        expected = np.asarray(picture.resize(sides[::-1], Image.Resampling.BILINEAR))
        assert torch.allclose(result, torch.tensor(expected), rtol=0, atol=1e-5)
    assert torch.allclose(resample(torch.full_like(x, 0.3), scale=scale), torch.full_like(x, 0.3), atol=1e-6)


def by_hand(x, search, template, strength):
    """Non-local means of one image (c, h, w) within 0 and 1, pixel by pixel."""
    channels, height, width = x.shape
    reach, half = search // 2, template // 2

    def at(row, column):
        row, column = abs(row), abs(column)  # reflected about the centre of the last pixel
        return x[:, min(row, 2 * height - 2 - row), min(column, 2 * width - 2 - column)]

    def weight(row, column, down, right):
        window = [(i, j) for i in range(-half, half + 1) for j in range(-half, half + 1)]
        there = [at(row + down + i, column + right + j) - at(row + i, column + j) for i, j in window]
        squares = sum(float((value**2).sum()) for value in there) / (len(window) * channels)
        return np.exp(-squares / strength**2)

    result = np.zeros_like(x)
    offsets = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    for row in range(height):
        for column in range(width):
            weights = [weight(row, column, *offset) for offset in offsets]
            values = [w * at(row + i, column + j) for w, (i, j) in zip(weights, offsets)]
            result[:, row, column] = sum(values) / sum(weights)
    return result


@pytest.mark.parametrize(("search", "template", "strength"), [(3, 1, 0.3), (5, 3, 0.1), (3, 3, 1.0)])
@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 5, 6), (2, 7, 7)])
def test_non_local_means_are_those_of_loops(search, template, strength, shape):
    x = random_tensor(2, *shape).double()
    settings = {"search": search, "template": template, "strength": strength}
    found = purify(x, **{**OFF, "non_local_means": settings})
    expected = torch.tensor(np.stack([by_hand(image, **settings) for image in x.numpy()]))
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(found, x, rtol=0, atol=1e-3)


def test_non_local_means_are_in_units_of_the_bounds():
    space, settings = space_of((2, 7, 5), [-4.0, 0.0], [46.0, 0.1]), {"search": 5, "strength": 0.1}
    x = random_tensor(2, 2, 7, 5).double()
    lower, upper = space.bounds_like(x)
    unit = purify(x, **{**OFF, "non_local_means": settings})
    found = purify(lower + x * (upper - lower), space, **{**OFF, "non_local_means": settings})
    assert torch.allclose(found, lower + unit * (upper - lower), rtol=0, atol=1e-12)


def test_non_local_means_between_their_limits():
    x = random_tensor(2, 3, 1, 4)  # smaller than the window
    lower, upper = torch.tensor(0.0), torch.tensor(1.0)
    flat = torch.full((1, 2, 6, 6), 0.3)
    assert torch.equal(NonLocalMeans().smooth(flat, lower, upper), flat)
    assert torch.equal(NonLocalMeans(strength=1e-6).smooth(x, lower, upper), x)  # nothing is alike
    mean = non_local_means(x, lower, upper, search=7, template=1, strength=1e6)  # everything is
    assert torch.allclose(mean[..., 0], (x[..., 0] + 2 * (x[..., 1] + x[..., 2] + x[..., 3])) / 7, atol=1e-6)
    inside = NonLocalMeans(strength=0.2).smooth(x, lower, upper)
    assert bool((inside <= x.amax(-1, keepdim=True) + 1e-6).all())
    assert bool((inside >= x.amin(-1, keepdim=True) - 1e-6).all())


def test_squeezers_follow_each_other():
    x = random_tensor(3, *SHAPE)
    before, together = x, {}
    for stage in ({"bit_depth": 2}, {"median": 3}, MEANS, {"resample": 0.5}):
        together |= stage
        after = purify(before, **{**OFF, **stage})
        assert not torch.equal(after, before)
        assert torch.equal(purify(x, **{**OFF, **together}), after)
        before = after
    assert torch.equal(purify(x), purify(x, **{**OFF, "bit_depth": 5, "median": 2}))


@pytest.mark.parametrize("parameters", [*EACH, {"bit_depth": 4, "median": 2, "resample": 0.5}])
def test_the_surrogate_has_the_values_of_the_defense(parameters):
    x = random_tensor(2, *SHAPE).requires_grad_()
    assert torch.equal(surrogate(x, **{**OFF, **parameters}), purify(x, **{**OFF, **parameters}))


def test_the_gradient_passes_straight_through_the_rounding():
    x, slope = random_tensor(2, *SHAPE).requires_grad_(), random_tensor(2, *SHAPE, seed=1)
    (gradient,) = torch.autograd.grad((surrogate(x, **{**OFF, "bit_depth": 1}) * slope).sum(), x)
    assert torch.equal(gradient, slope)


@pytest.mark.parametrize(
    "parameters", [{"median": 2}, {"median": 3}, {"median": 5}, MEANS, {"resample": 0.5}]
)
def test_the_gradient_of_the_other_squeezers_is_true(parameters):
    x = random_tensor(1, 2, 5, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: surrogate(value, **{**OFF, **parameters}), x, eps=1e-7)


def test_the_gradient_of_a_median_goes_to_the_middle_pixel():
    x = random_tensor(1, 1, 3, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(surrogate(x, **{**OFF, "median": 3})[0, 0, 1, 1], x)
    assert torch.equal(gradient, (x == x.median()).to(gradient))


@pytest.mark.parametrize("parameters", EACH)
def test_results_do_not_depend_on_companions(parameters):
    x = random_tensor(7, *SHAPE)
    whole = purify(x, **{**OFF, **parameters})
    for rows in (torch.tensor([6, 0, 3]), torch.tensor([5]), torch.tensor([4, 2, 1])):
        assert torch.equal(purify(x[rows], **{**OFF, **parameters}), whole[rows])


@pytest.mark.parametrize("parameters", EACH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_and_the_global_generator_are_left_alone(parameters, dtype):
    state, x = torch.get_rng_state(), random_tensor(3, *SHAPE).to(dtype)
    original = x.clone()
    for found in (purify(x, **{**OFF, **parameters}), surrogate(x, **{**OFF, **parameters})):
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
    assert torch.equal(x, original)
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters():
    with pytest.raises(
        ValidationError, match="at least one of bit_depth, median, non_local_means and resample"
    ):
        FeatureSqueezing(**OFF)
    even, zero = {"non_local_means": {"search": 4}}, {"non_local_means": {"strength": 0}}
    for wrong in ({"bit_depth": 0}, {"median": 1}, {"resample": 1.0}, {"window": 3}, even, zero):
        with pytest.raises(ValidationError):
            FeatureSqueezing(**wrong)
    vector = space_of((5,))
    assert FeatureSqueezing().supports(vector, classes(2)) == "median needs images (c, h, w)"
    assert FeatureSqueezing(median=None).supports(vector, classes(2)) is None
    assert FeatureSqueezing().supports(space_of(SHAPE), classes(2)) is None
    assert FeatureSqueezing.tags.purifies
    assert not FeatureSqueezing.tags.stochastic
