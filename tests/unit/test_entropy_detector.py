"""The entropy detector, and samples of no class in the life of a cell."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import toys
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import roc_auc_score

from advbench.errors import PluginError
from advbench.evidence.figures import figures
from advbench.runtime.crafting import craft
from advbench.runtime.detection import calibrated, learned
from advbench.runtime.judging import judge
from advbench_defenses.entropy import Entropy
from advbench_defenses.mahalanobis import Mahalanobis


class Inside:
    """A `Prediction` whose inputs are the logits."""

    def output(self, x):
        return x


def score(logits, **parameters):
    return Entropy(**parameters).score(logits, Inside(), None, None)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_the_score_is_the_entropy(classes, scale):
    logits = scale * torch.randn(20, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = scipy_entropy(softmax(logits.numpy(), axis=1), axis=1)
    found = score(logits)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert float(found.min()) >= 0
    assert float(found.max()) <= math.log(classes)
    assert torch.allclose(score(logits, normalised=True) * math.log(classes), found)
    assert score(torch.zeros(1, classes), normalised=True).item() == pytest.approx(1)
    assert torch.equal(score(logits[[4, 4, 0]]), found[[4, 4, 0]])


def test_its_gradient_is_that_of_the_entropy():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(score, logits.requires_grad_(True))
    extreme = torch.tensor([[900.0, 0.0, -900.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(score(extreme).sum(), extreme)
    assert bool(torch.isfinite(gradient).all())


def test_the_threshold_is_calibrated_or_given():
    scores = np.linspace(0, 1, 101)
    assert Entropy(false_positive_rate=0.1).threshold(scores) == pytest.approx(0.9)
    assert Entropy(fixed_threshold=math.log(3) / 2).threshold(scores) == pytest.approx(0.5493, abs=1e-4)
    assert Entropy(fixed_threshold=0).threshold(scores) == 0
    assert Entropy(normalised=True, fixed_threshold=0.5).threshold(np.array([])) == 0.5


# Samples of no class


@pytest.fixture(scope="module")
def open_set():
    """A pipeline, samples of which every fourth is of no class, and a detector with its threshold in their midst."""
    data = toys.data(n=400)
    pipeline = toys.pipeline(data, chunk=32)
    samples = toys.samples(data)
    samples = replace(samples, y=torch.where(torch.arange(len(samples)) % 4 == 0, -1, samples.y))
    known = samples.of_known_class()
    return pipeline, samples, calibrated(Entropy(false_positive_rate=0.4), pipeline, known, 0, {})


def test_calibration_looks_at_known_classes_alone(open_set):
    pipeline, samples, guard = open_set
    scores = score(pipeline.predict(samples.x, {}, samples.rng(0, "x"))).numpy()
    known = (samples.y >= 0).numpy()
    assert (scores[known] > guard.threshold).mean() == pytest.approx(0.4, abs=0.02)
    assert guard.threshold == pytest.approx(np.sort(scores[known])[-(math.floor(0.4 * known.sum()) + 1)])


def test_what_is_of_no_class_is_right_if_it_is_rejected(open_set):
    pipeline, samples, guard = open_set
    case = toys.case(toys.Step(eps=4.0), pipeline, samples, guard=guard)
    crafted = craft(case)
    unknown = samples.y < 0
    assert torch.equal(crafted.x[unknown], samples.x[unknown])
    assert bool((crafted.x != samples.x).flatten(1).any(1)[~unknown].any())
    outcomes = judge(case, crafted)
    logits = pipeline.predict(samples.x, {}, samples.rng(0, "x"))
    rejected = score(logits) > guard.threshold
    right = torch.where(unknown, rejected, (logits.argmax(1) == samples.y) & ~rejected)
    row = figures(outcomes, case.judged.task, attack=True)
    assert row["n_unknown"] == int(unknown.sum())
    assert row["clean"] == pytest.approx(right.double().mean().item())
    expected = roc_auc_score(unknown.numpy(), score(logits).numpy())
    assert row["unknown_auroc"] == pytest.approx(expected)
    closed = (logits.argmax(1) == samples.y)[~unknown].double().mean().item()
    assert row["closed_set_clean"] == pytest.approx(closed)
    attacked = pipeline.predict(crafted.x, {}, samples.rng(0, "x")).argmax(1)
    closed = (attacked == samples.y)[~unknown].double().mean().item()
    assert row["closed_set_perturbed"] == pytest.approx(closed)
    assert closed < row["closed_set_clean"]


@pytest.mark.parametrize("fixed", [None, 0.5])
def test_calibration_on_no_known_class_is_a_clear_error(open_set, fixed):
    pipeline, samples, _ = open_set
    nothing = replace(samples, y=torch.full_like(samples.y, -1)).of_known_class()
    message = "Entropy sets its threshold on clean samples of the classes, and there are none"
    with pytest.raises(PluginError, match=message):
        calibrated(Entropy(fixed_threshold=fixed), pipeline, nothing, 0, {})


def test_a_detector_learns_known_classes_alone(open_set):
    pipeline, samples, _ = open_set
    found = learned(Mahalanobis(), pipeline, samples, 0)
    expected = learned(Mahalanobis(), pipeline, samples.of_known_class(), 0)
    assert len(found["means"]) == 3
    assert all(torch.equal(found[name], value) for name, value in expected.items())
