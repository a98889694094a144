from __future__ import annotations

import pytest
import torch
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench_corruptions.quantisation import BitDepth, Quantisation

SHAPE = (2, 24, 24)
SPACE = space_of(SHAPE, [-4.0, 0.0], [50.0, 1.0])
LOW, HIGH = SPACE.bounds_like(torch.zeros(1, *SHAPE))
X = LOW + random_tensor(16, *SHAPE) * (HIGH - LOW)


def found_by(corruption, x=X, space=SPACE):
    return corruption.corrupt(x, space, KeyedRng(range(len(x))))


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_values_go_to_the_nearest_of_the_levels(bits):
    steps = 2**bits - 1
    unit = (found_by(BitDepth(bits=bits)) - LOW) / (HIGH - LOW) * steps
    assert (unit - unit.round()).abs().max() < 1e-3
    assert ((X - found_by(BitDepth(bits=bits))).abs() <= (HIGH - LOW) * (0.5 / steps + 1e-6)).all()
    assert len(unit.round().unique()) == min(2**bits, 256)


def test_eight_bits_are_kept_exactly():
    x = torch.arange(256).view(1, 1, 16, 16) / 255
    assert torch.equal(found_by(BitDepth(bits=8), x, space_of((1, 16, 16))), x)


def test_a_step_in_input_units_for_each_channel():
    found = found_by(Quantisation(step=[2.0, 0.25], relative=False))
    step = torch.tensor([2.0, 0.25]).view(1, 2, 1, 1)
    multiple = (found - LOW) / step
    assert (multiple - multiple.round()).abs().max() < 1e-5
    assert ((found - X).abs() <= step / 2 + 1e-5).all()
    wrong = Quantisation(step=[1, 2, 3]).supports(SPACE, classes(2))
    assert wrong == "step has 3 entries for 2 channels"


def test_dither_makes_the_error_uniform_and_free_of_bias():
    x = (LOW + 0.3 * (HIGH - LOW)).expand(64, *SHAPE)  # constant: plain rounding has one error everywhere
    plain = (found_by(Quantisation(step=0.25), x) - x) / (HIGH - LOW)
    assert plain.std() < 1e-6
    error = (found_by(Quantisation(step=0.25, dither=True), x) - x) / (HIGH - LOW)
    assert error.abs().max() <= 0.125 + 1e-6
    assert error.mean().abs() < 4.5 * 0.25 / (12 * error.numel()) ** 0.5
    assert error.std() == pytest.approx(0.25 / 12**0.5, rel=0.01)
    assert Quantisation(step=0.25, relative=False).strength_unit() == "input units"
