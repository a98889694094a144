"""A component by its id alone, whatever its kind."""

from __future__ import annotations

from advbench.components.loader import Plugins
from advbench.components.registry import Entry
from advbench.errors import PluginLoadError, UserError
from advbench.suite.findings import near


def find_entries(plugins: Plugins, reference: str) -> list[Entry]:
    """The components of a full id (one for each kind that has it), or of a short name while it is unique.

    With a full id only its own plugin is loaded.

    Raises
    ------
    UserError
        If there is none, or a short name fits several ids.
    PluginLoadError
        If the plugin that the id names is broken.
    """
    namespace = reference.split("/")[0] if "/" in reference else ""
    if namespace in plugins.namespaces:
        plugin = plugins.plugin(namespace)
        if plugin.error:
            raise PluginLoadError(f"{reference}: {plugin.error}")
        known = list(plugin.entries)
    else:
        known = list(plugins.registry())
    found = [entry for entry in known if reference in (entry.id, entry.name)]
    ids = {entry.id for entry in found}
    if len(ids) > 1:
        raise UserError(f"{reference!r} is ambiguous: {', '.join(sorted(ids))}")
    if not found:
        names = {entry.id for entry in known} | {entry.name for entry in known}
        hint = near(reference, names)
        hint = hint if "did you mean" in hint else "; `advbench list` shows what there is"
        raise UserError(f"there is no component {reference!r}{hint}")
    return found
