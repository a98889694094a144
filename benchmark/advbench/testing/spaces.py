"""Tiny input spaces and tasks, and which of them a component takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from advbench.components.base import Component
from advbench.testing.check import Skip
from advbench.values import Classification, InputSpace, Regression, Task

Some = TypeVar("Some", bound=Component)


@dataclass(frozen=True)
class Brightness:
    """A link to physical units: an arcsinh stretch."""

    unit: str = "nJy"

    def to_physical(self, x: Tensor) -> Tensor:
        """Input space to nanojansky."""
        return torch.sinh(x) * 10

    def from_physical(self, value: Tensor) -> Tensor:
        """Nanojansky to input space."""
        return torch.asinh(value / 10)


def space_of(*shape: int, low: float = 0.0, high: float = 1.0, link: Any = None) -> InputSpace:
    """An input space with the same bounds for all channels."""
    channels = shape[0]
    names = tuple(f"band{i}" for i in range(channels))
    return InputSpace(shape, (low,) * channels, (high,) * channels, names, link=link)


SPACES = (
    space_of(3, 12, 12),
    space_of(1, 12, 12),
    space_of(3, 32, 32),
    space_of(3, 12, 12, low=-1.0, high=4.0, link=Brightness()),
    space_of(6),
)
"""Spaces to try a component in, in this order."""


WIDE = space_of(5, 8, 8, low=-4.0, high=50.0)
"""Five bands with bounds that nobody may take for 0 and 1."""


def classes(count: int) -> Classification:
    """A task of so many classes."""
    return Classification(tuple(f"class{i}" for i in range(count)))


REGRESSION = Regression(("redshift",), tolerance=0.5)


def a_task(component: Component, count: int = 3) -> Task:
    """A task that the component is for: classification if it can."""
    return classes(count) if "classification" in component.tags.tasks else REGRESSION


def fitting(component: Component, task: Task, spaces: Sequence[InputSpace] = SPACES) -> InputSpace:
    """The first of these spaces that the component supports.

    Raises
    ------
    Skip
        With the component's own reason if it supports none of them.
    """
    reasons = [component.supports(space, task) for space in spaces]
    for space, reason in zip(spaces, reasons):
        if reason is None:
            return space
    raise Skip(f"supports none of the spaces that were tried: {reasons[0]}")


def changed(component: Some, **parameters: Any) -> Some | None:
    """The component with other parameters, or None if it does not take them."""
    try:
        return type(component)(**{**component.model_dump(mode="json"), **parameters})
    except ValidationError:
        return None
