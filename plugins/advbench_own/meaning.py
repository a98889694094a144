"""What inputs and targets mean: bounds and channels, classes, regression targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.api import Classification, DataError, InputSpace
from advbench_own.rows import extremes
from advbench_own.storage import ArrayLike

Bound = float | tuple[float, ...]
Bounds = Literal["data"] | tuple[Bound, Bound]
"""``[lower, upper]``, each one number or a list with one per channel; or ``data``."""


def space_of(
    arrays: Sequence[ArrayLike], bounds: Bounds, channels: Sequence[str], unit: str, where: str
) -> tuple[InputSpace, tuple[str, ...]]:
    """Input space of samples that all have one shape, and notes for the user.

    With ``bounds="data"`` they are the smallest and largest value of each channel over all splits: a box that
    left out a test sample would be no box of valid inputs.

    Raises
    ------
    DataError
        If bounds or channel names do not fit the shape, or the data have no finite range.
    """
    shape = tuple(arrays[0].shape[1:])
    if not 1 <= len(shape) <= 3:
        raise DataError(f"{where}: one sample must be (c, h, w), (h, w) or (c,), not {shape}")
    names = tuple(channels) or tuple(map(str, range(shape[0])))
    if len(names) != shape[0]:
        raise DataError(
            f"channels: {len(names)} names for {shape[0]} channels of the inputs; one sample is {shape}"
        )
    notes = []
    if bounds == "data":
        low, high = (tuple(map(float, values)) for values in extremes(arrays))
        notes.append(
            f"bounds are the range of the data over all splits: lower {_brief(low)}, upper {_brief(high)}"
        )
    else:
        low, high = (_per_channel(bound, shape, where) for bound in bounds)
    for name, lower, upper in zip(names, low, high):
        if not (np.isfinite(lower) and np.isfinite(upper) and lower < upper):
            raise DataError(
                f"{where}: channel {name!r} has the bounds [{lower:g}, {upper:g}]; expected finite numbers, rising"
            )
    if len(shape) == 3 and shape[2] < min(shape[:2]) and shape[2] in (1, 3, 4):
        notes.append(f"one sample is read as {shape} (c, h, w); if the channels are last, set channels_last")
    return InputSpace(shape, low, high, names, unit), tuple(notes)


def _per_channel(bound: Bound, shape: tuple[int, ...], where: str) -> tuple[float, ...]:
    values = bound if isinstance(bound, tuple) else (bound,) * shape[0]
    if len(values) != shape[0]:
        raise DataError(f"{where}: {len(values)} bounds for {shape[0]} channels; one sample is {shape}")
    return tuple(float(value) for value in values)


def _brief(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


class Labels(NamedTuple):
    """Class labels as they were found: text or integers (n,), and the number of classes if one-hot says it."""

    values: NDArray[Any]
    where: str
    width: int = 0


def labels_of(array: NDArray[Any], where: str) -> Labels:
    """Labels from integers or text, (n,) or (n, 1), or from one-hot rows (n, K).

    Raises
    ------
    DataError
        If they are none of these; the row is named.
    """
    values = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if values.dtype.kind in "US" and values.ndim == 1:
        return Labels(values.astype(np.str_), where)
    if values.dtype.kind not in "biuf" or values.ndim not in (1, 2):
        raise DataError(
            f"{where}: labels must be integers, text or one-hot rows, not {values.dtype} of shape {array.shape}"
        )
    if values.ndim == 2:
        wrong = ~(((values == 0) | (values == 1)).all(axis=1) & (values.sum(axis=1) == 1))
        _refuse(wrong, values, where, "is not one-hot")
        return Labels(values.argmax(axis=1).astype(np.int64), where, values.shape[1])
    with np.errstate(invalid="ignore"):
        _refuse(
            ~((values >= 0) & (values == np.floor(values))),
            values,
            where,
            "is not a class number 0, 1, 2 ...",
        )
    return Labels(values.astype(np.int64), where)


def classes_of(found: Sequence[Labels], declared: Sequence[str]) -> Classification:
    """The classes: those declared; else texts by sorted name; else numbers from 0 to the largest.

    Raises
    ------
    DataError
        If some labels are text and others numbers, numbers have gaps, or there are fewer than two classes.
    """
    if len({label.values.dtype.kind == "U" for label in found}) > 1:
        raise DataError(
            f"labels are text in some files and numbers in others: {', '.join(label.where for label in found)}"
        )
    names = tuple(declared)
    if not names and found[0].values.dtype.kind == "U":
        names = tuple(sorted({str(value) for label in found for value in np.unique(label.values)}))
    elif not names:
        count = max(max(label.width, int(label.values.max(initial=-1)) + 1) for label in found)
        names = tuple(map(str, range(count)))
        _refuse_gaps(found, count)
    if len(names) < 2:
        what = f"there is one class only, {names[0]}" if names else "there is no class"
        raise DataError(f"{found[0].where}: {what}; classification needs two")
    return Classification(names)


def _refuse_gaps(found: Sequence[Labels], count: int) -> None:
    """Numbers with gaps are rarely class numbers: a network for classes 0, 1, 2 and 7 would get eight outputs."""
    if any(label.width for label in found):
        return
    seen = np.unique(np.concatenate([label.values for label in found]))
    missing = np.setdiff1d(np.arange(count), seen)
    if len(missing):
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{found[0].where}: labels run to {count - 1}, but no sample has label {shown}; number the classes"
            " from 0 without gaps, or name all of them with `classes`"
        )


def class_numbers(labels: Labels, task: Classification) -> NDArray[np.int64]:
    """Labels as numbers (n,) of the classes of the task.

    Raises
    ------
    DataError
        If a label is no class; the row is named.
    """
    if labels.values.dtype.kind == "U":
        known = np.isin(labels.values, task.classes)
        _refuse(~known, labels.values, labels.where, f"is none of the classes {', '.join(task.classes)}")
        order = np.argsort(task.classes)
        place = np.searchsorted(np.array(task.classes)[order], labels.values)
        return np.asarray(order[place], dtype=np.int64)
    if labels.width > task.outputs:
        raise DataError(f"{labels.where}: one-hot rows of {labels.width} entries for {task.outputs} classes")
    _refuse(labels.values >= task.outputs, labels.values, labels.where, f"is outside 0..{task.outputs - 1}")
    return np.asarray(labels.values, dtype=np.int64)


def _refuse(wrong: NDArray[np.bool_], values: NDArray[Any], where: str, why: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{where}: label {values[row]} of row {row} {why}")
