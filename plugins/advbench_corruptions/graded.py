"""What corruptions share: a strength that may be given as a severity, and what they ask of the input space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import model_validator
from torch import Tensor

from advbench.api import Budget, Corruption, InputSpace, Task, param

LEVELS = 5


class Graded(Corruption):
    """A corruption whose parameters may be given as one severity from 1 to 5.

    A severity is only a name for physical parameters, which the table ``severities`` gives; lengths are in
    pixels and amplitudes in units of the range between the bounds, so that it suits any data. Giving it
    together with other values of these parameters is an error.
    """

    severities: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Five values, from mild to severe, of each parameter that a severity stands for."""

    needs_images: ClassVar[str] = ""
    """What needs images (c, h, w), in words ("a blur"); empty if any inputs will do."""

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"severity": 3})

    severity: int | None = param(None, "1 (mild) to 5 (severe)", ge=1, le=LEVELS, strict=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """`advbench info` shows the table: it stands in the help text of the parameter."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, values in cls.severities.items():
            if len(values) != LEVELS or name not in cls.model_fields:
                raise TypeError(
                    f"{cls.__name__}: severities needs {LEVELS} values of a parameter, see {name!r}"
                )
        table = "; ".join(f"{name} {_listed(values)}" for name, values in cls.severities.items())
        cls.model_fields["severity"].description = f"1 (mild) to 5 (severe), short for {table}"

    @model_validator(mode="before")
    @classmethod
    def _severity_stands_for_parameters(cls, values: Any) -> Any:
        """Fill in the parameters; these very values beside the severity are what a record holds."""
        level = values.get("severity") if isinstance(values, Mapping) else None
        if type(level) is not int or not 1 <= level <= LEVELS:
            return values
        meant = {name: grades[level - 1] for name, grades in cls.severities.items()}
        both = [name for name in meant if name in values and values[name] != meant[name]]
        if both:
            words = ", ".join(f"{name} {_text(value)}" for name, value in meant.items())
            raise ValueError(
                f"severity {level} stands for {words}; give it or {' and '.join(both)}, not both"
            )
        return {**values, **meant}

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """What looks at neighbouring pixels needs images."""
        missing = self.needs_images and len(space.shape) != 3
        return f"{self.needs_images} needs images (c, h, w)" if missing else None


def fits_channels(name: str, amount: Budget, space: InputSpace) -> str | None:
    """Why a parameter does not have one entry, or one for each channel, or None."""
    entries, channels = len(amount.values), space.shape[0]
    return None if entries in (1, channels) else f"{name} has {entries} entries for {channels} channels"


def in_input_units(amount: Budget, relative: bool, x: Tensor, space: InputSpace) -> Tensor:
    """``amount`` shaped to broadcast against ``x`` (b, c, ...); ``relative`` to the range between the bounds or not."""
    lower, upper = space.bounds_like(x)
    return amount.like(x) * (upper - lower) if relative else amount.like(x)


def _listed(values: Sequence[Any]) -> str:
    """The values, or the one that they all are."""
    return ", ".join(dict.fromkeys(map(_text, values)))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
