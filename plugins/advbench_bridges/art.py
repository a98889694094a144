"""Attacks of the Adversarial Robustness Toolbox, Nicolae et al. 2018, https://arxiv.org/abs/1807.01069."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from advbench.api import Tags
from advbench_bridges.attack import TAGS, LibraryAttack
from advbench_bridges.library import Library

NORMS = {"linf": np.inf, "l2": 2, "l1": 1}
INSTALL = 'pip install "advbench[bridges]"'


class Art(LibraryAttack):
    """An evasion attack of the Adversarial Robustness Toolbox, by the name of its class."""

    tags: ClassVar[Tags] = replace(TAGS, needs_gradient=True, reference="https://arxiv.org/abs/1807.01069")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"attack": "ProjectedGradientDescent", "params": {"eps_step": 0.03, "max_iter": 5}, "eps": 0.1},
        {"attack": "FastGradientMethod", "norm": "l2", "eps": 0.5},
        {"attack": "DeepFool", "params": {"max_iter": 5}, "norm": "l2"},
    )
    library: ClassVar[Library] = Library(
        module="art.attacks.evasion",
        distribution="adversarial-robustness-toolbox",
        install=INSTALL,
        base="art.attacks:EvasionAttack",
        hidden=("estimator", "classifier", "verbose", "summary_writer", "targeted", "batch_size"),
    )
    classes: ClassVar[dict[str, int]] = {"PixelAttack": 3, "SignOPTAttack": 3, "ThresholdAttack": 3}

    def problem(self, cls: type) -> str | None:
        """A norm that is a parameter must be one that ART has."""
        if "norm" in self.library.parameters(cls) and self.norm not in NORMS:
            return f"norm: {self.attack} is for {', '.join(NORMS)}, not {self.norm}"
        return super().problem(cls)

    def craft(self, network: nn.Module, x: Tensor, y: Tensor, size: float | None, outputs: int) -> Tensor:
        """One input."""
        classifier = self.library.load("art.estimators.classification").PyTorchClassifier(
            model=network,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=outputs,
            clip_values=(0.0, 1.0),
            device_type="cpu" if x.device.type == "cpu" else "gpu",
        )
        cls = self.library.find(self.attack, "attack")
        arguments = self.arguments(cls, size, norm=NORMS.get(self.norm), verbose=False)
        truth = np.eye(outputs, dtype=np.float32)[y.cpu().numpy()]
        found = cls(classifier, **arguments).generate(x=x.cpu().numpy(), y=truth)
        return torch.from_numpy(np.asarray(found)).to(x)


class ArtBlackbox(Art):
    """An evasion attack of the Adversarial Robustness Toolbox that asks for no gradient, for black boxes too."""

    tags: ClassVar[Tags] = replace(TAGS, reference="https://arxiv.org/abs/1807.01069")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"attack": "SquareAttack", "params": {"max_iter": 20}, "eps": 0.2},
    )
