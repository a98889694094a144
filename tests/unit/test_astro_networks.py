"""The two networks: sizes, shapes, what they refuse; and the train-time symmetries."""

import pytest
import torch
from torch import nn

from advbench.api import Classification, InputSpace, Model, Regression
from advbench_astro.convnet import ConvNet
from advbench_astro.resnet18 import ResNet18
from advbench_astro.symmetry import turn_and_mirror

THREE = Classification(("spiral", "elliptical", "merger"))


def space(*shape: int) -> InputSpace:
    count = shape[0]
    return InputSpace(shape, (0.0,) * count, (1.0,) * count, tuple(f"band{i}" for i in range(count)))


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("model", "count"), [(ConvNet(), 1_187_203), (ResNet18(), 11_308_611)], ids=["convnet", "resnet18"]
)
def test_published_parameter_counts(model: Model, count: int) -> None:
    module = model.build(space(3, 100, 100), THREE)
    assert size(module) == count
    features, logits = module.eval()(torch.zeros(2, 3, 100, 100))
    assert features.shape == (2, 256)
    assert logits.shape == (2, 3)
    # The head is linear in the features: no activation hides between them.
    head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    assert torch.allclose(head(features), logits)


@pytest.mark.parametrize("model", [ConvNet(), ResNet18()], ids=["convnet", "resnet18"])
def test_other_channels_sizes_and_outputs(model: Model) -> None:
    for shape, task, outputs in [
        ((1, 32, 40), Classification(("a", "b")), 2),
        ((5, 64, 64), Regression(("z",), tolerance=0.05), 1),
    ]:
        assert model.supports(space(*shape), task) is None
        features, out = model.build(space(*shape), task).eval()(torch.rand(3, *shape))
        assert features.shape == (3, 256)
        assert out.shape == (3, outputs)


def test_what_is_too_small_is_refused_beforehand() -> None:
    assert "8x8" in (ConvNet().supports(space(3, 7, 100), THREE) or "")
    assert ConvNet().supports(space(3, 8, 8), THREE) is None
    assert "32x32" in (ResNet18().supports(space(3, 31, 31), THREE) or "")
    assert "shape" in (ConvNet().supports(space(12), THREE) or "")
    smallest = ConvNet().build(space(3, 8, 9), THREE).eval()
    assert smallest(torch.rand(1, 3, 8, 9))[1].shape == (1, 3)


def test_dropout_acts_in_training_only() -> None:
    module = ResNet18().build(space(3, 32, 32), THREE)
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(module.eval()(x)[1], module(x)[1])
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0
    module.train()
    assert not torch.equal(module(x)[1], module(x)[1])


def test_the_eight_symmetries_of_a_square() -> None:
    square = torch.arange(9.0).view(1, 1, 3, 3)
    turns, mirrors = torch.meshgrid(
        torch.tensor([0.1, 0.3, 0.6, 0.9]), torch.tensor([0.2, 0.7]), indexing="ij"
    )
    draws = torch.zeros(8, 16)
    draws[:, 0], draws[:, 1] = turns.ravel(), mirrors.ravel()
    x = square.repeat(8, 1, 1, 1)
    before = x.clone()
    out = turn_and_mirror(x, draws)
    assert torch.equal(x, before)
    assert len({tuple(image.ravel().tolist()) for image in out}) == 8
    assert torch.equal(out.flatten(1).sort().values, x.flatten(1))
    assert torch.equal(out[draws[:, 0].eq(0.1) & draws[:, 1].eq(0.7)], square)
    # A row depends on its own draws alone.
    assert torch.equal(turn_and_mirror(x[3:5], draws[3:5]), out[3:5])
