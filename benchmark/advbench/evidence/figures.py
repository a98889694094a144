"""From per-sample outcomes to the figures of a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence import influence
from advbench.evidence.flags import joined, of_outcomes
from advbench.evidence.statistics import (
    auroc,
    calibration_error,
    true_positive_rate,
    wilson,
)
from advbench.values import Classification, Regression, Task

Outcomes = Mapping[str, "NDArray[Any]"]


def figures(outcomes: Outcomes, task: Task, attack: bool) -> dict[str, Any]:
    """Columns of the groups result, distance, cost, regression, detector and flags."""
    clean, after = outcomes["clean_correct"], outcomes["perturbed_correct"]
    # What was wrong before an attack counts as wrong; natural noise may also mend an error.
    robust = clean & after if attack else after  # a detector's part is in both already
    eligible = clean & outcomes["eligible"] if "eligible" in outcomes else clean
    success = successes(outcomes)
    n, n_clean, n_success = len(clean), int(clean.sum()), int(success.sum())
    n_eligible = int(eligible.sum())
    row: dict[str, Any] = {
        "n": n,
        "n_clean_correct": n_clean,
        "n_eligible": n_eligible,
        "n_success": n_success,
    }
    if isinstance(task, Classification):
        row |= {"metric": "accuracy"}
        row |= _interval("clean", wilson(n_clean, n)) | _interval("perturbed", wilson(int(robust.sum()), n))
    else:
        row |= _regression(outcomes, task)
    row |= _interval("attack_success_rate", wilson(n_success, n_eligible))
    row |= _distances(outcomes, eligible, success) | _cost(outcomes) | _detector(outcomes, attack)
    row |= _network(outcomes) | _certificate(outcomes) | _open_set(outcomes)
    row["flags"] = joined(of_outcomes(outcomes, success, task))
    return row


def successes(outcomes: Outcomes) -> NDArray[Any]:
    """Which eligible samples the perturbation fools, bool (n,)."""
    clean = outcomes["clean_correct"]
    eligible = clean & outcomes["eligible"] if "eligible" in outcomes else clean
    return np.asarray(eligible & reached(outcomes))


def reached(outcomes: Outcomes) -> NDArray[Any]:
    """Whether the perturbation did what it was meant to, bool (n,): the goal of a targeted attack, else an error."""
    return outcomes["goal_reached"] if "goal_reached" in outcomes else ~outcomes["perturbed_correct"]


def _interval(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    return {name: interval[0], f"{name}_lo": interval[1], f"{name}_hi": interval[2]}


def _regression(outcomes: Outcomes, task: Regression) -> dict[str, Any]:
    row: dict[str, Any] = {"metric": "sigma_mad", "eta_threshold": task.tolerance}
    target = outcomes["target"].reshape(len(outcomes["target"]), -1).astype(np.float64)
    for name in ("clean", "perturbed"):
        predicted = outcomes[f"{name}_prediction"].reshape(target.shape).astype(np.float64)
        error = (predicted - target) / (1 + target) if task.relative else predicted - target
        spread = influence.spread(error[:, 0])
        row |= _interval(name, spread) | _interval(f"sigma_mad_{name}", spread)
        row |= _interval(f"bias_{name}", influence.mean(error[:, 0]))
        beyond = np.asarray((np.abs(error) > task.tolerance).any(1))
        row |= _interval(f"eta_{name}", wilson(int(beyond.sum()), len(beyond)))
    return row


def _distances(outcomes: Outcomes, eligible: NDArray[Any], success: NDArray[Any]) -> dict[str, float]:
    row = {}
    for norm in ("linf", "l2", "l0"):
        size = np.where(success, outcomes[norm], np.inf)[eligible]
        row[f"{norm}_median"] = float(np.median(size)) if len(size) else math.nan
        if norm != "l0":
            row[f"{norm}_mean_success"] = float(outcomes[norm][success].mean()) if success.any() else math.nan
    if "size" in outcomes and success.any():
        row["size_mean_success"] = float(outcomes["size"][success].mean())
    if "lost_by_rounding" in outcomes:
        row["n_lost_by_rounding"] = int((success & outcomes["lost_by_rounding"]).sum())
    return row


def _network(outcomes: Outcomes) -> dict[str, float]:
    """Calibration and gradients."""
    row = {}
    if "clean_confidence" in outcomes:
        target = outcomes["target"]
        for name in ("clean", "perturbed"):
            right = outcomes[f"{name}_prediction"] == target
            row[f"ece_{name}"] = calibration_error(outcomes[f"{name}_confidence"], right)
    norm = outcomes.get("gradient_norm", np.zeros(0))
    norm = norm[np.isfinite(norm)]
    if len(norm):
        row["gradient_norm_median"] = float(np.median(norm))
    return row


def _certificate(outcomes: Outcomes) -> dict[str, float]:
    if "certified_radius" not in outcomes:
        return {}
    radius = outcomes["certified_radius"]
    return {
        "certified_radius_median": float(np.median(radius)),
        "certified_radius_mean": float(radius.mean()),
        "certificate_confidence": float(outcomes["certificate_confidence"][0]),
    }


def _cost(outcomes: Outcomes) -> dict[str, Any]:
    forward, backward = outcomes["forward_passes"], outcomes["backward_passes"]
    attacked = (forward + backward) > 0
    count = max(1, int(attacked.sum()))
    return {
        "forward_passes_mean": float(forward.sum() / count),
        "backward_passes_mean": float(backward.sum() / count),
        "violations": int(outcomes["violation"].sum()),
    }


def _detector(outcomes: Outcomes, attack: bool) -> dict[str, float]:
    if "clean_score" not in outcomes:
        return {}
    right = outcomes["network_right_perturbed"]
    right = right & outcomes["network_right"] if attack else right
    handled = right | (outcomes["perturbed_score"] > outcomes["threshold"])
    known = outcomes.get("known", np.ones(len(right), bool))  # what is none of the classes is no false alarm
    clean, perturbed, threshold, fooled = (
        outcomes[name][known] for name in ("clean_score", "perturbed_score", "threshold", "network_fooled")
    )
    rejected = perturbed > threshold
    return {
        "detector_auroc": auroc(clean, perturbed[fooled]),
        "tpr_at_1pct_fpr": true_positive_rate(clean, perturbed[fooled], 0.01),
        "tpr_at_5pct_fpr": true_positive_rate(clean, perturbed[fooled], 0.05),
        "tpr_at_1pct_fpr_failed": true_positive_rate(clean, perturbed[~fooled], 0.01),
        "tpr_at_5pct_fpr_failed": true_positive_rate(clean, perturbed[~fooled], 0.05),
        "detector_fpr": float((clean > threshold).mean()),
        "detector_tpr": _share(rejected[fooled]),
        "detector_tpr_failed": _share(rejected[~fooled]),
        "accuracy_detect_or_reject": float(handled.mean()),
    }


def _open_set(outcomes: Outcomes) -> dict[str, float]:
    """Where some samples are none of the classes: how well they are told apart, and the accuracy on the others."""
    if "known" not in outcomes:
        return {}
    known = outcomes["known"]
    row: dict[str, float] = {"n_unknown": int((~known).sum())}
    if "clean_score" in outcomes:
        row["unknown_auroc"] = auroc(outcomes["clean_score"][known], outcomes["clean_score"][~known])
    for name in ("clean", "perturbed"):
        row[f"closed_set_{name}"] = _share(outcomes[f"{name}_prediction"][known] == outcomes["target"][known])
    return row


def _share(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def worst_of(members: Sequence[Outcomes]) -> dict[str, NDArray[Any]]:
    """Outcomes of the worst attack for each sample: the one that leaves the smallest margin.

    Passes are summed, violations are those of any member.
    """
    names = set.intersection(*(set(member) for member in members))
    choice = worst_member(members)
    return {name: of_worst(members, choice, name) for name in names}


def worst_member(members: Sequence[Outcomes]) -> NDArray[Any]:
    """Which member is the worst for each sample, (n,)."""
    failed = np.stack([~reached(member) for member in members])
    margin = np.stack([member.get("goal_margin", member["perturbed_margin"]) for member in members])
    # Success first, then the margin: a tie between wrong and right must not hide a success.
    return np.asarray(np.lexsort((margin, failed), axis=0)[0])


def of_worst(members: Sequence[Outcomes], choice: NDArray[Any], name: str) -> NDArray[Any]:
    """One array of a worst-case row, from that of its members."""
    stacked = np.stack([member[name] for member in members])
    if name in ("forward_passes", "backward_passes"):
        return np.asarray(stacked.sum(0))
    if name == "violation":
        return np.asarray(stacked.any(0))
    return np.asarray(stacked[choice, np.arange(len(choice))])
