"""Who a component is: id, effective parameters, version, and the source where it can still change."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from advbench.components.base import Component
from advbench.components.loader import Plugins
from advbench.errors import UserError


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(value: Any, length: int = 16) -> str:
    """Hexadecimal SHA-256 of the canonical JSON, shortened."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Spec:
    """A component with its effective parameters: what a cell id is made of."""

    kind: str
    id: str
    params: str  # canonical JSON, so that a Spec can be hashed
    version: int
    source: str = ""  # hash of the source of an editable install, else empty

    @property
    def parameters(self) -> dict[str, Any]:
        """The effective parameters."""
        return dict(json.loads(self.params))

    def json(self) -> dict[str, Any]:
        """As a mapping."""
        return {
            "kind": self.kind,
            "id": self.id,
            "params": self.parameters,
            "version": self.version,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Spec:
        """Inverse of `json`."""
        return cls(value["kind"], value["id"], canonical(value["params"]), value["version"], value["source"])


def specify(plugins: Plugins, kind: str, reference: str, params: Mapping[str, Any]) -> Spec:
    """Validate parameters and name the component by its effective ones.

    Raises
    ------
    UserError, PluginLoadError
        Unknown component, broken plugin.
    pydantic.ValidationError
        Wrong parameters; the caller knows where they stand in the suite.
    """
    entry = plugins.find(kind, reference)
    cls = entry.load()
    component = cls(**params)
    return Spec(kind, entry.id, canonical(component.model_dump(mode="json")), cls.version, source_hash(cls))


def instantiate(plugins: Plugins, spec: Spec) -> Component:
    """The component of a spec."""
    try:
        return plugins.find(spec.kind, spec.id).load()(**spec.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{spec.id}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def source_hash(cls: type[Component]) -> str:
    """Hash of the class's module and of what it imports from its own package; empty once it is installed."""
    path = Path(inspect.getfile(cls)).resolve()
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return ""
    top = cls.__module__.split(".")[0]
    contents = sorted(hashlib.sha256(data).hexdigest() for data in _closure(cls.__module__, top))
    return digest(contents, 12)


@functools.cache
def _closure(module: str, top: str) -> tuple[bytes, ...]:
    """Sources of a module and, recursively, of the modules of the same package that it imports."""
    seen: dict[str, bytes] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        path = _file(name)
        if name in seen or path is None:
            continue
        seen[name] = path.read_bytes()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(seen[name])):
            queue += [found for found in _imported(node, package) if found.split(".")[0] == top]
    return tuple(seen.values())


def _imported(node: ast.AST, package: str) -> list[str]:
    """Modules that an import statement may load; what it names may be a module or something in one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" for alias in node.names] + ([base] if "." in base else [])


def _file(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    if name in sys.modules:
        return Path(file) if file else None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None
