"""DDN and FMN find perturbations as small as those of the other libraries, or smaller."""

from __future__ import annotations

import pytest
import torch
from tests.peers.peers import Task, craft, peers_of
from tests.peers.scenes import Scene, digits
from torch import Tensor

from advbench.components.base import Attack
from advbench.components.loader import Plugins
from advbench.errors import PluginLoadError, UserError
from advbench.runtime.threat import ball_norm
from advbench.testing.stage import Stage, craft_clean

STEPS = 100


@pytest.fixture(scope="module")
def scene() -> Scene:
    return digits(100, epochs=5)


def our_attack(name: str, **parameters: object) -> Attack:
    """The attack ``attacks/NAME``; the test is skipped where there is none."""
    try:
        attack = Plugins.discover().find("perturbation", f"attacks/{name}").load()(**parameters)
    except (UserError, PluginLoadError) as error:
        pytest.skip(str(error))
    assert isinstance(attack, Attack)
    return attack


def median(stage: Stage, point: Tensor, norm: str) -> float:
    """Median norm, infinite where the prediction is still right."""
    size = ball_norm(point.double() - stage.samples.x.double(), norm)
    wrong = stage.output(point).argmax(1) != stage.samples.y
    return float(torch.where(wrong, size, torch.inf).median())


@pytest.mark.parametrize(
    ("name", "norm"), [("ddn", "l2"), ("fmn", "l2"), ("fmn", "linf"), ("fmn", "l1"), ("fmn", "l0")]
)
def test_median_norm_is_at_most_that_of_the_others(name: str, norm: str, scene: Scene) -> None:
    task = Task(name, norm, steps=STEPS)
    others = peers_of(task)
    if not others:
        pytest.skip(f"no library with {name} is installed")
    attack = our_attack(name, steps=STEPS, **({"norm": norm} if name == "fmn" else {}))
    stage = scene.stage()
    ours = median(stage, craft_clean(stage, attack, f"attacks/{name}").x, norm)
    theirs = {one: median(stage, craft(one, task, stage.network, scene.x, scene.y), norm) for one in others}
    assert ours < float("inf")
    assert ours <= 1.01 * min(theirs.values()), theirs
