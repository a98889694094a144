"""Feature squeezing, Xu et al. 2018, https://arxiv.org/abs/1704.01155: as purification, and as a detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import Defense, InputSpace, Prediction, Rng, Tags, Task, param
from advbench_defenses.calibrated import threshold_at
from advbench_defenses.nonlocal_means import NonLocalMeans
from advbench_defenses.squeezers import median_filter, not_images, reduce_bit_depth, resample, round_straight

Squeezer = Callable[[Tensor], Tensor]


def softmax_distance(first: Tensor, second: Tensor) -> Tensor:
    """L1 distance (b,) of the softmax vectors of logits (b, k), in [0, 2]."""
    distance = (first.double().softmax(1) - second.double().softmax(1)).abs().sum(1)
    return distance.clamp_max(2).to(first.dtype)


def disagreement(output: Tensor, squeezed: Tensor) -> Tensor:
    """Cross-entropy (b,) of logits (b, k) with the softmax of ``output`` as their label.

    Less of it is less distance. The distance itself holds an attack back: a network sure of two different classes
    gives no gradient, and at the boundary the nearest way to agreement leads back to the clean input. This one is as
    strong as the disagreement, and moves the squeezed input alone.
    """
    label = output.detach().softmax(1)
    return -(label * squeezed.log_softmax(1)).sum(1)


class Squeezers(Defense):
    """Which squeezers there are; what is done with them is up to the subclass."""

    bit_depth: int | None = param(
        5, "bits per value between the bounds; null leaves them", unit="bit", ge=1, le=16
    )
    median: int | None = param(2, "side of the median window; null for no median", unit="pixel", ge=2)
    non_local_means: NonLocalMeans | None = param(
        None, "search, template and strength of non-local means; null for none"
    )
    resample: float | None = param(
        None, "size of the intermediate image over that of the input; null for none", gt=0, lt=1
    )

    @model_validator(mode="after")
    def _squeezes(self) -> Squeezers:
        if self.bit_depth is None and not self._spatial():
            raise ValueError("at least one of bit_depth, median, non_local_means and resample must be given")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """All but the bit depth need images."""
        return not_images(space, " or ".join(self._spatial())) if self._spatial() else None

    def _spatial(self) -> list[str]:
        names = ("median", "non_local_means", "resample")
        return [name for name in names if getattr(self, name) is not None]

    def squeezers(self, x: Tensor, space: InputSpace, *, straight: bool) -> list[Squeezer]:
        """Functions of images like ``x`` (b, c, h, w); ``straight`` gradients pass through the rounding."""
        lower, upper = space.bounds_like(x)
        chosen: list[Squeezer] = []
        if self.bit_depth is not None:
            rounding = round_straight if straight else reduce_bit_depth
            chosen.append(partial(rounding, lower=lower, upper=upper, bits=self.bit_depth))
        if self.median is not None:
            chosen.append(partial(median_filter, size=self.median))
        if self.non_local_means is not None:
            chosen.append(partial(self.non_local_means.smooth, lower=lower, upper=upper))
        if self.resample is not None:
            chosen.append(partial(resample, scale=self.resample))
        return chosen


class FeatureSqueezing(Squeezers):
    """Feature squeezing as purification, Xu et al. 2018, https://arxiv.org/abs/1704.01155.

    The network sees the squeezed image. Squeezers that are not null follow each other in the order of the
    parameters. The default is what the paper joins for ImageNet, 5 bits and a 2x2 median (without its
    non-local means); for MNIST it takes ``bit_depth: 1`` with the same median. The paper applies each
    squeezer to the input itself and compares outputs in order to *detect*: `SqueezingDetector`.
    """

    tags: ClassVar[Tags] = Tags(purifies=True, reference="https://arxiv.org/abs/1704.01155")
    version: ClassVar[int] = 2

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"bit_depth": 1, "median": 3, "resample": 0.5},
        {"non_local_means": {"search": 5, "strength": 0.1}},
    )

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Squeezed inputs."""
        return self._all(x, space, straight=False)

    def surrogate(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """The same values; the gradient passes straight through the rounding, truly through the others."""
        return self._all(x, space, straight=True)

    def _all(self, x: Tensor, space: InputSpace, *, straight: bool) -> Tensor:
        for squeeze in self.squeezers(x, space, straight=straight):
            x = squeeze(x)
        return x


class SqueezingDetector(Squeezers):
    """Joint detector of feature squeezing, Xu et al. 2018, https://arxiv.org/abs/1704.01155.

    Each squeezer that is not null is applied to the input itself. The score is the largest L1 distance between
    the softmax vectors of the squeezed and of the unsqueezed input, in [0, 2]; the threshold is the
    ``ceil(n (1 - false_positive_rate))``-th smallest score of n clean samples. The paper's detectors:

    - MNIST ``{bit_depth: 1, median: 2, non_local_means: null}``;
    - CIFAR-10 ``{bit_depth: 5, median: 2, non_local_means: {search: 13, template: 3, strength: 2/255}}``, the
      default;
    - ImageNet ``{bit_depth: 5, median: 2, non_local_means: {search: 11, template: 3, strength: 4/255}}``.

    A published system for Animals-10 takes ``{bit_depth: 4, median: 3, non_local_means: null, resample: 0.5,
    fixed_threshold: 1.0}``. Adaptive attacks see the same scores, with the gradient of `disagreement`, straight
    through the rounding.
    """

    tags: ClassVar[Tags] = Tags(
        tasks=("classification",), detects=True, reference="https://arxiv.org/abs/1704.01155"
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"non_local_means": {"search": 5}},
        {"bit_depth": 1, "non_local_means": None},
        {"bit_depth": 4, "median": 3, "non_local_means": None, "resample": 0.5, "fixed_threshold": 1.0},
    )

    non_local_means: NonLocalMeans | None = param(
        NonLocalMeans(), "search, template and strength of non-local means; null for none"
    )
    false_positive_rate: float = param(0.05, "share of clean samples that may be rejected", gt=0, lt=1)
    fixed_threshold: float | None = param(
        None, "threshold that no clean sample decides; null for the false-positive rate", ge=0, le=2
    )

    def score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Largest distance (b,) over the squeezers."""
        output, squeezed = self._outputs(x, inside, space, straight=False)
        return _distances(output, squeezed).amax(0)

    def surrogate_score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """The same values; the gradient is that of `disagreement` for the squeezer that decides."""
        output, squeezed = self._outputs(x, inside, space, straight=True)
        score, decides = _distances(output, squeezed).detach().max(0)
        apart = torch.stack([disagreement(output, each) for each in squeezed]).gather(0, decides[None])[0]
        return score + (apart - apart.detach())

    def threshold(self, scores: Any) -> float:
        """`threshold_at` the false-positive rate, or the fixed one."""
        if self.fixed_threshold is not None:
            return self.fixed_threshold
        return threshold_at(scores, self.false_positive_rate)

    def _outputs(
        self, x: Tensor, inside: Prediction, space: InputSpace, *, straight: bool
    ) -> tuple[Tensor, list[Tensor]]:
        squeezers = self.squeezers(x, space, straight=straight)
        return inside.output(x), [inside.output(squeeze(x)) for squeeze in squeezers]


def _distances(output: Tensor, squeezed: list[Tensor]) -> Tensor:
    return torch.stack([softmax_distance(each, output) for each in squeezed])
