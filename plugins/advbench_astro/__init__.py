"""Galaxy morphology as the Rubin Observatory's LSST will see it: data sets and networks."""

from __future__ import annotations

from advbench.api import Register, hookimpl


@hookimpl
def register_datasets(register: Register) -> None:
    """Simulated and published LSST galaxies."""
    register("lsst-mock", "advbench_astro.lsst_mock:LsstMock")
    register("lsst-zenodo", "advbench_astro.lsst_zenodo:LsstZenodo")


@hookimpl
def register_models(register: Register) -> None:
    """Networks of the galaxy-morphology papers."""
    register("convnet", "advbench_astro.convnet:ConvNet")
    register("resnet18", "advbench_astro.resnet18:ResNet18")
