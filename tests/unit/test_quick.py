"""The faster copy of a network computes what the network computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.api import Classification, InputSpace
from advbench.components.loader import Plugins
from advbench.runtime.network import Network, freeze
from advbench.runtime.quick import quick

NETWORKS = {"astro/convnet": (3, 32, 32), "astro/resnet18": (3, 64, 64), "vision/lenet5": (1, 28, 28)}


def lively(module: nn.Module, shape: tuple[int, ...]) -> Network:
    """A frozen network whose batch normalisation does something."""
    space = InputSpace(shape, (-4.0,) * shape[0], (50.0,) * shape[0], tuple("abcde"[: shape[0]]))
    network = Network(module, space, Classification(("x", "y", "z")), "net")
    network.normalise_by([20.0] * shape[0], [7.0] * shape[0])
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.3, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
    frozen = freeze(network)
    assert isinstance(frozen, Network)
    return frozen


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_the_network(name: str) -> None:
    shape = NETWORKS[name]
    space = InputSpace(shape, (0.0,) * shape[0], (1.0,) * shape[0], tuple("abc"[: shape[0]]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Plugins.discover().find("model", name).load()().build(space, Classification(("x", "y", "z")))
    network = lively(module, shape)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    copy = quick(network, shape)
    assert copy is not network
    assert not any(isinstance(part, nn.BatchNorm2d) for part in copy.modules())
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(1)) * 54 - 4
    slopes = []
    for one in (network, copy):
        point = x.clone().requires_grad_(True)
        output = one(point)
        slopes.append((output.detach(), *torch.autograd.grad(output[:, 0].sum(), point)))
    (output, gradient), (again, slope) = slopes
    assert (output - again).abs().amax() <= 1e-5 * output.abs().amax()
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), slope.flatten(), dim=0) > 1 - 1e-6
    assert not any(part.requires_grad for part in copy.parameters())
    assert not any(part.training for part in copy.modules())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("inplace", [False, True])
def test_activations_come_after_pooling_and_change_nothing(inplace: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(inplace)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 25, 3))
    space = InputSpace((3, 16, 16), (0.0,) * 3, (1.0,) * 3, tuple("abc"))
    network = freeze(Network(module, space, Classification(("x", "y", "z")), "net"))
    copy = quick(network, space.shape)
    assert [type(part) for part in _in_order(copy)][:3] == [nn.Conv2d, nn.MaxPool2d, nn.ReLU]
    assert copy.plain
    assert not network.plain
    layered = network.to(memory_format=torch.channels_last)
    x = torch.rand(4, *space.shape).contiguous(memory_format=torch.channels_last)
    for one, other in zip(_both(layered, x), _both(copy, x)):
        assert torch.equal(one, other)


class Forked(nn.Module):
    """What goes into the activation is needed elsewhere, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.head(self.pool(self.relu(maps)).mean((2, 3)) + maps.mean((2, 3)))


def test_a_fork_before_an_activation_is_left_as_it_is() -> None:
    space = InputSpace((3, 16, 16), (0.0,) * 3, (1.0,) * 3, tuple("abc"))
    network = freeze(Network(Forked(), space, Classification(("x", "y", "z")), "net"))
    copy = quick(network, space.shape)
    assert [type(part) for part in _in_order(copy)][:3] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]


class Functional(nn.Module):
    """Nothing but the convolution is a layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv, self.way = nn.Conv2d(3, 4, 3), way

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        maps = {"torch": torch.relu, "functional": F.relu, "method": lambda x: x.relu()}[self.way](maps)
        return F.max_pool2d(maps, 2).mean((2, 3))


@pytest.mark.parametrize("way", ["torch", "functional", "method"])
def test_functions_change_places_as_layers_do(way: str) -> None:
    space = InputSpace((3, 16, 16), (0.0,) * 3, (1.0,) * 3, tuple("abc"))
    network = freeze(Network(Functional(way), space, Classification(tuple("uvxy")), "net"))
    copy = quick(network, space.shape)
    names = [node.name for node in copy.module.graph.nodes]
    assert names.index("max_pool2d") < names.index("relu")
    layered = network.to(memory_format=torch.channels_last)
    x = torch.randn(4, *space.shape).contiguous(memory_format=torch.channels_last)
    for one, other in zip(_both(layered, x), _both(copy, x)):
        assert torch.equal(one, other)


def _in_order(network: Network) -> list[nn.Module]:
    graph = network.module
    assert isinstance(graph, torch.fx.GraphModule)
    return [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"]


def _both(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    point = x.clone(memory_format=torch.channels_last).requires_grad_(True)
    output = network(point)
    return output.detach(), torch.autograd.grad(output[:, 0].sum(), point)[0]


class Branching(nn.Module):
    """Cannot be traced: it looks at its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.conv(x))
        if hidden.mean() > 0:
            hidden = hidden * 2
        return self.head(hidden.mean((2, 3)))


def test_what_cannot_be_traced_runs_as_it_is() -> None:
    network = lively(Branching(), (2, 8, 8))
    copy = quick(network, (2, 8, 8))
    assert any(isinstance(part, nn.BatchNorm2d) for part in copy.modules())
    x = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 50
    assert torch.allclose(network(x), copy(x), rtol=1e-5, atol=1e-6)


def test_a_network_without_convolutions_is_used_itself() -> None:
    network = lively(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), (2, 4, 4))
    assert quick(network, (2, 4, 4)) is network
