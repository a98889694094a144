"""The life of a cell: perturb, verify, judge, measure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.components.base import Attack, Corruption, Defense, Perturbation
from advbench.components.identity import Spec
from advbench.errors import BudgetExhausted, CellTimeout, PluginError
from advbench.runtime import tasks
from advbench.runtime.network import Untouched
from advbench.runtime.pipeline import Pipeline, take
from advbench.runtime.rng import SampleRng, isolated_rng, seed_of
from advbench.runtime.target import Meter, PipelineTarget
from advbench.runtime.threat import ball_norm
from advbench.runtime.verify import verify
from advbench.values import Classification


@dataclass(frozen=True)
class Samples:
    """The evaluated samples of a data set, on the device."""

    x: Tensor  # (n, c, ...)
    y: Tensor  # (n,) or (n, t)
    extras: Mapping[str, Tensor]
    ids: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.x)

    def rng(self, seed: int, purpose: str) -> SampleRng:
        """Draws per sample for a purpose."""
        return SampleRng(seed, purpose, self.ids, self.x.device)


@dataclass(frozen=True)
class Crafted:
    """Perturbed inputs as they were verified, and what they cost; first axis = all evaluated samples."""

    x: Tensor
    violation: Tensor
    forward: Tensor
    backward: Tensor


@dataclass(frozen=True)
class Limits:
    """How a cell is executed; none of it changes a number on a CPU."""

    batch: int = 256
    seconds: float | None = None


@dataclass(frozen=True)
class Case:
    """What a cell is made of, ready to run.

    ``crafting`` is the pipeline that the attacker works on (the undefended network for oblivious attacks),
    ``judged`` the whole defended pipeline that decides.
    """

    samples: Samples
    perturbation: Perturbation | None
    spec: Spec | None
    crafting: Pipeline
    judged: Pipeline
    detector: Defense | None
    calibration: Samples | None
    knowledge: str
    seed: int
    budget: int | None
    limits: Limits = field(default_factory=Limits)


def craft(case: Case) -> Crafted:
    """Perturb and verify.

    Raises
    ------
    PluginError
        If the plugin breaks its contract.
    CellTimeout
        If the time limit passes.
    """
    samples = case.samples
    count = torch.zeros(len(samples), dtype=torch.int64, device=samples.x.device)
    crafted = Crafted(samples.x.clone(), torch.zeros_like(count, dtype=torch.bool), count, count.clone())
    if case.perturbation is None:
        return crafted
    deadline = time.monotonic() + case.limits.seconds if case.limits.seconds else None
    for rows in torch.split(_attacked(case), case.limits.batch):
        if deadline is not None and time.monotonic() > deadline:
            raise CellTimeout("time limit of the cell")
        _craft_batch(case, rows, crafted, deadline)
    return crafted


def _attacked(case: Case) -> Tensor:
    """Rows to perturb: all, but a classification attack leaves what is wrong already."""
    everyone = torch.arange(len(case.samples), device=case.samples.x.device)
    if not isinstance(case.perturbation, Attack) or not isinstance(case.judged.task, Classification):
        return everyone
    output = predict(case.crafting, case.samples, case.seed)
    return everyone[~tasks.is_wrong(output, case.samples.y, case.judged.task)]


def _craft_batch(case: Case, rows: Tensor, crafted: Crafted, deadline: float | None) -> None:
    perturbation, spec = case.perturbation, case.spec
    assert perturbation is not None
    assert spec is not None
    samples, pipeline = case.samples, case.crafting
    x, y = samples.x[rows], samples.y[rows]
    ids = samples.ids[rows.cpu().numpy()]
    constraint = perturbation.constraint() if isinstance(perturbation, Attack) else None
    guard = Untouched(pipeline.network)
    original = x.clone()
    rng = SampleRng(case.seed, spec.id, ids, x.device)
    with isolated_rng(seed_of(case.seed, spec.id)):
        if isinstance(perturbation, Attack):
            meter = _meter(case, x, y, deadline)
            defense_rng = SampleRng(case.seed, "defense under attack", ids, x.device)
            everyone = torch.arange(len(rows), device=x.device)
            target = PipelineTarget(
                pipeline,
                take(samples.extras, rows),
                defense_rng,
                meter,
                everyone,
                case.knowledge != "blackbox",
            )
            try:
                candidate = perturbation.perturb(x, y, target, rng)
            except BudgetExhausted:
                candidate = meter.best
            if meter.budget and isinstance(candidate, Tensor) and candidate.shape == x.shape:
                spent = meter.forward + meter.backward >= meter.budget
                candidate = torch.where(_column(spent, x), meter.best, candidate.to(x))
            crafted.forward[rows], crafted.backward[rows] = meter.forward, meter.backward
        elif isinstance(perturbation, Corruption):
            candidate = perturbation.corrupt(x, case.judged.space, rng)
        else:
            raise PluginError(f"{spec.id} is neither an attack nor a corruption")
    complaint = "changed its inputs in place" if not torch.equal(x, original) else guard.complaint()
    if complaint:
        raise PluginError(f"{spec.id} {complaint}")
    verified = verify(candidate, original, case.judged.space, constraint, spec.id)
    crafted.x[rows], crafted.violation[rows] = verified.x, verified.violation


def _meter(case: Case, x: Tensor, y: Tensor, deadline: float | None) -> Meter:
    tags = case.perturbation.tags if case.perturbation else None
    smallest = next(iter(tags.norms), "l2") if tags and tags.minimum_norm else None
    return Meter(x, y, case.budget, smallest, deadline)


def predict(pipeline: Pipeline, samples: Samples, seed: int, x: Tensor | None = None) -> Tensor:
    """Outputs (n, k) of a pipeline, by a fresh fp32 forward pass; random defenses draw anew for each sample."""
    inputs = samples.x if x is None else x
    with isolated_rng(seed_of(seed, "judge")):
        return pipeline.predict(inputs, samples.extras, samples.rng(seed, "judge"))


def judge(case: Case, crafted: Crafted) -> dict[str, NDArray[Any]]:
    """Per-sample outcomes, all (n, ...); arrays as they are kept in the record."""
    samples, task = case.samples, case.judged.task
    clean = predict(case.judged, samples, case.seed)
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
        **_detection(case, crafted),
    }
    if tasks.looks_like_probabilities(clean, task):
        outcomes["probabilities"] = torch.ones(len(samples), dtype=torch.bool)
    return {
        name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in outcomes.items()
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


def _column(value: Tensor, like: Tensor) -> Tensor:
    return value.view((-1,) + (1,) * (like.dim() - 1))
