"""Adversarial attacks."""

from advbench.api import Register, hookimpl


@hookimpl
def register_perturbations(register: Register) -> None:
    """Register the attacks."""
    register("fgsm", "advbench_attacks.fgsm:FGSM")
    register("pgd", "advbench_attacks.pgd:PGD")
    register("bim", "advbench_attacks.bim:BIM")
    register("momentum-pgd", "advbench_attacks.mim:MomentumPGD")
    register("apgd", "advbench_attacks.apgd:APGD")
    register("apgd-targeted", "advbench_attacks.apgd_targeted:TargetedAPGD")
    register("random-noise", "advbench_attacks.noise:RandomNoise")
    register("ddn", "advbench_attacks.ddn:DDN")
    register("fmn", "advbench_attacks.fmn:FMN")
    register("bisection", "advbench_attacks.bisection:Bisection")
    register("auto", "advbench_attacks.auto:Auto")
    register("universal", "advbench_attacks.universal:Universal")
    register("one-pixel", "advbench_attacks.one_pixel:OnePixel")
    register("simba", "advbench_attacks.simba:SimBA")
    register("square", "advbench_attacks.square:Square")
    register("rotation-translation", "advbench_attacks.rotation_translation:RotationTranslation")
    register("stadv", "advbench_attacks.stadv:StAdv")
