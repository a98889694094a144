from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import softmax
from scipy.stats import binomtest, norm
from tests.oracle.stand_in import KeyedRng, classes, linear, random_tensor, small_network, space_of
from torch import Tensor, nn

from advbench.api import Regression, Task
from advbench_defenses import randomised_smoothing as smoothing
from advbench_defenses.ensemble import Ensemble, count_votes, log_shares
from advbench_defenses.randomised_smoothing import RandomisedSmoothing, binomial_p_value, lower_bound

REGRESSION = Regression(("z", "mass"), 0.1)


@dataclass
class Inside:
    """A `Prediction` over one module, or over several members; counts the rows that it was asked for."""

    modules: Sequence[nn.Module]
    task: Task
    rows: int = 0

    @property
    def members(self) -> tuple[Inside, ...]:
        return tuple(Inside([module], self.task) for module in self.modules)

    def output(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.modules[0](x)


class Given(nn.Module):
    """Prepared outputs whatever the input."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.given = output

    def forward(self, x: Tensor) -> Tensor:
        return self.given


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def call(defense, method, x, inside, keys=None):
    space = space_of(tuple(x.shape[1:]))
    return getattr(defense, method)(x, inside, space, KeyedRng(range(len(x)) if keys is None else keys))


def joined(outputs, task, method="predict", **parameters):
    """What an ensemble makes of outputs (m, b, k) of its members."""
    inside = Inside([Given(output) for output in outputs], task)
    return call(Ensemble(size=len(outputs), **parameters), method, torch.zeros(outputs.shape[1], 1), inside)


# --- ensemble -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("method", ["predict", "surrogate_predict"])
def test_the_mean_is_that_of_the_probabilities(count, method):
    outputs = normal(4, 30, count) * 5
    expected = np.log(softmax(outputs.numpy(), axis=-1).mean(0))
    np.testing.assert_allclose(joined(outputs, classes(count), method), expected, rtol=1e-10)
    np.testing.assert_allclose(joined(outputs, classes(count)).exp().sum(1), 1, rtol=1e-12)


def test_the_mean_of_probabilities_is_not_that_of_logits():
    outputs = torch.tensor([[[100.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    assert joined(outputs, classes(2)).argmax(1).item() == 0  # 0.51 against 0.49
    assert joined(outputs, classes(2), combine="vote").argmax(1).item() == 1


def test_predictions_of_regressors_are_averaged():
    outputs = normal(3, 5, 2) * 1e4
    for method in ("predict", "surrogate_predict"):
        np.testing.assert_allclose(joined(outputs, REGRESSION, method), outputs.numpy().mean(0), rtol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_class_of_most_members_wins_and_the_mean_breaks_ties(count, size):
    outputs = normal(size, 300, count, seed=size) * 2
    found = joined(outputs, classes(count), combine="vote")
    votes = np.stack([(outputs.argmax(-1) == k).sum(0).numpy() for k in range(count)], 1)
    mean = softmax(outputs.numpy(), axis=-1).mean(0)
    by_hand = [max(range(count), key=lambda k, i=i: (votes[i, k], mean[i, k])) for i in range(300)]
    assert found.argmax(1).tolist() == by_hand
    ordered = np.sort(votes, axis=1)
    assert (ordered[:, -1] == ordered[:, -2]).sum() > 3 or (count == 2 and size % 2)  # there are ties
    np.testing.assert_allclose(found.exp().sum(1), 1, rtol=1e-12)


def test_shares_counted_by_hand():
    found = log_shares(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.5, 0.3, 0.2]])).exp()
    weight = np.array([3 + 0.0501, 1 + 0.0301, 0.0201])
    np.testing.assert_allclose(found[0], weight / weight.sum(), rtol=1e-6)
    assert count_votes(torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]], [[0.0, 1.0]]])).tolist() == [[1.0, 2.0]]


def test_the_surrogate_of_a_vote_is_the_mean():
    outputs = normal(3, 8, 4)
    surrogate = joined(outputs, classes(4), "surrogate_predict", combine="vote")
    assert torch.equal(surrogate, joined(outputs, classes(4)))


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e30])
def test_outputs_and_gradients_stay_finite(count, scale):
    outputs = (normal(3, 20, count) * scale).float()
    assert torch.isfinite(joined(outputs, classes(count), combine="vote")).all()
    outputs.requires_grad_()
    found = joined(outputs, classes(count))
    (gradient,) = torch.autograd.grad(found.sum(), outputs)
    assert torch.isfinite(found).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("task", [classes(2), classes(3), classes(10), REGRESSION], ids=repr)
def test_the_gradient_of_an_ensemble_is_true(task):
    inside = Inside([linear(normal(task.outputs, 4, seed=seed)) for seed in range(3)], task)

    def outputs(x):
        return call(Ensemble(size=3), "surrogate_predict", x, inside)

    assert torch.autograd.gradcheck(outputs, normal(2, 1, 2, 2).requires_grad_())


@pytest.mark.parametrize("combine", ["mean", "vote"])
def test_a_row_of_an_ensemble_depends_on_its_sample_alone(combine):
    x, rows = random_tensor(16, 3, 8, 6), torch.tensor([5, 0, 7, 3] * 4)
    inside = Inside([small_network(3, 4, seed) for seed in range(3)], classes(4))
    defense, before = Ensemble(size=3, combine=combine), x.clone()
    with torch.no_grad():
        whole = call(defense, "predict", x, inside)
        assert torch.equal(call(defense, "predict", x[rows], inside), whole[rows])
    assert torch.equal(x, before)
    assert len(whole[:, 0].unique()) == 16


def test_what_an_ensemble_says_about_itself():
    assert Ensemble.tags.wraps
    assert Ensemble(size=3).networks == 3
    assert Ensemble(combine="vote").supports(space_of((1, 4, 4)), classes(2)) is None
    assert Ensemble(combine="mean").supports(space_of((1, 4, 4)), REGRESSION) is None
    assert "classes" in Ensemble(combine="vote").supports(space_of((1, 4, 4)), REGRESSION)
    for wrong in ({"size": 1}, {"combine": "median"}):
        with pytest.raises(ValidationError):
            Ensemble(**wrong)


# --- randomised smoothing: its statistics -----------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 2, 7, 100, 1000])
def test_p_values_are_those_of_scipy(total):
    second = np.unique(np.linspace(0, total // 2, 9).astype(int))
    expected = [binomtest(int(total - k), total, 0.5).pvalue for k in second]
    np.testing.assert_allclose(binomial_p_value(total - second, second), expected, rtol=1e-9)


@pytest.mark.parametrize("total", [1, 10, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_lower_bounds_are_those_of_scipy(total, alpha):
    counts = np.unique(np.linspace(0, total, 7).astype(int))
    tests = [binomtest(int(k), total, 0.5, alternative="greater") for k in counts]
    expected = [test.proportion_ci(1 - alpha, method="exact").low for test in tests]
    np.testing.assert_allclose(lower_bound(counts, total, alpha), expected, rtol=1e-9)
    assert lower_bound(np.array([total]), total, alpha)[0] == pytest.approx(alpha ** (1 / total))


# --- randomised smoothing: a plane between two classes ----------------------------------------------------------------

WEIGHT = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 0.0, -4.0, 0.0]])  # class 1 where 3 a - 4 c > 0
PLANE = Inside([linear(WEIGHT).requires_grad_(False)], classes(2))


def at_distance(*distances: float) -> Tensor:
    """Inputs (b, 1, 2, 2) that far from the plane, on the side of class 1; beyond any bounds."""
    return torch.tensor(distances)[:, None, None, None] * torch.tensor([[[0.6, 0.0], [-0.8, 0.0]]]) + 0.0


def test_votes_are_those_of_the_closed_form():
    """Noise crosses the plane with probability Phi(-distance / sigma)."""
    x = at_distance(-1.0, -0.3, 0.1, 0.5, 1.2)
    found = call(RandomisedSmoothing(sigma=0.5, samples=4000), "predict", x, PLANE).exp()
    np.testing.assert_allclose(found[:, 1], norm.cdf(np.array([-2, -0.6, 0.2, 1.0, 2.4])), atol=0.03)


def test_the_radius_reaches_the_plane_with_more_draws_and_hardly_ever_crosses_it():
    """The certified radius of a linear classifier is the distance to the plane, and the bound is one-sided."""
    distance, sigma = 0.4, 0.5
    x = at_distance(*[distance] * 600)
    mean = []
    for count in (100, 1000, 10_000):
        few = x[:600] if count == 100 else x[:60]
        defense = RandomisedSmoothing(sigma=sigma, samples=20, certify_samples=count, alpha=0.05)
        prediction, radius = call(defense, "certify", few, PLANE)
        certain = prediction >= 0
        assert (radius[~certain] == 0).all()
        assert (radius[certain] > 0).all()
        assert (prediction[certain] == 1).all() or count == 100
        beyond = (radius > distance).double().mean().item()
        assert beyond <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(few))
        assert beyond > 0.01 or count > 100  # the bound is not merely loose
        mean.append(radius.mean().item())
    assert mean[0] < mean[1] < mean[2] < distance
    low = binomtest(7881, 10_000, alternative="greater").proportion_ci(0.95, method="exact").low  # Phi(0.8)
    assert mean[2] == pytest.approx(sigma * norm.ppf(low), abs=0.005)


def test_a_certificate_abstains_where_no_class_has_the_majority():
    x = at_distance(0.0, 0.001, 3.0)
    defense = RandomisedSmoothing(sigma=0.5, samples=50, certify_samples=500)
    prediction, radius = call(defense, "certify", x, PLANE)
    assert prediction.tolist() == [-1, -1, 1]
    assert prediction.dtype == torch.int64
    best = 0.5 * norm.ppf(0.001 ** (1 / 500))  # all draws agree: more is not to be had
    np.testing.assert_allclose(radius, [0, 0, best], rtol=1e-6)
    assert defense.confidence == pytest.approx(0.999)


def test_inputs_near_the_plane_are_rejected_and_wrong_answers_are_rare():
    defense = RandomisedSmoothing(sigma=0.5, samples=100, alpha=0.05)
    near = call(defense, "score", at_distance(*[0.0] * 400), PLANE)
    accepted = (near <= defense.threshold(near.numpy())).double().mean().item()
    assert 0.005 < accepted < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)  # discrete: 3.5 % at n = 100
    far = call(defense, "score", at_distance(*[0.5] * 20), PLANE)
    assert (far <= 0.05).all()
    assert defense.threshold(np.array([0.3])) == defense.threshold(np.zeros(0)) == 0.05


class Count(nn.Module):
    """Class 0 for the first ``first`` rows of those of a sample, class 1 for ``second``, else class 2."""

    def __init__(self, first: int, second: int, total: int) -> None:
        super().__init__()
        self.plan = torch.tensor([0] * first + [1] * second + [2] * (total - first - second))

    def forward(self, x: Tensor) -> Tensor:
        plan = self.plan.repeat(len(x) // len(self.plan))
        return torch.nn.functional.one_hot(plan, 3).float()


class Certain(nn.Module):
    """Logits that leave no doubt."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1e4


@pytest.mark.parametrize(("first", "second"), [(20, 0), (15, 5), (9, 7), (7, 7), (6, 7)])
def test_the_score_is_the_test_of_the_top_two_classes(first, second):
    inside = Inside([Count(first, second, 20)], classes(3))
    found = call(RandomisedSmoothing(samples=20), "score", torch.zeros(2, 1, 2, 2), inside)
    top, next_one = sorted([first, second, 20 - first - second])[:0:-1]
    expected = binomtest(top, top + next_one, 0.5).pvalue
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-5)


# --- randomised smoothing: what an attack goes through ----------------------------------------------------------------


def test_the_surrogate_approaches_the_mean_probability():
    """E sigmoid(5 (d + sigma n)) by quadrature."""
    distances = [-0.2, 0.05, 0.3]
    defense = RandomisedSmoothing(sigma=0.25, attack_samples=20_000)
    found = call(defense, "surrogate_predict", at_distance(*distances), PLANE).exp()[:, 1]
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    noisy = 5 * (np.array(distances)[:, None] + 0.25 * nodes)
    expected = (1 / (1 + np.exp(-noisy))) @ weights / weights.sum()
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize(("first", "second"), [(8, 8), (9, 7), (12, 4), (16, 0)])
def test_the_surrogate_score_is_the_normal_approximation(first, second):
    """Where every draw is certain, soft counts are votes; ten times as many count for 160 draws."""
    inside = Inside([nn.Sequential(Count(first, second, 16), Certain())], classes(3))
    defense = RandomisedSmoothing(samples=160, attack_samples=16, alpha=0.01)
    found = call(defense, "surrogate_score", torch.zeros(1, 1, 2, 2), inside).item()
    log_p = math.log(2) + norm.logsf(10 * (first - second) / math.sqrt(160))
    assert found == pytest.approx(0.01 * (2 - log_p / math.log(0.01)), rel=1e-4)
    exact = binomtest(10 * first, 160, 0.5).pvalue
    assert (found > 0.01) == (exact > 0.01)  # rejected, both or neither
    assert math.exp(log_p) == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("method", ["surrogate_predict", "surrogate_score"])
def test_the_gradient_of_a_smoothed_network_is_true(count, method):
    defense = RandomisedSmoothing(sigma=0.5, samples=20, attack_samples=5)
    inside = Inside([linear(normal(count, 4, seed=1) / 3)], classes(count))
    assert torch.autograd.gradcheck(
        lambda x: call(defense, method, x, inside), normal(2, 1, 2, 2).requires_grad_()
    )


@pytest.mark.parametrize("scale", [0.0, 1e4, 1e30])
def test_extreme_logits_do_no_harm(scale):
    inside = Inside([linear(normal(3, 4).float() * scale)], classes(3))
    defense = RandomisedSmoothing(samples=20, certify_samples=40, attack_samples=4)
    x = random_tensor(6, 1, 2, 2).requires_grad_()
    for method in ("surrogate_predict", "surrogate_score"):
        found = call(defense, method, x, inside)
        (gradient,) = torch.autograd.grad(found.sum(), x, allow_unused=True)
        assert torch.isfinite(found).all()
        assert torch.isfinite(gradient).all()
    with torch.no_grad():
        for method in ("predict", "score"):
            assert torch.isfinite(call(defense, method, x, inside)).all()
        assert torch.isfinite(call(defense, "certify", x, inside).radius).all()


# --- randomised smoothing: its draws --------------------------------------------------------------------------------


def test_draws_go_through_in_blocks_and_all_of_them(monkeypatch):
    x = random_tensor(3, 2, 4, 4)
    whole = []
    for block, passes in ((32 * 7, [7, 7, 6]), (1, [1] * 20), (2**16, [20])):
        monkeypatch.setattr(smoothing, "BLOCK", block)
        inside, rng = Inside([nn.Flatten()], classes(32)), KeyedRng(range(3))
        blocks = list(smoothing.noisy_logits(x, inside, rng, sigma=0.5, count=20))
        assert [len(part) for part in blocks] == passes
        assert inside.rows == 60
        whole.append(torch.cat(blocks) - x.flatten(1))
    for noise in whole:
        assert noise.shape == (20, 3, 32)
        assert noise.std().item() == pytest.approx(0.5, rel=0.05)
        assert len(noise.flatten(0, 1).unique(dim=0)) == 60  # a draw of its own for each


@pytest.mark.parametrize("method", ["predict", "score", "surrogate_predict", "surrogate_score", "certify"])
def test_a_row_of_a_smoothed_network_depends_on_its_sample_alone(method):
    x, order = random_tensor(8, 3, 8, 6), torch.tensor([5, 0, 7, 3, 1, 2, 6, 4])
    inside = Inside([small_network(3, 4).requires_grad_(False)], classes(4))
    defense = RandomisedSmoothing(sigma=0.3, samples=30, certify_samples=60, attack_samples=6)
    before, state = x.clone(), torch.get_rng_state()
    whole = call(defense, method, x, inside)
    moved = call(defense, method, x[order], inside, order.tolist())
    for one, other in zip(whole, moved) if method == "certify" else [(whole, moved)]:
        assert torch.equal(other, one[order])
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_smoothing_says_about_itself():
    tags = RandomisedSmoothing.tags
    assert tags.wraps
    assert tags.detects
    assert tags.certifies
    assert tags.stochastic
    assert tags.tasks == {"classification"}
    assert RandomisedSmoothing().draws == 1
    for wrong in ({"sigma": 0}, {"samples": 0}, {"alpha": 0.5}, {"alpha": 0}):
        with pytest.raises(ValidationError):
            RandomisedSmoothing(**wrong)
