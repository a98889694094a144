"""What the bridges to attacks share: parameters, their check, and one sample after the other."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import Self

from advbench.api import (
    Attack,
    Budget,
    Classification,
    InputSpace,
    Rng,
    Stop,
    Tags,
    Target,
    Task,
    isolated_rng,
    param,
)
from advbench_bridges.library import Library
from advbench_bridges.unit import InUnit, Unit, size_in_unit

Norm = Literal["linf", "l2", "l1", "l0", "pixels"]

TAGS = Tags(
    tasks=("classification",),
    norms=("linf", "l2", "l1", "l0", "pixels"),
    stochastic=True,
    strength="eps",
    unit="input units",
)


class LibraryAttack(Attack):
    """An attack of another library.

    Libraries let samples of a batch share random draws, stopping rules and step sizes, and call the network with as
    many rows as they like. So each sample is handed over by itself, with the global generators seeded for it:
    its result depends on nothing else, and its passes are counted.
    """

    tags: ClassVar[Tags] = TAGS
    library: ClassVar[Library]
    budgets: ClassVar[Sequence[str]] = ("eps",)
    """Parameters of the library that take `eps`; an attack that has none of them looks for a small perturbation."""
    classes: ClassVar[dict[str, int]] = {}
    """Classes that an attack needs, where it is more than 2."""

    attack: str = param(..., "class of the library, PGD say")
    params: dict[str, Any] = param(
        {}, "its own parameters; lengths are between 0 and 1, where the library works, whatever the bounds"
    )
    norm: Norm = param("linf", "norm that the result is measured in")
    eps: Budget | None = param(
        None,
        "radius of the ball, handed on in the library's units; none where it looks for a small perturbation",
        unit="input units",
    )

    @model_validator(mode="after")
    def _the_library_knows_it(self) -> Self:
        if self.library.absence() is None:
            cls = self.library.find(self.attack, "attack")
            self.library.check(cls, self.params)
            try:
                problem = self.problem(cls)
            except ImportError as error:
                problem = (
                    f"attack: {self.attack} of {self.library.name} needs {error.name}, which is not installed"
                )
            if problem:
                raise ValueError(problem)
        return self

    def problem(self, cls: type) -> str | None:
        """What is wrong with norm or budget for this class, or None."""
        names = [name for name in self.budgets if name in self.library.parameters(cls)]
        if names and self.eps is None:
            return f"eps: {self.attack} keeps a budget; give eps, in input units"
        if not names and self.eps is not None:
            return f"eps: {self.attack} keeps no budget; leave eps out, the distances are measured"
        return None

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """It must be installed, have enough classes, and one number for its budget."""
        reason = self.library.absence() or super().supports(space, task)
        if reason:
            return reason
        need = self.classes.get(self.attack, 2)
        if isinstance(task, Classification) and len(task.classes) < need:
            return (
                f"{self.library.name}'s {self.attack} needs {need} classes; the data have {len(task.classes)}"
            )
        try:
            size_in_unit(self.norm, self.eps, space)
        except ValueError as error:
            return str(error)
        return None

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """What names the version of the library."""
        return self.library.files() if self.library.absence() is None else ()

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """What the library makes of each sample."""
        size = size_in_unit(self.norm, self.eps, target.space)
        seeds: list[int] = rng.integers(2**31 - 1).tolist()
        points: list[Tensor] = []
        stopped: list[Stop] = []
        for i, seed in enumerate(seeds):
            row = torch.tensor([i], device=x.device)
            try:
                points.append(self._one(x[row], y[row], target.take(row), size, seed))
            except Stop as reason:  # the budget of this sample is spent; the others have theirs
                points.append(x[row])
                stopped.append(reason)
        if stopped and len(stopped) == len(x):
            raise stopped[-1]
        return torch.cat(points)

    def _one(self, x: Tensor, y: Tensor, target: Target, size: float | None, seed: int) -> Tensor:
        unit = Unit.around(x, target.space, target.mask, self.norm, self.eps)
        network = InUnit(target.module(), unit)
        with isolated_rng(seed), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            found = self.craft(network, unit.start.clone(), y, size, target.task.outputs)
        return unit.restore(found.detach().to(x))

    def craft(self, network: nn.Module, x: Tensor, y: Tensor, size: float | None, outputs: int) -> Tensor:
        """What the library makes of one input (1, c, h, w) between 0 and 1.

        Parameters
        ----------
        network
            Takes inputs between 0 and 1, gives logits (m, outputs).
        x, y
            The input and its true class, (1,).
        size
            The budget between 0 and 1, a count for the counting norms, or None.
        outputs
            Number of classes.
        """
        raise NotImplementedError

    def arguments(self, cls: type, size: float | None, **given: Any) -> dict[str, Any]:
        """Arguments of the constructor: the user's, then the budget and ``given`` where it has such a parameter."""
        names = inspect.signature(cls).parameters
        budget = next((name for name in self.budgets if name in names), None)
        if budget is not None:
            given[budget] = int(size) if self.norm in ("l0", "pixels") and size is not None else size
        own = {name: value for name, value in given.items() if name in names}
        return {**own, **self.params}
