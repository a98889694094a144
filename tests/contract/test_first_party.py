"""Every component that comes with advbench passes the contract kit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advbench.components.loader import Plugins
from advbench.testing import BoundCheck, parametrize_checks, run_checks

OPTIONAL_DATA = Path(__file__).parents[3] / "shared" / "data"
"""Folder with real files; data sets that need one are skipped without it."""

OWN = "advbench"
"""Distribution of the components that are checked here."""

SMALL = {
    "vision/animals10": [{"root": "animals10_mini/raw-img", "size": 16}],
    "vision/image-folder": [{"root": "animals3", "size": 16}],
}
"""Parameters that find something in the optional data, instead of the components' own examples."""


def own_plugins() -> list[str]:
    """Namespaces of the plugins in advbench's own distribution."""
    return [plugin.namespace for plugin in Plugins.discover().all() if plugin.distribution.split()[0] == OWN]


def data_dirs() -> list[Path]:
    return [OPTIONAL_DATA] if OPTIONAL_DATA.is_dir() else []


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("plugin", own_plugins())
def test_every_plugin_loads(plugin: str) -> None:
    assert Plugins.discover().plugin(plugin).error == ""


@pytest.mark.parametrize("check", parametrize_checks(own_plugins(), data_dirs=data_dirs(), examples=SMALL))
def test_contract(check: BoundCheck) -> None:
    check()


def test_arrays_of_ones_own_pass_too(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.random((60, 3, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "galaxies.npz", images=images, classes=np.arange(60) % 3)
    plugins = Plugins.discover()
    results = {r.name: r for r in run_checks(plugins, plugins.find("dataset", "own/arrays"), [tmp_path])}
    assert [r for r in results.values() if r.status == "failed"] == []
    assert results["loads"].status == "passed"


def test_no_kind_of_first_party_component_is_left_out() -> None:
    kinds = {entry.kind for entry in Plugins.discover().registry() if entry.distribution.split()[0] == OWN}
    assert kinds >= {"model", "dataset", "perturbation", "defense", "engine"}
