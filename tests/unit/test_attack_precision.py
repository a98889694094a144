"""Attacks in bfloat16 find what the judge confirms in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.toys import case, data, pipeline, samples

from advbench.runtime import tasks
from advbench.runtime.crafting import craft
from advbench.runtime.judging import judge
from advbench.runtime.quick import lowered
from advbench_attacks.pgd import PGD


@pytest.fixture(scope="module")
def outcomes():
    blobs = data()
    whole, some = pipeline(blobs), samples(blobs)
    found = {}
    for precision in (None, torch.bfloat16):
        low = replace(whole, network=lowered(whole.network, precision))
        one = case(PGD(eps=4, steps=20), whole, some, crafting=low)
        found[precision] = judge(one, craft(one))
    return found


def test_as_many_succeed(outcomes):
    counts = [
        int((found["clean_correct"] & ~found["perturbed_correct"]).sum()) for found in outcomes.values()
    ]
    assert counts[0] > 10
    assert counts[1] >= 0.9 * counts[0]


def test_the_judge_keeps_to_float32(outcomes):
    full, low = outcomes.values()
    assert np.array_equal(full["clean_margin"], low["clean_margin"])


def test_a_success_is_larger_than_the_rounding_of_the_attack():
    blobs = data()
    whole = pipeline(blobs)
    low = replace(whole, network=lowered(whole.network, torch.bfloat16))
    assert (whole.rounding, low.rounding) == (tasks.ROUNDING, tasks.COARSE)
    assert whole.network.low is None  # the copy alone is lower
    some = samples(blobs)
    full, coarse = (one.predict(some.x, {}, some.rng(0, "t")) for one in (whole, low))
    assert coarse.dtype == torch.float32
    assert not torch.equal(full, coarse)
    assert (full - coarse).abs().amax() <= 4 * tasks.COARSE * full.abs().amax()
