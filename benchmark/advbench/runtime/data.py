"""Loading data sets: where files are found, what is checked, and the fingerprint of what was found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.components.base import Dataset
from advbench.components.identity import Spec, canonical, digest, instantiate
from advbench.components.loader import Plugins
from advbench.components.protocols import Progress
from advbench.errors import DataError
from advbench.runtime.events import Emit, progress_bar
from advbench.store.artifacts import MANIFEST, Store
from advbench.store.files import sha256, write_json
from advbench.values import Classification, Data, InputSpace, Regression, Split, Task

ROWS = 256  # samples read at a time when a whole split is walked through


@dataclass(frozen=True)
class Environment:
    """Where a run finds data and keeps artifacts, and whom it tells what it does."""

    plugins: Plugins
    store: Store
    data_dirs: tuple[Path, ...]
    download: bool = False
    emit: Emit = field(default=lambda event: None)


@dataclass
class Context:
    """The `DataContext` of one data set; notes which artifacts it used."""

    environment: Environment
    spec: Spec
    source: Data | None
    used: list[Path] = field(default_factory=list)

    @property
    def download(self) -> bool:
        """Whether the user allowed downloads."""
        return self.environment.download

    def find(self, *names: str, hint: str = "") -> Path:
        """First existing file or folder of these names in the data folders."""
        for name in names:
            for folder in (*self.environment.data_dirs, Path()):
                if (folder / name).exists():
                    return folder / name
        folders = ", ".join(map(str, self.environment.data_dirs)) or "none given"
        advice = hint or "say where it is with --data DIR or ADVBENCH_DATA"
        raise DataError(f"{self.spec.id}: {' or '.join(names)} not found (data folders: {folders}); {advice}")

    def artifact(self, name: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """A folder kept by content."""
        made_from = {
            "component": self.spec.id,
            "version": self.spec.version,
            "source": self.spec.source,
            "name": name,
            "key": dict(key),
        }
        path = self.environment.store.obtain("data", made_from, make)
        self.used.append(path)
        return path

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Progress]:
        """A progress bar for slow work."""
        with progress_bar(self.environment.emit, f"{self.spec.id}: {label}", total) as bar:
            yield bar


@dataclass(frozen=True)
class Card:
    """What is known of a data set without loading it."""

    fingerprint: str
    sizes: Mapping[str, int]
    space: InputSpace
    task: Task
    notes: tuple[str, ...]

    def count(self, split: str, limit: int | None) -> int:
        """Number of samples evaluated.

        Raises
        ------
        DataError
            If there is no such split.
        """
        if split not in self.sizes:
            raise DataError(f"there is no split {split!r}; there are {', '.join(self.sizes)}")
        return min(self.sizes[split], limit or self.sizes[split])

    def json(self) -> dict[str, Any]:
        """As a mapping."""
        space = {name: getattr(self.space, name) for name in ("shape", "lower", "upper", "channels", "unit")}
        task = {"kind": type(self.task).__name__, **vars(self.task)}
        known = {"fingerprint": self.fingerprint, "sizes": dict(self.sizes), "notes": self.notes}
        return {**known, "space": space, "task": task}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Card:
        """Inverse of `json`; the physical link is not kept."""
        space: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value["space"].items()}
        task: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value["task"].items()}
        kind = {"Classification": Classification, "Regression": Regression}[task.pop("kind")]
        return cls(
            value["fingerprint"], value["sizes"], InputSpace(**space), kind(**task), tuple(value["notes"])
        )


def load(environment: Environment, spec: Spec, source: Spec | None) -> tuple[Data, Card]:
    """A data set, checked, and its card. ``source`` is the data set it takes its stretch from.

    Raises
    ------
    DataError
        Naming the data set and the file or sample that is wrong.
    """
    origin = load(environment, source, None)[0] if source is not None else None
    context = Context(environment, spec, origin)
    data = _component(environment, spec).load(context)
    _check_structure(spec.id, data)
    memo = _memo(environment, spec, source)
    card = known_card(environment, spec, source)
    if card is None:
        # Walking through every sample costs seconds, so it is done once for each content.
        card = Card(
            _walk(spec.id, data),
            {k: len(v) for k, v in data.splits.items()},
            data.space,
            data.task,
            data.notes,
        )
        used = {str(path): sha256(path / MANIFEST) for path in context.used}
        write_json(memo, {"card": card.json(), "artifacts": used})
    return data, card


def known_card(environment: Environment, spec: Spec, source: Spec | None) -> Card | None:
    """The card of a data set that was loaded before and cannot have changed since, or None."""
    if not _component(environment, spec).reproducible:
        return None
    memo = _memo(environment, spec, source)
    try:
        value = json.loads(memo.read_text(encoding="utf-8"))
        for path, expected in value["artifacts"].items():
            if sha256(Path(path) / MANIFEST) != expected:
                return None
        return Card.from_json(value["card"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _component(environment: Environment, spec: Spec) -> Dataset:
    component = instantiate(environment.plugins, spec)
    assert isinstance(component, Dataset)
    return component


def _memo(environment: Environment, spec: Spec, source: Spec | None) -> Path:
    parts = [[one.json(), _file_hashes(environment, one)] for one in (spec, source) if one is not None]
    return environment.store.root / "cards" / f"{digest(parts, 24)}.json"


def _file_hashes(environment: Environment, spec: Spec) -> list[str]:
    files = _component(environment, spec).files(environment.data_dirs)
    return [environment.store.content_hash(path) for path in files if path.exists()]


def _check_structure(name: str, data: Data) -> None:
    if "test" not in data.splits:
        raise DataError(f"{name}: there is no split 'test'; there are {', '.join(data.splits) or 'none'}")
    owner: dict[str, str] = {}
    for split_name, split in data.splits.items():
        n = len(split)
        where = f"{name}, split {split_name!r}"
        shape = tuple(split.x.shape)
        if shape != (n, *data.space.shape):
            raise DataError(f"{where}: inputs have shape {shape}; {n} targets need {(n, *data.space.shape)}")
        for label, array in (("ids", split.ids), *split.extras.items()):
            if len(array) != n:
                raise DataError(f"{where}: {len(array)} {label} for {n} samples")
        _check_targets(where, split, data.task)
        for sample in split.ids:
            other = owner.setdefault(str(sample), split_name)
            if other != split_name:
                raise DataError(
                    f"{name}: sample {sample!r} is in split {other!r} and in split {split_name!r}"
                )
        if len(set(map(str, split.ids))) != n:
            raise DataError(f"{where}: sample ids are not unique")


def _check_targets(where: str, split: Split, task: Task) -> None:
    y = np.asarray(split.y)
    if isinstance(task, Regression):
        bad = ~np.isfinite(y.reshape(len(y), -1)).all(1)
        if bad.any():
            raise DataError(f"{where}: target of sample {split.ids[bad.argmax()]!r} is not finite")
        if y.reshape(len(y), -1).shape[1:] != (task.outputs,) and len(y):
            raise DataError(f"{where}: targets have shape {y.shape} for {task.outputs} outputs")
        return
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{where}: class labels must be integers of shape (n,), got {y.dtype} {y.shape}")
    bad = (y < 0) | (y >= task.outputs)
    if bad.any():
        i = int(bad.argmax())
        raise DataError(f"{where}: label {y[i]} of sample {split.ids[i]!r} is outside 0..{task.outputs - 1}")


def _walk(name: str, data: Data) -> str:
    """Check every value and hash everything: space, task, splits, ids, targets, extras, inputs."""
    hasher = hashlib.sha256()
    space = data.space
    hasher.update(canonical([space.shape, space.lower, space.upper, space.channels, space.unit]).encode())
    hasher.update(canonical([type(data.task).__name__, vars(data.task)]).encode())
    view = (1, -1) + (1,) * (len(space.shape) - 1)
    lower, upper = np.array(space.lower).reshape(view), np.array(space.upper).reshape(view)
    slack = 1e-6 * (upper - lower)  # rounding of the bounds themselves
    for split_name, split in sorted(data.splits.items()):
        hasher.update(canonical([split_name, [str(sample) for sample in split.ids]]).encode())
        for key in sorted(split.extras):
            hasher.update(key.encode() + np.ascontiguousarray(split.extras[key], dtype=np.float32).tobytes())
        labels = np.float64 if isinstance(data.task, Regression) else np.int64
        hasher.update(np.ascontiguousarray(split.y, dtype=labels).tobytes())
        for rows in batches(len(split)):
            x = read(split, rows)
            _check_values(f"{name}, split {split_name!r}", x, split.ids[rows], lower - slack, upper + slack)
            hasher.update(x.tobytes())
    return hasher.hexdigest()[:16]


def _check_values(where: str, x: NDArray[np.float32], ids: Any, lower: Any, upper: Any) -> None:
    axes = tuple(range(1, x.ndim))
    broken = ~np.isfinite(x).all(axis=axes)
    if broken.any():
        raise DataError(
            f"{where}: sample {str(ids[broken.argmax()])!r} has NaN or infinite values; remove or mask it"
        )
    outside = ((x < lower) | (x > upper)).any(axis=axes)
    if outside.any():
        i = int(outside.argmax())
        bounds = f"[{np.min(lower):.6g}, {np.max(upper):.6g}]"
        raise DataError(
            f"{where}: sample {str(ids[i])!r} has values in [{x[i].min():.6g}, {x[i].max():.6g}], "
            f"outside the declared bounds {bounds}"
        )


def batches(count: int, size: int = ROWS) -> Iterator[NDArray[np.int64]]:
    """Index arrays of at most ``size`` rows, in order."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def read(split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Inputs of some rows, (b, c, h, w) float32, C-contiguous."""
    return np.ascontiguousarray(split.x[rows], dtype=np.float32)


def channel_statistics(split: Split) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation per channel over a split, in float64."""
    count, total, square = 0, 0.0, 0.0
    for rows in batches(len(split)):
        x = read(split, rows).astype(np.float64)
        axes = (0, *range(2, x.ndim))
        count += x.size // x.shape[1]
        total, square = total + x.sum(axis=axes), square + np.square(x).sum(axis=axes)
    mean = np.asarray(total) / count
    std = np.sqrt(np.maximum(np.asarray(square) / count - mean**2, 0))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()
