from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.api import Defense, InputSpace, PluginError, Regression, Rng, Stop, Tags
from advbench.runtime.chain import chain_of
from advbench.runtime.incremental import pays, pixel_outputs
from advbench.runtime.network import Network, freeze
from advbench.runtime.pipeline import Pipeline, with_pixels
from advbench.runtime.rng import isolated_rng
from advbench.runtime.target import Meter, PipelineTarget
from advbench.testing.spaces import classes, space_of
from advbench.testing.stage import CPU, Stage, a_stage
from advbench_astro.convnet import ConvNet
from advbench_astro.resnet18 import ResNet18
from advbench_vision.cw_net import CwNet
from advbench_vision.lenet5 import LeNet5
from advbench_vision.small_cnn import SmallCnn
from advbench_vision.stadv import StadvA, StadvB, StadvC

CLOSE = 1e-5
DIGITS = (1, 28, 28)


def network(module: nn.Module, space: InputSpace) -> Network:
    """Frozen, with a normalisation and statistics of its batch normalisations that are not the trivial ones."""
    with isolated_rng(3):
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d) and layer.running_mean is not None:
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.5, 2)
                nn.init.uniform_(layer.weight, 0.5, 2)
    count = len(space.channels)
    outputs = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1].out_features
    net = Network(module, space, classes(outputs), "net")
    net.normalise_by(np.linspace(0.2, 0.9, count).tolist(), np.linspace(0.3, 1.5, count).tolist())
    frozen = freeze(net)
    assert isinstance(frozen, Network)
    return frozen


def candidates(space: InputSpace, images: int, count: int, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, and random candidates among which are all corners and pixels at the same place."""
    g = torch.Generator().manual_seed(5)
    channels, height, width = space.shape
    lower, upper = space.bounds_like(torch.zeros(1, *space.shape))
    x = lower + (upper - lower) * torch.rand((images, *space.shape), generator=g)
    rows = torch.randint(height, (images, count, pixels), generator=g)
    columns = torch.randint(width, (images, count, pixels), generator=g)
    positions = torch.stack([rows, columns], -1)
    last = (height - 1, width - 1)
    positions[:, :4, 0] = torch.tensor([(0, 0), (0, last[1]), (last[0], 0), last])
    positions[:, 4:6] = positions[:, 4:6, :1]  # all pixels at one place: the last counts
    positions[:, 6:8, 1:] = positions[:, 6:8, :1].clamp_max(min(last) - 1) + 1  # neighbours
    values = torch.rand((images, count, pixels, channels), generator=g)
    return x, positions, lower.flatten() + (upper - lower).flatten() * values


def in_full(net: Network, x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    count = positions.shape[1]
    points = with_pixels(x.repeat_interleave(count, 0), positions.flatten(0, 1), values.flatten(0, 1))
    with torch.no_grad():
        return net(points).view(len(x), count, -1)


def error(net: Network, x: Tensor, positions: Tensor, values: Tensor) -> float:
    """Largest difference of incremental and full outputs, as a share of the largest output."""
    chain = chain_of(net.module, tuple(x.shape[1:]))
    assert chain is not None
    with torch.no_grad():
        found = pixel_outputs(net, chain, x, positions, values)
    expected = in_full(net, x, positions, values)
    assert found.shape == expected.shape
    # The candidates must differ, or nothing would be tested.
    assert (expected.amax(1) > expected.amin(1)).any()
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("pixels", [1, 3])
@pytest.mark.parametrize(
    ("model", "shape"),
    [(ConvNet(), (3, 50, 46)), (LeNet5(), DIGITS), (StadvA(), DIGITS), (StadvC(), DIGITS), (CwNet(), DIGITS),
     (SmallCnn(), (3, 32, 24))],
)  # fmt: skip
def test_the_served_networks_are_exact(model, shape, pixels):
    space = space_of(*shape)
    with isolated_rng(1):
        net = network(model.build(space, classes(3)), space)
    assert error(net, *candidates(space, 2, 12, pixels)) < CLOSE


class Functional(nn.Module):
    """Layers as functions, methods and a size that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, (3, 2), stride=2)
        self.dense, self.out = nn.Linear(6 * 2 * 3, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.dropout(torch.tanh(self.second(x)), 0.5, self.training)
        features = self.dense(x.view(x.size(0), -1)).relu()
        return features, self.out(features)


GEOMETRIES = {
    "stride and padding": [nn.Conv2d(2, 4, 5, stride=3, padding=2), nn.ReLU(inplace=True), nn.Flatten()],
    "rectangular": [nn.Conv2d(2, 4, (3, 1), padding=(0, 2)), nn.Conv2d(4, 3, (1, 4)), nn.Flatten()],
    "dilated groups": [nn.Conv2d(2, 4, 3, dilation=2, groups=2, padding="same"), nn.ELU(), nn.Flatten()],
    "padded max pooling": [nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(2, 3, 3, bias=False), nn.Flatten()],
    "padded mean pooling": [nn.AvgPool2d((2, 4), (1, 3), padding=1), nn.Conv2d(2, 3, 2), nn.Flatten()],
    "stride beyond the window": [nn.Conv2d(2, 4, 1, stride=3), nn.Tanh(), nn.MaxPool2d(2, 3), nn.Flatten()],
    "borders that are dropped": [nn.MaxPool2d(4), nn.Conv2d(2, 5, 2, stride=2), nn.Flatten()],
    "larger than the map": [nn.Conv2d(2, 4, 9, padding=4), nn.Conv2d(4, 4, 13, padding=6), nn.Flatten()],
    "pointwise first": [nn.BatchNorm2d(2), nn.Softplus(), nn.Conv2d(2, 4, 3), nn.Flatten()],
    "mean over positions": [nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    "mean over thirteenths": [nn.Conv2d(2, 4, 3, padding=1), nn.AdaptiveAvgPool2d((13, 1)), nn.Flatten()],
    "no window at all": [nn.Flatten()],
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("linears", [1, 3])
def test_every_pixel_of_any_geometry(name, linears):
    space = space_of(2, 13, 11, low=-4, high=50)
    with isolated_rng(2):
        for layer in GEOMETRIES[name]:
            getattr(layer, "reset_parameters", int)()
        width = nn.Sequential(*GEOMETRIES[name]).eval()(torch.zeros(1, 2, 13, 11)).shape[1]
        dense = [nn.Linear(width, 9), nn.Dropout(), nn.Linear(9, 7)] if linears == 3 else []
        head = [nn.Linear(7 if dense else width, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)]
        net = network(nn.Sequential(*GEOMETRIES[name], *dense, *head), space)
    x, positions, values = candidates(space, 1, 143, 2)
    positions[0, :, 0] = torch.cartesian_prod(torch.arange(13), torch.arange(11))
    original = x.clone()
    assert error(net, x, positions[:, :, :1], values[:, :, :1]) < CLOSE
    assert error(net, x, positions, values) < CLOSE
    assert torch.equal(x, original)


def test_functions_and_methods_are_read_as_layers():
    space = space_of(2, 13, 17)
    with isolated_rng(2):
        net = network(Functional(), space)
    assert error(net, *candidates(space, 2, 40, 2)) < CLOSE


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((x + self.conv(x)).flatten(1))


class Branching(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return self.out((x if x.sum() > 0 else -x).flatten(1))


class Wholesale(Residual):
    """Flattens the batch as well: a sample would depend on its companions."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.conv(x).flatten().view(-1, 128))


class OwnLayer(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean()


def chain_with(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), *layers, nn.Flatten(), nn.Linear(128, 3))


def hooked() -> nn.Module:
    module = chain_with()
    module[0].register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    "module",
    [
        Residual(),
        Wholesale(),
        hooked(),
        chain_with(nn.Softmax2d()),
        chain_with(nn.InstanceNorm2d(2)),
        chain_with(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")),
        chain_with(nn.MaxPool2d(3, 1, 1, ceil_mode=True)),
        chain_with(nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        nn.Sequential(nn.Flatten(2), nn.Flatten(), nn.Linear(128, 3)),
    ],
)
def test_what_is_not_a_chain_is_evaluated_in_full(module):
    assert chain_of(module.eval(), (2, 8, 8)) is None
    space = space_of(2, 8, 8)
    stage = a_stage(space, classes(3), module=module, count=3)
    _, positions, values = candidates(space, 3, 20, 2)
    found = stage.target().outputs_with_pixels(stage.samples.x, positions, values)
    expected = in_full(stage.network, stage.samples.x, positions, values)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [Branching(), chain_with(OwnLayer()), chain_with(nn.BatchNorm2d(2, track_running_stats=False))],
)
def test_what_looks_at_the_whole_batch_is_no_chain(module):
    assert chain_of(module.eval(), (2, 8, 8)) is None


def test_a_network_in_train_mode_is_no_chain():
    assert chain_of(chain_with().train(), (2, 8, 8)) is None
    assert chain_of(chain_with().eval(), (2, 8, 8)) is not None


def test_the_rule_counts_work():
    def chain(model, shape):
        found = chain_of(model.build(space_of(*shape), classes(3)).eval(), shape)
        assert found is not None
        return found

    assert pays(chain(ConvNet(), (3, 100, 100)), 400, 5)
    assert pays(chain(LeNet5(), DIGITS), 400, 1)
    assert pays(chain(StadvC(), DIGITS), 400, 1)
    assert not pays(chain(StadvB(), DIGITS), 400, 1)  # 8x8 and 6x6 kernels: a pixel reaches nearly everything
    assert not pays(chain(ConvNet(), (3, 100, 100)), 2, 1)  # the clean maps would cost more
    assert chain_of(ResNet18().build(space_of(3, 32, 32), classes(3)).eval(), (3, 32, 32)) is None


def convnet_stage(count: int = 9, **how) -> Stage:
    space = space_of(3, 48, 48, low=-4, high=50)
    with isolated_rng(1):
        module = ConvNet(features=16).build(space, classes(4))
    return a_stage(space, classes(4), module=module, count=count, **how)


def test_a_candidate_does_not_depend_on_its_companions():
    stage = convnet_stage()
    _, positions, values = candidates(stage.space, 9, 30, 2)
    chain = stage.pipeline._chain
    assert chain is not None
    assert pays(chain, 30, 2)
    whole = stage.target().outputs_with_pixels(stage.samples.x, positions, values)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    for rows in (*order.split(1), *order.split(7)):
        some = stage.take(rows.tolist())
        found = some.target().outputs_with_pixels(some.samples.x, positions[rows], values[rows])
        assert torch.equal(found, whole[rows])


def test_every_candidate_is_a_pass_and_the_budget_holds():
    stage = convnet_stage(3)
    x, (_, positions, values) = stage.samples.x, candidates(stage.space, 3, 30, 1)
    target = stage.target()
    target.take(torch.tensor([0, 2])).outputs_with_pixels(x[[0, 2]], positions[[0, 2]], values[[0, 2]])
    assert target.meter.forward.tolist() == [30, 0, 30]
    target = stage.target(budget=40)
    outputs = target.outputs_with_pixels(x, positions, values)
    nearest = target.take(torch.arange(3).repeat_interleave(30)).margin(
        outputs.flatten(0, 1), stage.samples.y.repeat_interleave(30)
    )
    place, row = nearest.view(3, 30).argmin(1), torch.arange(3)
    assert torch.equal(target.meter.best, with_pixels(x, positions[row, place], values[row, place]))
    target.outputs_with_pixels(x, positions, values)  # the first ten of these still count
    assert target.meter.forward.tolist() == [40] * 3
    with pytest.raises(Stop):
        target.outputs_with_pixels(x, positions, values)


def test_a_regressor():
    space = space_of(2, 13, 17)
    with isolated_rng(2):
        module = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 11 * 15, 1), nn.Flatten(0)
        )
    stage = a_stage(space, Regression(("z",), 0.1), module=module, count=2)
    _, positions, values = candidates(space, 2, 30, 1)
    found = stage.target().outputs_with_pixels(stage.samples.x, positions, values)
    assert torch.allclose(found, in_full(stage.network, stage.samples.x, positions, values), rtol=1e-5)


class Rounding(Defense):
    tags = Tags(purifies=True)

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        return (x / 8).round() * 8


class Noise(Defense):
    tags = Tags(purifies=True, stochastic=True)

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        return x + rng.normal(*x.shape[1:])


def defended(stage: Stage, defense: Defense) -> PipelineTarget:
    pipeline = Pipeline(stage.network, (defense,), stage.space, stage.task, 8, CPU)
    rows = torch.arange(len(stage.samples))
    meter = Meter(stage.samples.x, stage.samples.y)
    return PipelineTarget(pipeline, {}, stage.samples.rng(0, "defense"), meter, rows)


def test_a_purifying_defense_sees_whole_images():
    stage = convnet_stage(2)
    _, positions, values = candidates(stage.space, 2, 20, 1)
    found = defended(stage, Rounding()).outputs_with_pixels(stage.samples.x, positions, values)
    points = with_pixels(
        stage.samples.x.repeat_interleave(20, 0), positions.flatten(0, 1), values.flatten(0, 1)
    )
    expected = stage.network((points / 8).round() * 8).view(2, 20, -1)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_draws_of_a_defense_do_not_depend_on_companions():
    stage = convnet_stage(5)
    _, positions, values = candidates(stage.space, 5, 20, 1)
    whole = defended(stage, Noise()).outputs_with_pixels(stage.samples.x, positions, values)
    for row in (3, 0):
        some = stage.take([row])
        found = defended(some, Noise()).outputs_with_pixels(some.samples.x, positions[[row]], values[[row]])
        assert torch.equal(found, whole[[row]])


def test_extra_inputs_travel_with_their_sample():
    reddening = torch.linspace(0, 3, 4)[:, None]
    stage = a_stage(space_of(2, 6, 6), classes(3), count=4, extras={"reddening": reddening})
    _, positions, values = candidates(stage.space, 4, 20, 1)
    found = stage.target().outputs_with_pixels(stage.samples.x, positions, values)
    for row in range(4):
        points = with_pixels(stage.samples.x[[row]].expand(20, -1, -1, -1), positions[row], values[row])
        expected = stage.network(points, {"reddening": reddening[[row]].expand(20, 1)})
        assert torch.allclose(found[row], expected, rtol=1e-5, atol=1e-6)


def test_what_is_no_candidate_is_refused():
    stage = convnet_stage(2)
    x, (_, positions, values) = stage.samples.x, candidates(stage.space, 2, 20, 1)
    with pytest.raises(PluginError, match="a pixel lies outside of 48 x 48"):
        stage.target().outputs_with_pixels(x, positions + 4, values)
    with pytest.raises(PluginError, match=r"expected \(b, m, p, 2\)"):
        stage.target().outputs_with_pixels(x, positions, values[..., :2])
