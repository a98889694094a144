"""The contract kit for pytest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from advbench.components.loader import Plugins
from advbench.components.registry import Entry
from advbench.errors import UserError
from advbench.testing.selection import bound_checks


def parametrize_checks(
    ids: Collection[str] | None = None,
    *,
    plugins: Plugins | None = None,
    data_dirs: Sequence[Path] = (),
    examples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> list[ParameterSet]:
    """One pytest parameter for each check of each component: call it in the test.

    Parameters
    ----------
    ids
        Namespaces (``"example"``) or components (``"example/stripes"``); all that are installed if None.
    plugins
        Where to look for them, e.g. ``Plugins.discover([folder])``; the installed ones if None.
    data_dirs
        Folders in which data sets look for their files; without them those are skipped.
    examples
        Parameters to try a component with, by id, instead of its own ``examples``.

    Raises
    ------
    UserError
        If an id names nothing.
    """
    plugins, examples = plugins or Plugins.discover(), examples or {}
    return [
        pytest.param(bound, id=f"{entry.id}-{bound.check.name}")
        for entry in _entries(plugins, ids)
        for bound in bound_checks(plugins, entry, data_dirs, examples.get(entry.id))
    ]


def _entries(plugins: Plugins, ids: Collection[str] | None) -> list[Entry]:
    everything = list(plugins.registry())
    if ids is None:
        return everything
    for wanted in ids:
        if not any(wanted in (entry.id, entry.namespace) for entry in everything):
            broken = [plugin.error for plugin in plugins.all() if plugin.namespace == wanted.split("/")[0]]
            raise UserError(
                f"{wanted!r} is neither a plugin nor a component: {''.join(broken) or 'not installed'}"
            )
    return [entry for entry in everything if entry.id in ids or entry.namespace in ids]
