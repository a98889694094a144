"""Judge: fresh forward passes of the whole defended pipeline, and of its detector, decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.errors import PluginError
from advbench.runtime import tasks
from advbench.runtime.cell import Case, Crafted, clean_output, clean_scores, predict
from advbench.runtime.detection import Guard
from advbench.runtime.inside import take
from advbench.runtime.network import Untouched
from advbench.runtime.rng import isolated_rng, seed_of
from advbench.runtime.threat import ball_norm
from advbench.values import Classification, Regression, Task

REPEATABLE = 1e-4
"""Largest difference of two outputs of the same network and input, as a share of the largest output."""


def judge(case: Case, crafted: Crafted) -> dict[str, NDArray[Any]]:
    """Per-sample outcomes, all (n, ...); arrays as they are kept in the record.

    Where a detector stands before the network the whole decides: a clean input is handled right if it is predicted
    correctly and accepted, an attacked one if it is predicted correctly or rejected. An input that is none of the
    classes is handled right if it is rejected.
    """
    samples, task = case.samples, case.judged.task
    guard = Untouched(case.judged.network)
    clean = clean_output(case, case.judged)
    complaint = guard.complaint()
    if complaint:
        raise PluginError(f"a forward pass {complaint}")
    perturbed = predict(case.judged, samples, case.seed, crafted.x)
    delta = crafted.x.double() - samples.x.double()
    outcomes: dict[str, Any] = {
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
        **_confidence(clean, perturbed, task),
    }
    if crafted.gradients is not None:
        outcomes |= {
            "gradient_norm": crafted.gradients.norm,
            "gradient_agreement": crafted.gradients.agreement,
        }
    if isinstance(task, Regression):
        outcomes["relative"] = torch.full((len(samples),), task.relative)
    if case.attack is not None:
        outcomes["lost_by_rounding"] = _lost_by_rounding(case, crafted, _fooled(outcomes))
    known = tasks.known(samples.y, task)
    if not known.all():
        outcomes["known"] = known
        outcomes["eligible"] = known & outcomes.get("eligible", torch.ones_like(known))
    if case.guard is not None:
        outcomes |= _detection(case, case.guard, crafted, outcomes)
    if not case.steps:
        outcomes |= _certificates(case)
    if tasks.looks_like_probabilities(clean, task):
        outcomes["probabilities"] = torch.ones(len(samples), dtype=torch.bool)
    if not _repeatable(case, clean):
        outcomes["unrepeatable"] = torch.ones(len(samples), dtype=torch.bool)
    return {
        name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in outcomes.items()
    }


def _fooled(outcomes: Mapping[str, Any]) -> Tensor:
    """Whether the perturbation reached its goal, (n,)."""
    reached = outcomes.get("goal_reached", ~outcomes["perturbed_correct"])
    found: Tensor = outcomes["clean_correct"] & reached & outcomes.get("eligible", torch.ones_like(reached))
    return found


def _confidence(clean: Tensor, perturbed: Tensor, task: Task) -> dict[str, Tensor]:
    if not isinstance(task, Classification):
        return {}
    names = {"clean_confidence": clean, "perturbed_confidence": perturbed}
    return {name: output.softmax(1).amax(1) for name, output in names.items()}


def _lost_by_rounding(case: Case, crafted: Crafted, success: Tensor) -> Tensor:
    """Successes that are none any more once their inputs are rounded to 256 levels between the bounds, bool (n,)."""
    lost, rows = torch.zeros_like(success), torch.nonzero(success)[:, 0]
    if len(rows):
        samples, task, space = case.samples.take(rows), case.judged.task, case.judged.space
        lower, upper = space.bounds_like(crafted.x)
        levels = ((crafted.x[rows] - lower) / (upper - lower) * 255).round()
        output = predict(case.judged, samples, case.seed, lower + levels / 255 * (upper - lower))
        aim = None if crafted.aim is None else crafted.aim[rows]
        lost[rows] = tasks.goal_margin(output, samples.y, task, aim) >= 0
    return lost


def _certificates(case: Case) -> dict[str, Tensor]:
    """Radius within which each prediction provably holds, 0 where it is wrong or there is none."""
    pipeline, samples = case.judged, case.samples
    # What stands before it changes inputs by more than the radius says.
    if not pipeline.defenses or not pipeline.defenses[0].tags.certifies:
        return {}
    defense, rng = pipeline.defenses[0], samples.rng(case.seed, "certificate")

    def one(rows: Tensor) -> list[Tensor]:
        draws = rng.take(rows)
        inside = replace(pipeline.inside(len(rows), take(samples.extras, rows), draws, False), depth=1)
        return list(defense.certify(samples.x[rows], inside, pipeline.space, draws))

    with torch.no_grad(), isolated_rng(seed_of(case.seed, "certificate")):
        prediction, radius = pipeline.map(one, len(samples))
    radius = torch.where(prediction == samples.y, radius.double(), 0.0)
    return {
        "certified_radius": radius,
        "certificate_confidence": torch.full_like(radius, defense.confidence),
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
    margin = tasks.goal_margin(perturbed, y, task, crafted.aim)
    return {
        "aim": crafted.aim,
        "goal_margin": margin,
        "goal_reached": ~(margin >= 0),
        "eligible": crafted.aim != y if classes else torch.ones(len(y), dtype=torch.bool, device=y.device),
    }


def _detection(case: Case, guard: Guard, crafted: Crafted, outcomes: Mapping[str, Any]) -> dict[str, Tensor]:
    """Scores, and what becomes of the outcomes once rejected inputs do not count as predictions."""
    clean, perturbed = clean_scores(case), guard.scores(case.judged, case.samples, case.seed, crafted.x)
    rejected, refused = perturbed > guard.threshold, clean > guard.threshold
    right, unknown = outcomes["perturbed_correct"], ~tasks.known(case.samples.y, case.judged.task)
    handled = right | rejected if case.attack is not None else right & ~rejected | unknown & rejected
    reached = outcomes.get("goal_reached", ~right) & ~rejected
    return {
        "clean_score": clean,
        "perturbed_score": perturbed,
        "threshold": torch.full_like(clean, guard.threshold),
        "fixed_threshold": torch.full_like(rejected, guard.fixed),
        "network_right": outcomes["clean_correct"],
        "network_right_perturbed": right,
        "network_fooled": _fooled(outcomes),
        "clean_correct": outcomes["clean_correct"] & ~refused | unknown & refused,
        "perturbed_correct": handled,
        "goal_reached": reached,
    }
