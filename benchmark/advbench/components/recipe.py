"""How a network is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from advbench.components.base import param


class Recipe(BaseModel):
    """Hyper-parameters of the training loop; part of the identity of a network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Literal["adam", "sgd"] = param("adam", "optimiser")
    lr: float = param(1e-3, "peak learning rate", gt=0)
    betas: tuple[float, float] = param((0.9, 0.999), "decay rates of Adam's averages")
    momentum: float = param(0.9, "momentum of SGD (Nesterov)", ge=0, lt=1)
    weight_decay: float = param(1e-4, "weight decay", ge=0)
    batch_size: int = param(64, "samples per step", ge=1)
    epochs: int = param(10, "passes over the training split", ge=0)
    patience: int = param(10, "epochs without a better validation loss before training stops", ge=1)
    schedule: Literal["constant", "cosine", "onecycle"] = param("onecycle", "learning-rate schedule")
    class_weights: bool = param(False, "weight classes by N / (K n_c), in class-index order")
    augment: bool = param(True, "apply the data set's train-time transform, if it has one")
    label_smoothing: float = param(0.0, "label smoothing of the cross-entropy", ge=0, lt=1)
