"""Losses, margins and goals of the tasks against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from advbench.api import Classification, Regression
from advbench.runtime import tasks

CLASSES = {k: Classification(tuple("abcdefghij"[:k])) for k in (2, 3, 4, 10)}
REDSHIFT = Regression(("z",), tolerance=0.15, relative=True)


def logits(k: int, n: int = 200, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(k)) * scale


def labels(k: int, n: int = 200) -> torch.Tensor:
    return torch.arange(n) % k


def slope(loss: str, output: torch.Tensor, y: torch.Tensor, aim: torch.Tensor | None = None) -> torch.Tensor:
    point = output.clone().requires_grad_(True)
    value = tasks.attack_loss(loss, CLASSES[output.shape[1]], aim)(point, y)
    (gradient,) = torch.autograd.grad(value.sum(), point)
    return gradient


@pytest.mark.parametrize("k", CLASSES)
def test_ce_has_the_gradient_direction_of_cross_entropy(k: int) -> None:
    output, y = logits(k), labels(k)
    plain = output.double().requires_grad_(True)
    (expected,) = torch.autograd.grad(F.cross_entropy(plain, y, reduction="sum"), plain)
    cosine = F.cosine_similarity(slope("ce", output, y).double(), expected)
    assert cosine.min() > 1 - 1e-6


@pytest.mark.parametrize("loss", ["margin", "ce", "dlr"])
@pytest.mark.parametrize("k", CLASSES)
def test_no_loss_loses_its_gradient_on_large_logits(loss: str, k: int) -> None:
    output, y = logits(k) * 1000, labels(k)
    gradient = slope(loss, output, y)
    assert torch.isfinite(gradient).all()
    right = output.argmax(1) == y  # beyond the boundary the ratio need not rise any further
    assert (gradient.gather(1, y[:, None])[right] < 0).all()  # the true logit is driven down


@pytest.mark.parametrize("k", CLASSES)
def test_a_targeted_margin_is_beaten_exactly_at_the_class(k: int) -> None:
    output, y = logits(k), labels(k)
    aim = (y + 1) % k
    margin = tasks.goal_margin(output, y, CLASSES[k], aim)
    assert torch.equal(margin < 0, output.argmax(1) == aim)
    for loss in ("margin", "ce", "dlr"):
        upwards = slope(loss, output, y, aim).gather(1, aim[:, None])
        assert (upwards[output.argmax(1) == y] > 0).all()


def test_dlr_is_the_ratio_of_the_paper() -> None:
    output = torch.tensor([[5.0, 2.0, 1.0, -1.0]])
    y = torch.tensor([0])
    value = tasks.attack_loss("dlr", CLASSES[4])(output, y)
    assert value.item() == pytest.approx(-(5 - 2) / (5 - 1))
    targeted = tasks.attack_loss("dlr", CLASSES[4], torch.tensor([2]))(output, y)
    assert targeted.item() == pytest.approx(-(5 - 1) / (5 - (1 - 1) / 2))


def test_goals_name_other_classes() -> None:
    output, y = logits(10), labels(10)

    def draw(high: int) -> torch.Tensor:
        return torch.arange(len(y)) * 7 % high

    for goal in ("next", "runner-up", "least-likely", "random"):
        aim = tasks.aims(goal, output, y, CLASSES[10], draw)
        assert aim is not None
        assert (aim != y).all()
    assert (tasks.aims(3, output, y, CLASSES[10], draw) == 3).all()
    others = output.scatter(1, y[:, None], float("-inf"))
    assert torch.equal(tasks.aims("runner-up", output, y, CLASSES[10], draw), others.argmax(1))


def test_signed_goals_of_a_regressor() -> None:
    y = torch.tensor([[1.0], [1.0], [1.0]])
    output = torch.tensor([[1.5], [1.0], [0.5]])  # scaled errors 0.25, 0, -0.25
    draw = torch.zeros  # never asked
    up, down = (tasks.aims(goal, output, y, REDSHIFT, draw) for goal in ("up", "down"))
    assert tasks.goal_margin(output, y, REDSHIFT, up).tolist() == pytest.approx([-0.1, 0.15, 0.4])
    assert tasks.goal_margin(output, y, REDSHIFT, down).tolist() == pytest.approx([0.4, 0.15, -0.1])
    assert tasks.goal_margin(output, y, REDSHIFT, None).tolist() == pytest.approx([-0.1, 0.15, -0.1])


def test_rounding_is_no_success() -> None:
    y = torch.tensor([0, 0, 0])
    output = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 5e-6], [1.0, 1.0001]])
    assert tasks.is_adversarial(output, y, CLASSES[2], None).tolist() == [False, False, True]
