"""What is run on which network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.peers.peers import Task
from tests.peers.scenes import DATA, Scene, blobs, digits, lenet5

POPULATION = 400


@dataclass(frozen=True)
class Trial:
    """One attack and the number of samples; ``gradients``: whether its passes have a backward one."""

    task: Task
    samples: int
    gradients: bool = True

    @property
    def nominal(self) -> int:
        """Passes per sample that the task says: its steps; for one-pixel the candidates of all generations."""
        return POPULATION * (self.task.steps + 1) if self.task.attack == "one-pixel" else self.task.steps


def trials(scene: Scene, quick: bool) -> list[Trial]:
    """All attacks, with budgets that fool some of the samples and not all."""
    name = scene.name.split()[0]
    if name == "LeNet5":
        return [Trial(Task("auto", "linf", eps, steps=100), len(scene.x)) for eps in (0.1, 0.2, 0.3)]
    eps, length = {"ConvNet": (0.002, 0.25), "ResNet18": (0.008, 0.6)}.get(name, (0.1, 1.0))
    short = quick or "ResNet18" in scene.name
    steps, many, queries = (10, 20, 100) if short else (40, 100, 500)
    count = len(scene.x)
    crowded = scene.task.outputs > 3  # with fewer classes the official AutoAttack crashes
    return [
        Trial(Task("fgsm", "linf", eps), count),
        Trial(Task("pgd", "linf", eps, 2.5 * eps / steps, steps), count),
        Trial(Task("pgd", "l2", length, 2.5 * length / steps, steps), count),
        Trial(Task("ddn", "l2", steps=many), count),
        Trial(Task("fmn", "l2", steps=many), count),
        Trial(Task("fmn", "linf", steps=many), count),
        Trial(Task("apgd", "linf", eps, steps=many), count),
        Trial(Task("square", "linf", eps, steps=queries), count, gradients=False),
        Trial(Task("one-pixel", "pixels", 1, steps=1 if short else 10), 1 if short else 4, gradients=False),
        *([Trial(Task("auto", "linf", eps, steps=many), min(count, 32))] if crowded else []),
    ]


def networks(quick: bool) -> Mapping[str, Callable[[], Scene]]:
    """The networks by name, the cheapest first; samples fill our chunks of 16, whose rest would be padded."""
    if quick:
        return {"SmallCNN": lambda: digits(32, epochs=3)}
    made = {
        "SmallCNN": lambda: digits(96),
        "ConvNet": lambda: blobs("ConvNet", 32),
        "ResNet18": lambda: blobs("ResNet18", 16, epochs=8),
    }
    return {**made, "LeNet5": lenet5} if DATA.is_dir() else made
