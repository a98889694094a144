"""Data of your own from a factory of torch data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor
from torch.utils.data import IterableDataset

from advbench.api import Data, DataContext, DataError, param
from advbench_own.described import WHOLE, OwnDataset, Table
from advbench_own.factories import PATTERN, call
from advbench_own.rows import Images


class TorchDataset(OwnDataset):
    """Your own torch Dataset from a factory by import path, or one for each split.

    The factory is a class or function that returns, for ``kwargs``, a map-style data set, or a mapping of split
    names (train, valid, calibration, test) to data sets. Items are ``(x, y)`` or ``(x, y, extras)``: ``x``
    (c, h, w), (h, w) or (c,); ``y`` a class as number, text or one-hot row, or the targets named by
    ``target_names``; ``extras`` a mapping of extra scalar inputs. Items must not depend on chance: samples are
    read when they are needed, more than once.
    """

    reproducible: ClassVar[bool] = False
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"factory": "advbench_own.example:stripes", "kwargs": {"count": 120, "side": 12}, "bounds": [0, 1]},
    )
    factory: str = param(..., "class or function by import path, such as mypkg.data:build", pattern=PATTERN)
    kwargs: dict[str, Any] = param({}, "arguments of the factory")

    @model_validator(mode="after")
    def _task_fits(self) -> TorchDataset:
        self.check_task(bool(self.target_names))
        return self

    def load(self, context: DataContext) -> Data:
        """Call the factory and read every sample once for its target."""
        made = call(self.factory, self.kwargs)
        parts = made if isinstance(made, Mapping) else {WHOLE: made}
        if isinstance(made, Mapping) and "test" not in made:
            raise DataError(
                f"factory {self.factory!r} returned no data set 'test', only {', '.join(map(str, made)) or 'none'}"
            )
        tables = {str(name): self._read(str(name), part, context) for name, part in parts.items()}
        return self.assemble(tables, regression=bool(self.target_names), source=context.source)

    def _read(self, split: str, dataset: Any, context: DataContext) -> Table:
        where = f"factory {self.factory!r}" + (f", split {split!r}" if split else "")
        if isinstance(dataset, IterableDataset) or not (
            hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        ):
            kind = type(dataset).__name__
            raise DataError(
                f"{where}: {kind} has no length or no items by number; a map-style data set is needed"
            )
        count = len(dataset)
        if not count:
            raise DataError(f"{where}: the data set is empty")
        targets: list[NDArray[Any]] = []
        extras: dict[str, list[NDArray[Any]]] = {}
        with context.progress(f"reading targets {split}".strip(), count) as bar:
            for i in range(count):
                y, more = _rest(_item(dataset, i, where), where, i)
                if i and set(more) != set(extras):
                    raise DataError(
                        f"{where}: item {i} has the extras {sorted(more)}, item 0 has {sorted(extras)}"
                    )
                targets.append(y)
                for name, value in more.items():
                    extras.setdefault(name, []).append(value)
                bar.advance()
        x = Images(Items(dataset, where, (count, *_plain(_item(dataset, 0, where)[0]).shape)))
        prefix = f"{split}-" if split else ""
        ids = np.array([f"{prefix}{i:06d}" for i in range(count)])
        stacked = {name: _stack(values, where, f"extra {name!r}") for name, values in extras.items()}
        return Table(where, x, _stack(targets, where, "target"), ids, stacked)


@dataclass(frozen=True)
class Items:
    """Inputs of a map-style data set, read item by item."""

    dataset: Any
    where: str
    shape: tuple[int, ...]

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        found = np.empty((len(index), *self.shape[1:]), dtype=np.float32)
        for row, i in enumerate(index.tolist()):
            x = _plain(_item(self.dataset, i, self.where)[0])
            if x.shape != self.shape[1:]:
                raise DataError(f"{self.where}: item {i} has shape {x.shape}, item 0 has {self.shape[1:]}")
            found[row] = x
        return found


def _item(dataset: Any, i: int, where: str) -> tuple[Any, ...]:
    item = dataset[i]
    if not isinstance(item, tuple | list) or len(item) not in (2, 3):
        raise DataError(f"{where}: item {i} is a {type(item).__name__}, expected (x, y) or (x, y, extras)")
    if _plain(item[0]).dtype.kind not in "biuf":
        raise DataError(
            f"{where}: the input of item {i} is a {type(item[0]).__name__}, expected a tensor of numbers"
        )
    return tuple(item)


def _rest(item: tuple[Any, ...], where: str, i: int) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    extras = item[2] if len(item) == 3 else {}
    if not isinstance(extras, Mapping):
        raise DataError(f"{where}: the extras of item {i} are a {type(extras).__name__}, expected a mapping")
    return _plain(item[1]), {str(name): _plain(value) for name, value in extras.items()}


def _plain(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)


def _stack(values: list[NDArray[Any]], where: str, what: str) -> NDArray[Any]:
    for i, value in enumerate(values):
        if value.shape != values[0].shape:
            raise DataError(
                f"{where}: the {what} of item {i} has shape {value.shape}, of item 0 {values[0].shape}"
            )
    return np.stack(values)
