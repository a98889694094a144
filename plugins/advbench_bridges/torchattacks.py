"""Attacks of torchattacks, Kim 2020, https://arxiv.org/abs/2010.01950."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from advbench.api import InputSpace, Tags, Task
from advbench_bridges.attack import TAGS, LibraryAttack
from advbench_bridges.library import Library

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
OTHER_NORMS = {
    "l2": ("CW", "PGDL2", "PGDRSL2", "DeepFool", "EADEN", "GN"),
    "l1": ("EADL1",),
    "l0": ("SparseFool", "JSMA", "Pixle"),
    "pixels": ("OnePixel",),
}
"""Attacks whose norm is not linf and is no parameter."""


class Torchattacks(LibraryAttack):
    """An attack of torchattacks, by the name of its class."""

    tags: ClassVar[Tags] = replace(TAGS, needs_gradient=True, reference="https://arxiv.org/abs/2010.01950")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"attack": "PGD", "params": {"alpha": 0.03, "steps": 5}, "eps": 0.1},
        {"attack": "APGD", "params": {"steps": 4}, "norm": "l2", "eps": 0.5},
        {"attack": "CW", "params": {"steps": 5, "lr": 0.1}, "norm": "l2"},
    )
    library: ClassVar[Library] = Library(
        module="torchattacks",
        distribution="torchattacks",
        install="pip install --no-deps torchattacks",
        base="torchattacks.attack:Attack",
        hidden=("model",),
        without=("MultiAttack", "LGV", "VANILA"),
    )
    budgets: ClassVar[Sequence[str]] = ("eps", "max_epsilon", "pixels")
    classes: ClassVar[dict[str, int]] = {"APGDT": 4, "AutoAttack": 4, "JSMA": 10}

    def problem(self, cls: type) -> str | None:
        """The norm must be that of the attack."""
        if "norm" in self.library.parameters(cls):
            own = list(NORMS) if self.attack == "FAB" else ["linf", "l2"]
        else:
            own = [norm for norm, names in OTHER_NORMS.items() if self.attack in names] or ["linf"]
        if self.norm not in own:
            return f"norm: {self.attack} is for {' or '.join(own)}, not {self.norm}"
        return super().problem(cls)

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Only images."""
        return super().supports(space, task) or (
            None if len(space.shape) == 3 else "torchattacks needs images (c, h, w)"
        )

    def craft(self, network: nn.Module, x: Tensor, y: Tensor, size: float | None, outputs: int) -> Tensor:
        """One input."""
        cls = self.library.find(self.attack, "attack")
        arguments = self.arguments(cls, size, norm=NORMS.get(self.norm), n_classes=outputs)
        found: Tensor = cls(network, **arguments)(x, y)
        return found


class TorchattacksBlackbox(Torchattacks):
    """An attack of torchattacks that asks for no gradient, for black boxes too."""

    tags: ClassVar[Tags] = replace(TAGS, reference="https://arxiv.org/abs/2010.01950")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"attack": "Square", "params": {"n_queries": 20}, "eps": 0.2},
    )
