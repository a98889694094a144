"""An example of a plugin: one component of each of the four kinds that most plugins bring."""

from advbench.api import Register, hookimpl


@hookimpl
def register_perturbations(register: Register) -> None:
    """Register the attack."""
    register("momentum", "advbench_example.momentum:Momentum")


@hookimpl
def register_datasets(register: Register) -> None:
    """Register the data set."""
    register("rings", "advbench_example.rings:Rings")


@hookimpl
def register_models(register: Register) -> None:
    """Register the model."""
    register("tiny-net", "advbench_example.tiny_net:TinyNet")


@hookimpl
def register_defenses(register: Register) -> None:
    """Register the defense."""
    register("smoothing", "advbench_example.smoothing:Smoothing")
