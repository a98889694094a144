"""Attacks and preprocessors of torchattacks, ART and Foolbox. None of them has to be installed."""

from advbench.api import Register, hookimpl


@hookimpl
def register_perturbations(register: Register) -> None:
    """Register one bridge to each library, and one for its attacks that ask for no gradient."""
    register("torchattacks", "advbench_bridges.torchattacks:Torchattacks")
    register("torchattacks-blackbox", "advbench_bridges.torchattacks:TorchattacksBlackbox")
    register("art", "advbench_bridges.art:Art")
    register("art-blackbox", "advbench_bridges.art:ArtBlackbox")
    register("foolbox", "advbench_bridges.foolbox:Foolbox")
    register("foolbox-blackbox", "advbench_bridges.foolbox:FoolboxBlackbox")


@hookimpl
def register_defenses(register: Register) -> None:
    """Register the preprocessors of ART."""
    register("art-preprocessor", "advbench_bridges.art_preprocessor:ArtPreprocessor")
