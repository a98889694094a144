from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench_defenses.feature_squeezing import (
    FeatureSqueezing,
    SqueezingDetector,
    disagreement,
    softmax_distance,
)

SHAPE = (2, 9, 7)
SPACE = space_of(SHAPE, [-4.0, 0.0], [46.0, 0.1])
MEANS = {"search": 5, "strength": 0.2}
EACH = [{"bit_depth": 2}, {"median": 3}, {"non_local_means": MEANS}, {"resample": 0.5}]
OFF = {"bit_depth": None, "median": None, "non_local_means": None, "resample": None}


class Inside:
    """A `Prediction`: a linear network of inputs in units of their bounds."""

    def __init__(self, count=3, scale=2.0):
        lower, upper = SPACE.bounds_like(torch.zeros(1, *SHAPE))
        self.lower, self.width = lower, upper - lower
        self.weight = scale * (random_tensor(math.prod(SHAPE), count, seed=3) - 0.5)
        self.seen = []

    def output(self, x):
        self.seen.append(x)
        flat = ((x - self.lower) / self.width).flatten(1)
        return (flat[:, :, None] * self.weight).sum(1)


def inputs(count=4):
    x = random_tensor(count, *SHAPE)
    lower, upper = SPACE.bounds_like(x)
    return lower + x * (upper - lower)


def score(x, inside=None, method="score", **parameters):
    detector = SqueezingDetector(**parameters)
    return getattr(detector, method)(x, inside or Inside(), SPACE, KeyedRng(range(len(x))))


def test_distance_of_softmax_vectors():
    first, second = torch.tensor([[0.0, 0.0], [0.0, 900.0]]), torch.tensor([[0.0, math.log(3)], [900.0, 0.0]])
    assert softmax_distance(first, second).tolist() == pytest.approx([0.5, 2.0])
    assert torch.equal(softmax_distance(first, first), torch.zeros(2))


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("scale", [0.1, 10.0, 1e4])
def test_the_score_lies_between_0_and_2(count, scale):
    found = score(inputs(32), Inside(count, scale), **{**OFF, "bit_depth": 1, "median": 2, "resample": 0.3})
    assert found.shape == (32,)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 2
    assert (scale < 1e4) or float(found.max()) > 1.9


def test_the_score_is_the_largest_over_squeezers_of_the_input_itself():
    x, inside = inputs(), Inside()
    alone = []
    for parameters in EACH:
        squeezed = FeatureSqueezing(**{**OFF, **parameters}).purify(x, SPACE, KeyedRng(range(4)))
        vectors = [inside.output(value).softmax(1) for value in (squeezed, x)]
        alone.append((vectors[0] - vectors[1]).abs().sum(1))
        assert torch.allclose(score(x, **{**OFF, **parameters}), alone[-1], rtol=0, atol=1e-6)
    everything = {name: value for parameters in EACH for name, value in parameters.items()}
    largest = torch.stack(alone).amax(0)
    assert torch.allclose(score(x, **everything), largest, rtol=0, atol=1e-6)
    assert len(set(torch.stack(alone).argmax(0).tolist())) > 1


def test_an_image_that_no_squeezer_changes_scores_zero():
    lower, _ = SPACE.bounds_like(inputs())
    x = lower.expand(3, *SHAPE)
    assert torch.equal(score(x, bit_depth=1, median=3), torch.zeros(3))


@pytest.mark.parametrize("parameters", EACH)
def test_the_surrogate_has_the_same_values_and_a_gradient(parameters):
    x = inputs().requires_grad_()
    found = score(x, method="surrogate_score", **{**OFF, **parameters})
    assert torch.equal(found.detach(), score(x, **{**OFF, **parameters}).detach())
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert bool(torch.isfinite(gradient).all())
    assert bool(gradient.flatten(1).any(1).all())


def test_the_gradient_pulls_the_squeezed_output_towards_that_of_the_input():
    x, inside = inputs(4).requires_grad_(), Inside()
    (found,) = torch.autograd.grad(score(x, inside, "surrogate_score", **{**OFF, "bit_depth": 1}).sum(), x)
    output, squeezed = (inside.output(value.detach()).softmax(1) for value in inside.seen[:2])
    expected = ((squeezed - output)[:, None] * inside.weight).sum(2).view(4, *SHAPE) / inside.width
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)  # straight through the rounding


def test_the_gradient_is_that_of_the_squeezer_that_decides():
    x = inputs(8).requires_grad_()
    alone = [{**OFF, "bit_depth": 2}, {**OFF, "median": 3}]
    scores = torch.stack([score(x, **each) for each in alone])
    slopes = [torch.autograd.grad(score(x, method="surrogate_score", **each).sum(), x)[0] for each in alone]
    joint = score(x, method="surrogate_score", **{**OFF, "bit_depth": 2, "median": 3})
    (found,) = torch.autograd.grad(joint.sum(), x)
    decides = scores.argmax(0)
    assert len(set(decides.tolist())) == 2
    for row, which in enumerate(decides.tolist()):
        assert torch.allclose(found[row], slopes[which][row], rtol=1e-4, atol=1e-6)


def test_a_network_that_is_sure_of_two_classes_has_a_gradient():
    output, squeezed = torch.tensor([[0.0, 200.0]]), torch.tensor([[200.0, 0.0]], requires_grad=True)
    assert softmax_distance(squeezed, output).tolist() == [2.0]
    (slope,) = torch.autograd.grad(disagreement(output, squeezed).sum(), squeezed)
    assert slope.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize(
    ("count", "rate", "rank"), [(100, 0.05, 95), (101, 0.05, 96), (20, 0.05, 19), (19, 0.05, 19)]
)
def test_the_threshold_is_an_order_statistic(count, rate, rank):
    scores = np.random.default_rng(0).permutation(np.arange(1, count + 1) / count)
    found = SqueezingDetector(false_positive_rate=rate).threshold(scores)
    assert found == rank / count
    assert (scores > found).sum() == math.floor(count * rate)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.07, 0.1, 0.29, 0.58, 0.7])
def test_the_rate_is_meant_as_it_is_written(rate):
    scores = np.arange(1, 101)
    assert SqueezingDetector(false_positive_rate=rate).threshold(scores) == 100 - round(100 * rate)


def test_the_threshold_where_scores_are_equal():
    assert SqueezingDetector().threshold(np.full(40, 0.3)) == 0.3


def test_a_fixed_threshold_stands_whatever_the_scores():
    detector = SqueezingDetector(fixed_threshold=1.0)
    assert detector.threshold(np.zeros(10)) == detector.threshold(np.full(10, 2.0)) == 1.0


def test_the_threshold_holds_its_rate_on_other_images():
    draws = np.random.default_rng(1).random((2, 4000)) ** 3
    found = SqueezingDetector().threshold(draws[0])
    assert abs((draws[1] > found).mean() - 0.05) < 0.02


def test_scores_do_not_depend_on_companions():
    x = inputs(7)
    whole = score(x, non_local_means=MEANS, resample=0.5)
    for rows in (torch.tensor([6, 0, 3]), torch.tensor([5])):
        assert torch.allclose(
            score(x[rows], non_local_means=MEANS, resample=0.5), whole[rows], rtol=0, atol=1e-6
        )


def test_parameters():
    means = SqueezingDetector().non_local_means
    assert (means.search, means.template, means.strength) == (13, 3, 2 / 255)
    assert SqueezingDetector(non_local_means={"search": 11, "strength": 4 / 255}).non_local_means.search == 11
    for wrong in (OFF, {"false_positive_rate": 0}, {"false_positive_rate": 1}, {"fixed_threshold": 2.1}):
        with pytest.raises(ValidationError):
            SqueezingDetector(**wrong)
    reason = SqueezingDetector().supports(space_of((5,)), classes(2))
    assert reason == "median or non_local_means needs images (c, h, w)"
    assert SqueezingDetector.tags.detects
    assert not SqueezingDetector.tags.purifies
    assert tuple(SqueezingDetector.tags.tasks) == ("classification",)
