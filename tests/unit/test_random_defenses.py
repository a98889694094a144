"""Attacks on random defenses must succeed in every draw: the judge draws anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.support.toys import Jitter, case, data, pipeline, samples

from advbench.runtime.crafting import craft
from advbench.runtime.judging import judge
from advbench.runtime.target import Meter, PipelineTarget
from advbench_attacks.pgd import PGD


class Wide(Jitter):
    """Noise that decides much of what is predicted."""

    def purify(self, x, space, rng):
        return x + 6 * rng.normal(*x.shape[1:])


def a_target(defense, budget=None):
    blobs = data()
    some = samples(blobs)
    whole = replace(pipeline(blobs), defenses=(defense,))
    meter = Meter(some.x, some.y, budget)
    target = PipelineTarget(whole, {}, some.rng(0, "t"), meter, torch.arange(len(some)))
    return target, some


def test_of_several_outputs_the_one_furthest_from_the_goal_is_shown():
    target, some = a_target(Wide())
    outputs = torch.randn(5, len(some), 3, generator=torch.Generator().manual_seed(0))
    worst = target.worst(outputs)
    margins = torch.stack([target.margin(output, some.y) for output in outputs])
    assert torch.equal(target.margin(worst, some.y), margins.amax(0))


def test_only_those_who_seem_to_succeed_pay_for_more_draws():
    target, some = a_target(Wide())
    first = target.take(torch.arange(len(some)))._outputs(some.x)
    lucky = target.is_adversarial(first, some.y)
    assert 0 < int(lucky.sum()) < len(some)
    fresh, _ = a_target(Wide())
    shown = fresh.output(some.x)
    assert torch.equal(fresh.meter.forward, torch.where(lucky, Wide().draws, 1))
    assert torch.equal(shown[~lucky], first[~lucky])
    assert int(fresh.is_adversarial(shown, some.y).sum()) < int(lucky.sum())


def test_companions_do_not_matter():
    target, some = a_target(Wide())
    everyone = target.output(some.x)
    order = torch.tensor([9, 2, 30])
    again, _ = a_target(Wide())
    assert torch.equal(again.take(order).output(some.x[order]), everyone[order])


@pytest.mark.parametrize("attack", [PGD(eps=8, steps=20), PGD(norm="l2", eps=90, steps=20)])
def test_what_the_attack_takes_for_a_success_is_one_for_the_judge(attack):
    target, some = a_target(Wide())
    one = case(attack, target.pipeline, some)
    crafted = craft(one)
    outcomes = judge(one, crafted)
    # Whoever left before the last step had succeeded in all 16 draws.
    early = outcomes["backward_passes"] < attack.steps * Wide().draws
    early &= outcomes["backward_passes"] > 0
    assert early.sum() >= 5
    assert (~outcomes["perturbed_correct"][early]).mean() >= 0.8
