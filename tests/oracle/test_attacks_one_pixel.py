from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.api import Regression, ball_norm
from advbench.runtime.incremental import pays
from advbench.testing.spaces import Brightness
from advbench.testing.stage import Stage, a_stage, craft_clean, global_state
from advbench.values import InputSpace, Mask
from advbench_attacks.evolution import children, others, survivors
from advbench_attacks.one_pixel import PRESETS, OnePixel, Strategy, one_pixel
from advbench_attacks.pixels import Palette, Places, put

from .stand_in import classes, linear, random_tensor, small_network, space_of

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
BANDS = space_of((5, 8, 8), (-4.0, 0.0, 10.0, -1.0, 2.0), (50.0, 1.0, 30.0, 1.0, 4.0))


def stage_of(space: InputSpace = BANDS, count: int = 12, outputs: int = 3) -> Stage:
    module = small_network(space.shape[0], outputs)
    return a_stage(space, classes(outputs), module=module, count=count)


def close_stage(space: InputSpace, count: int) -> Stage:
    """Predictions that differ from sample to sample, because no class is likelier than another on the average."""
    module = small_network(space.shape[0], 3)
    x = a_stage(space, classes(3), module=module, count=count).samples.x
    with torch.no_grad():
        module[-1].bias -= module(x).mean(0)
    return a_stage(space, classes(3), module=module, x=x)


def run(attack: OnePixel, stage: Stage):
    target = stage.target()
    return attack.perturb(stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t")), target


class FixedDraws:
    """Stands for random draws that are known."""

    def __init__(self, draws: Tensor) -> None:
        self.draws = draws

    def uniform(self, *shape: int) -> Tensor:
        assert self.draws.shape[1:] == shape
        return self.draws


def test_parents_differ_from_the_child_and_from_each_other_and_are_equally_likely():
    draws = random_tensor(400, 6, 3, seed=1)
    found = others(draws)
    own = torch.arange(6).expand(400, 6)
    four = torch.cat([own[..., None], found], 2).sort(dim=2).values
    assert (four.diff(dim=2) > 0).all()
    for member in range(6):
        for k in range(3):
            counts = torch.bincount(found[:, member, k], minlength=6)
            assert counts[member] == 0
            assert counts.sum() == 400
            # 80 each are expected; 5 standard deviations are 40.
            assert (counts.sort().values[1:] - 80).abs().max() < 40
    assert others(torch.full((1, 4, 3), 1.0)).max() < 4  # a draw that was rounded up to 1


def test_a_child_is_rand_1_without_crossover():
    genes = random_tensor(2, 5, 3, seed=2, low=0.4, high=0.6)
    draws = random_tensor(2, 5, 3, seed=3)
    a, b, c = (genes[torch.arange(2)[:, None], others(draws)[..., k]] for k in range(3))
    assert torch.equal(children(genes, FixedDraws(draws), factor=0.5, repair="clip"), a + 0.5 * (b - c))


def test_a_gene_that_leaves_its_range_is_clipped_or_drawn_anew():
    genes, draws = random_tensor(2, 6, 4, seed=4), random_tensor(2, 6, 7, seed=5)
    a, b, c = (genes[torch.arange(2)[:, None], others(draws[..., :3])[..., k]] for k in range(3))
    born = a + 1.5 * (b - c)
    outside = (born < 0) | (born > 1)
    assert outside.any()
    clipped = children(genes, FixedDraws(draws[..., :3].contiguous()), factor=1.5, repair="clip")
    assert torch.equal(clipped, born.clamp(0, 1))
    fresh = children(genes, FixedDraws(draws), factor=1.5, repair="resample")
    assert torch.equal(fresh, torch.where(outside, draws[..., 3:], born))


def test_a_child_takes_the_place_of_its_own_parent_only():
    genes, born = torch.zeros(1, 3, 2), torch.ones(1, 3, 2)
    kept, cost = survivors(genes, torch.tensor([[3.0, 1, 2]]), born, torch.tensor([[2.0, 2, 2]]))
    assert kept[0, :, 0].tolist() == [1, 0, 0]
    assert cost.tolist() == [[2, 1, 2]]


def test_every_pixel_has_an_equal_share_of_a_gene_and_places_differ():
    x = torch.zeros(1, 1, 4, 5)
    edges = torch.linspace(0, 1, 21)[:, None, None].expand(21, 1, 2)
    rows, columns = Places.of(x, None).at(edges)[:, 0].unbind(1)
    assert torch.bincount(rows).tolist() == [5, 5, 5, 6]  # the last of the 21 is 1 itself
    assert torch.bincount(columns).tolist() == [4, 4, 4, 4, 5]
    same = Places.of(x, None).at(torch.full((7, 20, 2), 0.99))
    assert (same[..., 0] * 5 + same[..., 1]).sort(dim=1).values.tolist() == [list(range(20))] * 7


def test_values_of_the_three_ranges():
    space = space_of((2, 4, 4), (-1.0, 0.25), (4.0, 3.0))
    target = SimpleNamespace(
        space=InputSpace(space.shape, space.lower, space.upper, space.channels, link=Brightness())
    )
    x, genes = torch.zeros(1, 2, 4, 4), torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    assert Palette.of(x, target, "data").values(genes).tolist() == [[-1, 0.25], [1.5, 1.625], [4, 3]]
    assert Palette.of(x, target, "unit").values(genes).tolist() == [[0, 0.25], [0.5, 0.5], [1, 1]]
    # Even in flux 10 sinh(x), from no flux, or the least that the data can have, to the most.
    physical = Palette.of(x, target, "physical").values(genes)
    flux = 10 * torch.sinh(torch.tensor([[0, 0.25], [4, 3]]))
    middle = torch.asinh(flux.mean(0) / 10)
    assert torch.allclose(physical, torch.stack([torch.tensor([0, 0.25]), middle, torch.tensor([4.0, 3.0])]))


def sure_stage(weight: Tensor, count: int = 3) -> Stage:
    """A linear network of two classes that no few pixels can fool; margin ``x . weight + 100``."""
    network = linear(torch.cat([weight, torch.zeros_like(weight)]), torch.tensor([100.0, 0.0]))
    x = random_tensor(count, 1, 5, 5, seed=2, low=0.3, high=0.7)
    return a_stage(space_of((1, 5, 5)), classes(2), module=network, x=x)


@pytest.mark.parametrize("pixels", [1, 2])
def test_it_comes_near_the_best_pixels_of_a_linear_network(pixels):
    weight = random_tensor(1, 25, seed=1, low=-1)
    stage = sure_stage(weight)
    found, target = run(OnePixel(pixels=pixels, population=100, generations=40), stage)
    x = stage.samples.x.flatten(1)
    # A pixel lowers the margin most at 0 where its weight is positive, and at 1 elsewhere.
    most = torch.where(weight > 0, weight * x, weight * (x - 1)).topk(pixels, dim=1).values.sum(1)
    drop = ((stage.samples.x - found).flatten(1) * weight).sum(1)
    assert (drop <= most + 1e-4).all()
    assert (
        drop >= (0.97 if pixels == 1 else 0.9) * most
    ).all()  # a second pixel may settle on the second-best place
    assert target.meter.forward.tolist() == [100 * 41] * 3


@pytest.mark.parametrize("pixels", [1, 3, 5])
@pytest.mark.parametrize("mask", [None, Mask(channels=(0, 2), box=(1, 2, 2, 3))])
def test_exactly_so_many_pixels_change_within_bounds_and_mask(pixels, mask):
    stage = stage_of(count=16)
    attack = OnePixel(pixels=pixels, population=12, generations=6, mask=mask)
    crafted = craft_clean(stage, attack, "attacks/one-pixel")
    change = crafted.x - stage.samples.x
    assert (ball_norm(change, "pixels") == pixels).all()
    lower, upper = BANDS.bounds_like(change)
    assert ((crafted.x >= lower) & (crafted.x <= upper)).all()
    if mask is not None:
        assert (change[:, ~mask.like(change, BANDS)[0]] == 0).all()


@pytest.mark.parametrize(
    "strategy", [{"preset": "su"}, {"preset": "custom", "repair": "resample", "values": "unit"}]
)
def test_results_do_not_depend_on_companions(strategy):
    stage = close_stage(space_of((3, 24, 24), -0.5, 1.5), 24)
    attack = OnePixel(**strategy, pixels=2, population=20, generations=4)
    chain = stage.pipeline._chain
    assert chain is not None
    assert pays(chain, 20, 2)  # so what is evaluated incrementally is tested
    whole = craft_clean(stage, attack, "s")
    assert whole.forward.unique().numel() > 1  # samples did leave at different times
    for batch in (1, 7):
        found = craft_clean(stage, attack, "s", batch=batch)
        assert torch.equal(found.x, whole.x)
        assert torch.equal(found.forward, whole.forward)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(craft_clean(stage.take(order.tolist()), attack, "s").x, whole.x[order])


class Brightest(nn.Module):
    """Three classes with logits 0, ``slope * (max pixel - 0.9)`` and ``-depth``."""

    def __init__(self, slope: float, depth: float = 50.0) -> None:
        super().__init__()
        self.slope, self.depth = slope, depth

    def forward(self, x: Tensor) -> Tensor:
        peak = x.flatten(1).amax(1)
        return torch.stack([0 * peak, self.slope * (peak - 0.9), 0 * peak - self.depth], 1)


def bright_stage(slope: float, **how) -> Stage:
    x = random_tensor(4, 1, 6, 6, seed=3, low=0.1, high=0.5)
    y = torch.zeros(4, dtype=torch.int64)
    return a_stage(space_of((1, 6, 6)), classes(3), module=Brightest(slope, **how), x=x, y=y)


def test_success_in_the_first_population_costs_it_and_one_pass_to_confirm():
    # A third of the clipped normal values exceeds 0.9.
    found, target = run(OnePixel(population=50, generations=30), bright_stage(10.0))
    assert (target.meter.forward == 51).all()
    assert (found.flatten(1).amax(1) > 0.9).all()


def test_the_probability_rule_goes_on_until_the_true_class_has_little_left():
    # p(true) falls below 5 % at a peak of 0.9 + log(19) / 30 = 0.998 only.
    stage = bright_stage(30.0)
    uniform = {"preset": "custom", "start": "uniform", "population": 20, "generations": 60}
    flipped, first = run(OnePixel(**uniform), stage)
    sure, second = run(OnePixel(**uniform, stop="probability"), stage)
    assert (second.meter.forward >= first.meter.forward).all()
    assert (second.meter.forward > first.meter.forward).any()
    assert (torch.softmax(stage.output(sure), 1)[:, 0] < 0.05).all()
    assert (torch.softmax(stage.output(flipped), 1)[:, 0] > 0.05).any()
    assert (second.meter.forward < 20 * 61).all()


def test_a_goal_and_giving_up_on_it():
    stage = bright_stage(10.0)
    target = stage.target()
    aimed = type(target)(**{**target.__dict__, "aim": torch.full((4,), 1)})
    attack = OnePixel(population=20, generations=9, goal=1)
    found = attack.perturb(stage.samples.x, stage.samples.y, aimed, stage.samples.rng(0, "t"))
    assert (stage.output(found).argmax(1) == 1).all()
    hopeless = stage.target()
    aimed = type(target)(**{**hopeless.__dict__, "aim": torch.full((4,), 2)})
    strategy = Strategy(give_up_after=3)
    one_pixel(
        stage.samples.x, stage.samples.y, aimed, stage.samples.rng(0, "t"),
        population=20, generations=9, strategy=strategy, enough=0.5,
    )  # fmt: skip
    assert (hopeless.meter.forward == 20 * 4).all()


def test_a_saturated_network_is_searched_like_any_other():
    """In float32 its probabilities are exactly 1 and 0, and would say nothing."""
    plain = run(OnePixel(population=20, generations=12), bright_stage(1.0))[0]
    steep = run(OnePixel(population=20, generations=12), bright_stage(4096.0, depth=4096 * 50.0))[0]
    assert torch.equal(plain, steep)


def test_a_regressor_is_searched_to_the_end():
    space = space_of((3, 8, 8))
    stage = a_stage(space, Regression(("z",), 0.001), module=small_network(3, 1), count=4)
    found, target = run(OnePixel(population=20, generations=5), stage)
    assert (target.meter.forward == 120).all()
    error = [(stage.output(x)[:, 0] - stage.samples.y).abs() for x in (stage.samples.x, found)]
    assert (error[1] > error[0]).all()


def test_outputs_that_are_not_numbers_break_nothing():
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), torch.nan)

    y = torch.zeros(3, dtype=torch.int64)
    stage = a_stage(space_of((1, 6, 6)), classes(2), module=Broken(), y=y, count=3)
    assert run(OnePixel(population=10, generations=3), stage)[0].isfinite().all()


def test_nothing_else_is_touched():
    stage = stage_of(count=3)
    before, x = global_state(), stage.samples.x.clone()
    run(OnePixel(population=10, generations=3), stage)
    assert global_state() == before
    assert torch.equal(stage.samples.x, x)


def test_presets_are_fixed_and_custom_is_free():
    with pytest.raises(ValueError, match="factor, values: preset su decides; choose preset: custom"):
        OnePixel(factor=0.7, values="unit")
    assert OnePixel().strategy == PRESETS["su"]
    assert OnePixel(preset="deep-adversaries").strategy.values == "unit"
    assert OnePixel(preset="custom", factor=0.7).strategy == Strategy(factor=0.7)
    assert OnePixel(pixels=3).constraint().eps.values == (3.0,)
    assert OnePixel(population=400, generations=100).passes() == 401 * 101


def test_what_it_does_not_support():
    def reason(space=BANDS, task=None, **parameters):
        return OnePixel(**parameters).supports(space, task or classes(3))

    assert reason() is None
    assert "needs images" in reason(space_of((6,)))
    assert reason(pixels=7, mask=Mask(box=(0, 0, 2, 3))) == "pixels: 7 of 6 that may change"
    assert "outside of the bounds" in reason(preset="deep-adversaries")  # band 2 starts at 10
    assert "link to physical units" in reason(preset="custom", values="physical")
    assert "needs classes" in reason(
        space_of((3, 8, 8)), Regression(("z",), 0.1), preset="custom", stop="probability"
    )


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.stride, self.wider = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.wider, self.wider))
        return F.relu(out + short)


class ResNet20(nn.Module):
    """He et al. 2016 for CIFAR, shortcuts of option A."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths, blocks = (16, 16, 32, 64), []
        for before, width in pairwise(widths):
            first = Block(before, width, 1 if before == width else 2)
            blocks.append(nn.Sequential(first, Block(width, width, 1), Block(width, width, 1)))
        self.layer1, self.layer2, self.layer3 = blocks
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "models").is_dir(), reason="needs ../shared/data (CIFAR-10 and weights)")
def test_published_rates_on_a_small_cifar_network():
    """One pixel fools 10 to 65 % of the images of small CIFAR networks, three pixels fool more."""
    with np.load(next((DATA / "cifar10").glob("*test*.npz"))) as arrays:
        images, labels = arrays["x"], arrays["y"]
    x = torch.from_numpy(images[:16]).permute(0, 3, 1, 2).contiguous().float() / 255
    saved = torch.load(DATA / "models" / "cifar10_resnet20.th", weights_only=True, map_location="cpu")
    module = ResNet20()
    state = saved.get("state_dict", saved)
    module.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    stage = a_stage(
        space_of((3, 32, 32)), classes(10), module=module, x=x, y=torch.from_numpy(labels[:16]).long()
    )
    stage.network.normalise_by((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    right = stage.output().argmax(1) == stage.samples.y
    stage = stage.take(torch.nonzero(right)[:12, 0].tolist())
    rates = []
    for pixels in (1, 3):
        found, _ = run(OnePixel(pixels=pixels, population=80, generations=5), stage)
        assert (ball_norm(found - stage.samples.x, "pixels") <= pixels).all()
        rates.append(float((stage.output(found).argmax(1) != stage.samples.y).float().mean()))
    assert 0.1 <= rates[0] <= 0.65
    assert rates[1] > rates[0]


def test_putting_pixels():
    x, value = torch.zeros(2, 3, 4, 4), torch.arange(12.0).view(2, 2, 3) + 1
    place = torch.tensor([[[0, 1], [2, 3]], [[3, 3], [0, 0]]])
    changed = put(x, place, value)
    assert changed[0, :, 0, 1].tolist() == [1, 2, 3]
    assert changed[1, :, 0, 0].tolist() == [10, 11, 12]
    assert (changed != 0).sum() == 12
    assert (x == 0).all()
