"""Networks of the papers: their exact sizes, logits, and the inputs that they take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from advbench.api import Classification, DataContext, InputSpace, Model, Regression
from advbench_vision.cw_net import CwNet
from advbench_vision.digits import Digits
from advbench_vision.geometry import shrink
from advbench_vision.lenet5 import LeNet5, LeNet5Network
from advbench_vision.small_cnn import SmallCnn
from advbench_vision.stadv import StadvA, StadvB, StadvC
from advbench_vision.vgg10 import Vgg10Lighter

DIGITS = Classification(tuple("0123456789"))
ALL = (StadvA, StadvB, StadvC, CwNet, LeNet5, SmallCnn, Vgg10Lighter)


pytestmark = pytest.mark.usefixtures("one_thread")


def space(*shape: int) -> InputSpace:
    return InputSpace(shape, (0.0,) * shape[0], (1.0,) * shape[0], tuple(map(str, range(shape[0]))))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (StadvA, 3_382_346),
        (StadvB, 893_258),
        (StadvC, 4_795_082),
        (CwNet, 312_202),
        (LeNet5, 648_226),
        (SmallCnn, 24_058),
    ],
)
def test_parameter_count_on_mnist(model: type[Model], count: int) -> None:
    assert parameters(model().build(space(1, 28, 28), DIGITS)) == count


def test_vgg10_lighter_has_the_parameters_of_its_study() -> None:
    with torch.device("meta"):
        network = Vgg10Lighter().build(space(3, 224, 224), DIGITS)
    assert parameters(network) == 43_395_754
    dense = [part for part in network.modules() if isinstance(part, nn.Linear)]
    assert [(part.in_features, part.out_features) for part in dense] == [
        (6272, 4096),
        (4096, 4096),
        (4096, 10),
    ]
    convolutions = [part.out_channels for part in network.modules() if isinstance(part, nn.Conv2d)]
    assert convolutions == [32, 32, 64, 64, 128, 128, 128, 128, 128, 128]
    recipe = Vgg10Lighter().recipe
    assert (recipe.optimizer, recipe.lr, recipe.epochs, recipe.batch_size) == ("adam", 1e-4, 15, 32)
    assert recipe.class_weights


def test_vgg10_lighter_fits_other_sizes_and_classes() -> None:
    network = Vgg10Lighter().build(space(5, 70, 33), Classification(("a", "b"))).eval()
    features, logits = network(torch.rand(2, 5, 70, 33))
    assert features.shape == (2, 4096)
    assert logits.shape == (2, 2)
    assert bool((features >= 0).all())
    with torch.no_grad():
        torch.testing.assert_close(logits, network.head(features))


@pytest.mark.parametrize(
    ("model", "least"),
    [
        (StadvA, 9),
        (StadvB, 17),
        (StadvC, 5),
        (CwNet, 16),
        (LeNet5, 4),
        (SmallCnn, 8),
        (Vgg10Lighter, 32),
    ],
)
def test_smallest_input(model: type[Model], least: int) -> None:
    three = Classification(("a", "b", "c"))
    component = model()
    assert component.supports(space(2, least, least + 3), three) is None
    module = component.build(space(2, least, least + 3), three).eval()
    output = module(torch.rand(2, 2, least, least + 3))
    assert (output[1] if isinstance(output, tuple) else output).shape == (2, 3)
    reason = component.supports(space(2, least, least - 1), three)
    assert reason is not None
    assert f"at least {least} x {least}" in reason
    assert "images" in (component.supports(space(6), three) or "")


def test_shrink_is_the_size_that_torch_finds() -> None:
    layers = nn.Sequential(
        nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 5), nn.MaxPool2d(2), nn.Conv2d(1, 1, 2), nn.MaxPool2d(2)
    )
    for side in range(15, 40):
        assert layers(torch.zeros(1, 1, side, side)).shape[-1] == shrink(side, (3, 5, "pool", 2, "pool"))


@pytest.mark.parametrize("model", ALL)
def test_outputs_are_logits(model: type[Model]) -> None:
    torch.manual_seed(0)
    module = model().build(space(1, 32, 32), DIGITS).eval()
    output = module(torch.rand(4, 1, 32, 32))
    logits = output[1] if isinstance(output, tuple) else output
    assert bool((logits < 0).any())
    assert not torch.allclose(logits.sum(1), torch.ones(4), atol=0.05)


@pytest.mark.parametrize("model", ALL)
def test_regression_has_one_output_per_target(model: type[Model]) -> None:
    output = model().build(space(3, 32, 32), Regression(("z",), 0.05)).eval()(torch.rand(2, 3, 32, 32))
    assert (output[1] if isinstance(output, tuple) else output).shape == (2, 1)


def test_lenet5_has_the_published_names_and_no_normalisation() -> None:
    names = {name.split(".")[0] for name in LeNet5Network().state_dict()}
    assert names == {"conv1", "conv2", "linear1", "linear2"}
    assert LeNet5().normalisation() == "none"


def test_lenet5_by_closed_form() -> None:
    """With every weight 0 but one path, the logit is the sum of the 49 pooled maxima."""
    network = LeNet5Network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.conv1.weight[0, 0, 1, 1] = network.conv2.weight[0, 0, 1, 1] = network.linear2.weight[3, 0] = (
            1.0
        )
        network.linear1.weight[0, :49] = 1.0
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 10)
    expected[:, 3] = nn.functional.max_pool2d(x, 4).sum((1, 2, 3))
    features, logits = network(x)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(features[:, 0], expected[:, 3])


def test_small_cnn_returns_features_and_fits_any_size() -> None:
    model = SmallCnn(width=4, blocks=4)
    for shape in ((1, 8, 8), (5, 9, 31), (3, 100, 64)):
        features, logits = model.build(space(*shape), DIGITS).eval()(torch.rand(2, *shape))
        assert features.shape == (2, 32)
        assert logits.shape == (2, 10)


def test_small_cnn_learns_the_digits(data_context: Callable[..., DataContext]) -> None:
    data = Digits().load(data_context())
    train, test = data.splits["train"], data.splits["test"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallCnn(width=8).build(data.space, data.task)
    x, y = torch.from_numpy(train.x), torch.from_numpy(train.y)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    for _ in range(100):
        batch = torch.from_numpy(rng.integers(len(y), size=64))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[batch])[1], y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        predicted = network.eval()(torch.from_numpy(test.x))[1].argmax(1)
    # 0.96 to 0.99 over seeds; chance is 0.1.
    assert float((predicted.numpy() == test.y).mean()) > 0.93
