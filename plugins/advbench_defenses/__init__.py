"""Defenses."""

from advbench.api import Register, hookimpl


@hookimpl
def register_defenses(register: Register) -> None:
    """Register the defenses."""
    register("feature-squeezing", "advbench_defenses.feature_squeezing:FeatureSqueezing")
