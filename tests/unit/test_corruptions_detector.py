from __future__ import annotations

import math

import pytest
import torch
from tests.oracle.stand_in import KeyedRng, random_tensor, space_of

from advbench_corruptions.detector import BadColumns, BadPixels, Occlusion

SHAPE = (3, 30, 40)
SPACE = space_of(SHAPE, [-4.0, 0.0, 10.0], [50.0, 1.0, 12.0])
LOW, HIGH = SPACE.bounds_like(torch.zeros(1, *SHAPE))
COUNT = 40
X = LOW + random_tensor(COUNT, *SHAPE, low=0.2, high=0.8) * (HIGH - LOW)


def found_by(corruption):
    return corruption.corrupt(X, SPACE, KeyedRng(range(COUNT)))


def faults(found):
    """Dead and hot values; nothing else has changed."""
    dead, hot = found == LOW, found == HIGH
    assert torch.equal(found[~dead & ~hot], X[~dead & ~hot])
    return dead, hot


@pytest.mark.parametrize("fault", ["dead", "hot", "both"])
def test_bad_pixels_are_bad_in_all_channels_at_the_given_rate(fault):
    dead, hot = faults(found_by(BadPixels(fraction=0.1, fault=fault)))
    assert torch.equal(dead.any(1), dead.all(1))
    assert torch.equal(hot.any(1), hot.all(1))
    error = 4.5 * (0.1 / (COUNT * 1200)) ** 0.5
    share = {"dead": (0.1, 0), "hot": (0, 0.1), "both": (0.05, 0.05)}[fault]
    assert dead.float().mean() == pytest.approx(share[0], abs=error)
    assert hot.float().mean() == pytest.approx(share[1], abs=error)


@pytest.mark.parametrize(("axis", "lines", "dim"), [("columns", 40, 2), ("rows", 30, 3)])
def test_bad_lines_are_counted_exactly_and_run_from_end_to_end(axis, lines, dim):
    for fraction in (0.01, 0.1, 0.33, 1.0):
        dead, hot = faults(found_by(BadColumns(fraction=fraction, axis=axis)))
        assert torch.equal((dead | hot).any(dim), (dead | hot).all(dim))
        count = math.ceil(fraction * lines - 1e-9)
        per_sample = (dead | hot).all(dim).all(1).sum(1)
        assert (per_sample == count).all()
        assert (hot.all(dim).all(1).sum(1) == (count + 1) // 2).all()


def test_bad_columns_lie_anywhere():
    dead, hot = faults(found_by(BadColumns(fraction=0.1, fault="hot")))
    assert not dead.any()
    assert hot.all(2).all(1).any(0).float().mean() > 0.9  # 40 draws of 4 of 40 columns


@pytest.mark.parametrize("value", ["lower", "middle", "upper"])
def test_an_occlusion_hides_a_rectangle_of_the_given_area(value):
    found = found_by(Occlusion(fraction=0.25, value=value))
    covered = {"lower": LOW, "middle": (LOW + HIGH) / 2, "upper": HIGH}[value]
    hidden = (found == covered).all(1)
    assert (hidden.sum((1, 2)) == 15 * 20).all()
    assert (hidden.any(2).sum(1) == 15).all()
    assert torch.equal(found[(~hidden)[:, None].expand_as(X)], X[(~hidden)[:, None].expand_as(X)])
    assert hidden.any(0).float().mean() > 0.9  # somewhere else for each sample


@pytest.mark.parametrize("cls", [BadPixels, BadColumns, Occlusion])
def test_what_is_stronger_contains_what_is_weaker(cls):
    weak, strong = (found_by(cls(fraction=fraction)) != X for fraction in (0.1, 0.3))
    assert not (weak & ~strong).any()
