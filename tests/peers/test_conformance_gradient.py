"""FGSM and PGD equal those of the other libraries, iterate by iterate.

The network has no kinks: rounding differs between the libraries, and on another side of one the gradient is another.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.peers.peers import Task, craft, installed
from tests.peers.scenes import Scene, digits
from torch import Tensor, nn

from advbench.api import Budget
from advbench_attacks.fgsm import FGSM
from advbench_attacks.pgd import PGD

STEPS = 5
SIZES = {"linf": (0.05, 0.02), "l2": (0.5, 0.2)}
"""Radius and step: the ball is left, and projected upon, at the third."""


class Unsure(nn.Module):
    """Logits / 10: of one that is too sure, float32 gives the others a cross-entropy with wrong signs in its gradient.

    Ours, in the form of log-odds, is the one that is right there.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) / 10


@pytest.fixture(scope="module")
def scene() -> Scene:
    sure = digits(30, epochs=3, smooth=True)
    return replace(sure, network=Unsure(sure.network))


@pytest.fixture(scope="module")
def grey(scene: Scene) -> Scene:
    """The same digits so grey that no bound is ever met."""
    x = 0.3 + 0.4 * scene.x
    with torch.no_grad():
        return replace(scene, x=x, y=scene.network(x).argmax(1))


def need(library: str) -> None:
    if not installed(library):
        pytest.skip(f"{library} is not installed")


@pytest.mark.parametrize("library", ["torchattacks", "foolbox", "art"])
def test_fgsm(library: str, scene: Scene) -> None:
    need(library)
    stage = scene.stage()
    attack = FGSM(eps=0.1, loss="ce")
    ours = attack.perturb(scene.x, scene.y, stage.target(), stage.samples.rng(0, "")).clamp(0, 1)
    theirs = craft(library, Task("fgsm", eps=0.1), stage.network, scene.x, scene.y)
    assert (ours - theirs).abs().max() <= 1e-6
    assert ((ours - scene.x).abs() > 0.09).float().mean() > 0.3


@pytest.mark.parametrize("library", ["torchattacks", "foolbox", "art"])
def test_pgd_linf(library: str, scene: Scene) -> None:
    need(library)
    compare(library, "linf", scene)


def test_pgd_l2_of_art(scene: Scene) -> None:
    """Clipped to the bounds first and then projected, as ours."""
    need("art")
    compare("art", "l2", scene)


@pytest.mark.parametrize("library", ["torchattacks", "foolbox"])
def test_pgd_l2_away_from_the_bounds(library: str, grey: Scene) -> None:
    """These project first and then clip, which leaves a part of the budget unused; without bounds it is the same."""
    need(library)
    compare(library, "l2", grey)


def compare(library: str, norm: str, scene: Scene) -> None:
    """Ours returns the best of its iterates by the margin, so theirs are ranked by it too."""
    stage = scene.stage()
    eps, alpha = SIZES[norm]
    iterates, margins = [scene.x], [stage.target().margin(stage.output(), scene.y)]
    last = 0
    for steps in range(1, STEPS + 1):
        theirs = craft(library, Task("pgd", norm, eps, alpha, steps), stage.network, scene.x, scene.y)
        iterates.append(theirs)
        margins.append(stage.target().margin(stage.output(theirs), scene.y))
        best = torch.stack(margins).argmin(0)
        expected = torch.stack(iterates)[best, torch.arange(len(scene.x))]
        attack = PGD(
            norm=norm, eps=eps, alpha=Budget.of(alpha), steps=steps, loss="ce", random_start=False,
            stop_on_success=False,
        )  # fmt: skip
        ours = attack.perturb(scene.x, scene.y, stage.target(), stage.samples.rng(0, ""))
        assert float((ours - expected).abs().max()) <= 1e-5, f"step {steps}"
        last += int((best == steps).sum())
    assert last > 0.5 * STEPS * len(scene.x)  # mostly the last one, so hardly an iterate goes unseen
