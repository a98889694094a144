"""Engines start workers on job files. These come with the core; plugins register others."""

from advbench.components.hookspecs import hookimpl
from advbench.components.registry import Register


@hookimpl
def register_engines(register: Register) -> None:
    """The engines of the core."""
    register("serial", "advbench.engines.serial:Serial")
    register("process", "advbench.engines.process:Process")
