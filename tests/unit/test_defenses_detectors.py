from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.covariance import LedoitWolf, ledoit_wolf_shrinkage
from tests.oracle.stand_in import KeyedRng, classes, linear, random_tensor, small_network, space_of
from torch import Tensor, nn

from advbench.api import PluginError, Regression, Task
from advbench_defenses.calibrated import threshold_at
from advbench_defenses.mahalanobis import Gaussians, Mahalanobis, fit, ledoit_wolf, squared_distances
from advbench_defenses.max_softmax import MaxSoftmax
from advbench_defenses.mc_dropout import MCDropout

REGRESSION = Regression(("z", "mass"), 0.1)
KINDS = ("max", "margin", "entropy")


@dataclass
class Inside:
    """A `Prediction` over a module; its features are the first outputs, its dropout scales inputs per row."""

    module: nn.Module
    task: Task
    learned: Mapping[str, Tensor] = field(default_factory=dict)
    rng: Any = None

    def __post_init__(self) -> None:
        self.module.requires_grad_(False)

    def output(self, x: Tensor) -> Tensor:
        return self.module(x)

    def features(self, x: Tensor) -> Tensor:
        return self.module(x)

    def output_with_dropout(self, x: Tensor) -> Tensor:
        mask = (self.rng.uniform(*x.shape[1:]) < 0.5).to(x)
        return self.module(x * mask * 2)


def score(defense, x, inside):
    return defense.score(x, inside, space_of(tuple(x.shape[1:])), KeyedRng(range(len(x))))


def of_logits(logits, **parameters):
    logits = torch.as_tensor(logits)
    return MaxSoftmax(**parameters).score(
        logits, Inside(nn.Identity(), classes(logits.shape[1])), space_of((1, 1, 1)), None
    )


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def is_gradient(function, x):
    return torch.autograd.gradcheck(function, x.double().requires_grad_(), eps=1e-6)


# --- thresholds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [
        (100, 0.05, 95),
        (100, 0.29, 71),
        (10, 0.05, 10),
        (1, 0.05, 1),
        (1000, 0.001, 999),
        (7, 0, 7),
        (7, 0.99, 1),
    ],
)
def test_the_threshold_is_a_quantile_counted_by_hand(count, rate, rank):
    scores = np.random.default_rng(0).permutation(count) + 1.0  # the r-th smallest is r
    assert threshold_at(scores, rate) == rank == math.ceil(round(count * (1 - rate), 9))
    assert (scores > rank).mean() <= rate
    assert MaxSoftmax(false_positive_rate=rate).threshold(scores.astype(np.float32)) == rank


def test_what_gives_no_threshold_is_an_error():
    with pytest.raises(PluginError, match="there are none"):
        threshold_at(np.zeros(0), 0.05)
    for bad in (math.nan, math.inf):
        with pytest.raises(PluginError, match="threshold of"):
            threshold_at(np.array([0.0, bad]), 0.05)
    assert threshold_at(np.array([*range(99), math.nan]), 0.05) == 94  # one sample, as suspicious as can be
    for rate in (-0.1, 1.0):
        with pytest.raises(ValidationError):
            MaxSoftmax(false_positive_rate=rate)


def two_clouds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    y = torch.arange(count) % 2
    return normal(count, 2, 1, 2, seed=seed).float() + 2 * y[:, None, None, None], y


@pytest.mark.parametrize(
    "defense", [*(MaxSoftmax(measure=kind) for kind in KINDS), MCDropout(passes=5), Mahalanobis()], ids=repr
)
def test_the_false_positive_rate_on_other_clean_data_is_the_stated_one(defense):
    inside = Inside(linear(normal(3, 4, seed=5).float()), classes(3))
    if defense.tags.learns:
        inside.learned = defense.learn(*two_clouds(500, 1), inside, space_of((2, 1, 2)))
    found = []
    for seed in (2, 3):
        x, _ = two_clouds(2000, seed)
        inside.rng = KeyedRng([(seed, i) for i in range(len(x))])
        found.append(score(defense, x, inside).double().numpy())
    calibration, fresh = found
    threshold = defense.threshold(calibration)
    assert (calibration > threshold).mean() == 0.05
    assert abs((fresh > threshold).mean() - 0.05) < 0.02


# --- maximum softmax ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 10])
def test_scores_of_a_softmax_are_those_by_hand(count):
    logits = normal(50, count) * 3
    ordered = np.sort(softmax(logits.numpy(), axis=1))[:, ::-1]
    by_hand = {
        "max": 1 - ordered[:, 0],
        "margin": 1 - (ordered[:, 0] - ordered[:, 1]),
        "entropy": scipy_entropy(ordered, axis=1),
    }
    largest = {"max": 1 - 1 / count, "margin": 1.0, "entropy": math.log(count)}
    for kind, expected in by_hand.items():
        np.testing.assert_allclose(of_logits(logits, measure=kind), expected, rtol=1e-12, atol=1e-14)
        assert of_logits(torch.zeros(1, count), measure=kind).item() == pytest.approx(largest[kind], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 10])
def test_scores_of_a_softmax_stay_finite(kind, count):
    for scale in (1e-30, 1.0, 1e4, 1e30):
        logits = (normal(64, count) * scale).float().requires_grad_()
        found = of_logits(logits, measure=kind)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        assert torch.isfinite(found).all()
        assert torch.isfinite(gradient).all()
        assert (found >= 0).all()
        assert (found <= (math.log(count) if kind == "entropy" else 1.0) + 1e-6).all()


def test_small_doubts_are_told_apart():
    logits = torch.tensor([[20.0, 0.0, 0.0], [30.0, 0.0, 0.0], [60.0, 0.0, 0.0]])
    expected = 2 * np.exp([-20.0, -30.0, -60.0])
    np.testing.assert_allclose(of_logits(logits), expected, rtol=1e-5)
    np.testing.assert_allclose(of_logits(logits, measure="margin"), 1.5 * expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_gradient_of_a_softmax_score_is_true(kind, count):
    assert is_gradient(lambda logits: of_logits(logits, measure=kind), normal(4, count))


# --- Mahalanobis ----------------------------------------------------------------------------------------------------


def correlated(count: int, dimensions: int, of: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of Gaussians with different means and one covariance that is far from round."""
    y = torch.arange(count) % of
    mixing = normal(dimensions, dimensions, seed=100) * torch.logspace(0, -2, dimensions, dtype=torch.float64)
    return normal(count, dimensions, seed=seed) @ mixing + normal(of, dimensions, seed=101)[y] * 5, y


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("weight", [0.0, 0.3, None])
def test_distances_are_those_of_scipy(count, weight):
    features, y = correlated(200, 6, count)
    points, _ = correlated(9, 6, count, seed=1)
    found = squared_distances(points, fit(features, y, shrinkage=weight))
    means = [features[y == k].mean(0).numpy() for k in range(count)]
    residuals = features.numpy() - np.stack(means)[y.numpy()]
    covariance = residuals.T @ residuals / len(residuals)
    shrinkage = ledoit_wolf_shrinkage(residuals, assume_centered=True) if weight is None else weight
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 6 * np.eye(6)
    inverse = np.linalg.inv(covariance)
    expected = [[scipy_mahalanobis(point, mean, inverse) ** 2 for mean in means] for point in points.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize(("n", "d"), [(100, 5), (30, 30), (20, 90), (2, 3)])
def test_shrinkage_and_inverse_are_those_of_scikit_learn(n, d):
    residuals = correlated(n, d, 1)[0]
    residuals -= residuals.mean(0)
    expected = LedoitWolf(assume_centered=True).fit(residuals.numpy())
    assert ledoit_wolf(residuals) == pytest.approx(expected.shrinkage_, rel=1e-10)
    gaussians = fit(residuals, torch.zeros(n, dtype=torch.int64))
    points = normal(7, d, seed=3)
    np.testing.assert_allclose(
        squared_distances(points, gaussians)[:, 0], expected.mahalanobis(points.numpy()), rtol=1e-7
    )
    assert gaussians.directions.shape[1] <= min(n, d)


def test_without_shrinkage_the_inverse_is_the_pseudo_inverse():
    features, y = correlated(8, 20, 2)
    gaussians = fit(features, y, shrinkage=0.0)
    residuals = features - gaussians.means[y]
    inverse = np.linalg.pinv((residuals.T @ residuals / 8).numpy(), rcond=1e-10, hermitian=True)
    points = features.numpy() + 1
    expected = [
        [(point - mean) @ inverse @ (point - mean) for mean in gaussians.means.numpy()] for point in points
    ]
    np.testing.assert_allclose(squared_distances(features + 1, gaussians), expected, rtol=1e-6)


def test_two_gaussians_are_found_again():
    """Distances of a Gaussian to its own mean follow chi-squared: mean d, variance 2 d."""
    features, y = correlated(20_000, 4, 2)
    gaussians = fit(features, y, shrinkage=0.0)
    own = squared_distances(features, gaussians).gather(1, y[:, None])
    assert own.mean().item() == pytest.approx(4, rel=1e-9)
    fresh, y = correlated(20_000, 4, 2, seed=7)
    own = squared_distances(fresh, gaussians).gather(1, y[:, None])
    assert own.mean().item() == pytest.approx(4, rel=0.03)
    assert own.var().item() == pytest.approx(8, rel=0.06)
    assert (squared_distances(fresh + 100, gaussians).amin(1) > 100).all()


def learned(features: Tensor, y: Tensor, **parameters: Any) -> tuple[Mahalanobis, Inside]:
    defense, inside = Mahalanobis(**parameters), Inside(nn.Flatten(), classes(2))
    inside.learned = defense.learn(features, y, inside, space_of((1, 1, 1)))
    return defense, inside


def test_classes_without_a_sample_and_features_without_variance_do_no_harm():
    features, y = correlated(50, 3, 2)
    widened = torch.cat([features, torch.zeros(50, 2), torch.ones(50, 1)], 1).float()
    defense, inside = learned(widened, y * 5)  # classes 0 and 5 of more
    found = score(defense, widened, inside)
    assert torch.isfinite(found).all()
    assert inside.learned["means"].shape == (2, 6)
    constant = torch.ones(4, 3)
    defense, inside = learned(constant, torch.tensor([0, 0, 1, 1]))
    assert score(defense, constant, inside).abs().max() == 0
    assert score(defense, constant + torch.tensor([0.0, 3.0, 4.0]), inside).tolist() == pytest.approx(
        [25.0] * 4
    )


def test_far_offsets_and_huge_features_are_harmless():
    """Features in float32 far from zero: what varies is small beside where they lie."""
    features, y = correlated(500, 5, 3)
    near = learned(features.float(), y)
    shifted = (features + 1000).float()
    far = learned(shifted, y)
    np.testing.assert_allclose(
        score(far[0], shifted, far[1]), score(near[0], features.float(), near[1]), rtol=0.05
    )
    for scale in (1e4, 1e18, 1e30):
        point = (features[:8] * scale).float().requires_grad_()
        found = score(*near[:1], point, near[1])
        (gradient,) = torch.autograd.grad(found.sum(), point)
        assert torch.isfinite(found).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("n", "d"), [(60, 5), (12, 30)])
def test_the_gradient_of_a_distance_is_true(n, d):
    features, y = correlated(n, d, 3)
    defense, inside = learned(features, y)
    assert is_gradient(lambda x: score(defense, x, inside), features[:3] + 1)


def test_features_are_learned_in_double_precision():
    features, y = correlated(60, 5, 3)
    _, inside = learned(features.float(), y)
    assert set(inside.learned) == set(Gaussians._fields)
    assert all(value.dtype == torch.float64 for value in inside.learned.values())


# --- dropout ------------------------------------------------------------------------------------------------------


class Passes(Inside):
    """Gives prepared outputs (m, b, k), one after the other."""

    def __init__(self, outputs: Tensor, task: Task) -> None:
        super().__init__(nn.Identity(), task)
        self.outputs = list(outputs)

    def output_with_dropout(self, x: Tensor) -> Tensor:
        return self.outputs.pop(0)


def of_passes(outputs, task, **parameters):
    defense = MCDropout(passes=len(outputs), **parameters)
    return score(defense, torch.zeros(outputs.shape[1], 1), Passes(outputs, task))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_entropy_and_mutual_information_are_those_by_hand(count):
    outputs = normal(5, 7, count) * 3
    probability = softmax(outputs.numpy(), axis=-1)
    whole, parts = scipy_entropy(probability.mean(0), axis=-1), scipy_entropy(probability, axis=-1).mean(0)
    np.testing.assert_allclose(of_passes(outputs, classes(count)), whole, rtol=1e-10)
    information = of_passes(outputs, classes(count), measure="mutual-information")
    np.testing.assert_allclose(information, whole - parts, rtol=1e-8)


def test_certain_passes_that_disagree():
    """Half of them sure of one class, half of the other: one bit, all of it information."""
    outputs = torch.tensor([[[1e4, -1e4, -1e4]], [[-1e4, 1e4, -1e4]]]).requires_grad_()
    for measure in ("entropy", "mutual-information"):
        found = of_passes(outputs, classes(3), measure=measure)
        assert found.item() == pytest.approx(math.log(2), rel=1e-6)
        assert torch.isfinite(torch.autograd.grad(found.sum(), outputs)[0]).all()
    unsure = torch.zeros(4, 2, 3)
    assert of_passes(unsure, classes(3)).tolist() == pytest.approx([math.log(3)] * 2)
    assert of_passes(unsure, classes(3), measure="mutual-information").abs().max() <= 1e-6


@pytest.mark.parametrize("measure", ["entropy", "mutual-information"])
def test_predictions_of_a_regressor_give_their_variance(measure):
    outputs = normal(6, 5, 2) + 1e4
    found = of_passes(outputs, REGRESSION, measure=measure)
    np.testing.assert_allclose(found, outputs.numpy().var(0).mean(1), rtol=1e-10)


@pytest.mark.parametrize("task", [classes(2), classes(3), classes(10), REGRESSION], ids=repr)
@pytest.mark.parametrize("measure", ["entropy", "mutual-information"])
def test_the_gradient_through_dropout_is_true(task, measure):
    network = linear(normal(task.outputs, 4, seed=1))
    defense = MCDropout(passes=4, measure=measure)

    def scores(x):
        return score(defense, x, Inside(network, task, rng=KeyedRng(range(len(x)))))

    assert is_gradient(scores, normal(3, 1, 2, 2))


# --- all ------------------------------------------------------------------------------------------------------------

ALL = [*(MaxSoftmax(measure=kind) for kind in KINDS), Mahalanobis(), MCDropout(passes=3)]
ALL.append(MCDropout(passes=3, measure="mutual-information"))


@pytest.mark.parametrize("defense", ALL, ids=repr)
def test_a_score_depends_on_its_sample_alone(defense):
    x, y = random_tensor(16, 3, 8, 6), torch.arange(16) % 3
    inside = Inside(small_network(3, 5), classes(5), rng=KeyedRng(range(16)))
    inside.learned = defense.learn(x, y, inside, space_of((3, 8, 6))) if defense.tags.learns else {}
    before, state = x.clone(), torch.get_rng_state()
    with torch.no_grad():
        whole = score(defense, x, inside)
        assert whole.shape == (16,)
        assert whole.dtype == x.dtype
        for rows in (torch.arange(16).flip(0), torch.tensor([5, 0, 7, 3] * 4)):
            inside.rng = KeyedRng(range(16)).take(rows)
            if len(rows.unique()) == len(rows) or not defense.tags.stochastic:
                assert torch.equal(score(defense, x[rows], inside), whole[rows])
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (whole > 0).all()
    assert len(whole.unique()) > 8


def test_what_they_say_about_themselves():
    for defense in ALL:
        assert defense.tags.detects
        assert not defense.tags.trains | defense.tags.purifies | defense.tags.wraps
        assert defense.tags.reference
    assert MCDropout.tags.stochastic
    assert MCDropout().draws == 1
    assert "regression" in MCDropout.tags.tasks
    assert Mahalanobis.tags.learns
    assert "regression" not in {*Mahalanobis.tags.tasks, *MaxSoftmax.tags.tasks}
    for wrong in ({"passes": 1}, {"measure": "variance"}):
        with pytest.raises(ValidationError):
            MCDropout(**wrong)
    for wrong in ({"shrinkage": -0.1}, {"shrinkage": 1.1}):
        with pytest.raises(ValidationError):
            Mahalanobis(**wrong)
