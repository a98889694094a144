"""What a data set must be, and the fingerprint of one that is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.components.identity import canonical
from advbench.errors import DataError
from advbench.runtime.reading import batches, read
from advbench.values import Data, InputSpace, Regression, Split, Task


def check_structure(name: str, data: Data) -> None:
    """Splits, shapes, counts, targets and sample names; reads no inputs.

    Raises
    ------
    DataError
        Naming the split and the sample that is wrong.
    """
    if "test" not in data.splits:
        raise DataError(f"{name}: there is no split 'test'; there are {', '.join(data.splits) or 'none'}")
    if not len(data.splits["test"]):
        raise DataError(f"{name}: split 'test' is empty")
    for split_name, split in data.splits.items():
        where = f"{name}, split {split_name!r}"
        _check_counts(where, split, data.space)
        _check_targets(where, split, data.task)
    _check_extras(name, data)
    _check_names(name, data)


def _check_counts(where: str, split: Split, space: InputSpace) -> None:
    n, shape = len(split), tuple(split.x.shape)
    if shape != (n, *space.shape):
        raise DataError(f"{where}: inputs have shape {shape}; {n} targets need {(n, *space.shape)}")
    for label, array in (("ids", split.ids), *split.extras.items()):
        if len(array) != n:
            raise DataError(f"{where}: {len(array)} {label} for {n} samples")


def _check_targets(where: str, split: Split, task: Task) -> None:
    y = np.asarray(split.y)
    if isinstance(task, Regression):
        if not np.issubdtype(y.dtype, np.number):
            raise DataError(f"{where}: targets must be numbers, got {y.dtype}")
        if len(y) and y.reshape(len(y), -1).shape[1] != task.outputs:
            raise DataError(f"{where}: targets have shape {y.shape} for {task.outputs} outputs")
        _refuse_not_finite(where, "target", y, split.ids)
        if task.relative and (y <= -1).any():
            worst = int(np.argmin(y.reshape(len(y), -1).min(1)))
            raise DataError(
                f"{where}: target {y[worst].min():g} of sample {str(split.ids[worst])!r} is not above -1,"
                " and errors are to be relative to 1 + target"
            )
        return
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{where}: class labels must be integers of shape (n,), got {y.dtype} {y.shape}")
    bad = (y < -1) | (y >= task.outputs)
    if bad.any():
        i = int(bad.argmax())
        sample = str(split.ids[i])
        raise DataError(
            f"{where}: label {y[i]} of sample {sample!r} is outside 0..{task.outputs - 1} (-1: none of the classes)"
        )


def _check_extras(name: str, data: Data) -> None:
    first = next(iter(data.splits))
    expected = _listed(data.splits[first].extras)
    for split_name, split in data.splits.items():
        found = _listed(split.extras)
        if found != expected:
            raise DataError(f"{name}: split {split_name!r} has {found}, split {first!r} has {expected}")
        for key, values in split.extras.items():
            _refuse_not_finite(f"{name}, split {split_name!r}", key, np.asarray(values), split.ids)


def _listed(extras: Iterable[str]) -> str:
    return f"the extras {', '.join(sorted(extras))}" if list(extras) else "no extras"


def _refuse_not_finite(where: str, label: str, values: NDArray[Any], ids: Any) -> None:
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if bad.any():
        raise DataError(f"{where}: {label} of sample {str(ids[int(bad.argmax())])!r} is not finite")


def _check_names(name: str, data: Data) -> None:
    owner: dict[str, str] = {}
    for split_name, split in data.splits.items():
        for sample in map(str, split.ids):
            other = owner.get(sample)
            if other == split_name:
                raise DataError(
                    f"{name}, split {split_name!r}: the id {sample!r} belongs to more than one sample"
                )
            if other is not None:
                raise DataError(
                    f"{name}: sample {sample!r} is in split {other!r} and in split {split_name!r}"
                )
            owner[sample] = split_name


class Fingerprint(NamedTuple):
    """Hashes of a data set."""

    everything: str  # space, task, splits, ids, targets, extras, inputs
    unlabelled: str  # the same without task and targets


def fingerprint(name: str, data: Data) -> Fingerprint:
    """Check every value and hash everything.

    Raises
    ------
    DataError
        Naming the split and the sample that is wrong.
    """
    everything, unlabelled = hashlib.sha256(), hashlib.sha256()

    def update(content: bytes) -> None:
        everything.update(content)
        unlabelled.update(content)

    space = data.space
    update(canonical(list(plain(space).values())).encode())
    everything.update(canonical([type(data.task).__name__, vars(data.task)]).encode())
    for split_name, split in sorted(data.splits.items()):
        update(canonical([split_name, [str(sample) for sample in split.ids]]).encode())
        for key in sorted(split.extras):
            update(key.encode() + np.ascontiguousarray(split.extras[key], dtype=np.float32).tobytes())
        labels = np.float64 if isinstance(data.task, Regression) else np.int64
        everything.update(np.ascontiguousarray(split.y, dtype=labels).tobytes())
        for rows in batches(len(split)):
            x = read(split, rows)
            _check_values(f"{name}, split {split_name!r}", x, split.ids[rows], space)
            update(x.tobytes())
    return Fingerprint(everything.hexdigest()[:16], unlabelled.hexdigest()[:16])


def plain(space: InputSpace) -> dict[str, Any]:
    """An input space in plain numbers and texts; the physical link is left out."""
    facts = {name: [float(value) for value in fact] for name, fact in space.facts.items()}
    return {
        "shape": [int(size) for size in space.shape],
        "lower": [float(value) for value in space.lower],
        "upper": [float(value) for value in space.upper],
        "channels": list(space.channels),
        "unit": space.unit,
        **({"facts": facts} if facts else {}),
    }


def _check_values(where: str, x: NDArray[np.float32], ids: Any, space: InputSpace) -> None:
    broken = ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    if broken.any():
        sample = str(ids[int(broken.argmax())])
        raise DataError(f"{where}: sample {sample!r} has NaN or infinite values; remove or mask it")
    view = (1, -1) + (1,) * (len(space.shape) - 1)
    lower, upper = np.array(space.lower).reshape(view), np.array(space.upper).reshape(view)
    slack = 1e-6 * (upper - lower)  # rounding of the bounds themselves
    outside = (x < lower - slack) | (x > upper + slack)
    if outside.any():
        i, channel = (int(index) for index in np.argwhere(outside)[0][:2])
        values = x[i, channel]
        raise DataError(
            f"{where}: sample {str(ids[i])!r} has values in [{values.min():.6g}, {values.max():.6g}], outside the "
            f"declared bounds of channel {space.channels[channel]}, "
            f"[{space.lower[channel]:.6g}, {space.upper[channel]:.6g}]"
        )
