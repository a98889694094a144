"""A component named by what its files hold, never by what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advbench.components.base import Component
from advbench.components.identity import Spec
from advbench.store.artifacts import Store


def by_content(spec: Spec, component: Component, data_dirs: Sequence[Path], store: Store) -> dict[str, Any]:
    """A component with its parameters, its version and the content of its files.

    A parameter that names one of the files stands for its content, so that a renamed file changes nothing.
    """
    hashes = {path: store.content_hash(path) for path in component.files(data_dirs) if path.exists()}
    params = {name: _without_names(value, hashes) for name, value in spec.parameters.items()}
    return {**spec.json(), "params": params, "files": list(hashes.values())}


def _without_names(value: Any, hashes: Mapping[Path, str]) -> Any:
    if isinstance(value, str):
        return next((content for path, content in hashes.items() if _names(value, path)), value)
    if isinstance(value, list):
        return [_without_names(entry, hashes) for entry in value]
    if isinstance(value, dict):
        return {key: _without_names(entry, hashes) for key, entry in value.items()}
    return value


def _names(value: str, path: Path) -> bool:
    """Whether a parameter is the path of a file, or its end: data folders are not part of it."""
    parts = Path(value).parts
    return bool(parts) and path.parts[-len(parts) :] == parts
