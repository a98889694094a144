"""The contract kit lets sound components pass and catches each way to break the contract."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from advbench.api import (
    Attack,
    Budget,
    Classification,
    Component,
    Corruption,
    Data,
    Dataset,
    Defense,
    InputSpace,
    Metric,
    Model,
    Recipe,
    Split,
    Tags,
    hookimpl,
    param,
)
from advbench.components.loader import Plugins, Source
from advbench.errors import UserError
from advbench.testing import BoundCheck, Check, Skip, checks_for, parametrize_checks, run_checks
from advbench.testing.check import Subject
from advbench.testing.toybox import advbench_toys

pytestmark = pytest.mark.usefixtures("one_thread")


def plugin_of(**components: type[Component]) -> Plugins:
    """A plugin "here" with these components."""
    module = ModuleType("here")
    for kind in {cls.kind for cls in components.values()}:

        def hook(register: Any, kind: str = kind) -> None:
            for name, cls in components.items():
                if cls.kind == kind:
                    register(name, cls)

        setattr(module, f"register_{kind}s", hookimpl(hook))
    return Plugins([Source("here", "test", lambda: module)])


def failures(cls: type[Component]) -> dict[str, str]:
    plugins = plugin_of(it=cls)
    results = run_checks(plugins, plugins.find(cls.kind, "here/it"))
    return {result.name: result.message for result in results if result.status == "failed"}


# --- attacks ------------------------------------------------------------------------------------------------------


class Signs(Attack):
    """A sound attack to break."""

    tags: ClassVar[Tags] = Tags(norms=("linf",), needs_gradient=True, strength="eps")
    eps: Budget = param(0.1, "size")

    def perturb(self, x, y, target, rng):
        return x + self.eps.like(x) * target.input_gradient(x, y).sign()


class InPlace(Signs):
    """Writes into its inputs."""

    def perturb(self, x, y, target, rng):
        return x.add_(self.eps.like(x) * target.input_gradient(x, y).sign())


class TooFar(Signs):
    """Goes beyond its budget in one band."""

    def perturb(self, x, y, target, rng):
        result = super().perturb(x, y, target, rng)
        result[:, -1] += 1e-3 * self.eps.like(x).max()
        return result


class WrongWay(Signs):
    """Goes down the loss."""

    def perturb(self, x, y, target, rng):
        return x - self.eps.like(x) * target.input_gradient(x, y).sign()


class NothingDone(Signs):
    """Returns its inputs."""

    def perturb(self, x, y, target, rng):
        target.input_gradient(x, y)
        return x.clone()


class GlobalNoise(Signs):
    """Draws from torch's generator."""

    tags: ClassVar[Tags] = Tags(norms=("linf",), strength="eps")

    def perturb(self, x, y, target, rng):
        return x + self.eps.like(x) * (2 * torch.rand_like(x) - 1)


class HiddenDraws(Signs):
    """Draws without saying so."""

    def perturb(self, x, y, target, rng):
        rng.uniform()
        return super().perturb(x, y, target, rng)


class LooksAround(Signs):
    """Steps by the mean over the batch."""

    def perturb(self, x, y, target, rng):
        gradient = target.input_gradient(x, y)
        return x + self.eps.like(x) * (gradient / gradient.abs().mean()).clamp(-1, 1)


class SecretGradient(Signs):
    """Asks for gradients without saying so."""

    tags: ClassVar[Tags] = Tags(norms=("linf",), strength="eps")


class NeedlessTag(Signs):
    """Says that it needs gradients, and never asks."""

    tags: ClassVar[Tags] = Tags(norms=("linf",), needs_gradient=True, stochastic=True, strength="eps")

    def perturb(self, x, y, target, rng):
        return x + self.eps.like(x) * rng.uniform(*x.shape[1:], low=-1.0)


class SwallowsStop(Signs):
    """Catches everything."""

    def perturb(self, x, y, target, rng):
        try:
            return super().perturb(x, y, target, rng)
        except Exception:  # noqa: BLE001 - what it is here for
            return x.clone()


class DividesByZero(Signs):
    """Normalises the gradient without looking."""

    def perturb(self, x, y, target, rng):
        gradient = target.input_gradient(x, y)
        return x + self.eps.like(x) * gradient / gradient.abs()


class ThirdLogit(Signs):
    """Needs a third class."""

    tags: ClassVar[Tags] = Tags(
        tasks={"classification"}, norms=("linf",), needs_gradient=True, strength="eps"
    )

    def perturb(self, x, y, target, rng):
        loss = lambda output, y: output.topk(3).values[:, 2] - target.margin(output, y)  # noqa: E731
        return x + self.eps.like(x) * target.input_gradient(x, y, loss).sign()


class OtherType(Signs):
    """Returns another dtype."""

    def perturb(self, x, y, target, rng):
        return super().perturb(x, y, target, rng).double()


class LeavesTraining(Signs):
    """Switches the network to train mode."""

    def perturb(self, x, y, target, rng):
        target.pipeline.network.train()
        return super().perturb(x, y, target, rng)


class ChangesExtras(Signs):
    """Attacks what may not be attacked."""

    def perturb(self, x, y, target, rng):
        for extra in target.extras.values():
            extra.zero_()
        return super().perturb(x, y, target, rng)


ATTACKS = {
    InPlace: {"inputs_are_left_alone", "batch_independence"},
    TooFar: {"keeps_its_budget"},
    WrongWay: {"stronger_than_noise", "regression"},
    NothingDone: {"stronger_than_noise", "regression"},
    GlobalNoise: {"global_rng_is_left_alone", "batch_independence"},
    HiddenDraws: {"returns_inputs_of_the_same_kind"},
    LooksAround: {"batch_independence"},
    SecretGradient: {"gradients_only_if_declared"},
    NeedlessTag: {"gradients_only_if_declared"},
    SwallowsStop: {"stops_when_told"},
    DividesByZero: {"constant_network"},
    ThirdLogit: {"any_number_of_classes"},
    OtherType: {"returns_inputs_of_the_same_kind"},
    LeavesTraining: {"network_is_left_alone"},
    ChangesExtras: {"extra_inputs"},
}


@pytest.mark.parametrize(("cls", "expected"), ATTACKS.items(), ids=[cls.__name__ for cls in ATTACKS])
def test_broken_attacks_are_caught(cls: type[Attack], expected: set[str]) -> None:
    assert expected <= set(failures(cls))


# --- corruptions --------------------------------------------------------------------------------------------------


class Dimmer(Corruption):
    """A sound corruption to break."""

    def corrupt(self, x, space, rng):
        return 0.9 * x + 0.1 * space.bounds_like(x)[0]


class BatchMean(Corruption):
    """Mixes samples."""

    def corrupt(self, x, space, rng):
        return 0.9 * x + 0.1 * x.mean(0, keepdim=True)


class Standardised(Corruption):
    """Divides by a spread that may be zero."""

    def corrupt(self, x, space, rng):
        return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)

    def supports(self, space, task):
        return None if len(space.shape) == 3 else "needs images"


class Coloured(Corruption):
    """Takes three channels for granted."""

    def corrupt(self, x, space, rng):
        return x[:, [2, 1, 0]]


class WrongDirection(Corruption):
    """Says that a smaller number is stronger."""

    tags: ClassVar[Tags] = Tags(strength="amount", stronger="lower")
    amount: float = param(0.2, "how much darker", ge=0, le=1)

    def corrupt(self, x, space, rng):
        return x + self.amount * (space.bounds_like(x)[0] - x)


class Faint(Corruption):
    """Does nothing."""

    def corrupt(self, x, space, rng):
        return x.clone()


CORRUPTIONS = {
    BatchMean: {"batch_independence"},
    Standardised: {"finite_everywhere"},
    Coloured: {"any_number_of_channels"},
    WrongDirection: {"weaker_changes_less"},
    Faint: {"changes_something"},
}


@pytest.mark.parametrize(("cls", "expected"), CORRUPTIONS.items(), ids=[cls.__name__ for cls in CORRUPTIONS])
def test_broken_corruptions_are_caught(cls: type[Corruption], expected: set[str]) -> None:
    assert expected <= set(failures(cls))


# --- defenses -----------------------------------------------------------------------------------------------------


class Rounding(Defense):
    """A sound purifying defense, whose surrogate is the identity."""

    tags: ClassVar[Tags] = Tags(purifies=True)

    def purify(self, x, space, rng):
        return (x * 8).round() / 8


class Shattered(Rounding):
    """Lets no gradient through."""

    def surrogate(self, x, space, rng):
        return x * 0


class Centred(Rounding):
    """Subtracts the mean over the batch."""

    def purify(self, x, space, rng):
        return x - x.mean(0, keepdim=True)


class Mislabelled(Rounding):
    """Says that it detects."""

    tags: ClassVar[Tags] = Tags(purifies=True, detects=True)


class Usual(Defense):
    """Trains as usual: a sound training-time defense."""

    tags: ClassVar[Tags] = Tags(trains=True)

    def train(self, training):
        return training.fit(training.build())


class Untrained(Usual):
    """Forgets to train."""

    def train(self, training):
        return training.build()


class Restless(Usual):
    """Trains by another seed each time."""

    seeds: ClassVar[list[int]] = []

    def train(self, training):
        self.seeds.append(0)
        return training.fit(training.build(), purpose=f"fit {len(self.seeds)}")


class Confidence(Defense):
    """Distrusts small logits: a sound detector."""

    tags: ClassVar[Tags] = Tags(detects=True)

    def score(self, x, prediction, space, rng):
        return -prediction.output(x).amax(1)

    def threshold(self, scores):
        return float(np.quantile(scores, 0.9))


class OneScore(Confidence):
    """One score for the whole batch."""

    def score(self, x, prediction, space, rng):
        return super().score(x, prediction, space, rng).mean()


class RejectsAll(Confidence):
    """Rejects what it was set on."""

    def threshold(self, scores):
        return float(scores.min()) - 1


DEFENSES = {
    Shattered: {"gradient_flows"},
    Centred: {"purify_is_independent"},
    Mislabelled: {"tags_are_consistent"},
    Untrained: {"trains_a_network"},
    Restless: {"trains_a_network"},
    OneScore: {"scores_every_sample"},
    RejectsAll: {"threshold_is_a_number"},
}


@pytest.mark.parametrize(("cls", "expected"), DEFENSES.items(), ids=[cls.__name__ for cls in DEFENSES])
def test_broken_defenses_are_caught(cls: type[Defense], expected: set[str]) -> None:
    assert expected <= set(failures(cls))


# --- data sets ----------------------------------------------------------------------------------------------------


class Noise(Dataset):
    """A sound data set to break."""

    tags: ClassVar[Tags] = Tags(tasks={"classification"})

    def load(self, context):
        x = np.random.default_rng(0).random((40, 1, 4, 4), dtype=np.float32)
        return self.data(x, np.arange(40) % 2)

    def data(self, x, y, augment=None):
        ids = np.array([f"n{i}" for i in range(len(y))])
        parts = {"train": slice(0, 20), "valid": slice(20, 30), "test": slice(30, 40)}
        space = InputSpace((1, 4, 4), (0.0,), (1.0,), ("grey",))
        splits = {name: Split(x[rows], y[rows], ids[rows]) for name, rows in parts.items()}
        return Data(space, Classification(("even", "odd")), splits, augment)


class Unseeded(Noise):
    """Other samples each time."""

    def load(self, context):
        return self.data(np.random.default_rng().random((40, 1, 4, 4), dtype=np.float32), np.arange(40) % 2)


class TooLarge(Noise):
    """Leaves its bounds."""

    def load(self, context):
        return self.data(np.full((40, 1, 4, 4), 2.0), np.arange(40) % 2)


class ThirdClass(Noise):
    """Has a label that is no class."""

    def load(self, context):
        return self.data(np.zeros((40, 1, 4, 4)), np.arange(40) % 3)


class Increasing(np.ndarray):
    """Ignores the order that it is asked for, as a naive reader of files does."""

    def __getitem__(self, index):
        return super().__getitem__(np.sort(index) if isinstance(index, np.ndarray) else index)


class Unordered(Noise):
    """Returns rows in the order of the file."""

    def load(self, context):
        x = np.random.default_rng(0).random((40, 1, 4, 4), dtype=np.float32)
        return self.data(x.view(Increasing), np.arange(40) % 2)


class Brighter(Noise):
    """Its augmentation leaves the bounds."""

    def load(self, context):
        x = np.random.default_rng(0).random((40, 1, 4, 4), dtype=np.float32)
        return self.data(x, np.arange(40) % 2, augment=lambda x, draws: x + draws[:, :1, None, None])


class Untrainable(Noise):
    """Nothing to validate on."""

    def load(self, context):
        data = super().load(context)
        splits = {name: split for name, split in data.splits.items() if name != "valid"}
        return Data(data.space, data.task, splits)


DATASETS = {
    Unseeded: {"same_twice"},
    TooLarge: {"loads"},
    ThirdClass: {"loads"},
    Unordered: {"any_rows_in_any_order"},
    Brighter: {"augmentation"},
    Untrainable: {"trainable"},
}


@pytest.mark.parametrize(("cls", "expected"), DATASETS.items(), ids=[cls.__name__ for cls in DATASETS])
def test_broken_data_sets_are_caught(cls: type[Dataset], expected: set[str]) -> None:
    assert expected <= set(failures(cls))


def test_a_data_set_without_its_files_is_skipped_with_what_it_looks_for() -> None:
    class Elsewhere(Dataset):
        """Needs a file."""

        def load(self, context):
            context.find("survey.fits", hint="ask the survey")
            raise AssertionError

    plugins = plugin_of(it=Elsewhere)
    results = {r.name: r for r in run_checks(plugins, plugins.find("dataset", "here/it"))}
    assert results["loads"].status == "skipped"
    assert "survey.fits not found" in results["loads"].message
    assert "ask the survey" in results["loads"].message


# --- models -------------------------------------------------------------------------------------------------------


class Linear(Model):
    """A sound model to break."""

    recipe: Recipe = param(Recipe(), "how it is trained")

    def build(self, space, task):
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(space.shape)), task.outputs))


class Softmax(Linear):
    """Returns probabilities."""

    tags: ClassVar[Tags] = Tags(tasks={"classification"})

    def build(self, space, task):
        return nn.Sequential(super().build(space, task), nn.Softmax(1))


class OnlyImages(Linear):
    """Fails on what it says it supports."""

    def build(self, space, task):
        return nn.Sequential(nn.Conv2d(space.shape[0], 2, 3), nn.Flatten(), nn.LazyLinear(task.outputs))


class Whitened(Linear):
    """Normalises by the batch in eval mode too."""

    def build(self, space, task):
        return nn.Sequential(
            super().build(space, task), nn.BatchNorm1d(task.outputs, track_running_stats=False)
        )


class Hesitant(Linear):
    """Drops out in eval mode too."""

    def build(self, space, task):
        class Dropping(nn.Module):
            def forward(self, x):
                return nn.functional.dropout(x, 0.5)

        return nn.Sequential(Dropping(), super().build(space, task))


class FixedSeed(Linear):
    """Ignores the seed."""

    def build(self, space, task):
        torch.manual_seed(0)
        return super().build(space, task)


class NoRecipe(Model):
    """Cannot be trained."""

    def build(self, space, task):
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(space.shape)), task.outputs))


class Quantised(Linear):
    """Rounds its inputs."""

    def build(self, space, task):
        class Round(nn.Module):
            def forward(self, x):
                return x.round()

        return nn.Sequential(Round(), super().build(space, task))


MODELS = {
    Softmax: {"returns_logits"},
    OnlyImages: {"builds_what_it_supports"},
    Whitened: {"evaluation_is_deterministic"},
    Hesitant: {"evaluation_is_deterministic"},
    FixedSeed: {"seed_decides_the_weights"},
    NoRecipe: {"can_be_prepared"},
    Quantised: {"gradient_reaches_the_input"},
}


@pytest.mark.parametrize(("cls", "expected"), MODELS.items(), ids=[cls.__name__ for cls in MODELS])
def test_broken_models_are_caught(cls: type[Model], expected: set[str]) -> None:
    assert expected <= set(failures(cls))


SOUND = [Signs, Dimmer, Rounding, Usual, Confidence, Noise, Linear]


@pytest.mark.parametrize("cls", SOUND)
def test_sound_components_pass(cls: type[Component]) -> None:
    assert failures(cls) == {}


# --- all kinds ----------------------------------------------------------------------------------------------------


class Mutable(Linear):
    """Can be changed after it was made, and takes anything."""

    model_config = {"frozen": False, "extra": "ignore"}


class Helpless(Linear):
    """A parameter without a word about it."""

    width: int = 3


class NoVersion(Linear):
    """Has a version that is no number."""

    version: ClassVar[Any] = "1.0"


class Nameless(Linear):
    pass


class NoSuchStrength(Linear):
    """Names a parameter that is not there."""

    tags: ClassVar[Tags] = Tags(strength="eps")


GENERAL = {
    Mutable: {"parameters_are_frozen", "unknown_parameters_are_refused"},
    Helpless: {"parameters_have_help"},
    NoVersion: {"version_counts"},
    Nameless: {"has_summary"},
    NoSuchStrength: {"tags_are_consistent"},
}


@pytest.mark.parametrize(("cls", "expected"), GENERAL.items(), ids=[cls.__name__ for cls in GENERAL])
def test_what_holds_for_every_kind(cls: type[Component], expected: set[str]) -> None:
    assert set(failures(cls)) == expected


def test_parameters_that_change_on_the_way_through_json() -> None:
    class Halved(Linear):
        """Halves a parameter each time."""

        width: float = param(8.0, "width")

        def model_post_init(self, context: Any) -> None:
            object.__setattr__(self, "width", self.width / 2)

    assert set(failures(Halved)) == {"parameters_round_trip"}


def test_a_metric_returns_a_float() -> None:
    class Agreement(Metric):
        """Share of equal predictions."""

        def measure(self, target, clean, perturbed):
            return float((clean == perturbed).mean())

    class Flags(Agreement):
        """An array."""

        def measure(self, target, clean, perturbed):
            return clean == perturbed

    assert failures(Agreement) == {}
    assert set(failures(Flags)) == {"measures_a_number"}


def test_examples_that_are_not_valid_are_the_only_complaint() -> None:
    class Demanding(Linear):
        """Needs a parameter."""

        width: int = param(..., "width")

    complaints = failures(Demanding)
    assert set(complaints) == {"examples_are_valid"}
    assert "width: Field required; set the class attribute `examples`" in complaints["examples_are_valid"]


def test_every_example_is_tried_and_named_where_it_fails() -> None:
    class Sometimes(TooFar):
        """Keeps one of two budgets."""

        examples = ({}, {"eps": 0.25})

        def perturb(self, x, y, target, rng):
            return Signs.perturb(self, x, y, target, rng) + (0.3 if self.eps.values == (0.25,) else 0)

    assert '{"eps":0.25}' in failures(Sometimes)["constant_network"]


def test_toys_pass_every_check() -> None:
    plugins = Plugins([Source("toys", "test", lambda: advbench_toys)])
    results = [(entry.id, *r) for entry in plugins.registry() for r in run_checks(plugins, entry)]
    assert [r for r in results if r[2] != "passed"] == [
        ("toys/blobs", "augmentation", "skipped", "has no augment")
    ]


# --- the kit's own face -------------------------------------------------------------------------------------------


def test_checks_are_chosen_by_tags() -> None:
    def names(cls: type[Component]) -> set[str]:
        return {check.name for check in checks_for(cls)}

    assert "regression" in names(Signs)
    assert "regression" not in names(ThirdLogit)
    assert "trains_a_network" in names(Usual)
    assert "trains_a_network" not in names(Rounding)
    assert all(check.summary for cls in (Signs, Dimmer, Noise, Linear, Usual) for check in checks_for(cls))


def test_parameters_for_pytest_have_readable_names_and_fail_as_tests_do() -> None:
    plugins = plugin_of(bad=TooFar, good=Signs)
    found = {one.id: one.values[0] for one in parametrize_checks(["here"], plugins=plugins)}
    assert isinstance(found["here/good-batch_independence"], BoundCheck)
    assert found["here/good-batch_independence"]() == ""
    with pytest.raises(AssertionError, match=r"here/bad: keeps_its_budget: .* more than"):
        found["here/bad-keeps_its_budget"]()
    only = parametrize_checks(["here/good"], plugins=plugins)
    assert {str(one.id).split("-")[0] for one in only} == {"here/good"}
    with pytest.raises(UserError, match="'there' is neither a plugin nor a component"):
        parametrize_checks(["there"], plugins=plugins)


def test_a_check_that_fits_no_example_is_skipped_as_pytest_understands_it() -> None:
    def never(subject: Subject) -> None:
        raise Skip("not today")

    plugins = plugin_of(it=Signs)
    bound = BoundCheck(Check(never), [Subject(plugins, plugins.find("perturbation", "here/it"), {})])
    assert bound.run() == ("never", "skipped", "not today")
    with pytest.raises(Skip):
        bound()
