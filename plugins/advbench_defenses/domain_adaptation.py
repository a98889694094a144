"""Unsupervised domain adaptation: labels of the source, images of the target."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import Self

from advbench.api import (
    Batch,
    Classification,
    Data,
    DataError,
    Defense,
    InputSpace,
    PluginError,
    Tags,
    Task,
    Training,
    UserError,
    isolated_rng,
    param,
)
from advbench_defenses import alignment
from advbench_defenses.adversary import Conditioned
from advbench_defenses.alignment import Adversary, Alignment, Domains, Universal
from advbench_defenses.terms import fisher, mean_entropy, mutual_information
from advbench_defenses.universal import Memory

Method = Literal["mmd", "dann", "cdan", "coral", "universal"]

WEIGHTS: Mapping[str, float] = {"mmd": 0.01, "dann": 1.0, "cdan": 1.0, "coral": 1.0, "universal": 0.05}
"""Those of the papers; Deep CORAL wants its term about as large as the cross-entropy at the end of the training."""

OWN: Mapping[str, tuple[Method, ...]] = {
    "kernel": ("mmd",),
    "floor": ("mmd",),
    "schedule": ("dann", "cdan", "universal"),
    "temperature": ("universal",),
    "entropy_threshold": ("universal",),
    "entropy_margin": ("universal",),
}
"""Parameters that only some methods have."""


class Adapting(nn.Module):
    """A network in training together with what aligns its features; what is used is the network alone."""

    def __init__(self, network: nn.Module, aligned: Alignment) -> None:
        super().__init__()
        self.network, self.alignment = network, aligned

    def forward(self, x: Tensor, extras: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs (b, k) of the network."""
        output: Tensor = self.network(x, extras)
        return output


def both(network: nn.Module, batch: Batch) -> Domains:
    """Features and outputs of a batch and its target samples, which go through the network as one.

    So batch normalisation has the statistics of both domains together, as it has them later, when either comes alone.
    A network that returns no features is aligned by its outputs.
    """
    other = batch.other
    if other is None or other.rows is None:
        raise PluginError(
            "defenses/domain-adaptation trains on batches of two data sets; this one has only one"
        )
    extras = {name: torch.cat([value, other.extras[name]]) for name, value in batch.extras.items()}
    features, output = network.features(torch.cat([batch.x, other.x]), extras)  # type: ignore[operator]
    return Domains(output if features is None else features, output, batch.y, other.rows, batch.progress)


class DomainAdaptation(Defense):
    """Domain adaptation to a data set without labels, the one that the suite names by ``adapt_to``.

    Loss: that of the recipe on labelled source samples, plus ``weight`` times a term that makes features of source and
    target alike: maximum mean discrepancy (Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299; 19 kernels),
    correlation alignment (Sun and Saenko 2016), a domain network behind a gradient reversal (DANN, Ganin et al. 2016),
    the same that sees class probabilities too (CDAN, Long et al. 2018), or, where the target may have classes of its
    own, clustering of neighbours and separation by entropy (DANCE, Saito et al. 2020; DeepAstroUDA, Ciprijanovic et al.
    2023). Batches of the two are drawn independently and go through the network as one. The weights that are kept have
    the best ``validator``: source labels and target images of the validation splits. No label of the target is ever
    read.
    """

    tags: ClassVar[Tags] = Tags(
        trains=True, adapts="unlabelled", reference="https://arxiv.org/abs/2112.14299"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"method": "mmd", "kernel": "median", "weight": 0.1, "fisher": 0.01, "entropy": 0.01},
        {"method": "coral"},
        {"method": "dann"},
        {"method": "cdan"},
        {"method": "universal"},
    )

    method: Method = param("mmd", "what makes features of source and target alike")
    weight: float | None = param(
        None, "weight of that term; unless given 0.01 (mmd), 0.05 (universal), 1 (the others)", ge=0
    )
    kernel: Literal["fixed", "median"] = param(
        "fixed", "of mmd: the 19 kernels of the paper, or five about the median distance"
    )
    floor: float = param(
        0.0, "of mmd: least value, without a gradient below it; 1e-4 in the paper's code", ge=0
    )
    schedule: Literal["rising", "constant"] = param(
        "rising",
        "of dann and cdan: the factor of the reversed gradient rises from 0 to 1 as 2 / (1 + exp(-10 p)) - 1 with the"
        " share p of the training, or is 1; of universal: its weight rises as p, or is constant as in the paper, which"
        " begins with trained networks",
    )
    temperature: float = param(0.05, "of universal: temperature of the similarities", gt=0)
    entropy_threshold: float | None = param(
        None, "of universal: entropy between known and unknown; log(K) / 2 unless given", unit="nat", ge=0
    )
    entropy_margin: float = param(
        0.5, "of universal: share of the threshold within which an entropy is left alone", ge=0
    )
    entropy: float = param(0.0, "weight of the mean entropy of the target's class probabilities", ge=0)
    fisher: float = param(
        0.0, "weight of the scatter within the source's classes over that between them", ge=0
    )
    validator: Literal["mutual-information", "entropy", "source"] = param(
        "mutual-information",
        "weights that are kept: lowest source loss, less the mutual information of inputs and predicted classes of the"
        " target, or plus their entropy; of a regressor the source loss in any case",
    )
    validator_weight: float = param(1.0, "weight of the target in the validator", ge=0)

    @model_validator(mode="after")
    def _parameters_have_an_effect(self) -> Self:
        for name, methods in OWN.items():
            if self.method not in methods and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: has no effect with method: {self.method}")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """What speaks of classes is for classification."""
        if isinstance(task, Classification):
            return None
        if self.method in ("cdan", "universal"):
            return f"method: {self.method} is for classification"
        asked = next((name for name in ("entropy", "fisher") if getattr(self, name)), None)
        return f"{asked} is for classification" if asked else None

    def train(self, training: Training) -> nn.Module:
        """A network trained by the recipe."""
        target = training.target_data
        if target is None:
            raise UserError(
                "defenses/domain-adaptation needs a data set to adapt to; say which by `adapt_to: LABEL`"
            )
        _refuse_other_extras(training.data, target)
        classes = isinstance(training.data.task, Classification)
        weight = WEIGHTS[self.method] if self.weight is None else self.weight

        def loss(module: Adapting, batch: Batch) -> dict[str, Tensor]:
            seen = both(module.network, batch)
            task = training.loss(module.network, batch, seen.output[: len(batch.y)])
            terms = module.alignment(seen)
            total = task + weight * terms["alignment"]
            if self.entropy:
                terms["entropy"] = mean_entropy(seen.target_output)
                total = total + self.entropy * terms["entropy"]
            if self.fisher:
                terms["fisher"] = fisher(seen.source, seen.y)
                total = total + self.fisher * terms["fisher"]
            return {"loss": total, "task": task, **terms}

        def validation(module: Adapting, batch: Batch) -> Tensor:
            seen = both(module.network, batch)
            task = training.loss(module.network, batch, seen.output[: len(batch.y)])
            return task + self.validator_weight * self.doubt(seen.target_output) if classes else task

        network = training.build()
        module = Adapting(network, self.aligner(network, training.data, target, training.seed))
        fitted = training.fit(module, loss=loss, validation=validation, purpose="domain adaptation")
        assert isinstance(fitted, Adapting)
        return fitted.network

    def doubt(self, logits: Tensor) -> Tensor:
        """What the validator says of logits (b, K) of the target, a scalar: the lower the better."""
        if self.validator == "entropy":
            return mean_entropy(logits)
        return -mutual_information(logits) if self.validator == "mutual-information" else logits.new_zeros(())

    def aligner(self, network: nn.Module, source: Data, target: Data, seed: int) -> Alignment:
        """What aligns the features of a network, made for their width."""
        if self.method == "mmd":
            return alignment.by_mmd(self.kernel, self.floor)
        if self.method == "coral":
            return alignment.by_coral()
        width, outputs = _width(network, source), source.task.outputs
        if self.method == "universal":
            threshold = math.log(outputs) / 2 if self.entropy_threshold is None else self.entropy_threshold
            memory = Memory(len(target.splits.get("train", ())), outputs, width)
            margin = self.entropy_margin * threshold
            return Universal(memory, self.temperature, threshold, margin, self.schedule == "rising")
        condition = Conditioned(width, outputs, seed) if self.method == "cdan" else None
        with isolated_rng(seed):
            return Adversary(width, condition, self.schedule == "rising")


def _width(network: nn.Module, data: Data) -> int:
    """Number of features of a network."""
    was_training, split = network.training, data.splits["train"]
    parameter = next(network.parameters())
    extras = {name: parameter.new_zeros(1, value[:1].size) for name, value in split.extras.items()}
    network.eval()
    with torch.no_grad():
        x = parameter.new_zeros(1, *data.space.shape)
        features, output = network.features(x, extras)  # type: ignore[operator]
    network.train(was_training)
    found = output if features is None else features
    return int(found.shape[1])


def _refuse_other_extras(source: Data, target: Data) -> None:
    """A network with extra inputs needs them of both domains."""
    needed = source.splits["train"].extras
    for name, split in target.splits.items():
        missing = sorted(set(needed) - set(split.extras))
        if missing:
            raise DataError(
                f"a network with the extra input {missing[0]!r} cannot be adapted: split {name!r} of the target"
                " data set lacks it"
            )
