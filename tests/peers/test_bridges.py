"""The bridges: the way to [0, 1] and back, what is refused, and what the libraries do on the other side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of
from tests.peers.peers import installed
from torch import Tensor, nn

from advbench.api import Attack, Budget, InputSpace, PluginError
from advbench.errors import BudgetExhausted
from advbench.runtime.threat import ball_norm
from advbench.testing.stage import a_stage, craft_clean, craft_with
from advbench_attacks.fgsm import FGSM
from advbench_bridges.art import Art
from advbench_bridges.art_preprocessor import ArtPreprocessor
from advbench_bridges.attack import LibraryAttack
from advbench_bridges.foolbox import Foolbox
from advbench_bridges.library import Library
from advbench_bridges.torchattacks import Torchattacks, TorchattacksBlackbox
from advbench_bridges.unit import Unit, size_in_unit
from advbench_defenses.feature_squeezing import FeatureSqueezing

WIDE = space_of((5, 8, 8), -4.0, 50.0)
UNEVEN = space_of((2, 4, 4), [0.0, 10.0], [1.0, 14.0])
ABSENT = Library("nowhere.attacks", "no-such-library", "pip install nowhere", "nowhere:Attack")


def need(library: str) -> None:
    if not installed(library):
        pytest.skip(f"{library} is not installed")


# --- the way there and back ---------------------------------------------------------------------------------------


def test_a_budget_is_scaled_with_the_bounds() -> None:
    assert size_in_unit("linf", Budget.of(0.54), WIDE) == pytest.approx(0.01)
    assert size_in_unit("l2", Budget.of([0.1, 0.4]), UNEVEN) == pytest.approx(0.1)
    assert size_in_unit("pixels", Budget.of(3), UNEVEN) == 3
    assert size_in_unit("l0", None, UNEVEN) is None
    for norm, eps in (("linf", Budget.of(0.1)), ("l2", None), ("l2", Budget.of([0.1, 0.1]))):
        with pytest.raises(ValueError, match="not the same for all channels"):
            size_in_unit(norm, eps, UNEVEN)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("space", [WIDE, UNEVEN, space_of((3, 8, 8))])
def test_rounding_breaks_neither_bounds_nor_budget(norm: str, space: InputSpace) -> None:
    """A library that goes exactly to the end of its ball and clips is never seen as a violator."""
    for scale in (1e-3, 0.1, 0.7):
        width = torch.tensor(space.upper) - torch.tensor(space.lower)
        eps = Budget.of((scale * width).tolist())
        lower, upper = space.bounds_like(torch.zeros(1, *space.shape))
        x = lower + random_tensor(1, *space.shape, low=-0.2, high=1.2).clamp(0, 1) * (upper - lower)
        unit = Unit.around(x, space, None, norm, eps)
        size = size_in_unit(norm, eps, space)
        assert size is not None
        step = random_tensor(1, *space.shape, low=-1, high=1, seed=1)
        step = step.sign() if norm == "linf" else step / step.norm(p=2 if norm == "l2" else 1)
        point = unit.restore((unit.start + size * step).clamp(0, 1))
        assert ((point >= lower) & (point <= upper)).all()
        assert ball_norm(point.double() - x.double(), norm, eps.like(x)).max() <= 1 + 1e-6
        assert torch.equal(unit.restore(unit.start), x)


def test_what_goes_further_than_rounding_is_left_for_the_harness() -> None:
    x = torch.full((1, 5, 8, 8), 20.0)
    unit = Unit.around(x, WIDE, None, "linf", Budget.of(0.54))
    assert ball_norm(unit.restore(unit.start + 0.011) - x, "linf").item() == pytest.approx(0.594, rel=1e-4)


def test_the_gradient_goes_straight_through_with_the_width_and_the_mask() -> None:
    x = torch.full((1, 5, 8, 8), 50.0)  # on the bound, where clipping would stop it
    mask = torch.zeros(1, 5, 8, 8, dtype=torch.bool)
    mask[:, :2] = True
    unit = Unit.around(x, WIDE, mask, "linf", Budget.of(0.54))
    point = (unit.start + 0.005).requires_grad_(True)
    (gradient,) = torch.autograd.grad(unit.restore(point).sum(), point)
    assert torch.equal(gradient, 54.0 * mask)


# --- the target as a module ---------------------------------------------------------------------------------------


def test_the_module_counts_passes_and_has_the_gradient_of_the_target() -> None:
    stage = a_stage(WIDE, classes(3), extras={"reddening": torch.linspace(0, 1, 12)[:, None]})
    x, y = stage.samples.x[4:5], stage.samples.y[4:5]
    target = stage.target()
    one = target.take(torch.tensor([4]))
    network = one.module()
    point = x.repeat(3, 1, 1, 1).requires_grad_(True)
    output = network(point)
    output.gather(1, y.expand(3)[:, None]).sum().backward()
    truth = one.evaluate(x, y, lambda output, y: output.gather(1, y[:, None])[:, 0])
    assert torch.allclose(point.grad, truth.gradient.expand_as(point), rtol=1e-4, atol=1e-8)
    assert torch.allclose(output, truth.output.expand_as(output), atol=1e-5)
    assert target.meter.forward.tolist() == [0] * 4 + [4] + [0] * 7
    assert target.meter.backward.tolist() == [0] * 4 + [4] + [0] * 7
    with torch.no_grad():
        network(x)
    assert target.meter.backward.sum() == 4
    network.train()
    assert [parameter.requires_grad for parameter in network.parameters()] == [False]
    assert all(parameter.grad is None for parameter in stage.network.parameters())
    assert not stage.network.training


def test_the_module_keeps_the_threat_model() -> None:
    stage = a_stage(WIDE, classes(3))
    with pytest.raises(PluginError, match="one sample"):
        stage.target().module()
    one = stage.target().take(torch.tensor([0]))
    x = stage.samples.x[:1].clone().requires_grad_(True)
    mask = torch.zeros(1, 5, 8, 8, dtype=torch.bool)
    mask[:, 3] = True
    (gradient,) = torch.autograd.grad(replace(one, mask=mask).module()(x).sum(), x)
    assert torch.equal(gradient != 0, mask)
    blackbox = replace(one, gradients=False).module()
    assert blackbox(x.detach()).shape == (1, 3)
    with pytest.raises(PluginError, match="does not grant"):
        blackbox(x).sum().backward()
    short = stage.target(budget=1).take(torch.tensor([0])).module()
    output = short(x).sum()
    with pytest.raises(BudgetExhausted):
        output.backward()


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_library_that_is_not_installed_is_named_with_the_command() -> None:
    class Nowhere(LibraryAttack):
        library = ABSENT

    reason = Nowhere(attack="Anything", params={"whatever": 1}).supports(WIDE, classes(3))
    assert reason == "nowhere is not installed: pip install nowhere"


@pytest.mark.parametrize(
    ("bridge", "parameters", "message"),
    [
        (
            Torchattacks,
            {"attack": "PDG", "eps": 1},
            "torchattacks has no 'PDG' (did you mean 'PGD'?); it has",
        ),
        (
            Torchattacks,
            {"attack": "PGD", "eps": 1, "params": {"iters": 5}},
            "PGD has no parameter 'iters' (did you mean 'steps'?); it has eps, alpha, steps, random_start",
        ),
        (Torchattacks, {"attack": "PGD"}, "PGD keeps a budget; give eps"),
        (Torchattacks, {"attack": "CW", "norm": "l2", "eps": 1}, "CW keeps no budget; leave eps out"),
        (Torchattacks, {"attack": "PGDL2", "eps": 1}, "PGDL2 is for l2, not linf"),
        (Torchattacks, {"attack": "LGV", "eps": 1}, "has no 'LGV'"),
        (Art, {"attack": "ProjectedGradientDecent", "eps": 1}, "did you mean 'ProjectedGradientDescent'?"),
        (Art, {"attack": "FastGradientMethod", "eps": 1, "params": {"steps": 1}}, "no parameter 'steps'"),
        (Art, {"attack": "FeatureAdversariesPyTorch"}, "needs 'delta'"),
        (Art, {"attack": "SquareAttack", "eps": 1, "norm": "l0"}, "SquareAttack is for linf, l2, l1, not l0"),
        (Foolbox, {"attack": "LinfPGD", "eps": 1, "params": {"step": 5}}, "(did you mean 'steps'?)"),
        (Foolbox, {"attack": "L2PGD", "eps": 1}, "L2PGD is for l2, not linf"),
        (Foolbox, {"attack": "DDNAttack", "norm": "l2", "eps": 1}, "DDNAttack keeps no budget"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    bridge: type[LibraryAttack], parameters: dict[str, Any], message: str
) -> None:
    need(bridge.library.name)
    with pytest.raises(ValidationError) as caught:
        bridge(**parameters)
    (error,) = caught.value.errors()
    assert message in error["msg"]
    assert "\n" not in error["msg"]


def test_what_the_data_cannot_have_is_a_reason() -> None:
    need("torchattacks")
    attack = Torchattacks(attack="PGD", eps=0.1)
    assert attack.supports(space_of((6,)), classes(3)) == "torchattacks needs images (c, h, w)"
    assert "not the same for all channels" in str(attack.supports(UNEVEN, classes(3)))
    assert Torchattacks(attack="PGD", eps=[0.1, 0.4]).supports(UNEVEN, classes(3)) is None
    targeted = Torchattacks(attack="APGDT", eps=0.1)
    assert targeted.supports(WIDE, classes(3)) == "torchattacks's APGDT needs 4 classes; the data have 3"
    assert targeted.supports(WIDE, classes(4)) is None


# --- attacks ------------------------------------------------------------------------------------------------------

FGSMS: dict[str, Callable[[float], Attack]] = {
    "torchattacks": lambda eps: Torchattacks(attack="FGSM", eps=eps),
    "art": lambda eps: Art(attack="FastGradientMethod", eps=eps),
    "foolbox": lambda eps: Foolbox(attack="LinfFastGradientAttack", eps=eps),
}
PGDS: dict[str, Callable[..., Attack]] = {
    "torchattacks": lambda **how: Torchattacks(attack="PGD", params={"steps": 4}, **how),
    "art": lambda **how: Art(
        attack="ProjectedGradientDescent",
        params={"eps_step": 0.01, "max_iter": 4, "num_random_init": 1},
        **how,
    ),
    "foolbox": lambda **how: Foolbox(attack="LinfPGD", params={"steps": 4}, **how),
}


@pytest.mark.parametrize("library", FGSMS)
def test_fgsm_is_ours_in_any_bounds(library: str) -> None:
    need(library)
    stage = a_stage(WIDE, classes(3))
    theirs = craft_clean(stage, FGSMS[library](0.27), "b")
    ours = craft_clean(stage, FGSM(eps=0.27, loss="ce"), "a")
    apart = (theirs.x - ours.x).abs() > 1e-5
    assert apart.float().mean() <= 1e-3  # signs of gradients that are zero to within rounding
    assert (theirs.backward == 1).all()


@pytest.mark.parametrize("library", PGDS)
def test_a_mask_that_the_library_does_not_know_is_kept(library: str) -> None:
    need(library)
    stage = a_stage(WIDE, classes(3))
    attack = PGDS[library](eps=2.0, mask={"channels": [0, 3], "box": [1, 1, 6, 5]})
    crafted = craft_clean(stage, attack, "b")
    assert attack.mask is not None
    allowed = attack.mask.like(stage.samples.x, WIDE)
    changed = crafted.x != stage.samples.x
    assert not (changed & ~allowed).any()
    assert changed.any(0)[None][allowed].float().mean() > 0.9


@pytest.mark.parametrize("library", PGDS)
def test_networks_that_return_pairs_and_take_extra_inputs_work(library: str) -> None:
    need(library)

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(320, 3)

        def forward(self, x: Tensor, reddening: Tensor) -> tuple[Tensor, Tensor]:
            features = x.flatten(1)
            return features, self.layer(features / 20) + reddening

    extras = {"reddening": torch.linspace(0, 1, 12)[:, None]}
    stage = a_stage(WIDE, classes(3), module=Pair(), extras=extras)
    crafted = craft_clean(stage, PGDS[library](eps=5.0), "b")
    assert (crafted.backward >= 4).all()
    assert (crafted.x != stage.samples.x).flatten(1).any(1).all()


def test_the_budget_of_one_sample_is_not_that_of_the_others() -> None:
    need("torchattacks")
    stage = a_stage(WIDE, classes(3))
    crafted = craft_clean(stage, PGDS["torchattacks"](eps=2.0), "b", budget=5)
    assert (crafted.forward + crafted.backward >= 4).all()
    assert (crafted.forward + crafted.backward <= 5).all()
    assert (crafted.x != stage.samples.x).flatten(1).any(1).all()


def test_a_black_box_is_attacked_without_gradients() -> None:
    need("torchattacks")
    stage = a_stage(WIDE, classes(3))
    square = TorchattacksBlackbox(attack="Square", params={"n_queries": 10}, eps=2.0)
    assert not craft_with(stage, square, "b", knowledge="blackbox").backward.any()
    with pytest.raises(PluginError, match="does not grant"):
        craft_with(stage, TorchattacksBlackbox(attack="FGSM", eps=2.0), "b", knowledge="blackbox")


def test_a_defect_of_a_library_shows_as_violations() -> None:
    """torchattacks's DeepFool divides by the gradient: where that is zero, what comes back is no number."""
    need("torchattacks")

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([2.0, 1.0, 0.0]) + 0 * x.flatten(1).sum(1, keepdim=True)

    stage = a_stage(WIDE, classes(3), module=Constant())
    crafted = craft_with(stage, Torchattacks(attack="DeepFool", norm="l2"), "b")
    assert crafted.violation.all()
    assert torch.equal(crafted.x, stage.samples.x)


# --- preprocessors ------------------------------------------------------------------------------------------------


def test_feature_squeezing_of_art_is_ours() -> None:
    need("art")
    x = -4 + 54 * random_tensor(3, 5, 8, 8)
    rng = KeyedRng(range(3))
    theirs = ArtPreprocessor(preprocessor="FeatureSqueezing", params={"bit_depth": 3}).purify(x, WIDE, rng)
    ours = FeatureSqueezing(bit_depth=3, median=None).purify(x, WIDE, rng)
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert theirs.dtype == x.dtype


def test_spatial_smoothing_of_art_is_our_median() -> None:
    need("art")
    x = -4 + 54 * random_tensor(3, 5, 8, 8)
    rng = KeyedRng(range(3))
    smoothing = ArtPreprocessor(preprocessor="SpatialSmoothing", params={"window_size": 3})
    ours = FeatureSqueezing(bit_depth=None, median=3).purify(x, WIDE, rng)
    assert torch.allclose(smoothing.purify(x, WIDE, rng), ours, atol=1e-5)


def test_preprocessors_say_what_they_cannot_do() -> None:
    need("art")
    assert ArtPreprocessor(preprocessor="JpegCompression").supports(WIDE, classes(3)) == (
        "ART compresses images of 1 or 3 channels; the data have 5"
    )
    with pytest.raises(ValidationError, match="no parameter 'bits'"):
        ArtPreprocessor(params={"bits": 3})
