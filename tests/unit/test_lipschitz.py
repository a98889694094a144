"""The Lipschitz bound: layers against their explicit matrices, rules of composition, networks, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.api import Classification, InputSpace, isolated_rng
from advbench.runtime.network import Network, align, freeze
from advbench_astro.convnet import ConvNetModule
from advbench_astro.resnet18 import BasicBlock, ResNet18Module
from advbench_defenses.layer_constants import UnknownLayerError
from advbench_defenses.lipschitz import LipschitzBound, lipschitz_bound
from advbench_defenses.spectral import matrix_norm, operator_norm
from advbench_vision.lenet5 import LeNet5Network
from advbench_vision.small_cnn import SmallCnnNetwork
from advbench_vision.vgg10 import Vgg10LighterNetwork


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


class Calls(nn.Module):
    """A module that is one function, with the parts that it uses."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def bound(module: nn.Module, *shape: int) -> float:
    return lipschitz_bound(module.eval(), shape)


def explicit_norm(module: nn.Module, *shape: int) -> float:
    """Largest singular value of the matrix that an affine module is, by SVD in float64."""
    size = math.prod(shape)
    double = module.eval().double()
    with torch.no_grad():
        images = double(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1)
        images = images - double(torch.zeros(1, *shape, dtype=torch.float64)).flatten(1)
    module.float()
    return float(np.linalg.svd(images.numpy(), compute_uv=False)[0])


def randomised(module: nn.Module) -> nn.Module:
    """Batch normalisation with statistics as after training."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(part.weight, -1.5, 1.5)
            nn.init.normal_(part.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.1, 3.0)  # type: ignore[arg-type]
    return module


def steepest_slope(module: nn.Module, *shape: int) -> float:
    """Largest slope seen between points, and from points along the gradient."""
    start, step = (
        torch.randn(64, *shape),
        torch.randn(64, *shape) * torch.logspace(-3, 0, 64).view(-1, *(1,) * len(shape)),
    )
    slopes = (_logits(module, start + step) - _logits(module, start)).norm(dim=1) / step.flatten(1).norm(
        dim=1
    )
    x = start[:8].requires_grad_(True)
    (gradient,) = torch.autograd.grad(_logits(module, x)[:, 0].sum(), x)
    return max(float(slopes.detach().max()), float(gradient.flatten(1).norm(dim=1).max()))


def _logits(module: nn.Module, x: Tensor) -> Tensor:
    output = module(x)
    logits: Tensor = output[1] if isinstance(output, tuple) else output
    return logits


@pytest.mark.parametrize("sizes", [(7, 3), (40, 60), (1, 5), (1200, 1100)])
def test_linear_is_its_largest_singular_value(sizes: tuple[int, int]) -> None:
    layer = nn.Linear(*sizes)
    weight = layer.weight.detach().double().numpy()
    exact = math.sqrt(np.linalg.eigvalsh(weight @ weight.T)[-1])
    assert bound(nn.Sequential(layer), sizes[0]) == pytest.approx(exact, rel=1e-4)


def test_operator_norm_of_known_spectra() -> None:
    values = torch.linspace(0, 3, 500, dtype=torch.float64)
    assert operator_norm(lambda x: values * x, torch.zeros_like(values)) == pytest.approx(3, rel=1e-3)
    zero = torch.zeros(20, dtype=torch.float64)
    assert operator_norm(lambda x: 2.5 * x, zero) == pytest.approx(2.5, rel=1e-12)  # ends after one step
    assert operator_norm(lambda x: 0 * x, zero) == 0
    one = torch.outer(torch.ones(2000), torch.ones(1500))  # rank one, too large for a full SVD
    assert matrix_norm(one) == pytest.approx(math.sqrt(2000 * 1500), rel=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 4, 5, stride=2, padding=2),
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(2, 3, (1, 5), padding="same"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(3, 2, 3, stride=2, output_padding=1),
    ],
    ids=str,
)
def test_convolution_is_the_svd_of_its_operator(layer: nn.Conv2d) -> None:
    with isolated_rng(0):
        layer.reset_parameters()  # weights that do not depend on what was imported before
    shape = (layer.in_channels, 8, 8)
    assert bound(nn.Sequential(layer), *shape) == pytest.approx(explicit_norm(layer, *shape), rel=1e-2)


def test_large_convolution_approaches_the_norm_of_its_symbol() -> None:
    """On a large image the norm of the operator tends to the largest one over all frequencies, from below."""
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    kernel = layer.weight.detach().double()
    symbol = torch.fft.rfft2(kernel, s=(162, 162)).permute(2, 3, 0, 1)
    limit = float(torch.linalg.matrix_norm(symbol, 2).max())
    assert bound(nn.Sequential(layer), 3, 160, 160) == pytest.approx(limit, rel=1e-3)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.AvgPool2d(2), (2, 8, 8)),
        (nn.AvgPool2d(3, stride=2, padding=1), (1, 8, 7)),
        (nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), (1, 8, 8)),
        (nn.AvgPool2d((2, 3), ceil_mode=True), (1, 7, 8)),
        (nn.AdaptiveAvgPool2d(1), (3, 8, 6)),
        (nn.AdaptiveAvgPool2d((3, None)), (1, 8, 5)),
        (nn.AvgPool1d(4, 2), (2, 10)),
        (nn.Conv1d(2, 3, 3), (2, 12)),
    ],
)
def test_average_pooling_is_exact(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert bound(nn.Sequential(layer), *shape) == pytest.approx(explicit_norm(layer, *shape), rel=2e-3)


@pytest.mark.parametrize(
    ("layer", "overlap"),
    [
        (nn.MaxPool2d(2), 1),
        (nn.MaxPool2d(3, 2, 1), 4),
        (nn.MaxPool2d(3, 1), 9),
        (nn.MaxPool2d((2, 3), (2, 1)), 3),
        (nn.MaxPool2d(2, 1, dilation=2), 4),
        (nn.MaxPool2d(2, 2, dilation=2), 4),
        (nn.MaxPool2d(2, 3, dilation=2), 1),
    ],
)
def test_max_pooling_counts_the_windows_of_a_pixel(layer: nn.MaxPool2d, overlap: int) -> None:
    """A single bright pixel moves the maxima of all windows that it is in, and the bound is reached."""
    assert bound(nn.Sequential(layer), 1, 9, 9) == pytest.approx(math.sqrt(overlap))
    pixels = torch.eye(81).view(81, 1, 9, 9)
    assert int(layer(pixels).flatten(1).sum(1).max()) == overlap


@pytest.mark.parametrize(
    ("layer", "slope"),
    [
        (nn.ReLU(inplace=True), 1.0),
        (nn.LeakyReLU(0.1), 1.0),
        (nn.LeakyReLU(-2.0), 2.0),
        (nn.PReLU(init=1.5), 1.5),
        (nn.ELU(3.0), 3.0),
        (nn.CELU(0.3), 1.0),
        (nn.SELU(), None),
        (nn.GELU(), None),
        (nn.GELU("tanh"), None),
        (nn.SiLU(), None),
        (nn.Mish(), None),
        (nn.Hardswish(), 1.5),
        (nn.Sigmoid(), 0.25),
        (nn.Softplus(), 1.0),
        (nn.LogSigmoid(), 1.0),
    ],
    ids=str,
)
def test_activations_have_their_steepest_slope(layer: nn.Module, slope: float | None) -> None:
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer.double()(x.clone()).sum(), x)
    steepest = float(gradient.abs().max())
    found = bound(nn.Sequential(layer.float()), 4)
    assert steepest - 1e-6 <= found <= steepest * 1.001
    assert slope is None or found == pytest.approx(slope)


def test_softmax_never_exceeds_a_half() -> None:
    half = torch.tensor([3.0, 3.0, -30.0])
    jacobian = torch.autograd.functional.jacobian(lambda z: z.softmax(0), half)
    assert float(torch.linalg.matrix_norm(jacobian, 2)) == pytest.approx(0.5, abs=1e-6)
    assert bound(nn.Sequential(nn.Softmax(1)), 3) == 0.5


def test_layers_multiply() -> None:
    first, second = nn.Linear(6, 5), nn.Linear(5, 3)
    stack = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(), first, nn.Dropout(0.5), nn.ReLU(), second)
    expected = matrix_norm(first.weight) * matrix_norm(second.weight)
    assert bound(stack, 6) == pytest.approx(expected, rel=1e-9)


def test_batch_normalisation_is_folded_into_the_layer_before_it() -> None:
    pair = randomised(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)))
    assert bound(pair, 3, 8, 8) == pytest.approx(explicit_norm(pair, 3, 8, 8), rel=2e-3)
    dense = randomised(nn.Sequential(nn.Linear(9, 6), nn.BatchNorm1d(6)))
    assert bound(dense, 9) == pytest.approx(explicit_norm(dense, 9), rel=1e-5)
    alone = randomised(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
    norm = alone[1]  # type: ignore[index]
    expected = float((norm.weight / (norm.running_var + norm.eps).sqrt()).detach().abs().max())
    assert bound(alone, 3, 4, 4) == pytest.approx(expected, rel=1e-5)


def test_a_layer_whose_output_is_used_twice_is_not_folded() -> None:
    both = Calls(
        lambda own, x: own.norm(y := own.conv(x)) + y, conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2)
    )
    nn.init.constant_(both.norm.weight, 3.0)  # type: ignore[arg-type,union-attr]
    conv = bound(nn.Sequential(both.conv), 1, 6, 6)  # type: ignore[arg-type]
    assert bound(both, 1, 6, 6) == pytest.approx(conv * (1 + 3.0 / math.sqrt(1 + 1e-5)), rel=1e-6)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda own, x: x + 2 * x, 3.0),
        (lambda own, x: 1 - x - x, 2.0),
        (lambda own, x: torch.cat([x, -x, 2 * x], 1), math.sqrt(6)),
        (lambda own, x: torch.cat([x, x], 1), math.sqrt(2)),
        (lambda own, x: x / 4, 0.25),
        (lambda own, x: x * torch.tensor([1.0, -3.0, 2.0, 0.5]), 3.0),
        (lambda own, x: (x.view(x.size(0), 2, 2) + torch.ones(2))[:, 0], 1.0),
        (lambda own, x: x[:, None, :] + torch.zeros(5, 1), math.sqrt(5)),
        (lambda own, x: x.mean(1, keepdim=True), 0.5),
        (lambda own, x: x.sum(1, keepdim=True), 2.0),
        (lambda own, x: x.chunk(2, 1)[1].reshape(x.shape[0], -1), 1.0),
        (lambda own, x: torch.flatten(F.max_pool2d(x.view(-1, 1, 2, 2), 2), 1), 1.0),
        (lambda own, x: F.adaptive_avg_pool2d(F.relu(x.view(-1, 1, 2, 2)), 1), 0.5),
        (lambda own, x: F.linear(x, 2 * torch.eye(4)), 2.0),
        (lambda own, x: F.leaky_relu(F.dropout(x, training=own.training), -2.0), 2.0),
        (lambda own, x: torch.zeros(1, 3) + 1, 0.0),
        (lambda own, x: (3 * x, 2 * x), 2.0),  # features and logits
    ],
)
def test_functions(function: Callable[..., Any], expected: float) -> None:
    assert bound(Calls(function), 4) == pytest.approx(expected, rel=1e-6)


def _adds_in_place(own: Any, x: Tensor) -> Tensor:
    y = x * 1.0
    z = y.view(-1, 2, 2)
    y += x  # a trace takes this for y = y + x
    return z.flatten(1)


def _stretches_in_place(own: Any, x: Tensor) -> Tensor:
    y = x * 1.0
    F.leaky_relu(y, -2.0, inplace=True)
    return y + x


def _draws(own: Any, x: Tensor) -> Tensor:
    return x + torch.randn(4)


@pytest.mark.parametrize(
    "function",
    [
        lambda own, x: x * x,
        lambda own, x: x**2,
        lambda own, x: x.round(),
        lambda own, x: 1 / x,
        lambda own, x: x @ x.T,
        lambda own, x: x[:, torch.tensor([0, 0])],
        lambda own, x: F.layer_norm(x, (4,)),
        lambda own, x: F.dropout(x),
        lambda own, x: x if x.sum() > 0 else -x,
        lambda own, x: x.argmax(1, keepdim=True) * 1.0,
        lambda own, x: F.max_pool2d(x.view(-1, 1, 2, 2), 1, return_indices=True)[1] * 1.0,
        lambda own, x: {"logits": x},
        lambda own, x: torch.add(x, x, alpha=5),
        lambda own, x: x + torch.randn_like(x),
        _adds_in_place,
        _stretches_in_place,
        _draws,
    ],
)
def test_what_is_not_known_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(UnknownLayerError):
        bound(Calls(function), 4)


def test_layers_that_have_no_constant_are_refused() -> None:
    with pytest.raises(UnknownLayerError, match="LayerNorm"):
        bound(nn.Sequential(nn.LayerNorm(4)), 4)
    with pytest.raises(UnknownLayerError, match="statistics from the batch"):
        bound(nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)), 4, 3, 3)
    with pytest.raises(UnknownLayerError, match="train mode"):
        lipschitz_bound(nn.Sequential(nn.Dropout()).train(), (4,))
    hooked = nn.Sequential(nn.Linear(4, 4))
    hooked[0].register_forward_hook(lambda module, inputs, output: 10 * output)
    with pytest.raises(UnknownLayerError, match="hook"):
        bound(hooked, 4)
    broken = nn.Sequential(nn.Linear(4, 4))
    nn.init.constant_(broken[0].weight, math.nan)  # type: ignore[arg-type]
    with pytest.raises(UnknownLayerError, match="not finite"):
        bound(broken, 4)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (LeNet5Network, (1, 28, 28)),
        (lambda: SmallCnnNetwork((1, 16, 16), 4, 8, 3), (1, 16, 16)),
        (lambda: BasicBlock(4, 8, stride=2), (4, 12, 12)),
        (lambda: ConvNetModule((3, 32, 32), 64, 3), (3, 32, 32)),
        (lambda: ResNet18Module(3, 32, 3, 0.5), (3, 32, 32)),
        (lambda: Vgg10LighterNetwork((1, 32, 32), 10), (1, 32, 32)),
    ],
    ids=["lenet5", "small-cnn", "block", "convnet", "resnet18", "vgg10"],
)
def test_networks_never_exceed_their_bound(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    network = randomised(build()).eval()
    flat = (
        Calls(lambda own, x: own.net(x).flatten(1), net=network) if "Block" in str(type(network)) else network
    )
    found = bound(network, *shape)
    slope = steepest_slope(flat, *shape)
    assert math.isfinite(found)
    assert found >= slope > 0


def test_the_metric_speaks_of_the_input_space() -> None:
    space = InputSpace((2, 4, 4), (0.0,) * 2, (255.0,) * 2, ("a", "b"))
    module = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    network = Network(module, space, Classification(("a", "b", "c")), "test")
    network.normalise_by((10.0, 20.0), (4.0, 8.0))
    weight = module[1].weight.detach()
    metric = LipschitzBound()
    found = metric.examine(align(freeze(network)), space)
    assert found == pytest.approx(matrix_norm(weight) / 4, rel=1e-6)
    assert found >= steepest_slope(network, 2, 4, 4)
    assert metric.examine(module, space) == pytest.approx(matrix_norm(weight), rel=1e-6)
    assert math.isnan(metric.examine(Calls(lambda own, x: x.flatten(1)[:, :3] ** 2), space))
    assert metric.tags.examines


def test_the_network_and_the_generator_stay_as_they_were() -> None:
    network = freeze(randomised(SmallCnnNetwork((1, 16, 16), 4, 8, 2)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    first = bound(network, 1, 16, 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert bound(network, 1, 16, 16) == first
