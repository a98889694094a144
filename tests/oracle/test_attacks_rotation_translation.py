from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from advbench.api import Regression
from advbench.runtime.rng import isolated_rng
from advbench.testing.stage import a_stage, craft_clean, craft_with
from advbench.values import Mask
from advbench_attacks.rotation_translation import Motion, RotationTranslation, motions, move

from .stand_in import classes, random_tensor, small_network, space_of

SMALL = {"angles": 5, "shifts": 3, "max_shift": 2.0}
WIDE = space_of((5, 9, 9), -4.0, 50.0)


def a_wide_stage(count=12, task=None, outputs=4):
    x = random_tensor(count, 5, 9, 9, seed=3, low=-4, high=50)
    return a_stage(WIDE, task or classes(outputs), module=small_network(5, outputs), x=x)


@pytest.mark.parametrize("fill", [None, torch.full((1, 1, 1, 1), 7.0)])
def test_known_motions(fill):
    x = random_tensor(2, 3, 7, 7)
    assert torch.equal(move(x, Motion(0, 0, 0), fill), x)
    assert torch.allclose(move(x, Motion(90, 0, 0), fill), x.rot90(1, (2, 3)), rtol=0, atol=1e-5)
    assert torch.allclose(move(x, Motion(-90, 0, 0), fill), x.rot90(-1, (2, 3)), rtol=0, atol=1e-5)
    mode, value = ("replicate", None) if fill is None else ("constant", 7.0)
    expected = nn.functional.pad(x, (3, 0, 0, 2), mode=mode, value=value)[:, :, 2:, :7]
    assert torch.equal(move(x, Motion(0, -2, 3), fill), expected)


def test_rotations_agree_with_scipy():
    x = random_tensor(1, 1, 11, 14, low=-4, high=50).double()
    for angle in (-30.0, 7.5, 121.0):
        for fill, mode in ((None, "nearest"), (torch.full((1, 1, 1, 1), 3.0), "grid-constant")):
            expected = ndimage.rotate(x[0, 0].numpy(), angle, reshape=False, order=1, mode=mode, cval=3.0)
            found = move(x, Motion(angle, 0, 0), fill)[0, 0].numpy()
            assert np.allclose(found, expected, rtol=0, atol=1e-9)


def test_the_grid_holds_every_motion_once_and_starts_with_none():
    grid = motions(30, 31, 3, 5)
    assert len(grid) == len(set(grid)) == 775
    assert grid[0] == Motion(0, 0, 0)
    assert {abs(entry) for entry in grid[-1]} == {30, 3}
    assert sorted({one.down for one in grid}) == [-3, -1.5, 0, 1.5, 3]
    assert motions(30, 1, 0, 1) == [Motion(0, 0, 0)]


def test_each_sample_leaves_with_the_first_motion_that_succeeds():
    stage = a_wide_stage()
    attack = RotationTranslation(**SMALL)
    crafted = craft_clean(stage, attack, "t", knowledge="blackbox")
    lower = WIDE.bounds_like(crafted.x)[0]
    grid = motions(30, 5, 2, 3)
    wrong = torch.stack(
        [stage.output(move(stage.samples.x, one, lower)).argmax(1) != stage.samples.y for one in grid]
    )
    assert wrong.any(0).any()
    assert torch.equal(stage.output(crafted.x).argmax(1) != stage.samples.y, wrong.any(0))
    first = torch.where(wrong.any(0), wrong.long().argmax(0) + 1, len(grid))
    assert torch.equal(crafted.forward, first)
    assert not crafted.backward.any()


def test_without_stopping_the_smallest_margin_of_the_grid_is_kept():
    stage = a_wide_stage()
    attack = RotationTranslation(**SMALL, stop_on_success=False, padding="replicate")
    crafted, target = craft_clean(stage, attack, "t"), stage.target()
    margins = [
        target.margin(target.output(move(stage.samples.x, one)), stage.samples.y)
        for one in motions(30, 5, 2, 3)
    ]
    found = target.margin(target.output(crafted.x), stage.samples.y)
    assert torch.equal(found, torch.stack(margins).amin(0))


def test_aims_at_a_class():
    stage = a_wide_stage(count=32)
    aim = (stage.samples.y + 1) % 4
    target = replace(stage.target(), aim=aim)
    with isolated_rng(0):
        found = RotationTranslation(**SMALL).perturb(
            stage.samples.x, stage.samples.y, target, stage.samples.rng(0, "t")
        )
    before, after = (target.margin(stage.output(x), stage.samples.y) for x in (stage.samples.x, found))
    assert (after <= before).all()
    assert (after < before).any()


@pytest.mark.parametrize(("goal", "sign"), [("untargeted", 0), ("up", 1), ("down", -1)])
def test_regression_takes_the_largest_error_of_the_grid(goal, sign):
    task = Regression(("redshift",), tolerance=100.0)
    stage = a_wide_stage(task=task, outputs=1)
    crafted = craft_clean(stage, RotationTranslation(goal=goal, **SMALL, fill=0.0), "t")
    fill = torch.zeros(1, 5, 1, 1)
    errors = torch.stack(
        [
            stage.output(move(stage.samples.x, one, fill))[:, 0] - stage.samples.y
            for one in motions(30, 5, 2, 3)
        ]
    )
    found = stage.output(crafted.x)[:, 0] - stage.samples.y
    expected = errors.abs().amax(0) if sign == 0 else (sign * errors).amax(0)
    assert torch.allclose(found.abs() if sign == 0 else sign * found, expected, rtol=0, atol=1e-6)


def test_batch_size_and_order_change_nothing():
    stage = a_wide_stage(count=64)
    attack = RotationTranslation(angles=3, shifts=3)
    everyone = craft_with(stage, attack, "t", batch=64)
    order = np.random.default_rng(0).permutation(64).tolist()
    for some, batch in ((list(range(64)), 7), (order, 64), (list(range(9)), 1)):
        found = craft_with(stage.take(some), attack, "t", batch=batch)
        assert torch.equal(found.x, everyone.x[some])
        assert torch.equal(found.forward, everyone.forward[some])


def test_values_stay_within_the_bounds_and_the_image():
    x = random_tensor(6, 2, 8, 8, low=-4, high=50)
    for angle in np.linspace(-180, 180, 25):
        image = move(x, Motion(float(angle), 1.3, -2.7))
        assert (image >= x.amin((2, 3), keepdim=True)).all()
        assert (image <= x.amax((2, 3), keepdim=True)).all()


def test_what_is_refused():
    task = classes(3)
    assert RotationTranslation().supports(WIDE, task) is None
    assert "no mask" in (RotationTranslation(mask=Mask(box=(0, 0, 2, 2))).supports(WIDE, task) or "")
    assert "outside" in (RotationTranslation(fill=60.0).supports(WIDE, task) or "")
    assert "images" in (RotationTranslation().supports(space_of((6,)), task) or "")
