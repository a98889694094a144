"""Adversarial attacks."""

from advbench.api import Register, hookimpl


@hookimpl
def register_perturbations(register: Register) -> None:
    """Register the attacks."""
    register("fgsm", "advbench_attacks.fgsm:FGSM")
    register("pgd", "advbench_attacks.pgd:PGD")
