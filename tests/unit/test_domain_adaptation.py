"""Terms of domain adaptation, each against a formula written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import expit, softmax
from scipy.stats import entropy as scipy_entropy

from advbench.api import Classification, InputSpace, Regression
from advbench_defenses.adversary import (
    Conditioned,
    DomainNet,
    domain_loss,
    reversed_gradient,
    strength_at,
)
from advbench_defenses.alignment import Adversary, Domains, Universal
from advbench_defenses.coral import coral, covariance
from advbench_defenses.domain_adaptation import DomainAdaptation
from advbench_defenses.mmd import MULTIPLES, VARIANCES, mmd, squared_distances
from advbench_defenses.terms import fisher, mean_entropy, mutual_information
from advbench_defenses.universal import Memory, clustering, separation


def points(n, d=5, seed=0, shift=0.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)) + shift)


# Maximum mean discrepancy


def naive(x, y, variances):
    """The V-statistic by a double loop."""

    def mean_kernel(a, b):
        pairs = [(p - q).square().sum().item() for p in a for q in b]
        return sum(math.exp(-d / (2 * v)) for d in pairs for v in variances) / len(pairs)

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(("n", "m"), [(7, 7), (4, 9)])
def test_mmd_is_that_of_a_double_loop(n, m, scale):
    x, y = scale * points(n), scale * points(m, seed=1, shift=0.5)
    assert mmd(x, y).item() == pytest.approx(naive(x, y, VARIANCES), abs=1e-6)
    both = torch.cat([x, y])
    middle = float(torch.pdist(both).square().median())
    expected = naive(x, y, [middle * multiple for multiple in MULTIPLES])
    assert mmd(x, y, "median").item() == pytest.approx(expected, abs=1e-6)
    # The double precision is inside: features are float32, and far from the origin.
    far = mmd((x + 100).float(), (y + 100).float()).item()
    assert far == pytest.approx(
        naive((x + 100).float().double(), (y + 100).float().double(), VARIANCES), abs=1e-6
    )


def test_there_are_19_variances_from_1e_6_to_1e6():
    assert len(VARIANCES) == 19
    assert (VARIANCES[0], VARIANCES[6], VARIANCES[13], VARIANCES[-1]) == (1e-6, 1.0, 35.0, 1e6)
    # Nothing in common: every kernel but the widest is 1 on the diagonal and 0 elsewhere.
    assert mmd(torch.zeros(1, 2), torch.full((1, 2), 1e9)).item() == pytest.approx(38)


@pytest.mark.parametrize("kernel", ["fixed", "median"])
def test_mmd_of_equal_sets_is_0_and_grows_with_a_shift(kernel):
    x = points(40)
    assert abs(mmd(x, x, kernel).item()) < 1e-8
    assert abs(mmd(x, x.flip(0), kernel).item()) < 1e-8
    found = [mmd(x, points(40, seed=1, shift=shift), kernel).item() for shift in (0, 0.3, 0.6, 1.2, 2.4)]
    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] > 3 * found[0]


def test_mmd_of_points_that_all_agree():
    x = torch.ones(4, 3, requires_grad=True)
    for kernel in ("fixed", "median"):
        value = mmd(x, torch.ones(4, 3), kernel)
        assert value.item() == 0
        (gradient,) = torch.autograd.grad(value, x)
        assert not gradient.any()


def test_the_gradient_of_mmd():
    x, y = points(4).requires_grad_(True), points(3, seed=1)
    assert torch.autograd.gradcheck(lambda a: mmd(a, y), x)
    (gradient,) = torch.autograd.grad(mmd(x, y + 3), x)
    assert (x - 1e-2 * gradient - (y + 3).mean(0)).norm() < (x - (y + 3).mean(0)).norm()


def test_the_floor_of_the_published_code_has_no_gradient_and_ours_has():
    x = (points(6) * 1e-9).requires_grad_(True)
    value = mmd(x, x.detach() + 1e-6, floor=1e-4)
    assert value.item() == pytest.approx(1e-4)
    assert not torch.autograd.grad(value, x)[0].any()
    assert torch.autograd.grad(mmd(x, x.detach() + 1e-6), x)[0].any()


def test_distances_store_no_differences_of_coordinates():
    x = points(6, 3)
    assert torch.allclose(squared_distances(x), torch.cdist(x, x).square(), atol=1e-12)
    assert squared_distances(x.float()).dtype == torch.float64


# Correlation alignment


def test_coral_by_hand():
    x, y = points(9, 3), 2 * points(8, 3, seed=1) + 1
    difference = np.cov(x.numpy().T) - np.cov(y.numpy().T)
    assert coral(x, y).item() == pytest.approx((difference**2).sum() / (4 * 9))
    one = coral(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [4.0]]))  # variances 2 and 8
    assert one.item() == pytest.approx(36 / 4)
    assert coral(x, x).item() == 0
    assert coral(x, x + 5).item() == pytest.approx(0, abs=1e-20)  # means are another matter
    assert not covariance(x[:1]).any()


# Adversary


def test_the_gradient_is_reversed():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.arange(12.0).view(4, 3)
    for strength in (0.0, 0.3, 1.0):
        found = reversed_gradient(x, strength)
        assert torch.equal(found, x)
        (gradient,) = torch.autograd.grad((found * weight).sum(), x)
        assert torch.allclose(gradient, -strength * weight)


def test_the_schedule_of_the_reversal():
    assert strength_at(0) == 0
    assert 1 - strength_at(1) == pytest.approx(2 / (1 + math.exp(10)), rel=1e-6)
    assert strength_at(0.2) == pytest.approx(math.tanh(1))
    values = [strength_at(p) for p in np.linspace(0, 1, 11)]
    assert values == sorted(values)


def seen(n=6, m=6, d=5, classes=3, progress=0.5, grad=True):
    features = points(n + m, d).float()
    features[n:] += 2
    output = points(n + m, classes, seed=3).float()
    if grad:
        features.requires_grad_(True)
        output.requires_grad_(True)
    return Domains(features, output, torch.arange(n) % classes, torch.arange(m), progress)


@pytest.mark.parametrize("conditional", [False, True])
def test_features_climb_the_loss_that_the_domain_network_descends(conditional):
    torch.manual_seed(0)
    condition = Conditioned(5, 3, seed=0) if conditional else None
    adversary = Adversary(5, condition, scheduled=True).eval()
    batch = seen(progress=0.3)
    terms = adversary(batch)
    assert float(terms["reversal"]) == pytest.approx(strength_at(0.3))
    (reverse,) = torch.autograd.grad(terms["alignment"], batch.features)
    straight = batch.features.detach().requires_grad_(True)
    inputs = straight
    if condition is not None:
        probabilities = batch.output.detach().softmax(1)
        inputs = torch.einsum("bd,bk->bdk", straight, probabilities).flatten(1)
    logits = adversary.domains(inputs)[:, 0].double()
    expected = (
        -(torch.log(torch.sigmoid(logits[:6])).sum() + torch.log(1 - torch.sigmoid(logits[6:])).sum()) / 12
    )
    assert terms["alignment"].item() == pytest.approx(expected.item(), rel=1e-5)
    (plain,) = torch.autograd.grad(expected, straight)
    assert torch.allclose(reverse, -strength_at(0.3) * plain.float(), rtol=1e-4, atol=1e-9)
    assert plain.abs().max() > 0


def test_probabilities_that_condition_get_no_gradient():
    batch = seen()
    terms = Adversary(5, Conditioned(5, 3, seed=0), scheduled=False).eval()(batch)
    assert float(terms["reversal"]) == 1
    assert torch.autograd.grad(terms["alignment"], batch.output, allow_unused=True)[0] is None


def test_loss_and_accuracy_of_domains():
    logits = torch.tensor([[2.0], [-1.0], [-3.0], [0.5]])
    loss, accuracy = domain_loss(logits, 2)
    p = expit(np.array([2.0, -1.0, -3.0, 0.5]))
    assert loss.item() == pytest.approx(-np.log([p[0], p[1], 1 - p[2], 1 - p[3]]).mean(), rel=1e-6)
    assert accuracy.item() == 0.5


def test_the_domain_network_is_that_of_the_paper():
    net = DomainNet(256)
    assert [type(layer).__name__ for layer in net] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert (
        sum(parameter.numel() for parameter in net.parameters()) == 256 * 1024 + 1024 + 1024**2 + 1024 + 1025
    )
    assert net[2].p == 0.5
    assert net[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert net[-1].weight.std().item() == pytest.approx(0.3, rel=0.2)


def test_a_wide_outer_product_is_randomised_without_bias():
    wide = Conditioned(3000, 3, seed=1)
    assert wide.width == 1024
    assert not wide.state_dict()  # projections are made again from the seed
    assert torch.equal(wide.first, Conditioned(3000, 3, seed=1).first)
    assert not torch.equal(wide.first, Conditioned(3000, 3, seed=2).first)
    f, g = points(2, 3000).float() / 50, points(2, 3, seed=1).float()
    inner = (f[0] @ f[1]) * (g[0] @ g[1])  # of the outer products
    found = [Conditioned(3000, 3, seed)(f, g) for seed in range(20)]
    estimates = torch.stack([one[0] @ one[1] for one in found])
    assert abs(estimates.mean() - inner) < 4 * estimates.std() / math.sqrt(20)
    assert Conditioned(5, 3, seed=0)(f[:, :5], g).shape == (2, 15)


# Entropy, mutual information, Fisher


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_entropies_lie_between_0_and_log_k(classes):
    logits = 4 * points(20, classes)
    p = softmax(logits.numpy(), axis=1)
    each = scipy_entropy(p, axis=1)
    assert mean_entropy(logits).item() == pytest.approx(each.mean())
    expected = scipy_entropy(p.mean(0)) - each.mean()
    assert mutual_information(logits).item() == pytest.approx(expected)
    assert 0 < each.mean() < math.log(classes)
    assert mean_entropy(torch.zeros(4, classes)).item() == pytest.approx(math.log(classes))
    certain = 1e4 * torch.eye(classes, dtype=torch.float64)
    assert mean_entropy(certain).item() == 0
    assert mutual_information(certain).item() == pytest.approx(math.log(classes))
    assert mutual_information(certain[:1].expand(5, -1)).item() == pytest.approx(0, abs=1e-12)


def test_fisher_by_hand():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 3.0], [4.0, 5.0], [4.0, 4.0]])
    y = torch.tensor([0, 0, 2, 2, 2])
    # Means (1, 0), (4, 4), of all (2.8, 2.4): within 1 + 1 + 1 + 1, between 2 (3.24 + 5.76) + 3 (1.44 + 2.56).
    assert fisher(features, y).item() == pytest.approx(4 / 30)
    assert fisher(features, torch.zeros(5, dtype=torch.int64)).item() == 0
    assert fisher(torch.ones(4, 2), torch.tensor([0, 1, 0, 1])).item() == 0
    free = features.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(fisher(free, y), free)
    assert fisher(features - 0.01 * gradient, y) < fisher(features, y)
    (alone,) = torch.autograd.grad(fisher(free, y * 0), free)
    assert not alone.any()


# Universal


def test_clustering_is_the_entropy_over_neighbours():
    similarities = torch.tensor([[1.0, 0.5, -torch.inf], [0.2, 0.2, 0.2], [-torch.inf] * 3])
    first = scipy_entropy(softmax(np.array([1.0, 0.5]) / 0.5))
    expected = (first + math.log(3) + 0) / 3
    assert clustering(similarities, 0.5).item() == pytest.approx(expected, rel=1e-6)
    free = similarities.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(clustering(free, 0.05), free)
    assert bool(torch.isfinite(gradient).all())
    assert gradient[0, 0] < 0  # the nearest shall be nearer


def test_separation_leaves_what_is_near_the_threshold():
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.2, 0.0, 0.0]], requires_grad=True)
    h = scipy_entropy(softmax(logits.detach().double().numpy(), axis=1), axis=1)
    threshold, margin = math.log(3) / 2, 0.4
    away = np.maximum(abs(h - threshold), margin)
    assert abs(h[2] - threshold) < margin < abs(h[0] - threshold)
    value = separation(logits, threshold, margin)
    assert value.item() == pytest.approx(-away.mean(), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[0, 0] < 0  # sure: to be surer
    assert not gradient[2].any()


def test_the_memory_knows_neither_the_sample_itself_nor_what_it_has_not_seen():
    memory = Memory(samples=4, classes=2, width=3)
    f = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    assert torch.isinf(memory.similarities(f, torch.tensor([0, 2]))).all()
    memory.remember(f, torch.tensor([0, 2]))
    memory.learn_classes(torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, 1.0]]), torch.tensor([1, 1]))
    found = memory.similarities(f + 1, torch.tensor([2, 1]))
    unit = torch.nn.functional.normalize(f + 1)
    infinite = -torch.inf
    expected = [
        [infinite, unit[0, 2], unit[0, 0], infinite, infinite, infinite],
        [infinite, unit[1, 2], unit[1, 0], infinite, unit[1, 1], infinite],
    ]
    assert torch.allclose(found, torch.tensor(expected))
    memory.learn_classes(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([1]))
    moved = np.array([0.1, 0, 0.9]) / np.hypot(0.1, 0.9)
    assert memory.centres[1].tolist() == pytest.approx(moved, abs=1e-6)
    assert not memory.known[0]


def test_the_memory_keeps_the_later_of_two_draws_of_a_sample():
    memory = Memory(samples=3, classes=2, width=2)
    f = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])
    memory.remember(f, torch.tensor([2, 0, 2, 2, 0]))
    assert torch.allclose(memory.features, torch.stack([f[4], torch.zeros(2), f[3]]))
    assert memory.seen.tolist() == [True, False, True]


def test_universal_adaptation_looks_at_the_target_alone():
    batch = seen()
    universal = Universal(Memory(6, 3, 5), 0.05, math.log(3) / 2, 0.2, rising=True)
    first = universal(batch)
    assert first["alignment"].item() == pytest.approx(
        0.5 * (first["clustering"] + first["separation"]).item()
    )
    again = universal(batch)
    assert again["clustering"] != first["clustering"]  # by now there are neighbours
    features, output = torch.autograd.grad(again["alignment"], (batch.features, batch.output))
    assert not features[:6].any()
    assert not output[:6].any()
    assert bool(torch.isfinite(features).all())
    assert features[6:].any()


# Parameters

SPACE = InputSpace((1, 4, 4), (0.0,), (1.0,), ("r",))


def test_parameters_without_an_effect_are_refused():
    with pytest.raises(ValidationError, match="kernel: has no effect with method: coral"):
        DomainAdaptation(method="coral", kernel="median")
    with pytest.raises(ValidationError, match="entropy_margin: has no effect with method: mmd"):
        DomainAdaptation(entropy_margin=0.2)
    same = DomainAdaptation(method="dann", schedule="constant")
    assert DomainAdaptation(**same.model_dump()) == same


def test_what_speaks_of_classes_is_no_regression():
    redshift, shapes = Regression(("z",), tolerance=0.05), Classification(("a", "b"))
    for refused in ({"method": "cdan"}, {"method": "universal"}, {"entropy": 0.1}, {"fisher": 0.1}):
        assert "classification" in (DomainAdaptation(**refused).supports(SPACE, redshift) or "")
        assert DomainAdaptation(**refused).supports(SPACE, shapes) is None
    for method in ("mmd", "coral", "dann"):
        assert DomainAdaptation(method=method).supports(SPACE, redshift) is None


def test_validators_of_the_target():
    sure, unsure = 50 * torch.eye(3), torch.zeros(3, 3)
    collapsed = sure[:1].expand(3, -1)
    entropy, information = DomainAdaptation(validator="entropy"), DomainAdaptation()
    assert entropy.doubt(sure) == entropy.doubt(collapsed) < entropy.doubt(unsure)
    assert information.doubt(sure) < information.doubt(collapsed) == pytest.approx(0, abs=1e-6)
    assert DomainAdaptation(validator="source").doubt(unsure) == 0
