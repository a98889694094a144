"""Outputs depend on nothing but the sample, also where a linear layer sees an odd number of features."""

import pytest
import torch
from torch import nn

from advbench.api import Classification, InputSpace
from advbench.runtime.network import align
from advbench.testing.stage import a_stage

TASK = Classification(("a", "b", "c"))


@pytest.mark.parametrize("size", [(7, 5), (9, 9), (15, 15), (8, 8)])
def test_place_and_company_change_no_bit(size: tuple[int, int]) -> None:
    space = InputSpace((2, *size), (-4.0, 0.0), (50.0, 9.0), ("u", "g"))
    generator = torch.Generator().manual_seed(0)
    hidden = nn.Linear(2 * size[0] * size[1], 37)
    module = nn.Sequential(nn.Flatten(), hidden, nn.Tanh(), nn.Linear(37, 3))
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    stage = a_stage(space, TASK, module=module, count=40)
    whole = stage.output()
    slopes = stage.target().evaluate(stage.samples.x, stage.samples.y).gradient
    for order in (list(range(40))[::-1], [3], [17, 4, 31, 2, 9]):
        part = stage.take(order)
        assert torch.equal(part.output(), whole[order])
        assert torch.equal(part.target().evaluate(part.samples.x, part.samples.y).gradient, slopes[order])


def test_aligned_layers_compute_the_same() -> None:
    layer = nn.Linear(35, 7).requires_grad_(False)
    x = torch.randn(5, 35, generator=torch.Generator().manual_seed(1))
    expected, names = layer(x), list(layer.state_dict())
    align(layer)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert list(layer.state_dict()) == names
