"""Bring your own: arrays in files, a data set from a factory, a network from a factory with its weights."""

from __future__ import annotations

from advbench.api import Register, hookimpl


@hookimpl
def register_datasets(register: Register) -> None:
    """Your data."""
    register("arrays", "advbench_own.arrays:Arrays")
    register("dataset", "advbench_own.torch_dataset:TorchDataset")


@hookimpl
def register_models(register: Register) -> None:
    """Your network."""
    register("module", "advbench_own.module:Module")
