"""Detectors at work: their thresholds, their scores, and what an attacker sees who knows of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from advbench.components.base import Defense
from advbench.errors import PluginError
from advbench.runtime import tasks
from advbench.runtime.cell import Samples
from advbench.runtime.inside import take
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.rng import SampleRng, isolated_rng, seed_of
from advbench.values import Task

NEAR = 1e-3
"""Share of the clean margin that is left, at most, once the network is fooled and only the detector is in the way."""


@dataclass(frozen=True)
class Guard:
    """A detector with its threshold.

    ``spread`` is how far the threshold lies above the median of the clean scores: the unit in which an attacker
    compares scores with margins. ``fixed`` says that the threshold does not follow the clean scores.
    """

    detector: Defense
    threshold: float
    spread: float
    fixed: bool
    learned: Mapping[str, Tensor] = field(default_factory=dict)
    _costs: dict[bool, int] = field(default_factory=dict, compare=False, repr=False)

    def score(
        self,
        pipeline: Pipeline,
        x: Tensor,
        extras: Mapping[str, Tensor],
        rng: SampleRng,
        differentiable: bool = False,
    ) -> Tensor:
        """Scores (b,) of one chunk."""
        return self._score(pipeline, x, extras, rng, differentiable)[0]

    def scores(self, pipeline: Pipeline, samples: Samples, seed: int, x: Tensor | None = None) -> Tensor:
        """Scores (n,) float64 of samples, or of what became of them."""
        inputs = samples.x if x is None else x
        rng = samples.rng(seed, "detector")

        def one(rows: Tensor) -> list[Tensor]:
            score = self.score(pipeline, inputs[rows], take(samples.extras, rows), rng.take(rows))
            return [score.double()]

        with torch.no_grad(), isolated_rng(seed_of(seed, "detector")):
            return pipeline.map(one, len(inputs))[0]

    def passes(
        self,
        pipeline: Pipeline,
        x: Tensor,
        extras: Mapping[str, Tensor],
        rng: SampleRng,
        differentiable: bool,
    ) -> int:
        """Passes of a network in one score of a sample."""
        if differentiable not in self._costs:
            rows, _ = next(pipeline.chunks(len(x)))
            own, draws = take(extras, rows), rng.copy().take(rows)
            with torch.no_grad():
                spent = self._score(pipeline, x[rows], own, draws, differentiable)[1]
            self._costs[differentiable] = spent // pipeline.chunk
        return self._costs[differentiable]

    def _score(
        self,
        pipeline: Pipeline,
        x: Tensor,
        extras: Mapping[str, Tensor],
        rng: SampleRng,
        differentiable: bool,
    ) -> tuple[Tensor, int]:
        inside = pipeline.inside(len(x), extras, rng, differentiable, self.learned)
        if self.detector.tags.wraps:  # it scores from what it wraps, as it predicts, and not from itself
            inside, x = inside.behind(self.detector, x)
        score = self.detector.surrogate_score if differentiable else self.detector.score
        found = score(x, inside, pipeline.space, rng)
        if found.shape != (len(x),):
            name = type(self.detector).__name__
            raise PluginError(f"{name}.score returned shape {tuple(found.shape)} for {len(x)} samples")
        return found, inside.spent[0]

    def excess(self, score: Tensor) -> Tensor:
        """How far scores (b,) lie above the threshold, in units of `spread`; not positive means accepted."""
        return (score - self.threshold) / self.spread


def calibrated(
    detector: Defense, pipeline: Pipeline, calibration: Samples, seed: int, learned: Mapping[str, Tensor]
) -> Guard:
    """The detector with the threshold that it sets on clean samples, and on nothing else.

    Raises
    ------
    PluginError
        If there are no samples, or the threshold is not finite.
    """
    if not len(calibration):
        name = type(detector).__name__
        raise PluginError(f"{name} sets its threshold on clean samples of the classes, and there are none")
    blind = Guard(detector, math.nan, 1.0, False, learned)
    scores = blind.scores(pipeline, calibration, seed).cpu().numpy()
    threshold = float(detector.threshold(scores))
    if not math.isfinite(threshold):
        raise PluginError(f"{type(detector).__name__}: its threshold is {threshold}")
    moved = float(detector.threshold(scores + 1.0))
    spread = max(threshold - float(np.median(scores)), 1e-3 * float(np.abs(scores).max()), 1e-12)
    fixed = moved == threshold and not detector.tags.certifies  # a significance level is fixed by right
    return Guard(detector, threshold, spread, fixed, learned)


def learned(defense: Defense, pipeline: Pipeline, samples: Samples, seed: int) -> Mapping[str, Tensor]:
    """What a defense learns from clean training samples; those that are none of the classes are left out."""
    samples = samples.of_known_class()
    rng = samples.rng(seed, "learning")
    with torch.no_grad(), isolated_rng(seed_of(seed, "learning")):
        return defense.learn(samples.x, samples.y, _Whole(pipeline, samples, rng), pipeline.space)


@dataclass(frozen=True)
class _Whole:
    """A `Prediction` for all samples at once, chunk by chunk."""

    pipeline: Pipeline
    samples: Samples
    rng: SampleRng
    learned: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The task."""
        return self.pipeline.task

    @property
    def members(self) -> tuple[_Whole, ...]:
        """Nothing is learned from one member alone."""
        raise PluginError("learn sees the whole pipeline, not its members")

    def output(self, x: Tensor) -> Tensor:
        """Outputs (n, k)."""
        return self._each(x, "output")

    def features(self, x: Tensor) -> Tensor:
        """Features (n, d)."""
        return self._each(x, "features")

    def output_with_dropout(self, x: Tensor) -> Tensor:
        """Outputs (n, k) with dropout."""
        return self._each(x, "output_with_dropout")

    def _each(self, x: Tensor, method: str) -> Tensor:
        def one(rows: Tensor) -> list[Tensor]:
            extras, rng = take(self.samples.extras, rows), self.rng.take(rows)
            inside = self.pipeline.inside(len(rows), extras, rng, False)
            return [getattr(inside, method)(x[rows])]

        return self.pipeline.map(one, len(x))[0]


def as_seen(
    output: Tensor, y: Tensor, task: Task, aim: Tensor | None, excess: Tensor, scale: Tensor
) -> Tensor:
    """Outputs (b, k) as they look to an attacker whose input must also pass the detector.

    Rejection counts as the right answer: the output of ``y`` is raised until the distance from the goal is

        a                           where the network is not fooled,
        NEAR * scale * d / (1 + d)  where it is, but the input is rejected,
        max(a, scale * d)           where both are behind,

    with ``a`` the margin and ``d`` the detector's ``excess``. An attack so follows the network first and the detector
    after that, never a mixture in which one holds back the other (selective descent, Bryniarski et al. 2021,
    https://arxiv.org/abs/2106.15023); neither the scale of logits nor that of scores matters, and no attack needs to
    know of the detector.

    Parameters
    ----------
    output
        Outputs (b, k).
    y
        Targets (b,) or (b, t).
    task
        The task.
    aim
        What a targeted attack aims at, see `tasks.aims`.
    excess
        Detector's excess (b,).
    scale
        Clean margins (b,), positive.
    """
    margin = tasks.goal_margin(output, y, task, aim)
    d = excess.to(output)
    fooled, rejected = margin < 0, d >= 0
    held = fooled & rejected
    # Other outputs pass no gradient there: the way is the detector's alone, whatever the loss.
    output = torch.where(held[:, None], output.detach(), output)
    near = NEAR * scale * d.clamp_min(0) / (1 + d.clamp_min(0))
    joint = torch.where(held, near, torch.where(fooled, torch.maximum(margin, scale * d), margin))
    return tasks.with_margin(output, y, task, aim, margin, joint)
