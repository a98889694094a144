from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from advbench.api import Classification, Regression
from advbench.runtime import tasks
from advbench.testing.stage import a_stage, craft_clean, global_state
from advbench.values import Mask
from advbench_attacks.flow import OFFSETS, mean_flow, smoothness, warp
from advbench_attacks.stadv import StAdv, _Search, stadv

from .stand_in import StandIn, classes, random_tensor, small_network, space_of

FAST = {"rounds": 3, "steps": 20}
PAPER = {"tau": 0.05, "kappa": 0.0, "relative": False, "rounds": 1}


def stage_of(outputs=4, bands=1, count=8, size=10, lower=0.0, upper=1.0, scale=1.0):
    """Smooth images, a network that turns with them, and its own predictions as the truth."""
    coarse = random_tensor(count, bands, 4, 4, seed=5)
    x = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True).clamp(0, 1)
    network = nn.Sequential(small_network(bands, outputs), Scale(scale))
    space = space_of((bands, size, size), lower, upper)
    return a_stage(space, classes(outputs), module=network, x=lower + (upper - lower) * x)


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def run(stage, target=None, **options):
    target = stage.target() if target is None else target
    return stadv(stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t"), **{**FAST, **options})


def numeric(function, flow, step=1e-6):
    """Central differences of a function (b,) by each entry of ``flow``."""
    flat = flow.flatten(1)
    columns = []
    for k in range(flat.shape[1]):
        nudge = torch.zeros_like(flat)
        nudge[:, k] = step
        up, down = (function((flat + sign * nudge).view_as(flow)) for sign in (1, -1))
        columns.append((up - down) / (2 * step))
    return torch.stack(columns, 1).view_as(flow)


def test_no_flow_is_the_identity_bit_for_bit():
    x = random_tensor(3, 5, 7, 9, low=-4, high=50)
    assert torch.equal(warp(x, torch.zeros(3, 2, 7, 9)).image, x)


def test_whole_pixels_shift_the_image_and_its_edge_goes_on():
    x = random_tensor(2, 3, 6, 8)
    flow = torch.zeros(2, 2, 6, 8)
    flow[:, 0], flow[:, 1] = 2, -3
    expected = nn.functional.pad(x, (3, 0, 0, 2), mode="replicate")[:, :, 2:8, 0:8]
    assert torch.equal(warp(x, flow).image, expected)


def test_agrees_with_grid_sample():
    x = random_tensor(4, 3, 7, 9, low=-4, high=50).double()
    flow = random_tensor(4, 2, 7, 9, seed=1, low=-4, high=4).double()
    row, column = torch.arange(7.0)[:, None], torch.arange(9.0)
    grid = torch.stack([(column + flow[:, 1]) / 4 - 1, (row + flow[:, 0]) / 3 - 1], -1)
    expected = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=True)
    assert torch.allclose(warp(x, flow).image, expected, rtol=0, atol=1e-12)


def test_values_stay_between_those_of_the_image():
    for seed in range(50):
        x = random_tensor(4, 2, 6, 6, seed=seed, low=-4, high=50)
        flow = random_tensor(4, 2, 6, 6, seed=seed + 100, low=-9, high=9) * 10.0 ** -(seed % 8)
        image = warp(x, flow).image
        for reduce, beyond in ((torch.amin, torch.lt), (torch.amax, torch.gt)):
            edge = reduce(x, dim=(2, 3), keepdim=True)
            assert not beyond(image, edge).any()


def test_gradient_through_the_sampling_is_that_of_finite_differences():
    x, weight = random_tensor(3, 2, 5, 6).double(), random_tensor(3, 2, 5, 6, seed=1, low=-1).double()
    flow = random_tensor(3, 2, 5, 6, seed=2, low=-3, high=3).double()  # some of it leaves the image
    expected = numeric(lambda f: (weight * warp(x, f).image).sum((1, 2, 3)), flow)
    assert torch.allclose(warp(x, flow).pull_back(weight), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("neighbours", sorted(OFFSETS))
def test_gradient_of_the_smoothness_is_that_of_finite_differences(neighbours):
    flow = random_tensor(3, 2, 5, 6, seed=2, low=-1).double()
    expected = numeric(lambda f: smoothness(f, neighbours, 0.01)[0], flow)
    assert torch.allclose(smoothness(flow, neighbours, 0.01)[1], expected, rtol=1e-5, atol=1e-7)


def test_gradient_of_the_whole_loss_is_that_of_finite_differences():
    x = random_tensor(4, 2, 5, 5).double()
    target = StandIn(small_network(2, 3).double(), classes(3), space_of((2, 5, 5)), 4)
    y = target.output(x).argmax(1)
    unit, tau = torch.full((4,), 7.0).double(), torch.full((4,), 0.01).double()
    search = _Search(x, y, target, "axis", unit, 0.0, tau)
    points, rows = random_tensor(4, 50, seed=3, low=-0.4, high=0.4).double(), torch.arange(4)
    expected = numeric(lambda p: search.objective(p, rows)[0], points)
    found = search.objective(points, rows)[1]
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_smoothness_of_known_flows():
    even = torch.ones(1, 2, 6, 6) * torch.tensor([3.0, -4.0])[:, None, None]
    assert smoothness(even)[0] == 0
    assert mean_flow(even) == 5
    step = torch.zeros(1, 2, 6, 6)
    step[:, 0, 3:], step[:, 1, 3:] = 3, 4
    assert smoothness(step)[0] == 2 * 6 * 5  # six pairs, each seen from both ends, five pixels apart
    chequered = torch.zeros(1, 2, 6, 6)
    chequered[:, :, ::2, ::2] = 1
    chequered[:, :, 1::2, 1::2] = 1
    assert smoothness(chequered, "diagonal")[0] == 0
    assert smoothness(chequered, "axis")[0] > 100


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_successes_hold_and_failures_are_the_nearest_point_never_black(optimiser):
    stage = stage_of(bands=2, lower=-4.0, upper=50.0)
    x, y = stage.samples.x, stage.samples.y
    for options in ({"rounds": 4, "steps": 40}, {"rounds": 1, "steps": 3}):
        target = stage.target()
        result = run(stage, target, optimiser=optimiser, **options)
        assert (target.meter.backward <= options["rounds"] * options["steps"]).all()
        assert torch.equal(target.meter.forward, target.meter.backward + 1)
        margin = target.margin(target.output(result.image), y)
        clean = target.margin(target.output(x), y)
        assert torch.equal(result.found, target.is_adversarial(target.output(result.image), y))
        assert (margin[result.found] < 0).all()
        assert (margin <= clean).all()
        assert torch.equal(result.image, warp(x, result.flow).image)
        for one, clean_one in zip(result.image.flatten(2), x.flatten(2)):
            assert (one >= clean_one.amin(1, keepdim=True)).all()
            assert (one <= clean_one.amax(1, keepdim=True)).all()
        if options["rounds"] == 4:
            assert result.found.float().mean() >= 0.5


def test_more_rounds_only_make_the_flow_smoother():
    stage = stage_of()
    few, many = run(stage, rounds=1, steps=40), run(stage, rounds=5, steps=40)
    assert (many.found | ~few.found).all()
    both = few.found & many.found
    assert both.any()
    less = smoothness(many.flow, "axis", 0.01)[0] - smoothness(few.flow, "axis", 0.01)[0]
    assert (less[both] <= 0).all()
    assert (less[both] < -0.1).any()


def test_a_batch_of_32_equals_32_single_runs():
    stage = stage_of(count=32, bands=3, size=7)
    together = run(stage, sigma=0.05, rounds=2, steps=8)
    for row in range(32):
        alone = run(stage.take([row]), sigma=0.05, rounds=2, steps=8)
        for one, all_of_them in zip(alone, together):
            assert torch.equal(one[0], all_of_them[row])


def test_batch_size_and_order_change_nothing():
    stage = stage_of(count=64, size=8)
    attack = StAdv(rounds=2, steps=6, sigma=0.1)
    everyone = craft_clean(stage, attack, "t", batch=64)
    order = np.random.default_rng(0).permutation(64).tolist()
    for some, batch in ((list(range(64)), 7), (order, 64), (list(range(9)), 1)):
        found = craft_clean(stage.take(some), attack, "t", batch=batch)
        assert torch.equal(found.x, everyone.x[some])
        assert torch.equal(found.forward, everyone.forward[some])


def test_a_factor_on_the_logits_changes_no_success():
    plain = run(stage_of())
    for factor in (5.0, 20.0, 100.0):
        scaled = run(stage_of(scale=factor))
        assert torch.equal(scaled.found, plain.found)
    assert plain.found.any()


def test_aims_at_a_class():
    stage = stage_of(count=16)
    y = stage.samples.y
    target = replace(stage.target(), aim=(y + 1) % 4)
    result = run(stage, target, rounds=4, steps=40)
    assert result.found.float().mean() >= 0.4
    reached = stage.output(result.image).argmax(1) == (y + 1) % 4
    assert torch.equal(reached, result.found)


@pytest.mark.parametrize(("goal", "sign"), [("untargeted", 0), ("up", 1), ("down", -1)])
def test_regression(goal, sign):
    task = Regression(("redshift",), tolerance=1e-3)
    x = stage_of().samples.x
    stage = a_stage(space_of((1, 10, 10)), task, module=small_network(1, 1), x=x)
    crafted = craft_clean(stage, StAdv(goal=goal, **FAST), "t")
    error = (stage.output(crafted.x) - stage.samples.y[:, None])[:, 0]
    assert ((error.abs() if sign == 0 else sign * error) > task.tolerance).float().mean() >= 0.8


def test_samples_that_are_adversarial_already_are_left_as_they_are():
    stage = stage_of()
    wrong = (stage.samples.y + 1) % 4
    target = stage.target()
    result = stadv(stage.samples.x, wrong, target, stage.samples.rng(0, "t"), **FAST)
    assert result.found.all()
    assert torch.equal(result.image, stage.samples.x)
    assert not target.meter.backward.any()


def test_no_gradient_breaks_nothing_and_nothing_else_is_touched():
    module = nn.Sequential(nn.Flatten(), nn.Linear(100, 4))
    module[1].weight.data.zero_()
    module[1].bias.data = torch.tensor([1.0, 0.0, 0.0, 0.0])
    stage = a_stage(space_of((1, 10, 10)), classes(4), module=module)
    x, before = stage.samples.x.clone(), global_state()
    result = run(stage)
    assert torch.equal(result.image, x)
    assert torch.equal(stage.samples.x, x)
    assert not result.found.any()
    assert global_state() == before


def test_masks_and_data_without_pixels_are_refused():
    space, task = space_of((3, 8, 8)), classes(3)
    assert StAdv().supports(space, task) is None
    assert "no mask" in (StAdv(mask=Mask(channels=(0,))).supports(space, task) or "")
    assert "images" in (StAdv().supports(space_of((6,)), task) or "")
    with pytest.raises(ValidationError):
        StAdv(neighbours="knight")


class Probabilities(nn.Module):
    """A network that wrongly ends in a softmax."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).softmax(1)


def digits(shared_data, count):
    with gzip.open(shared_data / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(16 + 784 * count), np.uint8, offset=16)
    return torch.from_numpy(raw.reshape(-1, 1, 28, 28).astype(np.float32) / 255)


def lenet(shared_data):
    state = torch.load(
        shared_data / "models/mnist_lenet5_clntrained.pt", weights_only=True, map_location="cpu"
    )
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), relu, pool, nn.Conv2d(32, 64, 3, padding=1), relu, pool,
        nn.Flatten(), nn.Linear(3136, 200), relu, nn.Linear(200, 10),
    )  # fmt: skip
    network.load_state_dict(dict(zip(network.state_dict(), state.values())))
    return network


def test_real_digits_fall_by_their_logits_and_resist_where_probabilities_are_attacked(shared_data):
    x, task = digits(shared_data, 16), Classification(tuple("0123456789"))

    def success(network, **options):
        stage = a_stage(space_of((1, 28, 28)), task, module=network, x=x)
        draws = stage.samples.rng(0, "goal")
        aim = tasks.aims("random", stage.output(), stage.samples.y, task, lambda high: draws.integers(high))
        result = run(stage, replace(stage.target(), aim=aim), **options)
        return result.found.float().mean(), mean_flow(result.flow)[result.found].mean()

    rate, pixels = success(lenet(shared_data), rounds=1, steps=50)
    assert rate >= 0.95
    assert pixels < 0.15
    assert success(lenet(shared_data), **{**PAPER, "tau": 0.01}, steps=50)[0] >= 0.8
    # What every published reproduction did: the smoothness outweighs a margin that lies between -1 and 1.
    assert success(Probabilities(lenet(shared_data)), **PAPER, steps=50)[0] < 0.1
