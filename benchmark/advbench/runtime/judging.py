"""Judge: fresh forward passes of the whole defended pipeline, and of its detector, decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.components.base import Defense
from advbench.errors import PluginError
from advbench.runtime import tasks
from advbench.runtime.cell import Case, Crafted, Samples, clean_output, predict
from advbench.runtime.network import Untouched
from advbench.runtime.pipeline import Pipeline, take
from advbench.runtime.rng import SampleRng, isolated_rng, seed_of
from advbench.runtime.threat import ball_norm
from advbench.values import Classification

REPEATABLE = 1e-4
"""Largest difference of two outputs of the same network and input, as a share of the largest output."""


def judge(case: Case, crafted: Crafted) -> dict[str, NDArray[Any]]:
    """Per-sample outcomes, all (n, ...); arrays as they are kept in the record."""
    samples, task = case.samples, case.judged.task
    guard = Untouched(case.judged.network)
    clean = clean_output(case, case.judged)
    complaint = guard.complaint()
    if complaint:
        raise PluginError(f"a forward pass {complaint}")
    perturbed = predict(case.judged, samples, case.seed, crafted.x)
    delta = crafted.x.double() - samples.x.double()
    outcomes = {
        "id": samples.ids,
        "target": samples.y,
        "clean_prediction": tasks.prediction(clean, task),
        "clean_margin": tasks.margin(clean, samples.y, task),
        "clean_correct": ~tasks.is_wrong(clean, samples.y, task),
        "perturbed_prediction": tasks.prediction(perturbed, task),
        "perturbed_margin": tasks.margin(perturbed, samples.y, task),
        "perturbed_correct": ~tasks.is_wrong(perturbed, samples.y, task),
        "violation": crafted.violation,
        "forward_passes": crafted.forward,
        "backward_passes": crafted.backward,
        **{norm: ball_norm(delta, norm).float() for norm in ("linf", "l2", "l1", "l0")},
        **({} if crafted.size is None else {"size": crafted.size}),
        **_goal(crafted, perturbed, case),
        **_detection(case, crafted),
    }
    if tasks.looks_like_probabilities(clean, task):
        outcomes["probabilities"] = torch.ones(len(samples), dtype=torch.bool)
    if not _repeatable(case, clean):
        outcomes["unrepeatable"] = torch.ones(len(samples), dtype=torch.bool)
    return {
        name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in outcomes.items()
    }


def _repeatable(case: Case, clean: Tensor) -> bool:
    """Whether some samples get the same outputs (n, k) again, in another order and other company."""
    key = ("repeatable", id(clean))  # the memo keeps the clean outputs, so the name stays theirs
    if key not in case.memo:
        rows = torch.arange(min(len(clean), case.judged.chunk // 2 + 1), device=clean.device).flip(0)
        again = predict(case.judged, case.samples.take(rows), case.seed)
        tolerance = REPEATABLE * float(clean.abs().amax()) if len(clean) else 0.0
        case.memo[key] = bool(((again - clean[rows]).abs() <= tolerance).all())
    return bool(case.memo[key])


def _goal(crafted: Crafted, perturbed: Tensor, case: Case) -> dict[str, Tensor]:
    if crafted.aim is None:
        return {}
    y, task = case.samples.y, case.judged.task
    classes = isinstance(task, Classification)
    return {
        "aim": crafted.aim,
        "goal_reached": ~(tasks.goal_margin(perturbed, y, task, crafted.aim) >= 0),
        "eligible": crafted.aim != y if classes else torch.ones(len(y), dtype=torch.bool, device=y.device),
    }


def _detection(case: Case, crafted: Crafted) -> dict[str, Any]:
    detector = case.detector
    if detector is None:
        return {}
    if case.calibration is None or not len(case.calibration):
        raise PluginError(f"{type(detector).__name__} needs a split 'calibration' to set its threshold")
    threshold = float(detector.threshold(_scores(case, detector, case.calibration, None).cpu().numpy()))
    clean = _scores(case, detector, case.samples, None)
    perturbed = _scores(case, detector, case.samples, crafted.x)
    return {
        "clean_score": clean,
        "perturbed_score": perturbed,
        "threshold": torch.full((len(clean),), threshold, dtype=torch.float64),
    }


def _scores(case: Case, detector: Defense, samples: Samples, x: Tensor | None) -> Tensor:
    inputs = samples.x if x is None else x
    pipeline = case.judged
    rng = samples.rng(case.seed, "detector")

    def one(rows: Tensor) -> list[Tensor]:
        extras, draws = take(samples.extras, rows), rng.take(rows)
        score = detector.score(inputs[rows], _Bound(pipeline, extras, draws), pipeline.space, draws)
        return [score.double().flatten()]

    with torch.no_grad(), isolated_rng(seed_of(case.seed, "detector")):
        return pipeline.map(one, len(inputs))[0]


@dataclass(frozen=True)
class _Bound:
    """The pipeline for one chunk of samples, as a detector sees it."""

    pipeline: Pipeline
    extras: Mapping[str, Tensor]
    rng: SampleRng

    def output(self, x: Tensor) -> Tensor:
        """Outputs (b, k)."""
        return self.pipeline.forward(x, self.extras, self.rng)
