"""Finds plugins and loads them, each for itself: a broken one is listed as broken and harms no other.

The stock loader of pluggy stops at the first plugin that fails to import and silently drops a second
distribution with the same entry-point name; both matter here, so this one is our own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from advbench.components import hookspecs
from advbench.components.base import KINDS
from advbench.components.registry import Entry, Register, Registry, last_words
from advbench.errors import PluginError, PluginLoadError, UserError

GROUP = "advbench"
CORE = "core"
"""The plugin that comes with advbench and cannot be switched off: the engines."""


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from, before it is loaded."""

    namespace: str
    distribution: str
    load: Callable[[], ModuleType]
    conflict: str = ""


@dataclass
class Plugin:
    """A plugin after the attempt to load it; ``error`` says in one line why it is broken."""

    namespace: str
    distribution: str
    entries: list[Entry] = field(default_factory=list)
    hooks: pluggy.PluginManager | None = None
    error: str = ""


class Plugins:
    """The installed plugins. Each is loaded when it is first asked for."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = {source.namespace: source for source in sources}
        self._loaded: dict[str, Plugin] = {}

    @classmethod
    def discover(cls, plugins_dirs: Sequence[Path] = ()) -> Plugins:
        """All installed plugins and those in ``plugins_dirs``, less what the environment switches off.

        ``ADVBENCH_PLUGINS`` (comma-separated namespaces) loads only these, ``ADVBENCH_DISABLE_PLUGINS``
        all but these, ``ADVBENCH_PLUGINS_DIR`` names folders as ``--plugins-dir`` does.
        """
        folders = [
            Path(part) for part in os.environ.get("ADVBENCH_PLUGINS_DIR", "").split(os.pathsep) if part
        ]
        sources = [*_installed(), *_in_folders([*plugins_dirs, *folders])]
        only, without = _names("ADVBENCH_PLUGINS"), _names("ADVBENCH_DISABLE_PLUGINS")
        by_name: dict[str, list[Source]] = defaultdict(list)
        for source in sources:
            chosen = (not only or source.namespace in only) and source.namespace not in without
            if chosen or source.namespace == CORE:
                by_name[source.namespace].append(source)
        return cls(_settle(name, found) for name, found in sorted(by_name.items()))

    @property
    def namespaces(self) -> list[str]:
        """Known namespaces, sorted."""
        return sorted(self._sources)

    def plugin(self, namespace: str) -> Plugin:
        """This plugin, loaded now if it was not yet."""
        if namespace not in self._loaded:
            self._loaded[namespace] = _load(self._sources[namespace])
        return self._loaded[namespace]

    def all(self) -> list[Plugin]:
        """Every plugin, loaded."""
        return [self.plugin(namespace) for namespace in self.namespaces]

    def registry(self) -> Registry:
        """The components of all plugins that work."""
        return Registry([entry for plugin in self.all() for entry in plugin.entries])

    def find(self, kind: str, reference: str) -> Entry:
        """The component of an id, loading only its own plugin; a short name needs all of them.

        Raises
        ------
        UserError
            If there is no such component.
        PluginLoadError
            If its plugin is broken.
        """
        namespace = reference.split("/")[0] if "/" in reference else ""
        if namespace in self._sources:
            plugin = self.plugin(namespace)
            if plugin.error:
                raise PluginLoadError(f"{reference}: {plugin.error}")
            return Registry(plugin.entries).find(kind, reference)
        try:
            return self.registry().find(kind, reference)
        except UserError as error:
            broken = [plugin.namespace for plugin in self.all() if plugin.error]
            note = f" (broken plugins: {', '.join(broken)}; see `advbench doctor`)" if broken else ""
            raise UserError(f"{error}{note}") from None

    def notify(self, hook: str, event: Any) -> list[str]:
        """Send an event to the plugins loaded so far; returns one line for each that raised."""
        complaints = []
        for namespace, plugin in sorted(self._loaded.items()):
            if plugin.hooks is None:
                continue
            try:
                getattr(plugin.hooks.hook, hook)(event=event)
            except Exception as error:  # noqa: BLE001 - an observer must not stop the run
                complaints.append(f"plugin {namespace}: {hook}: {last_words(error)}")
        return complaints


def _names(variable: str) -> set[str]:
    return {part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()}


def _installed() -> list[Source]:
    found = {}
    for point in metadata.entry_points(group=GROUP):
        dist = point.dist
        name = f"{dist.name} {dist.version}" if dist is not None else "unknown distribution"
        # An editable install beside a stale build folder can list the same distribution twice.
        found[(point.name, re.sub(r"[-_.]+", "-", name).lower(), point.value)] = Source(
            point.name, name, point.load
        )
    return list(found.values())


def _in_folders(folders: Sequence[Path]) -> list[Source]:
    sources = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--plugins-dir {folder}: there is no such folder")
        for path in sorted(folder.iterdir()):
            init = path / "__init__.py"
            if (path.suffix == ".py" or init.is_file()) and not path.name.startswith(("_", ".")):
                sources.append(_from_file(path.stem, init if path.is_dir() else path))
    return sources


def _from_file(stem: str, path: Path) -> Source:
    def load() -> ModuleType:
        locations = [str(path.parent)] if path.name == "__init__.py" else None
        spec = importlib.util.spec_from_file_location(stem, path, submodule_search_locations=locations)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python module")
        present = sys.modules.get(stem)
        file = getattr(present, "__file__", None)
        if present is not None and file and Path(file).resolve() == path.resolve():
            return present
        if present is not None:
            raise ImportError(f"a module named {stem} is already imported; rename {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[stem] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[stem]
            raise
        return module

    return Source(stem.replace("_", "-"), str(path), load)


def _settle(namespace: str, found: list[Source]) -> Source:
    if len(found) == 1:
        return found[0]
    names = " and ".join(sorted(source.distribution for source in found))
    claim = f"namespace {namespace!r} is claimed by {names}"
    conflict = f"{claim}; uninstall one, or set ADVBENCH_DISABLE_PLUGINS={namespace}"
    return Source(namespace, names, found[0].load, conflict)


def _load(source: Source) -> Plugin:
    plugin = Plugin(source.namespace, source.distribution)
    if source.conflict:
        plugin.error = source.conflict
        return plugin
    try:
        plugin.hooks, plugin.entries = _register(source)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the plugin-loading boundary
        words = str(error) if isinstance(error, PluginError) else last_words(error)
        plugin.error = f"plugin {source.namespace!r} ({source.distribution}) is broken: {words}"
    return plugin


def _register(source: Source) -> tuple[pluggy.PluginManager, list[Entry]]:
    module = source.load()
    wanted = getattr(module, "ADVBENCH_API", hookspecs.API_VERSION)
    if wanted > hookspecs.API_VERSION:
        raise PluginError(
            f"it asks for plugin API {wanted}, this advbench has {hookspecs.API_VERSION}; upgrade advbench"
        )
    manager = pluggy.PluginManager("advbench")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, name=source.namespace)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        words = re.sub(r" in plugin <module.*?>", "", " ".join(str(error).split()))
        raise PluginError(words) from None
    entries: list[Entry] = []
    for kind in KINDS:
        register = Register(kind, source.namespace, source.distribution)
        getattr(manager.hook, f"register_{kind}s")(register=register)
        entries += register.entries
    return manager, entries
