"""Attacks of Foolbox, Rauber et al. 2020, https://doi.org/10.21105/joss.02607."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from advbench.api import Tags
from advbench_bridges.art import INSTALL
from advbench_bridges.attack import TAGS, LibraryAttack
from advbench_bridges.library import Library

ORDERS = {"linf": float("inf"), "l2": 2, "l1": 1, "l0": 0}


class Foolbox(LibraryAttack):
    """An attack of Foolbox, by the name of its class; what comes back is clipped to the budget by Foolbox itself."""

    tags: ClassVar[Tags] = replace(TAGS, needs_gradient=True, reference="https://doi.org/10.21105/joss.02607")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"attack": "LinfPGD", "params": {"steps": 5}, "eps": 0.1},
        {"attack": "L2FastGradientAttack", "norm": "l2", "eps": 0.5},
        {"attack": "DDNAttack", "params": {"steps": 10}, "norm": "l2"},
    )
    library: ClassVar[Library] = Library(
        module="foolbox.attacks",
        distribution="foolbox",
        install=INSTALL,
        base="foolbox.attacks.base:Attack",
        hidden=("distance", "init_attack", "tensorboard"),
        without=(
            "GenAttack",
            "DatasetAttack",
        ),  # one only aims at a class, the other wants samples of its own
    )

    def problem(self, cls: type) -> str | None:
        """Foolbox knows for each attack its distance and whether it keeps a budget."""
        order = getattr(getattr(self._build(cls), "distance", None), "p", None)
        if order is not None and order != ORDERS.get(self.norm):
            own = next(norm for norm, p in ORDERS.items() if p == order)
            return f"norm: {self.attack} is for {own}, not {self.norm}"
        fixed = issubclass(cls, self.library.load("foolbox.attacks.base").FixedEpsilonAttack)
        if fixed and self.eps is None:
            return f"eps: {self.attack} keeps a budget; give eps, in input units"
        if not fixed and self.eps is not None:
            return f"eps: {self.attack} keeps no budget; leave eps out, the distances are measured"
        return None

    def craft(self, network: nn.Module, x: Tensor, y: Tensor, size: float | None, outputs: int) -> Tensor:
        """One input."""
        foolbox = self.library.load("foolbox")
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
        attack = self._build(self.library.find(self.attack, "attack"))
        found: Tensor = attack(model, x, foolbox.criteria.Misclassification(y), epsilons=size)[1]
        return found

    def _build(self, cls: type) -> Any:
        order = ORDERS.get(self.norm)
        distance = None if order is None else self.library.load("foolbox.distances").LpDistance(order)
        return cls(**self.arguments(cls, None, distance=distance))


class FoolboxBlackbox(Foolbox):
    """An attack of Foolbox that asks for no gradient, for black boxes too."""

    tags: ClassVar[Tags] = replace(TAGS, reference="https://doi.org/10.21105/joss.02607")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "attack": "L2RepeatedAdditiveGaussianNoiseAttack",
            "params": {"repeats": 20},
            "norm": "l2",
            "eps": 2.0,
        },
    )
