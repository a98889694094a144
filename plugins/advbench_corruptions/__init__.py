"""Corruptions that do not look at the network."""

from advbench.api import Register, hookimpl


@hookimpl
def register_perturbations(register: Register) -> None:
    """Register the corruptions."""
    register("gaussian-noise", "advbench_corruptions.gaussian_noise:GaussianNoise")
    register("gaussian-blur", "advbench_corruptions.gaussian_blur:GaussianBlur")
    register("jpeg", "advbench_corruptions.jpeg:JPEG")
