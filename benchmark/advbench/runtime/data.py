"""Loading data sets: where files are found, what is checked, and the fingerprint of what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advbench.components.base import Dataset
from advbench.components.identity import Spec, digest, instantiate
from advbench.components.loader import Plugins
from advbench.components.protocols import Progress
from advbench.errors import DataError
from advbench.runtime.checks import check_structure, fingerprint, plain
from advbench.runtime.contents import by_content
from advbench.runtime.events import Emit, progress_bar
from advbench.runtime.reading import read as read  # testing takes it from here
from advbench.store.artifacts import MANIFEST, Store
from advbench.store.files import sha256, write_json
from advbench.values import Classification, Data, InputSpace, Regression, Task


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
    augment: str = ""
    """Names what transforms the training batches, empty if nothing does: part of a network, not of the data."""
    unlabelled: str = ""
    """Fingerprint of everything but the targets."""

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
        task = {"kind": type(self.task).__name__, **vars(self.task)}
        known = {"fingerprint": self.fingerprint, "sizes": dict(self.sizes), "notes": self.notes}
        more = {"augment": self.augment, "unlabelled": self.unlabelled}
        return {**known, "space": plain(self.space), "task": task, **more}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Card:
        """Inverse of `json`; the physical link is not kept."""
        space: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value["space"].items()}
        space["facts"] = {k: tuple(v) for k, v in space.get("facts", {}).items()}
        task: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value["task"].items()}
        kind = {"Classification": Classification, "Regression": Regression}[task.pop("kind")]
        parts = (InputSpace(**space), kind(**task), tuple(value["notes"]))
        return cls(value["fingerprint"], value["sizes"], *parts, value["augment"], value["unlabelled"])


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
    check_structure(spec.id, data)
    memo = _memo(environment, spec, source)
    card = known_card(environment, spec, source)
    if card is None:
        # Walking through every sample costs seconds, so it is done once for each content.
        sizes = {name: len(split) for name, split in data.splits.items()}
        transform = digest(_by_content(environment, spec)) if data.augment is not None else ""
        prints = fingerprint(spec.id, data)
        card = Card(prints.everything, sizes, data.space, data.task, data.notes, transform, prints.unlabelled)
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _component(environment: Environment, spec: Spec) -> Dataset:
    component = instantiate(environment.plugins, spec)
    assert isinstance(component, Dataset)
    return component


def _memo(environment: Environment, spec: Spec, source: Spec | None) -> Path:
    parts = [_by_content(environment, one) for one in (spec, source) if one is not None]
    return environment.store.root / "cards" / f"{digest(parts, 24)}.json"


def _by_content(environment: Environment, spec: Spec) -> dict[str, Any]:
    return by_content(spec, _component(environment, spec), environment.data_dirs, environment.store)
