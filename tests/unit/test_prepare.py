"""From a model to a network: given, loaded or trained, and always the same."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from safetensors.torch import load_file
from torch import Tensor, nn

from advbench.api import (
    Batch,
    Data,
    Defense,
    InputSpace,
    Model,
    PluginError,
    Recipe,
    Register,
    Tags,
    Task,
    Training,
    UserError,
    hookimpl,
    param,
)
from advbench.components.identity import specify
from advbench.components.loader import Plugins, Source
from advbench.runtime.data import Environment, load
from advbench.runtime.network import Network
from advbench.runtime.prepare import WEIGHTS, Kit, Kitchen, Prepared, weights_hash
from advbench.runtime.training import Trainer
from advbench.store.artifacts import Store
from advbench.suite.grid import Cell
from advbench.suite.model import DatasetItem, DefenseItem, Item, PerturbationItem

ONE_EPOCH = Recipe(epochs=1, batch_size=16, lr=5e-3)
PATIENCE_S = 60  # how long a test waits for another thread before it calls it a dead-lock


class Given(Model):
    """A model with weights."""

    how: str = param("fit", "do the weights fit")
    statistics: str = param("own", "its normalisation")

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """One layer."""
        return nn.Sequential(nn.Flatten(), nn.Linear(space.shape[0] * 36, task.outputs))

    def normalisation(self) -> Any:
        """As declared."""
        own = ([1.0, 2, 3, 4, 5], [2.0, 2, 2, 2, 2])
        return {"own": own, "short": (own[0][:2], own[1][:2])}.get(self.statistics, self.statistics)

    def pretrained(self, data_dirs: Any) -> Mapping[str, Tensor]:
        """Weights that fit, or not."""
        weight, bias = torch.arange(3 * 180.0).view(3, 180) / 540, torch.tensor([1.0, 2, 3])
        return {
            "fit": {"1.weight": weight, "1.bias": bias},
            "missing": {"1.weight": weight},
            "extra": {"1.weight": weight, "1.bias": bias, "head.extra": bias},
            "size": {"1.weight": weight[:2], "1.bias": bias},
        }[self.how]


class Trainable(Given):
    """Has weights and a recipe."""

    recipe: Recipe = param(ONE_EPOCH, "recipe")


class Bare(Model):
    """Neither weights nor a recipe."""

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """One layer."""
        return nn.Sequential(nn.Flatten(), nn.Linear(180, task.outputs))


class Wrong(Bare):
    """Builds no network."""

    recipe: Recipe = param(ONE_EPOCH, "recipe")

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """A list."""
        return [1]  # type: ignore[return-value]


class Tied(Bare):
    """Two layers that share their weights."""

    recipe: Recipe = param(ONE_EPOCH, "recipe")

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """Once there, once back, once more."""
        first, second = nn.Linear(180, 180), nn.Linear(180, 180)
        second.weight = first.weight
        return nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, nn.Linear(180, task.outputs))


class Distilled(Defense):
    """Learns from the undefended network."""

    tags = Tags(trains=True)
    teachers: ClassVar[list[nn.Module]] = []
    started: ClassVar[threading.Event] = threading.Event()
    others: ClassVar[Callable[[], object]] = staticmethod(lambda: None)

    def train(self, training: Training) -> nn.Module:
        """Match its logits."""
        self.started.set()
        type(self).others()
        teacher = training.undefended()
        self.teachers.append(teacher)

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            with torch.no_grad():
                aim = teacher(batch.x, batch.extras)
            return F.mse_loss(module(batch.x, batch.extras), aim)

        return training.fit(training.build(), loss=loss, purpose="distilled")


class Adversarial(Defense):
    """Trains on one signed step."""

    tags = Tags(trains=True)
    seen: ClassVar[list[dict[str, Any]]] = []

    def train(self, training: Training) -> nn.Module:
        """Attack every batch."""

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            target = training.target(module, batch)
            evaluation = target.evaluate(batch.x, batch.y, "ce")
            expected = batch.x.clone().requires_grad_(True)
            right = module(expected, batch.extras).softmax(1).gather(1, batch.y[:, None])
            (gradient,) = torch.autograd.grad(torch.log((1 - right) / right).sum(), expected)
            self.seen.append(
                {
                    "training": [part.training for part in module.modules()],
                    "trainable": all(parameter.requires_grad for parameter in module.parameters()),
                    "gathered": [parameter.grad for parameter in module.parameters()],
                    "difference": float((evaluation.gradient - gradient).abs().max()),
                    "part": target.take(torch.tensor([1, 0])).output(batch.x[[1, 0]]).shape,
                }
            )
            x = (batch.x + evaluation.gradient.sign()).clamp(-4, 50)
            return F.cross_entropy(module(x, batch.extras), batch.y)

        return training.fit(training.build(), loss=loss, purpose="adversarial")


class Stranger(Defense):
    """Returns a network of its own."""

    tags = Tags(trains=True)

    def train(self, training: Training) -> nn.Module:
        """Anything."""
        return nn.Linear(2, 2)


MODELS = (Given, Trainable, Bare, Wrong, Tied)
DEFENSES = (Distilled, Adversarial, Stranger)


def plugins() -> Plugins:
    module = ModuleType("mine")
    for kind, classes in {"models": MODELS, "defenses": DEFENSES}.items():

        def hook(register: Register, classes: Any = classes) -> None:
            for cls in classes:
                register(cls.__name__.lower(), cls)

        hook.__name__ = f"register_{kind}"
        setattr(module, hook.__name__, hookimpl(hook))
    return Plugins([Source("toys", "toys 1", lambda: toys), Source("mine", "mine 1", lambda: module)])


PLUGINS = plugins()


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    Distilled.teachers.clear()
    Distilled.started.clear()
    Adversarial.seen.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    Distilled.others = staticmethod(lambda: None)
    torch.set_num_threads(before)


class Place:
    """A kitchen on a store, and what it told."""

    def __init__(self, root: Path, data: Data | None = None) -> None:
        self.told: list[dict[str, Any]] = []
        self.environment = Environment(PLUGINS, Store(root), (), emit=self.told.append)
        self.dataset = specify(PLUGINS, "dataset", "toys/blobs", {"n": 80})
        loaded, self.card = load(self.environment, self.dataset, None)
        self.data = data or loaded
        self.kitchen = Kitchen(self.environment, self.data, self.card, toys.CPU, threads=1)

    def cell(self, model: str = "toys/net", seed: int = 0, **params: Any) -> Cell:
        """A cell of a model on the blobs."""
        item = DatasetItem("blobs", self.dataset, None, None, "test")
        given = {"recipe": ONE_EPOCH.model_dump()} | params if model == "toys/net" else params
        spec = specify(PLUGINS, "model", model, given)
        return Cell(
            item,
            item,
            Item("net", spec),
            DefenseItem("none", ()),
            PerturbationItem("none", None),
            "none",
            seed,
        )

    def prepare(self, model: str = "toys/net", defense: str = "", seed: int = 0, **params: Any) -> Prepared:
        """The network of a model, defended or not."""
        defenses = (specify(PLUGINS, "defense", defense, {}),) if defense else ()
        return self.kitchen.prepare(self.cell(model, seed, **params), defenses)

    def how(self) -> list[str]:
        """How each network came about."""
        return [event["how"] for event in self.told if event["event"] == "network"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "store")


def state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict())


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


# Trained and published


def test_a_trained_network_comes_back_from_the_store_bit_for_bit(place: Place, tmp_path: Path) -> None:
    first = place.prepare()
    (artifact,) = place.environment.store.artifacts()
    assert artifact.kind == "network"
    assert same(load_file(artifact.path / WEIGHTS), state(first.network))
    again = place.prepare()
    assert place.how() == ["trained", "loaded"]
    assert same(state(again.network), state(first.network))
    assert again.weights_hash == first.weights_hash == weights_hash(first.network)
    x = torch.from_numpy(place.data.splits["test"].x)
    assert torch.equal(first.network(x), again.network(x))

    torch.rand(11)
    elsewhere = Place(tmp_path / "elsewhere")
    assert elsewhere.prepare().weights_hash == first.weights_hash
    assert elsewhere.how() == ["trained"]


def test_it_is_the_network_that_the_training_loop_made(place: Place) -> None:
    prepared = place.prepare()
    cell = place.cell()
    model = toys.Net(recipe=ONE_EPOCH)
    trainer = Trainer(place.data, ONE_EPOCH, toys.CPU, 0, "net", lambda event: None)
    assert same(state(trainer.fit(place.kitchen.build(cell, model))), state(prepared.network))


def test_a_prepared_network_is_frozen_and_in_eval_mode(place: Place) -> None:
    for prepared in (place.prepare(), place.prepare(), place.prepare("mine/given")):
        assert not any(module.training for module in prepared.network.modules())
        assert not any(parameter.requires_grad for parameter in prepared.network.parameters())
        assert all(parameter.grad is None for parameter in prepared.network.parameters())


def test_seed_and_recipe_make_another_network(place: Place) -> None:
    recipe = ONE_EPOCH.model_dump()
    hashes = {
        place.prepare().weights_hash,
        place.prepare(seed=1).weights_hash,
        place.prepare(recipe=recipe | {"lr": 1e-3}).weights_hash,
        place.prepare(dropout=0.2).weights_hash,
    }
    assert len(hashes) == 4
    assert place.how() == ["trained"] * 4


def test_the_global_generator_is_left_as_found(place: Place) -> None:
    before = torch.get_rng_state()
    place.prepare()
    place.prepare()
    assert torch.equal(before, torch.get_rng_state())


def test_training_threads_are_those_of_the_run(place: Place) -> None:
    used: list[int] = []

    def emit(event: dict[str, Any]) -> None:
        used.append(torch.get_num_threads()) if event["event"] == "epoch" else None

    kitchen = replace(place.kitchen, environment=replace(place.environment, emit=emit), threads=2)
    kitchen.prepare(place.cell(), ())
    assert used == [2]
    assert torch.get_num_threads() == 1


def test_weights_that_are_shared_can_be_published(place: Place) -> None:
    prepared = place.prepare("mine/tied")
    first, second = (prepared.network.module[i].weight for i in (1, 3))  # type: ignore[index]
    assert torch.equal(first, second)
    assert place.prepare("mine/tied").weights_hash == prepared.weights_hash


def test_a_failed_training_publishes_nothing(place: Place) -> None:
    with pytest.raises(PluginError, match="diverged"):
        place.prepare(recipe=ONE_EPOCH.model_dump() | {"optimizer": "sgd", "lr": 1e30})
    assert list(place.environment.store.artifacts()) == []
    assert torch.get_num_threads() == 1


# Normalisation


def test_normalisation_is_that_of_the_source_training_split_and_inside(place: Place) -> None:
    network = place.prepare().network
    x = place.data.splits["train"].x.astype(np.float64)
    np.testing.assert_allclose(network.mean.flatten(), x.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(network.std.flatten(), x.std((0, 2, 3)), rtol=1e-6)
    everything = np.concatenate([split.x for split in place.data.splits.values()])
    assert np.abs(network.mean.flatten().numpy() - everything.mean((0, 2, 3))).max() > 1e-3
    inputs = torch.from_numpy(place.data.splits["test"].x)
    direct = network.module((inputs - network.mean) / network.std)
    assert torch.equal(network(inputs), direct[1] if isinstance(direct, tuple) else direct)


def test_other_splits_do_not_touch_it(place: Place) -> None:
    splits = {
        name: split if name == "train" else replace(split, x=split.x * 0 + 50)
        for name, split in place.data.splits.items()
    }
    kitchen = replace(place.kitchen, data=replace(place.data, splits=splits))
    model = toys.Net(recipe=ONE_EPOCH)
    one, other = (room.build(place.cell(), model) for room in (place.kitchen, kitchen))
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.std, other.std)


def test_declared_normalisation(place: Place) -> None:
    own = place.prepare("mine/given").network
    assert own.mean.flatten().tolist() == [1, 2, 3, 4, 5]
    assert own.std.flatten().tolist() == [2] * 5
    none = place.prepare("mine/given", statistics="none").network
    assert (none.mean.unique().tolist(), none.std.unique().tolist()) == ([0], [1])
    for statistics, words in (
        ("short", "mine/given: mean has 2 entries for 5 channels"),
        ("imagenet", "normalisation 'imagenet' is neither 'train', 'none' nor"),
    ):
        with pytest.raises(PluginError, match=words):
            place.prepare("mine/given", statistics=statistics)


def test_normalisation_by_a_training_split_needs_one(place: Place) -> None:
    splits = dict(place.data.splits)
    train = splits.pop("train")
    empty = replace(train, x=train.x[:0], y=train.y[:0], ids=train.ids[:0])
    for rest in (splits, splits | {"train": empty}):
        kitchen = replace(place.kitchen, data=replace(place.data, splits=rest))
        with pytest.raises(PluginError, match="normalised by a training split, which the data set lacks"):
            kitchen.prepare(place.cell("mine/given", statistics="train"), ())


# Given weights


def test_given_weights_are_taken_as_they_are(place: Place) -> None:
    prepared = place.prepare("mine/trainable")
    expected = Trainable().pretrained(())
    assert same({f"module.{name}": value for name, value in expected.items()}, learned(prepared.network))
    assert list(place.environment.store.artifacts()) == []
    assert [event for event in place.told if event["event"] in ("epoch", "network")] == []


def learned(network: Network) -> dict[str, Tensor]:
    return {name: value for name, value in state(network).items() if name not in ("mean", "std")}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"Missing key\(s\) in state_dict: \"1.bias\""),
        ("extra", r"Unexpected key\(s\) in state_dict: \"head.extra\""),
        ("size", r"size mismatch for 1.weight: .*\[2, 180\].*\[3, 180\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(place: Place, how: str, words: str) -> None:
    with pytest.raises(
        UserError, match=f"mine/given: the weights do not fit the network: .*{words}"
    ) as caught:
        place.prepare("mine/given", how=how)
    assert "\n" not in str(caught.value)


def test_neither_weights_nor_a_recipe(place: Place) -> None:
    with pytest.raises(UserError, match="mine/bare has neither weights nor a recipe to be trained by"):
        place.prepare("mine/bare")
    with pytest.raises(UserError, match="mine/given has no recipe, which mine/distilled needs to train it"):
        place.prepare("mine/given", defense="mine/distilled")
    assert list(place.environment.store.artifacts()) == []


def test_a_model_that_builds_no_network_is_named(place: Place) -> None:
    with pytest.raises(PluginError, match="mine/wrong: build returned list, not a torch module"):
        place.prepare("mine/wrong")


# Training-time defenses


def test_a_defense_learns_from_the_undefended_network(place: Place) -> None:
    student = place.prepare(defense="mine/distilled")
    undefended = place.prepare()
    (teacher,) = Distilled.teachers
    assert same(state(teacher), state(undefended.network))
    assert not teacher.training
    assert student.weights_hash != undefended.weights_hash
    assert place.how() == ["trained", "trained", "loaded"]  # the teacher, the student, the teacher again
    assert place.prepare(defense="mine/distilled").weights_hash == student.weights_hash
    assert len(Distilled.teachers) == 1


def test_given_weights_are_the_undefended_network(place: Place) -> None:
    place.prepare("mine/trainable", defense="mine/distilled")
    (teacher,) = Distilled.teachers
    assert isinstance(teacher, Network)
    assert torch.equal(learned(teacher)["module.1.bias"], torch.tensor([1.0, 2, 3]))
    assert place.how() == ["trained"]


def test_attacks_inside_the_training_loop(place: Place) -> None:
    place.prepare(defense="mine/adversarial", dropout=0.0)
    assert len(Adversarial.seen) == 3  # 40 samples in steps of 16
    for seen in Adversarial.seen:
        assert all(seen["training"])
        assert seen["trainable"]
        assert seen["gathered"] == [None] * len(seen["gathered"])
        assert seen["difference"] < 1e-5
        assert seen["part"] == (2, 3)


def test_an_attack_in_training_leaves_the_gradient_of_the_step_alone(place: Place, tmp_path: Path) -> None:
    """The same defense with the attack written by hand trains the same network."""

    class ByHand(Defense):
        tags = Tags(trains=True)

        def train(self, training: Training) -> nn.Module:
            """Without the harness's target."""

            def loss(module: nn.Module, batch: Batch) -> Tensor:
                return F.cross_entropy(module(batch.x + attack(module, batch), batch.extras), batch.y)

            return training.fit(training.build(), loss=loss, purpose="adversarial")

    def attack(module: nn.Module, batch: Batch) -> Tensor:
        point = batch.x.clone().requires_grad_(True)
        loss = F.cross_entropy(module(point, batch.extras), batch.y, reduction="sum")
        return torch.autograd.grad(loss, point)[0].sign()

    class ByTarget(ByHand):
        def train(self, training: Training) -> nn.Module:
            """With it."""

            def loss(module: nn.Module, batch: Batch) -> Tensor:
                step = training.target(module, batch).input_gradient(batch.x, batch.y, "ce").sign()
                return F.cross_entropy(module(batch.x + step, batch.extras), batch.y)

            return training.fit(training.build(), loss=loss, purpose="adversarial")

    model = toys.Net(recipe=ONE_EPOCH, dropout=0.0)
    kit = Kit(place.kitchen, place.cell(), model, ONE_EPOCH)
    one, other = state(ByHand().train(kit)), state(ByTarget().train(kit))
    # A gradient of almost nothing may round to either sign; one that leaked into the step costs ten times as much.
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-3, rtol=0, msg=name)


def test_a_defense_must_return_a_network_of_the_harness(place: Place) -> None:
    with pytest.raises(
        PluginError, match=r"mine/stranger: train must return a network made by training\.build"
    ):
        place.prepare(defense="mine/stranger")
    assert list(place.environment.store.artifacts()) == []


# Several workers at once


def test_two_workers_train_the_same_network_once(tmp_path: Path) -> None:
    places = [Place(tmp_path / "store") for _ in range(2)]
    barrier = threading.Barrier(2)

    def work(place: Place) -> Prepared:
        barrier.wait(PATIENCE_S)
        return place.prepare()

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(work, places, timeout=PATIENCE_S)
    assert one.weights_hash == other.weights_hash
    assert sorted(places[0].how() + places[1].how()) == ["loaded", "trained"]
    epochs = [event for place in places for event in place.told if event["event"] == "epoch"]
    assert len(epochs) == ONE_EPOCH.epochs


def test_student_and_teacher_prepared_by_two_workers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    student, teacher = Place(tmp_path / "store"), Place(tmp_path / "store")
    found: dict[str, Prepared] = {}
    # The student's training has begun before the other worker asks for the teacher, which has to be trained, too.
    asking = threading.Event()

    def others() -> None:
        asking.wait(PATIENCE_S)
        threading.Event().wait(0.3)  # until the other worker holds the lock of the teacher

    Distilled.others = staticmethod(others)

    def train_student() -> None:
        found["student"] = student.prepare(defense="mine/distilled")

    def train_teacher() -> None:
        Distilled.started.wait(PATIENCE_S)
        asking.set()
        found["teacher"] = teacher.prepare()

    threads = [threading.Thread(target=work, daemon=True) for work in (train_student, train_teacher)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S / 2)
    assert set(found) == {"student", "teacher"}
    assert same(state(Distilled.teachers[0]), state(found["teacher"].network))
    told = [event for place in (student, teacher) for event in place.told if event["event"] == "epoch"]
    assert len(told) == 2 * ONE_EPOCH.epochs


def test_weights_hash_is_of_names_shapes_and_values() -> None:
    linear = nn.Linear(4, 2)
    before = weights_hash(linear)
    assert before == weights_hash(linear.to(memory_format=torch.contiguous_format))
    changed = [
        nn.Linear(4, 2),
        nn.Linear(2, 4),
        nn.Linear(4, 2, dtype=torch.float64),
        nn.Sequential(nn.Linear(4, 2)),
    ]
    with torch.no_grad():
        changed[2].weight.copy_(linear.weight)  # type: ignore[union-attr, operator]
        changed[3].load_state_dict({f"0.{name}": value for name, value in linear.state_dict().items()})
        assert len({before, *(weights_hash(module) for module in changed)}) == 5
        linear.bias[1] = linear.bias[1] + 1
    assert weights_hash(linear) != before
