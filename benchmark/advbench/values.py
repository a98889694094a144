"""Value objects that every room shares: the input space, tasks, data, budgets.

Nothing here imports torch; arrays are anything that NumPy can index by an integer array
(an ``ndarray``, a memory map, an HDF5 data set behind a small adapter).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

NORMS = ("linf", "l2", "l1", "l0", "pixels")
"""Norms a budget can be in. ``l0`` counts changed values, ``pixels`` changed positions over all channels."""

KNOWLEDGE = ("none", "blackbox", "transfer", "oblivious", "adaptive")
"""What the attacker knows; see :doc:`the words </words>`."""


class PhysicalLink(Protocol):
    """Invertible map between the input space and physical units (flux, say). Works on tensors."""

    unit: str

    def to_physical(self, x: Tensor) -> Tensor:
        """Input space (..., c, h, w) to physical units."""

    def from_physical(self, value: Tensor) -> Tensor:
        """Physical units (..., c, h, w) to the input space."""


@dataclass(frozen=True)
class InputSpace:
    """What a model sees: shape, channels and the closed box that every input lies in.

    Parameters
    ----------
    shape
        Shape of one sample, channels first: ``(c, h, w)``.
    lower, upper
        Bounds per channel, in the units of the inputs. Never assumed to be 0 and 1.
    channels
        Channel names, ``c`` of them.
    unit
        Unit of an input value, ``""`` where it has none.
    link
        Optional map to physical units.
    facts
        How the data were taken, for components that work in physical units: each entry has one number, or one per
        channel, with the unit in its name (``pixel_scale_arcsec``, ``exposure_s``).
    """

    shape: tuple[int, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    channels: tuple[str, ...]
    unit: str = ""
    link: PhysicalLink | None = None
    facts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = self.shape[0] if self.shape else 0
        for name in ("lower", "upper", "channels"):
            if len(getattr(self, name)) != count:
                raise ValueError(
                    f"InputSpace: {name} has {len(getattr(self, name))} entries for {count} channels"
                )
        for name, fact in self.facts.items():
            if len(fact) not in (1, count):
                raise ValueError(f"InputSpace: the fact {name} has {len(fact)} entries for {count} channels")
        for name, low, high in zip(self.channels, self.lower, self.upper):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"InputSpace: channel {name} has bounds [{low}, {high}]")

    def bounds_like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds shaped ``(1, c, 1, ...)`` with the dtype and device of ``x`` (b, c, ...)."""
        view = (1, len(self.lower)) + (1,) * (x.dim() - 2)
        return x.new_tensor(self.lower).view(view), x.new_tensor(self.upper).view(view)


@dataclass(frozen=True)
class Classification:
    """K >= 2 classes; targets are integers in ``[0, K)``.

    A sample that is none of them has the target -1: it is handled right if a detector rejects it, is never attacked,
    and nothing is trained on it.
    """

    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"a classification task needs at least two classes, not {len(self.classes)}")

    @property
    def outputs(self) -> int:
        """Number of outputs of a network."""
        return len(self.classes)


@dataclass(frozen=True)
class Regression:
    """One real target per output.

    A prediction counts as *correct* while ``|prediction - target| / scale <= tolerance`` for every output,
    with ``scale = 1 + target`` if ``relative`` (photometric redshifts: the outlier criterion) and 1 otherwise.
    """

    targets: tuple[str, ...]
    tolerance: float
    relative: bool = False
    unit: str = ""

    @property
    def outputs(self) -> int:
        """Number of outputs of a network."""
        return len(self.targets)


Task = Classification | Regression


def task_name(task: Task) -> str:
    """``"classification"`` or ``"regression"``."""
    return "classification" if isinstance(task, Classification) else "regression"


@dataclass(frozen=True)
class Split:
    """Samples of one split.

    Parameters
    ----------
    x
        Inputs (n, c, h, w), indexable by an integer array; converted to float32 batch by batch.
    y
        Targets: int64 (n,) for classification, float (n,) or (n, t) for regression.
    ids
        Sample names, unique within the data set. Random draws depend on them, so a sample keeps its
        draws whatever the order or the number of samples.
    extras
        Extra scalar inputs of the network (reddening, say), each (n,) or (n, k). They are never attacked.
    """

    x: Any
    y: NDArray[Any]
    ids: NDArray[np.str_]
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)


Augment = Callable[["Tensor", "Tensor"], "Tensor"]
"""Train-time transform: inputs (b, c, h, w) and uniform draws (b, 16) in [0, 1) to inputs of the same shape."""


@dataclass(frozen=True)
class Data:
    """A loaded data set: its space, its task and its disjoint splits.

    ``test`` must be there; ``train`` and ``valid`` for any model that is trained on it; ``calibration``
    for defenses that set a threshold. ``augment`` is applied to training batches only. ``notes`` are
    lines for the user (files that could not be read, say).
    """

    space: InputSpace
    task: Task
    splits: Mapping[str, Split]
    augment: Augment | None = None
    notes: tuple[str, ...] = ()


def as_number(value: Any) -> float:
    """A number, or a fraction written as text such as ``"8/255"``.

    Raises
    ------
    ValueError
        If it is neither, or not finite.
    """
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {value!r}")
    if isinstance(value, str):
        try:
            value = float(Fraction(value.replace(" ", ""))) if "/" in value else float(value)
        except (ValueError, ArithmeticError):
            raise ValueError(f"expected a number or a fraction such as 8/255, got {value!r}") from None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {value!r}")
    return number


@dataclass(frozen=True)
class Budget:
    """Size of a perturbation in the input space: one number, or one per channel.

    With one number per channel the ball is the set of ``delta`` with ``norm(delta / eps) <= 1``.
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, value: Any) -> Budget:
        """From a number, a fraction as text, or a sequence of them; all must be >= 0."""
        if isinstance(value, Budget):
            return value
        entries = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        values = tuple(as_number(entry) for entry in entries)
        if not values or min(values) < 0:
            raise ValueError(f"a budget is one number >= 0 or a list with one per channel, got {value!r}")
        return cls(values)

    def like(self, x: Tensor) -> Tensor:
        """Shaped to broadcast against ``x`` (b, c, ...): ``(1, c, 1, ...)`` or ``(1, 1, 1, ...)``."""
        count = len(self.values)
        if count not in (1, x.shape[1]):
            raise ValueError(f"the budget has {count} entries but the inputs have {x.shape[1]} channels")
        return x.new_tensor(self.values).view((1, count) + (1,) * (x.dim() - 2))

    def json(self) -> float | list[float]:
        """A number, or a list with one number per channel."""
        return self.values[0] if len(self.values) == 1 else list(self.values)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.of, serialization=core_schema.plain_serializer_function_ser_schema(cls.json)
        )


class Mask(BaseModel):
    """Which values of an input may change: some channels, or a rectangle of pixels, or both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[str | int, ...] | None = Field(None, description="names or indices; all unless given")
    box: tuple[int, int, int, int] | None = Field(
        None, description="[top, left, height, width] in pixels; all unless given"
    )

    def problem(self, space: InputSpace) -> str | None:
        """Why it does not fit the input space, or None."""
        for channel in self.channels or ():
            known = range(len(space.channels)) if isinstance(channel, int) else space.channels
            if channel not in known:
                return f"mask: no channel {channel!r}; the data have {', '.join(space.channels)}"
        if self.channels == ():
            return "mask: no channel may change"
        if self.box is not None:
            top, left, height, width = self.box
            rows, columns = space.shape[-2:]
            if min(height, width) < 1 or min(top, left) < 0 or top + height > rows or left + width > columns:
                return f"mask: the box {list(self.box)} does not lie within {rows} x {columns} pixels"
        return None

    def like(self, x: Tensor, space: InputSpace) -> Tensor:
        """Bool (1, c, h, w) for inputs (b, c, h, w): True where a value may change."""
        mask = x.new_zeros((1, *x.shape[1:])).bool()
        names = range(x.shape[1]) if self.channels is None else self.channels
        rows = [name if isinstance(name, int) else space.channels.index(name) for name in names]
        top, left, height, width = self.box or (0, 0, x.shape[-2], x.shape[-1])
        mask[:, rows, top : top + height, left : left + width] = True
        return mask


@dataclass(frozen=True)
class Constraint:
    """The ball that a perturbation promises to stay in."""

    norm: str
    eps: Budget
