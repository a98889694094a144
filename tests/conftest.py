"""Where torch is not installed, what needs it is skipped; all other tests must pass there too."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "scipy",
    "pandas",
    "sklearn",
    "matplotlib",
    "safetensors",
    "PIL",
    "galsim",
    "astropy",
    "h5py",
)
"""Libraries that the core does without until it computes something; they come and go with torch."""

LIGHT = find_spec("torch") is None


class LightModule(pytest.Module):
    """A test module that is skipped if its imports end in a library that is not there on purpose."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """The tests of the module."""
        try:
            return super().collect()
        except self.CollectError as error:
            cause = error.__cause__
            name = (cause.name or "").split(".")[0] if isinstance(cause, ModuleNotFoundError) else ""
            if name not in HEAVY:
                raise
            pytest.skip(f"imports {name}, which is not installed here", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect modules leniently, but only where torch is missing."""
    return LightModule.from_parent(parent, path=module_path) if LIGHT else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that are marked ``torch`` where it is missing."""
    for item in items if LIGHT else ():
        if item.get_closest_marker("torch"):
            item.add_marker(pytest.mark.skip(reason="needs torch, which is not installed here"))
