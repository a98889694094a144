"""The basic iterative method and momentum PGD: iterates of the papers, step by step."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from advbench.testing.stage import a_stage, craft_clean
from advbench_attacks.bim import BIM
from advbench_attacks.fgsm import fgsm
from advbench_attacks.mim import MomentumPGD, momentum_pgd
from advbench_attacks.pgd import pgd

from .stand_in import classes, linear, random_tensor, small_network, space_of

SHAPE = (3, 4, 4)


def the_stage(outputs=3, count=10):
    x = random_tensor(count, *SHAPE)
    return a_stage(space_of(SHAPE), classes(outputs), module=small_network(3, outputs), x=x)


def paper(stage, eps, alpha, steps, mu):
    """Iterates of Dong et al.'s Algorithm 1 in float32, mu = 0 for Kurakin et al.'s, clipped to [0, 1]."""
    x, y, target = stage.samples.x, stage.samples.y, stage.target()
    points, momentum = [x], torch.zeros_like(x)
    for _ in range(steps):
        gradient = target.evaluate(points[-1], y, "ce").gradient
        length = gradient.abs().sum((1, 2, 3), keepdim=True)
        momentum = mu * momentum + gradient / length
        point = points[-1] + alpha * momentum.sign()
        points.append(torch.minimum(torch.maximum(point, x - eps), x + eps).clamp(0, 1))
    margins = torch.stack([target.margin(target.output(point), y) for point in points])
    return torch.stack(points)[margins.argmin(0), torch.arange(len(x))]


def test_bim_is_the_paper_at_its_budget_of_eight_grey_levels():
    stage = the_stage()
    attack = BIM(eps="8/255", loss="ce", stop_on_success=False)
    assert attack.steps == 10  # min(8 + 4, 1.25 * 8)
    found = craft_clean(stage, attack, "attack").x
    assert torch.allclose(found, paper(stage, 8 / 255, 1 / 255, 10, 0.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mu", [0.5, 1.0])
def test_momentum_is_the_paper(mu):
    stage = the_stage()
    attack = MomentumPGD(eps=0.1, decay=mu, loss="ce", stop_on_success=False)
    found = craft_clean(stage, attack, "attack").x
    assert torch.allclose(found, paper(stage, 0.1, 0.01, 10, mu), rtol=0, atol=1e-6)


def test_without_decay_it_is_pgd():
    stage = the_stage()
    x, y = stage.samples.x, stage.samples.y
    eps = torch.full((1, 1, 1, 1), 0.1)
    options = {"norm": "linf", "eps": eps, "alpha": eps / 4, "steps": 6, "random_start": False}
    plain = pgd(x, y, stage.target(), stage.samples.rng(0, "t"), **options)
    found = momentum_pgd(x, y, stage.target(), stage.samples.rng(0, "t"), decay=0.0, **options)
    assert torch.equal(found, plain)


def test_one_step_is_the_fast_gradient_sign():
    stage = the_stage()
    x, y, target = stage.samples.x, stage.samples.y, stage.target()
    eps = torch.full((1, 1, 1, 1), 0.02)
    sign = fgsm(x, y, target, eps=eps).clamp(0, 1)
    worse = target.margin(target.output(sign), y) < target.margin(target.output(x), y)
    assert worse.any()
    for attack in (
        BIM(eps=0.02, alpha=0.02, steps=1, loss="margin"),
        MomentumPGD(eps=0.02, steps=1, loss="margin"),
    ):
        found = craft_clean(stage, attack, "attack").x
        assert torch.allclose(found[worse], sign[worse], rtol=0, atol=1e-7)


def test_the_direction_does_not_depend_on_the_length_of_gradients():
    """Gradients that shrink by 1e-30 on the way, and one that vanishes, count as much as the paper lets them."""
    x = random_tensor(3, *SHAPE)
    weight = random_tensor(2, 48, low=-1)
    for scale in (1.0, 1e-30, 0.0):
        bias = torch.tensor([1e-3, 0.0]) if scale == 0 else None
        stage = a_stage(space_of(SHAPE, -9.0, 9.0), classes(2), module=linear(weight * scale, bias), x=x)
        found = craft_clean(stage, MomentumPGD(eps=0.1, stop_on_success=False, loss="margin"), "attack").x
        if scale == 0:
            assert torch.equal(found, x)
        else:
            toward = (weight[1 - stage.samples.y] - weight[stage.samples.y]).view(x.shape).sign()
            assert torch.allclose(found, x + 0.1 * toward, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_leaving_the_batch_takes_the_momentum_along(norm):
    stage = the_stage(count=24)
    eps = {"linf": 0.03, "l2": 0.15}[norm]
    whole = craft_clean(stage, MomentumPGD(norm=norm, eps=eps), "attack")
    assert len(set(whole.forward.tolist())) > 2
    for row in (0, 7, 23):
        alone = craft_clean(stage.take([row]), MomentumPGD(norm=norm, eps=eps), "attack")
        assert torch.equal(alone.x[0], whole.x[row])


def test_parameters():
    with pytest.raises(ValidationError, match="repeat the same run"):
        MomentumPGD(restarts=2)
    assert MomentumPGD(restarts=2, random_start=True).passes() == 2 * 21
    assert BIM().passes() == 21
    assert BIM(eps=[0.1, 0.2]).supports(space_of(SHAPE), classes(2)) == "eps has 2 entries for 3 channels"
