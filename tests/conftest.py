"""Where torch is not installed, what needs it is skipped; all other tests must pass there too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from advbench.api import Data, DataContext

HEAVY = (
    "torch",
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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: with small batches several only wait for each other."""
    import torch  # not everywhere, see above

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data_context(tmp_path: Path) -> Callable[..., DataContext]:
    """Makes the context of a data set: ``data_context(*folders, source=None)``, with a cache of this test's own."""
    from advbench.components.identity import Spec
    from advbench.components.loader import Plugins
    from advbench.runtime.data import Context, Environment
    from advbench.store.artifacts import Store

    def make(*folders: Path, source: Data | None = None) -> DataContext:
        environment = Environment(Plugins([]), Store(tmp_path / "cache"), folders)
        return Context(environment, Spec("dataset", "test/data", "{}", 1), source)

    return make


@pytest.fixture
def shared_data() -> Path:
    """The optional folder of real data; a test that asks for it is skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the optional data folder ../shared/data")
    return folder
