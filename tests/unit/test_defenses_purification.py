from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench_defenses.filters import (
    Closing,
    GaussianBlur,
    MedianBlur,
    Opening,
    closing,
    gaussian_blur,
    opening,
)
from advbench_defenses.jpeg import JPEG, compress
from advbench_defenses.random_resize import RandomResize, resize_and_pad
from advbench_defenses.squeezers import median_filter
from advbench_defenses.total_variation import TotalVariation, denoise, divergence, gradient

ZERO, ONE = torch.tensor(0.0).double(), torch.tensor(1.0).double()
WIDE = space_of((2, 11, 8), [-4.0, 0.0], [46.0, 0.1])
SHAPES = [(2, 3, 12, 9), (1, 2, 7, 7), (1, 1, 3, 2), (1, 1, 1, 1)]
DEFENSES = [
    JPEG(),
    JPEG(quality=10),
    GaussianBlur(),
    MedianBlur(),
    Opening(),
    Closing(size=2),
    TotalVariation(iterations=11),
    RandomResize(smallest=0.6),
    RandomResize(smallest=0.6, padding="edge"),
]
NAMES = [type(defense).__name__ for defense in DEFENSES]


def within(space, count=3, seed=0):
    x = random_tensor(count, *space.shape, seed=seed)
    lower, upper = space.bounds_like(x)
    return lower + x * (upper - lower)


def purify(defense, x, space, keys=None, method="purify"):
    return getattr(defense, method)(x, space, KeyedRng(range(len(x)) if keys is None else keys))


# --- each against its reference ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_blur_is_that_of_scipy(sigma, shape):
    x = random_tensor(*shape).double()
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma))
    assert torch.allclose(gaussian_blur(x, sigma=sigma), torch.tensor(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["opening", "closing"])
def test_opening_and_closing_are_those_of_scipy(name, size, shape):
    x = random_tensor(*shape, seed=size)
    reference = getattr(ndimage, f"grey_{name}")(x.numpy(), size=(1, 1, size, size), mode="reflect")
    found = {"opening": opening, "closing": closing}[name](x, size=size)
    assert torch.equal(found, torch.tensor(reference))


def test_opening_removes_a_hot_pixel_and_closing_a_dead_one():
    flat = torch.full((1, 2, 9, 9), 0.4)
    for defense, value in ((Opening(), 1.0), (Closing(), 0.0), (MedianBlur(), 1.0), (MedianBlur(), 0.0)):
        marked = flat.clone()
        marked[0, 1, 4, 3] = value
        assert torch.equal(purify(defense, marked, space_of((2, 9, 9))), flat)
    assert bool((opening(random_tensor(1, 1, 9, 9), size=3) <= random_tensor(1, 1, 9, 9)).all())


def test_median_blur_is_the_median():
    x = random_tensor(2, 2, 8, 7)
    assert torch.equal(purify(MedianBlur(size=5), x, space_of((2, 8, 7))), median_filter(x, size=5))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("quality", [10, 75])
def test_jpeg_is_that_of_pillow(channels, quality):
    space = space_of((channels, 17, 12), -4.0, 46.0)
    x = within(space)

    def through_a_file(levels):
        file = io.BytesIO()
        Image.fromarray(levels).save(file, format="JPEG", quality=quality)
        return np.array(Image.open(file))

    levels = ((x.double() + 4) / 50 * 255).round().to(torch.uint8).numpy()
    for image, found in zip(levels, purify(JPEG(quality=quality), x, space)):
        if channels == 3:
            expected = through_a_file(np.ascontiguousarray(image.transpose(1, 2, 0))).transpose(2, 0, 1)
        else:
            expected = np.stack([through_a_file(channel) for channel in image])
        assert torch.allclose(found, torch.tensor(expected / 255.0 * 50 - 4).float(), rtol=0, atol=1e-5)


def test_jpeg_clips_and_keeps_flat_images():
    x = torch.tensor([-0.5, 0.0, 128 / 255, 1.0, 7.0]).view(5, 1, 1, 1).expand(5, 3, 16, 16)
    assert torch.allclose(
        compress(x, ZERO.float(), ONE.float(), quality=75), x.clamp(0, 1), rtol=0, atol=1.01 / 255
    )


# --- total variation --------------------------------------------------------------------------------------------


def test_divergence_is_minus_the_adjoint_of_the_gradient():
    for sides in ((5, 7), (1, 4), (1, 1)):
        u, p = random_tensor(2, 3, *sides).double(), random_tensor(2, 2, 3, *sides, seed=1).double()
        assert float((gradient(u) * p).sum()) == pytest.approx(-float((u * divergence(p)).sum()), abs=1e-12)


def objective(u, x, weight):
    return float(gradient(u).norm(dim=0).sum() + (u - x).square().sum() / (2 * weight))


@pytest.mark.parametrize("weight", [0.05, 0.3])
def test_total_variation_reaches_its_minimum(weight):
    x = random_tensor(1, 2, 12, 10).double()
    values, gaps = [], []
    for iterations in (5, 50, 500, 2500):
        u = denoise(x, ZERO, ONE, weight=weight, iterations=iterations)
        # u = x - weight div p with |p| <= 1: the dual objective bounds the minimum from below.
        dual = float((x.square() - u.square()).sum()) / (2 * weight)
        values.append(objective(u, x, weight))
        gaps.append(values[-1] - dual)
    assert values == sorted(values, reverse=True)
    assert gaps == sorted(gaps, reverse=True)
    assert -1e-9 < gaps[-1] < 1e-3 * values[-1]
    start = objective(x, x, weight)
    assert gaps[1] < 0.1 * (start - values[-1])
    rough = u + 0.01 * (random_tensor(1, 2, 12, 10, seed=2) - 0.5)
    assert objective(rough, x, weight) > values[-1]


@pytest.mark.parametrize("turned", [False, True])
def test_total_variation_lowers_a_step_by_its_weight_over_its_width(turned):
    x = torch.tensor([0.2] * 4 + [0.8] * 5).double().expand(1, 1, 6, 9)
    expected = torch.tensor([0.2 + 0.1 / 4] * 4 + [0.8 - 0.1 / 5] * 5).double().expand(1, 1, 6, 9)
    x, expected = (x.mT, expected.mT) if turned else (x, expected)
    assert torch.allclose(denoise(x, ZERO, ONE, weight=0.1, iterations=2000), expected, rtol=0, atol=1e-5)


def test_total_variation_is_in_units_of_the_bounds_and_keeps_the_mean():
    x = within(WIDE).double()
    lower, upper = WIDE.bounds_like(x)
    found = purify(TotalVariation(), x, WIDE)
    unit = denoise((x - lower) / (upper - lower), ZERO, ONE, weight=0.1, iterations=50)
    assert torch.allclose(found, lower + unit * (upper - lower), rtol=0, atol=1e-9)
    assert torch.allclose(found.mean((2, 3)), x.mean((2, 3)), rtol=1e-9, atol=0)
    flat = torch.full((1, 2, 11, 8), 0.05)
    assert torch.equal(purify(TotalVariation(), flat, WIDE), flat)


# --- random resizing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeat_edge", [False, True])
def test_random_resize_is_a_resize_by_pillow_put_somewhere(repeat_edge):
    x = random_tensor(4, 2, 20, 13)
    draws = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.999, 0.999], [0.5, 0.3, 0.6], [0.999, 0.5, 0.5]])
    found = resize_and_pad(x, torch.tensor(-1.0), draws, smallest=0.4, largest=1.0, repeat_edge=repeat_edge)
    for image, result, (factor, down, right) in zip(x, found, draws.tolist()):
        height, width = (int((0.4 + 0.6 * factor) * side + 0.5) for side in (20, 13))
        top, left = int(down * (21 - height)), int(right * (14 - width))
        border = [(top, 20 - height - top), (left, 13 - width - left)]
        how = {"mode": "edge"} if repeat_edge else {"constant_values": -1.0}
        for channel, small in zip(image.numpy(), result):
            resized = np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR))
            assert torch.allclose(small, torch.tensor(np.pad(resized, border, **how)), rtol=0, atol=1e-5)


def test_random_resize_uses_all_its_sizes_and_places():
    space = space_of((1, 20, 20), -1.0, 1.0)
    x = torch.ones(400, 1, 20, 20)
    inside = purify(RandomResize(), x, space) > 0
    sizes = inside.any(3).sum(2)[:, 0].tolist()
    assert sizes == inside.any(2).sum(2)[:, 0].tolist()
    assert set(sizes) == {18, 19, 20}
    places = {(int(rows.nonzero()[0]), size) for rows, size in zip(inside.any(3)[:, 0], sizes)}
    assert places == {(0, 18), (1, 18), (2, 18), (0, 19), (1, 19), (0, 20)}


def test_random_resize_draws_anew_at_each_call_and_alike_from_the_same_draws():
    defense, space = RandomResize(smallest=0.5), space_of((1, 12, 12))
    x, rng = within(space), KeyedRng(range(3))
    first, second = defense.purify(x, space, rng), defense.purify(x, space, rng)
    assert not torch.equal(first, second)
    assert torch.equal(defense.surrogate(x, space, KeyedRng(range(3))), first)
    assert defense.tags.stochastic
    assert defense.draws > 1


def test_random_resize_at_its_limits():
    x, space = within(WIDE), WIDE
    assert torch.allclose(purify(RandomResize(smallest=1.0), x, space), x, rtol=1e-6, atol=1e-6)
    tiny = purify(RandomResize(smallest=0.01, largest=0.01), x, space)
    lower = space.bounds_like(x)[0]
    assert (tiny - lower).flatten(2).count_nonzero(2).tolist() == [[1, 1]] * 3
    flat = lower.expand(3, *space.shape) + 0.05
    edge = purify(RandomResize(smallest=0.3, padding="edge"), flat, space)
    assert torch.allclose(edge, flat, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValidationError, match="larger than largest"):
        RandomResize(smallest=0.9, largest=0.8)


# --- all --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("defense", DEFENSES, ids=NAMES)
def test_shapes_inputs_and_generators_are_kept(defense):
    state = torch.get_rng_state()
    for space in (WIDE, space_of((3, 9, 12)), space_of((1, 1, 1), -2.0, 3.0)):
        x = within(space)
        original = x.clone()
        lower, upper = space.bounds_like(x)
        for method in ("purify", "surrogate"):
            found = purify(defense, x, space, method=method)
            assert (found.shape, found.dtype) == (x.shape, x.dtype)
            slack = 1e-5 * (upper - lower)
            assert bool(((found >= lower - slack) & (found <= upper + slack)).all())
        assert torch.equal(x, original)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("defense", DEFENSES, ids=NAMES)
def test_results_do_not_depend_on_companions(defense):
    space = space_of((3, 19, 14), -4.0, 46.0)
    x = within(space, 9)
    whole = purify(defense, x, space)
    assert not torch.equal(whole, x)
    for rows in ([6, 0, 3], [5], [8, 7, 6, 5, 4, 3, 2, 1, 0]):
        assert torch.equal(purify(defense, x[rows], space, rows), whole[rows])


@pytest.mark.parametrize("defense", DEFENSES[2:], ids=NAMES[2:])
def test_the_surrogate_is_the_defense_with_its_true_gradient(defense):
    space = space_of((2, 5, 6), [-1.0, 0.0], [1.0, 0.5])
    x = within(space, 1).double().requires_grad_()
    assert torch.equal(purify(defense, x, space, method="surrogate"), purify(defense, x, space))
    assert torch.autograd.gradcheck(lambda v: purify(defense, v, space, method="surrogate"), x, eps=1e-7)


def test_the_gradient_of_jpeg_is_that_of_the_identity():
    x = within(WIDE).requires_grad_()
    assert not purify(JPEG(), x, WIDE).requires_grad
    (slope,) = torch.autograd.grad(purify(JPEG(), x, WIDE, method="surrogate").sum(), x)
    assert torch.equal(slope, torch.ones_like(x))


@pytest.mark.parametrize("defense", DEFENSES[2:], ids=NAMES[2:])
def test_gradients_of_flat_images_are_finite(defense):
    x = torch.full((2, 2, 11, 8), 0.05, requires_grad=True)
    (slope,) = torch.autograd.grad(purify(defense, x, WIDE, method="surrogate").square().sum(), x)
    assert bool(torch.isfinite(slope).all())
    assert bool(slope.any())


@pytest.mark.parametrize("defense", DEFENSES, ids=NAMES)
def test_what_has_no_pixels_is_refused(defense):
    assert "needs images (c, h, w)" in str(defense.supports(space_of((5,)), classes(2)))
    assert defense.supports(WIDE, classes(2)) is None
    assert defense.tags.purifies
    assert math.isfinite(defense.draws)
