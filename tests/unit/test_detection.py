"""Detectors in the harness: thresholds, what attackers see, and whole cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.toys import Confidence, Step, case, data, pipeline, samples

from advbench.evidence.figures import figures
from advbench.runtime import tasks
from advbench.runtime.crafting import craft
from advbench.runtime.detection import Guard, as_seen, calibrated
from advbench.runtime.judging import judge
from advbench.values import Classification, Regression

THREE = Classification(("a", "b", "c"))
ONE = Regression(("z",), tolerance=0.5)


@pytest.mark.parametrize("aim", [None, 2])
@pytest.mark.parametrize(
    ("logits", "excess", "expected"),
    [
        ((3.0, 1.0, 0.0), -1.0, {None: 2.0, 2: 3.0}),  # right and accepted: the margin
        ((3.0, 1.0, 0.0), 0.5, {None: 2.0, 2: 3.0}),  # right and rejected: the network first
        ((1.0, 0.0, 4.0), 0.5, {None: 0.002 / 3, 2: 0.002 / 3}),  # fooled but rejected: the detector is left
        ((1.0, 0.0, 4.0), -0.5, {None: -1.0, 2: -1.0}),  # past both: the nearer of the two
        ((1.0, 0.0, 4.0), -9.0, {None: -3.0, 2: -3.0}),
    ],
)
def test_the_margin_that_an_attacker_sees(logits, excess, expected, aim):
    output, y = torch.tensor([logits]), torch.tensor([0])
    goal = None if aim is None else torch.tensor([aim])
    seen = as_seen(output, y, THREE, goal, torch.tensor([excess]), torch.tensor([2.0]))
    assert tasks.goal_margin(seen, y, THREE, goal).item() == pytest.approx(expected[aim], abs=1e-6)
    assert torch.equal(seen[:, 1:], output[:, 1:])  # only the right class is raised


@pytest.mark.parametrize(
    ("predicted", "excess"), [(1.2, -1.0), (1.2, 0.6), (2.0, 0.6), (2.0, -0.2), (2.0, -3.0)]
)
def test_the_margin_of_a_regressor(predicted, excess):
    output, y, scale = torch.tensor([[predicted]]), torch.tensor([1.0]), torch.tensor([0.5])
    seen = as_seen(output, y, ONE, None, torch.tensor([excess]), scale)
    a, d = 0.5 - abs(predicted - 1.0), excess * 0.5
    joint = a if a >= 0 else max(a, d) if d < 0 else 1e-3 * d / (1 + excess)
    assert tasks.margin(seen, y, ONE).item() == pytest.approx(joint, abs=1e-6)


def test_gradients_reach_what_is_left_to_do():
    scores = torch.tensor([0.5, 0.5, -1.0], requires_grad=True)
    output = torch.tensor([[3.0, 1.0, 0.0], [1.0, 0.0, 4.0], [3.0, 1.0, 0.0]], requires_grad=True)
    y = torch.zeros(3, dtype=torch.int64)
    seen = as_seen(output, y, THREE, None, scores, torch.ones(3))
    for loss in ("margin", "ce"):
        value = tasks.attack_loss(loss, THREE)(seen, y).sum()
        to_scores, to_output = torch.autograd.grad(value, (scores, output), retain_graph=True)
        assert (to_scores != 0).tolist() == [False, True, False]  # fooled, and only the detector is left
        assert to_scores[1] < 0
        assert to_output.any(1).tolist() == [True, False, True]


def test_the_threshold_depends_on_clean_scores_unless_it_is_fixed():
    blobs = data()
    calibration = samples(blobs, split="calibration")

    class Fixed(Confidence):
        def threshold(self, scores):
            return 0.25

    found = [calibrated(one, pipeline(blobs), calibration, 0, {}) for one in (Confidence(), Fixed())]
    assert [one.fixed for one in found] == [False, True]
    assert found[1].threshold == 0.25
    assert all(one.spread > 0 for one in found)


def test_the_whole_pipeline_decides():
    blobs = data()
    calibration = samples(blobs, split="calibration")
    guard = calibrated(Confidence(fpr=0.2), pipeline(blobs), calibration, 0, {})
    one = case(Step(eps=3), pipeline(blobs), samples(blobs), guard=guard, knowledge="oblivious")
    outcomes = judge(one, craft(one))
    bare = judge(replace(one, guard=None), craft(one))
    rejected_clean = outcomes["clean_score"] > guard.threshold
    rejected = outcomes["perturbed_score"] > guard.threshold
    assert rejected_clean.any()
    assert rejected.any()
    assert np.array_equal(outcomes["clean_correct"], bare["clean_correct"] & ~rejected_clean)
    assert np.array_equal(outcomes["perturbed_correct"], bare["perturbed_correct"] | rejected)
    assert np.array_equal(outcomes["network_fooled"], bare["clean_correct"] & ~bare["perturbed_correct"])
    clean = judge(replace(one, steps=()), craft(replace(one, steps=())))
    assert np.array_equal(clean["perturbed_correct"], clean["clean_correct"])
    row = figures(clean, blobs.task, attack=False)
    assert row["clean"] == row["perturbed"]
    assert row["detector_tpr_failed"] == row["detector_fpr"] == rejected_clean.mean()
    assert row["detector_fpr"] > 0


def test_an_attacker_who_knows_of_the_detector_passes_it():
    """Just across the boundary nothing is predicted with confidence: a detector sees it, unless one walks on."""
    blobs = data()
    network, some = pipeline(blobs), samples(blobs)
    guard = calibrated(Confidence(), network, samples(blobs, split="calibration"), 0, {})

    class Walk(Step):
        """Steps on, as long as the goal is not reached."""

        def perturb(self, x, y, target, rng):
            best = x
            for _ in range(30):
                found = target.evaluate(best, y)
                done = target.is_adversarial(found.output, y)[:, None, None, None]
                step = (
                    found.gradient
                    / found.gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
                )
                best = torch.where(done, best, best + 2 * step)
            return best

    rates = {}
    for knowledge in ("oblivious", "adaptive"):
        one = case(Walk(eps=500), network, some, guard=guard, knowledge=knowledge)
        outcomes = judge(one, craft(one))
        rates[knowledge] = (outcomes["clean_correct"] & ~outcomes["perturbed_correct"]).mean()
    assert rates["adaptive"] > rates["oblivious"]


def test_passes_of_the_detector_are_counted():
    blobs = data()

    class Twice(Confidence):
        def score(self, x, prediction, space, rng):
            return (prediction.output(x) - prediction.output(x + 1)).abs().amax(1)

    network, some = pipeline(blobs), samples(blobs)
    guard = calibrated(Twice(), network, samples(blobs, split="calibration"), 0, {})
    one = case(Step(eps=1), network, some, guard=guard)
    assert set(craft(one).forward.tolist()) == {0, 3}
    assert set(craft(replace(one, budget=5)).forward.tolist()) == {0}  # a step costs six passes
    assert isinstance(one.guard, Guard)
