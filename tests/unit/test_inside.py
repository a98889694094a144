"""Defenses around the network: what they have inside, and what attacks see of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.support.toys import Jitter, Round, Step, case, data, pipeline, samples
from torch import nn

from advbench.api import Certificate, Defense, PluginError, Tags
from advbench.runtime.cell import predict
from advbench.runtime.crafting import craft
from advbench.runtime.detection import learned
from advbench.runtime.judging import judge
from advbench.runtime.network import Network, freeze


class Noisy(Defense):
    """The mean over noisy copies of each input."""

    tags = Tags(wraps=True, stochastic=True)
    copies: int = 3

    @property
    def draws(self):
        return 1

    def predict(self, x, inside, space, rng):
        noise = rng.normal(self.copies, *x.shape[1:]).flatten(0, 1)
        output = inside.output(x.repeat_interleave(self.copies, 0) + noise)
        return output.unflatten(0, (len(x), self.copies)).mean(1)


class Flat(Noisy):
    """Votes have no gradient; what stands in for them has."""

    tags = Tags(wraps=True)

    def predict(self, x, inside, space, rng):
        output = inside.output(x)
        return nn.functional.one_hot(output.argmax(1), output.shape[1]).float() * 7

    def surrogate_predict(self, x, inside, space, rng):
        return inside.output(x)


class Mean(Defense):
    """The mean of several networks."""

    tags = Tags(wraps=True)

    @property
    def networks(self):
        return 2

    def predict(self, x, inside, space, rng):
        return torch.stack([member.output(x) for member in inside.members]).mean(0)


class Shifted(Defense):
    """Minus the mean output that it has learned."""

    tags = Tags(wraps=True, learns=True, certifies=True)

    def learn(self, x, y, inside, space):
        return {"mean": inside.output(x).mean(0), "features": inside.features(x).mean(0)}

    def predict(self, x, inside, space, rng):
        return inside.output(x) - inside.learned["mean"]

    @property
    def confidence(self):
        return 0.9

    def certify(self, x, inside, space, rng):
        return Certificate(inside.output(x).argmax(1), torch.arange(len(x)) * 1.0)


def linear(blobs):
    layers = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(blobs.space.shape), 3))
    return freeze(Network(layers, blobs.space, blobs.task, "linear"))


def defended(*defenses, blobs=None, **parts):
    return replace(pipeline(blobs or data()), defenses=defenses, **parts)


def test_a_wrapper_sees_several_rows_for_each_sample():
    blobs = data()
    some, bare = samples(blobs), pipeline(blobs)
    whole = defended(Noisy(), blobs=blobs)
    output = predict(whole, some, 0)
    draws = some.rng(0, "judge").normal(3, *some.x.shape[1:])
    expected = torch.stack([predict(bare, some, 0, some.x + draws[:, i]) for i in range(3)]).mean(0)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
    order = torch.tensor([7, 2, 11])
    assert torch.equal(predict(whole, some.take(order), 0), output[order])


def test_what_stands_inside_keeps_its_order():
    blobs = data()
    some = samples(blobs)
    inside, outside = defended(Flat(), Round(), blobs=blobs), defended(Round(), Flat(), blobs=blobs)
    bare = predict(defended(Round(), blobs=blobs), some, 0)
    for whole in (inside, outside):
        assert torch.equal(predict(whole, some, 0).argmax(1), bare.argmax(1))


def test_attacks_go_through_the_surrogate_and_the_judge_does_not():
    blobs = data()
    one = case(Step(eps=5), defended(Flat(), blobs=blobs), samples(blobs))
    found = craft(one)
    assert torch.equal(found.x, craft(case(Step(eps=5), pipeline(blobs), samples(blobs))).x)
    outcomes = judge(one, found)
    assert set(abs(outcomes["clean_margin"]).tolist()) == {7.0}
    assert outcomes["gradient_norm"][:64].min() > 0


def test_members_are_the_networks():
    blobs = data()
    one, other = pipeline(blobs, seed=1).network, pipeline(blobs, seed=2).network
    whole = defended(Mean(), blobs=blobs, members=(one, other))
    some = samples(blobs)
    each = [predict(replace(whole, defenses=(), network=network), some, 0) for network in (one, other)]
    torch.testing.assert_close(predict(whole, some, 0), (each[0] + each[1]) / 2)
    assert set(craft(case(Step(eps=1), whole, some)).forward.tolist()) == {0, 2}


def test_what_was_learned_is_at_hand():
    blobs = data()
    some, train = samples(blobs), samples(blobs, split="train")
    bare = pipeline(blobs)
    known = learned(Shifted(), bare, train, 0)
    torch.testing.assert_close(known["mean"], predict(bare, train, 0).mean(0))
    whole = defended(Shifted(), blobs=blobs, learned={0: known})
    torch.testing.assert_close(predict(whole, some, 0), predict(bare, some, 0) - known["mean"])


def test_certificates_stand_in_rows_without_perturbation_and_count_only_if_right():
    blobs = data()
    whole = defended(Shifted(), blobs=blobs, learned={0: {"mean": torch.zeros(3)}})
    one = case(None, whole, samples(blobs))
    outcomes = judge(one, craft(one))
    right = outcomes["clean_prediction"] == outcomes["target"]
    assert not outcomes["certified_radius"][~right].any()
    assert outcomes["certified_radius"][right].any()
    assert set(outcomes["certificate_confidence"]) == {0.9}
    behind = case(
        None, replace(whole, defenses=(Round(), *whole.defenses), learned={1: whole.learned[0]}), one.samples
    )
    assert "certified_radius" not in judge(behind, craft(behind))


def test_dropout_is_drawn_for_each_row():
    blobs = data()
    layers = nn.Sequential(
        nn.Conv2d(5, 4, 3), nn.Dropout2d(0.5), nn.Flatten(), nn.LazyLinear(3), nn.Dropout(0.2)
    )
    layers(torch.zeros(1, *blobs.space.shape))
    network = freeze(Network(layers, blobs.space, blobs.task, "dropped"))
    some = samples(blobs).take(torch.arange(8))
    whole = replace(pipeline(blobs), network=network)

    def passes(rows):
        part = some.take(rows)
        with torch.no_grad():
            inside = whole.inside(len(rows), {}, part.rng(0, "t"), False)
            return inside.output_with_dropout(part.x.repeat_interleave(4, 0)).unflatten(0, (len(rows), 4))

    found = passes(torch.arange(8))
    assert all(len(torch.unique(each, dim=0)) > 1 for each in found)
    order = torch.tensor([5, 0, 7, 3, 3, 3, 3, 3])
    torch.testing.assert_close(passes(order), found[order])
    plain = predict(whole, some, 0)
    assert not network.training
    torch.testing.assert_close(predict(whole, some, 0), plain)
    bare = replace(whole, network=linear(blobs)).inside(8, {}, some.rng(0, "t"), False)
    with pytest.raises(PluginError, match="no dropout"):
        bare.output_with_dropout(some.x)


def test_value_and_gradient_of_a_random_purifier_are_of_the_same_draws():
    class Scale(Jitter):
        def purify(self, x, space, rng):
            return x * (1 + rng.uniform(1, 1, 1))

        def surrogate(self, x, space, rng):
            return x * (1 + rng.uniform(1, 1, 1))

    blobs = data()
    some = samples(blobs).take(torch.arange(8))
    network = linear(blobs)
    whole = replace(pipeline(blobs), network=network, defenses=(Scale(),))
    point = some.x.clone().requires_grad_(True)
    output = whole.forward(point, {}, some.rng(0, "t"), differentiable=True)
    (gradient,) = torch.autograd.grad(output.sum(), point)
    factor = 1 + some.rng(0, "t").uniform(1, 1, 1)
    (bare,) = torch.autograd.grad(network(point).sum(), point)
    torch.testing.assert_close(output, network(some.x * factor))
    torch.testing.assert_close(gradient, bare * factor)
