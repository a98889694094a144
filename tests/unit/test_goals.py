"""Goals, masks, compositions and transfer in the life of a cell."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from toys import Noise, Step, case, data, pipeline, samples

from advbench.api import Attack, Budget, Classification, InputSpace, Rng, Tags, Target, param
from advbench.components.identity import Spec
from advbench.evidence.figures import figures
from advbench.runtime.cell import Case
from advbench.runtime.cell import Step as Applied
from advbench.runtime.crafting import craft
from advbench.runtime.judging import judge
from advbench.runtime.network import Ensemble
from advbench.values import Mask


class Push(Attack):
    """Five signed steps, towards the goal."""

    tags = Tags(norms={"linf"}, needs_gradient=True, targeted=True, strength="eps")
    eps: Budget = param(3.0, "budget")

    def perturb(self, x: torch.Tensor, y: torch.Tensor, target: Target, rng: Rng) -> torch.Tensor:
        """Climb."""
        eps, point = self.eps.like(x), x
        for _ in range(5):
            point = point + eps / 5 * target.input_gradient(point, y).sign()
        return point


class Stubborn(Push):
    """Ignores the mask."""

    def perturb(self, x: torch.Tensor, y: torch.Tensor, target: Target, rng: Rng) -> torch.Tensor:
        """Move everything."""
        return x + self.eps.like(x)


class Common(Attack):
    """The mean gradient sign for everybody."""

    tags = Tags(norms={"linf"}, needs_gradient=True, universal=True, strength="eps")
    eps: Budget = param(3.0, "budget")

    def universal(self, x: torch.Tensor, y: torch.Tensor, target: Target, rng: Rng) -> torch.Tensor:
        """One step."""
        return self.eps.like(x) * target.input_gradient(x, y).sum(0, keepdim=True).sign()


def outcomes_of(one: Case) -> dict[str, np.ndarray]:
    return judge(one, craft(one))


class Rolling(Attack):
    """Moves everything by one pixel and says so."""

    tags = Tags(size="shift (px)")

    def perturb(self, x: torch.Tensor, y: torch.Tensor, target: Target, rng: Rng) -> torch.Tensor:
        """Roll; the second half in a call of its own."""
        half = torch.arange(len(x)) % 2 == 1
        target.measure(torch.ones(len(x)))
        target.take(half).measure(torch.full((int(half.sum()),), 3.0))
        return x.roll(1, dims=-1)


def test_an_attack_tells_its_own_measure() -> None:
    blobs = data()
    outcomes = outcomes_of(case(Rolling(), pipeline(blobs), samples(blobs)))
    attacked = outcomes["clean_correct"]
    assert np.isnan(outcomes["size"][~attacked]).all()
    assert sorted(set(outcomes["size"][attacked].tolist())) == [1.0, 3.0]
    success = attacked & ~outcomes["perturbed_correct"]
    row = figures(outcomes, blobs.task, attack=True)
    assert row["size_mean_success"] == pytest.approx(outcomes["size"][success].mean())


def test_a_targeted_attack_is_judged_by_its_goal() -> None:
    blobs = data()
    whole = pipeline(blobs)
    free = outcomes_of(case(Push(), whole, samples(blobs)))
    aimed = outcomes_of(case(Push(goal=1), whole, samples(blobs)))
    assert (aimed["aim"] == 1).all()
    assert np.array_equal(aimed["goal_reached"], aimed["perturbed_prediction"] == 1)
    assert np.array_equal(aimed["eligible"], aimed["target"] != 1)
    row = figures(aimed, blobs.task, attack=True)
    eligible = aimed["clean_correct"] & aimed["eligible"]
    assert row["n_success"] == (eligible & aimed["goal_reached"]).sum()
    assert row["attack_success_rate"] == row["n_success"] / eligible.sum()
    assert 0 < row["n_success"] <= figures(free, blobs.task, attack=True)["n_success"]
    untouched = ~eligible
    assert (aimed["linf"][untouched] == 0).all()


def test_goals_that_do_not_fit() -> None:
    space = InputSpace((1, 4, 4), (0.0,), (1.0,), ("x",))
    task = Classification(("a", "b", "c"))
    assert Push(goal="least-likely").supports(space, task) is None
    assert "no class 3" in (Push(goal=3).supports(space, task) or "")
    assert "regression" in (Push(goal="up").supports(space, task) or "")
    with pytest.raises(ValidationError, match="untargeted"):
        Step(goal=1)


def test_only_what_the_mask_allows_changes() -> None:
    blobs = data()
    whole = pipeline(blobs)
    mask = Mask(channels=("red", 3) if "red" in blobs.space.channels else (1, 3), box=(1, 0, 2, 4))
    one = case(Push(mask=mask), whole, samples(blobs))
    crafted = craft(one)
    allowed = mask.like(one.samples.x, blobs.space)
    assert allowed.sum() == 2 * 2 * 4
    changed = crafted.x != one.samples.x
    assert changed[:, allowed[0]].any()
    assert not changed[:, ~allowed[0]].any()
    assert not crafted.violation.any()
    stubborn = craft(case(Stubborn(mask=mask), whole, samples(blobs)))
    assert not (stubborn.x != one.samples.x)[:, ~allowed[0]].any()
    attacked = outcomes_of(one)["clean_correct"]
    assert np.array_equal(stubborn.violation.numpy(), attacked)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Mask(channels=("ultraviolet",)), "no channel 'ultraviolet'"),
        (Mask(channels=()), "no channel may change"),
        (Mask(box=(0, 0, 7, 2)), "does not lie within 6 x 6"),
    ],
)
def test_masks_that_do_not_fit(mask: Mask, words: str) -> None:
    blobs = data()
    assert words in (Push(mask=mask).supports(blobs.space, blobs.task) or "")


def test_the_attack_sees_the_shifted_image() -> None:
    blobs = data()
    whole, some = pipeline(blobs), samples(blobs)
    noise = Applied(Noise(), Spec("perturbation", "toys/noise", "{}", 1))
    shifted = craft(case(Noise(), whole, some)).x
    both = case(Push(eps=1), whole, some)
    both = replace(both, steps=(noise, *both.steps))
    crafted = craft(both)
    assert ((crafted.x - shifted).abs() <= 1 + 1e-5).all()
    alone = craft(case(Push(eps=1), whole, replace(some, x=shifted)))
    assert torch.equal(crafted.x, alone.x)


def test_transfer_is_crafted_on_other_networks() -> None:
    blobs = data()
    victim, some = pipeline(blobs), samples(blobs)
    other, third = pipeline(blobs, seed=1), pipeline(blobs, seed=2)
    one = case(Push(), victim, some, crafting=other, knowledge="transfer")
    direct = craft(case(Push(), other, some, knowledge="transfer"))
    assert torch.equal(craft(one).x, direct.x)
    assert (craft(one).forward == 5).all()  # whoever the other network has wrong is attacked as well
    many = Ensemble([other.network, third.network]).eval()
    mean = (other.predict(some.x, {}, some.rng(0, "")) + third.predict(some.x, {}, some.rng(0, ""))) / 2
    both = replace(other, network=many).predict(some.x, {}, some.rng(0, ""))
    assert torch.allclose(both, mean, atol=1e-5)


def test_one_perturbation_for_all_is_learned_elsewhere() -> None:
    blobs = data()
    some, learning = samples(blobs), samples(blobs, split="calibration")
    one = case(Common(eps=1), pipeline(blobs), some, learning=learning)
    crafted = craft(one)
    inside = (some.x > blobs.space.lower[0] + 1).all(0) & (some.x < blobs.space.upper[0] - 1).all(0)
    delta = (crafted.x - some.x)[:, inside]
    assert delta.shape[1] > 0
    assert ((delta - delta[0]).abs() < 1e-5).all()
    assert not crafted.violation.any()
    with pytest.raises(Exception, match="there is none"):
        craft(replace(one, learning=None))


def test_nobody_to_attack_is_a_row_without_successes() -> None:
    blobs = data()
    whole, some = pipeline(blobs), samples(blobs)
    one = case(Push(goal=1), whole, some)
    same = torch.nonzero(some.y == 1)[:, 0]
    outcomes = outcomes_of(replace(one, samples=some.take(same)))
    assert not outcomes["eligible"].any()
    assert (outcomes["forward_passes"] == 0).all()
    assert figures(outcomes, blobs.task, attack=True)["n_success"] == 0


class Greedy(Attack):
    """Asks for two passes, then one, again and again, for half of the samples at a time."""

    tags = Tags(norms={"linf"}, needs_gradient=True, stochastic=True, strength="eps")
    eps: Budget = param(3.0, "budget")

    def perturb(self, x: torch.Tensor, y: torch.Tensor, target: Target, rng: Rng) -> torch.Tensor:
        """Wander, at a speed of each sample's own."""
        point = x.clone()
        for turn in range(12):
            part = torch.nonzero((y + turn) % 3 > 0)[:, 0]
            if len(part):
                some = target.take(part)
                point[part] += 0.3 * some.input_gradient(point[part], y[part]).sign()
                some.output(point[part])
        return point.clamp(x - 3, x + 3)


@pytest.mark.parametrize("budget", [1, 4, 5, 11])
def test_a_budget_of_passes_is_each_samples_own(budget: int) -> None:
    blobs = data()
    whole, some = pipeline(blobs), samples(blobs)
    together = craft(case(Greedy(), whole, some, budget=budget))
    for batch in (1, 7):
        apart = craft(case(Greedy(), whole, some, budget=budget, batch=batch))
        assert torch.equal(together.x, apart.x)
        assert torch.equal(together.forward, apart.forward)
        assert torch.equal(together.backward, apart.backward)
    assert (together.forward + together.backward).max() <= budget
