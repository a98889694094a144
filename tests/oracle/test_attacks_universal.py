"""The universal perturbation against what is known of linear networks."""

import pytest
import torch
from tests.oracle.stand_in import classes, linear
from toys import case, data, pipeline, samples

from advbench.api import Budget, InputSpace
from advbench.runtime.crafting import craft
from advbench.testing.stage import Stage, a_stage
from advbench.values import Mask
from advbench_attacks.universal import Universal, universal

SPACE = InputSpace((2, 3, 3), (-4.0, 0.0), (50.0, 9.0), ("u", "g"))


def of_one_class(weight: torch.Tensor) -> Stage:
    """A linear network of two classes and samples of the first."""
    module = linear(torch.stack([weight, -weight]))
    x = torch.rand(12, 2, 3, 3, generator=torch.Generator().manual_seed(4)) * 5 + 2
    x = x + weight.view(1, 2, 3, 3) / weight.norm() ** 2 * (3 - x.flatten(1) @ weight).view(-1, 1, 1, 1)
    return a_stage(SPACE, classes(2), module=module, x=x, y=torch.zeros(12, dtype=torch.int64))


WEIGHT = torch.linspace(-1, 2, 18)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_against_one_class_of_a_linear_network_it_is_the_steepest_change(norm: str) -> None:
    stage = of_one_class(WEIGHT)
    eps = torch.full((1, 1, 1, 1), 0.05)
    delta = universal(
        stage.samples.x, stage.samples.y, stage.target(), stage.samples.rng(0, "t"),
        norm=norm, eps=eps, steps=20,
    )  # fmt: skip
    direction = WEIGHT.sign() if norm == "linf" else WEIGHT / WEIGHT.norm()
    expected = -0.05 * direction.view(1, 2, 3, 3)
    assert torch.allclose(delta, expected, atol=0.05 * 0.02)


def test_all_inputs_pull_equally_hard() -> None:
    # With one steep and many flat inputs the mean gradient would follow the steep one.
    space = InputSpace((1, 1, 2), (-100.0,), (100.0,), ("x",))

    class Steep(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x[:, 0, 0, 0], x[:, 0, 0, 1]
            slope = torch.where(a > 5, -50 * b, b)  # inputs at a = 10 want b up, those at a = 0 want it down
            return torch.stack([slope + 2 * (a > 5) * 60 + 1, torch.zeros_like(a)], 1)

    x = torch.tensor([[10.0, 0.0]] + [[0.0, 0.0]] * 9).view(10, 1, 1, 2)
    stage = a_stage(space, classes(2), module=Steep(), x=x, y=torch.zeros(10, dtype=torch.int64))
    delta = universal(
        x, stage.samples.y, stage.target(), stage.samples.rng(0, "t"),
        norm="linf", eps=torch.full((1, 1, 1, 1), 2.0), steps=10,
    )  # fmt: skip
    assert delta[0, 0, 0, 1] < -1  # nine against one


def test_it_keeps_budget_and_mask_and_breaks_some() -> None:
    blobs = data()
    attack = Universal(eps=Budget.of([0.5, 1.0, 2.0, 3.0, 4.0]), mask=Mask(channels=(1, 2, 3, 4)), steps=10)
    one = case(attack, pipeline(blobs), samples(blobs), learning=samples(blobs, split="calibration"))
    crafted = craft(one)
    assert not crafted.violation.any()
    assert torch.equal(crafted.x[:, 0], one.samples.x[:, 0])
    everyone = torch.ones(len(one.samples), dtype=torch.bool)
    assert torch.equal(crafted.forward > 0, everyone)
    right, after = (
        one.judged.predict(x, {}, one.samples.rng(0, "")).argmax(1) == one.samples.y
        for x in (one.samples.x, crafted.x)
    )
    assert (right & ~after).any()
