"""The training loop, against a loop written by hand and against closed forms."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import CPU, Net, data, pipeline

from advbench.api import Batch, Classification, Data, InputSpace, PluginError, Recipe, Regression, Split
from advbench.runtime.network import Network
from advbench.runtime.training import Trainer, class_weights

pytestmark = pytest.mark.usefixtures("one_thread")


class Level(nn.Module):
    """One number, the same prediction for every input: its training can be followed by hand."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor([start], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (b, 1)."""
        return self.level.expand(len(x), 1)


LINE = InputSpace((1, 1, 1), (-1.0,), (1.0,), ("x",))
VALUE = Regression(("value",), tolerance=0.1)
STEP = Recipe(optimizer="sgd", lr=1, momentum=0, weight_decay=0, schedule="constant", batch_size=100)


def constant(value: float = 3.0, train: int = 4, valid: int = 300) -> Data:
    """A regression whose targets are all the same. The validation set is read in several batches."""
    splits = {
        name: Split(
            np.zeros((n, 1, 1, 1), np.float32), np.full(n, value), np.array([f"{name}{i}" for i in range(n)])
        )
        for name, n in {"train": train, "valid": valid, "test": 2}.items()
    }
    return Data(LINE, VALUE, splits)


def level(start: float = 0.0) -> Network:
    return Network(Level(start), LINE, VALUE, "level")


def climb(module: nn.Module, batch: Batch) -> Tensor:
    """Every step adds the learning rate to the level."""
    return -module.module.level.sum()  # type: ignore[union-attr, operator]


def trainer(source: Data, recipe: Recipe, seed: int = 0, told: list[dict[str, Any]] | None = None) -> Trainer:
    """A trainer; what it tells of its epochs goes to ``told``."""

    def emit(event: dict[str, Any]) -> None:
        if told is not None and event["event"] == "epoch":
            told.append(event)

    return Trainer(source, recipe, CPU, seed, "net", emit)


def fresh(source: Data, **options: Any) -> Network:
    """An untrained toy network, always the same."""
    module = (
        pipeline(source).network.module if not options else Net(**options).build(source.space, source.task)
    )
    network = Network(module, source.space, source.task, "toys/net")
    network.normalise_by([20.0] * 5, [7.0] * 5)
    return network


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("accumulate", [False, True])
def test_every_step_starts_from_fresh_gradients(accumulate: bool) -> None:
    source = data(n=80)
    recipe = Recipe(
        optimizer="sgd", lr=0.05, momentum=0, weight_decay=0, schedule="constant", batch_size=8, epochs=2
    )
    linear = nn.Sequential(nn.Flatten(), nn.Linear(180, 3))
    network = Network(linear, source.space, source.task, "linear")
    network.normalise_by([20.0] * 5, [7.0] * 5)
    weight, bias = (parameter.detach().clone() for parameter in network.parameters())
    by_hand: list[Tensor] = []
    gathered = [torch.zeros_like(weight), torch.zeros_like(bias)]
    by_harness: list[Tensor] = []

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        nonlocal weight, bias
        by_harness.append(module.module[1].weight.detach().clone())  # type: ignore[union-attr, index]
        by_hand.append(weight)
        z = (batch.x.flatten(1) - 20) / 7
        residual = (z @ weight.T + bias).softmax(1) - F.one_hot(batch.y, 3)
        gradients = [residual.T @ z / len(z), residual.mean(0)]
        for total, gradient in zip(gathered, gradients):
            total.mul_(float(accumulate)).add_(gradient)
        weight, bias = weight - 0.05 * gathered[0], bias - 0.05 * gathered[1]
        return F.cross_entropy(module(batch.x, batch.extras), batch.y)

    trainer(source, recipe).fit(network, loss=loss)
    assert len(by_hand) == 2 * 5
    far = max(float((one - other).abs().max()) for one, other in zip(by_hand, by_harness))
    # Rounding of ten float32 steps; without zero_grad the weights are two orders of magnitude further away.
    assert (far > 1e-2) if accumulate else (far < 1e-5)


def test_training_is_seeded() -> None:
    source = data(n=80)
    recipe = Recipe(epochs=2, batch_size=16, lr=5e-3)
    start = state(fresh(source))
    torch.rand(5)  # whatever state the global generator is in
    first = trainer(source, recipe).fit(fresh(source))
    np.random.default_rng(0)
    torch.rand(7)
    again = trainer(source, recipe).fit(fresh(source))
    assert same(state(first), state(again))
    assert not same(state(first), start)
    assert not same(state(trainer(source, recipe, seed=1).fit(fresh(source))), state(first))
    assert not same(state(trainer(source, recipe).fit(fresh(source), purpose="again")), state(first))


def test_global_generators_are_left_as_found() -> None:
    source = data(n=60)
    torch.manual_seed(3)
    network = fresh(source)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    trainer(source, Recipe(epochs=1)).fit(network)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


def test_a_trained_network_is_frozen_in_eval_mode_and_holds_no_gradients() -> None:
    source = data(n=60)
    network = fresh(source)
    assert network.training
    trained = trainer(source, Recipe(epochs=1)).fit(network)
    assert trained is network
    assert not any(module.training for module in trained.modules())
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    assert all(parameter.grad is None for parameter in trained.parameters())


# Class weights


def test_class_weights_are_in_class_index_order() -> None:
    # N / (K n_c) with N = 6, K = 4; the third class is absent, and the last one comes first.
    weights = class_weights(np.array([3, 3, 3, 0, 0, 1]), 4)
    assert weights.tolist() == [6 / (4 * 2), 6 / (4 * 1), 0.0, 6 / (4 * 3)]
    assert weights.dtype == torch.float32
    assert class_weights(np.array([0, 1, 0, 1]), 2).tolist() == [1, 1]


@pytest.mark.parametrize("weighted", [True, False])
def test_the_loss_is_weighted_if_the_recipe_says_so(weighted: bool) -> None:
    source = data(n=80)
    train = source.splits["train"]
    y = np.where(np.arange(len(train)) < 30, 2, train.y)  # most are of the last class, and it comes first
    source = replace(source, splits={**source.splits, "train": replace(train, y=y)})
    counts = [int((y == k).sum()) for k in range(3)]
    weights = torch.tensor([len(y) / (3 * count) for count in counts])
    recipe = Recipe(epochs=2, batch_size=16, lr=5e-3, label_smoothing=0.1, class_weights=weighted)

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        output = module(batch.x, batch.extras)
        return F.cross_entropy(output, batch.y, weight=weights if weighted else None, label_smoothing=0.1)

    expected = trainer(source, recipe).fit(fresh(source), loss=loss)
    assert same(state(trainer(source, recipe).fit(fresh(source))), state(expected))
    other = trainer(source, recipe.model_copy(update={"class_weights": not weighted})).fit(fresh(source))
    assert not same(state(other), state(expected))


# Early stopping


@pytest.mark.parametrize(("patience", "epochs"), [(1, 4), (2, 5), (3, 6), (50, 8)])
def test_patience_counts_epochs_without_a_better_validation_loss(patience: int, epochs: int) -> None:
    told: list[dict[str, Any]] = []
    recipe = STEP.model_copy(update={"epochs": 8, "patience": patience})
    trained = trainer(constant(3.0), recipe, told=told).fit(level(), loss=climb)
    # The level climbs 1, 2, 3, 4, ...: the third epoch is the best.
    assert [event["epoch"] for event in told] == list(range(1, epochs + 1))
    assert [event["valid_loss"] for event in told] == [(k - 3.0) ** 2 for k in range(1, epochs + 1)]
    assert [event["valid_metric"] for event in told] == [abs(k - 3.0) for k in range(1, epochs + 1)]
    assert trained.module.level.tolist() == [3.0]  # type: ignore[union-attr, operator]


def test_an_equal_loss_is_not_a_better_one() -> None:
    told: list[dict[str, Any]] = []
    recipe = STEP.model_copy(update={"epochs": 9, "patience": 2})

    def stay(module: nn.Module, batch: Batch) -> Tensor:
        return 0 * climb(module, batch)

    trainer(constant(), recipe, told=told).fit(level(), loss=stay)
    assert len(told) == 3


def test_the_whole_validation_set_decides() -> None:
    # The last 20 of 300 samples are far away; their share of the loss is exact.
    source = constant(0.0)
    y = np.where(np.arange(300) < 280, 0.0, 30.0)
    valid = replace(source.splits["valid"], y=y)
    told: list[dict[str, Any]] = []
    recipe = STEP.model_copy(update={"epochs": 4, "patience": 1})
    trained = trainer(replace(source, splits={**source.splits, "valid": valid}), recipe, told=told)
    best = trained.fit(level(), loss=climb)
    expected = [(280 * k**2 + 20 * (30 - k) ** 2) / 300 for k in (1, 2, 3)]
    assert [event["valid_loss"] for event in told] == pytest.approx(expected, rel=1e-6)
    assert best.module.level.tolist() == [2.0]  # type: ignore[union-attr, operator]  # 280 k = 20 (30 - k)


def test_no_epochs_train_nothing() -> None:
    told: list[dict[str, Any]] = []
    for schedule in ("constant", "cosine", "onecycle"):
        recipe = STEP.model_copy(update={"epochs": 0, "schedule": schedule})
        trained = trainer(constant(), recipe, told=told).fit(level(0.5), loss=climb)
        assert trained.module.level.tolist() == [0.5]  # type: ignore[union-attr, operator]
    assert told == []


# Validation


@pytest.mark.parametrize("training", [True, False])
def test_validation_changes_neither_mode_nor_batch_statistics(training: bool) -> None:
    source = data(n=80)
    network = fresh(source).train(training)
    before = state(network)
    first = trainer(source, Recipe()).validate(network, source.splits["train"])
    assert network.training == training
    assert same(state(network), before)
    assert first == trainer(source, Recipe()).validate(network.eval(), source.splits["train"])


def test_validation_is_in_eval_mode_and_by_the_plain_loss() -> None:
    source = data(n=80)
    told: list[dict[str, Any]] = []
    recipe = Recipe(epochs=1, batch_size=16, class_weights=True, label_smoothing=0.2)
    trained = trainer(source, recipe, told=told).fit(fresh(source, dropout=0.5))
    valid = source.splits["valid"]
    with torch.no_grad():
        output = trained(torch.from_numpy(valid.x))
    y = torch.from_numpy(valid.y)
    assert told[0]["valid_loss"] == pytest.approx(float(F.cross_entropy(output, y)), rel=1e-5)
    assert told[0]["valid_metric"] == pytest.approx(float((output.argmax(1) == y).double().mean()))


def test_batch_statistics_are_those_of_training_batches_alone() -> None:
    source = data(n=80)
    seen: list[Tensor] = []
    network = fresh(source, dropout=0.0)
    norm: Any = network.module.body[1]  # type: ignore[union-attr, index]

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        if seen:
            assert torch.equal(norm.running_mean, seen[-1])  # nothing happened between two training batches
        assert module.training
        output = module(batch.x, batch.extras)
        seen.append(norm.running_mean.clone())
        return F.cross_entropy(output, batch.y)

    trainer(source, Recipe(epochs=3, batch_size=16)).fit(network, loss=loss)
    assert len(seen) == 3 * 3
    assert len({value.numpy().tobytes() for value in seen}) == 9


# Batches


@pytest.mark.parametrize(
    ("n", "size", "expected"),
    [
        (5, 2, [2, 2]),
        (6, 4, [4, 2]),
        (4, 100, [4]),
        (7, 3, [3, 3]),
        (3, 1, [1, 1, 1]),
        (1, 8, [1]),
        (2, 2, [2]),
    ],
)
def test_a_last_batch_of_one_sample_is_dropped(n: int, size: int, expected: list[int]) -> None:
    sizes: list[int] = []

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        sizes.append(len(batch.x))
        return climb(module, batch)

    told: list[dict[str, Any]] = []
    recipe = STEP.model_copy(update={"epochs": 2, "batch_size": size, "patience": 9})
    trainer(constant(train=n), recipe, told=told).fit(level(), loss=loss)
    assert sizes == expected * 2
    # The mean loss of the first epoch: the level is 0, 1, 2, ... when its steps begin.
    assert told[0]["train_loss"] == pytest.approx(-(len(expected) - 1) / 2)


def batches_seen(source: Data, recipe: Recipe) -> list[Batch]:
    seen: list[Batch] = []

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch)
        return F.cross_entropy(module(batch.x, batch.extras), batch.y)

    trainer(source, recipe).fit(fresh(source), loss=loss)
    return seen


def test_every_epoch_shows_every_sample_in_another_order() -> None:
    source = data(n=96)
    source = replace(source, splits={**source.splits, "train": numbered(source.splits["train"])})
    seen = batches_seen(source, Recipe(epochs=2, batch_size=16))
    shown = torch.cat([batch.x[:, 0, 0, 0] for batch in seen]).tolist()
    first, second = shown[:48], shown[48:]
    assert sorted(first) == sorted(second) == list(range(48))
    assert first != second != list(range(48))


def numbered(split: Split) -> Split:
    """The same split with its row number as the first value of every sample."""
    x = split.x.copy()
    x[:, 0, 0, 0] = np.arange(len(x))
    return replace(split, x=x)


def test_the_transform_is_for_training_and_depends_on_the_sample_alone() -> None:
    drawn: dict[int, dict[tuple[int, int], bytes]] = {}

    def transform(x: Tensor, draws: Tensor) -> Tensor:
        assert draws.shape == (len(x), 16)
        assert float(draws.min()) >= 0
        assert float(draws.max()) < 1
        for row, draw in zip(x[:, 0, 0, 0].tolist(), draws.numpy()):
            key = (int(row), sum(known == int(row) for known, _ in drawn[size]))
            drawn[size][key] = draw.tobytes()
        return x.flip(3)

    plain = data(n=96)
    plain = replace(plain, splits={**plain.splits, "train": numbered(plain.splits["train"])})
    source = replace(plain, augment=transform)
    for size in (8, 16):
        drawn[size] = {}
        seen = batches_seen(source, Recipe(epochs=2, batch_size=size))
    assert len(drawn[8]) == 48 * 2  # every training sample once in each epoch, and no other
    assert drawn[8] == drawn[16]
    assert len(set(drawn[8].values())) == 48 * 2
    # What the loss sees is what the transform returns.
    bare = batches_seen(plain, Recipe(epochs=2, batch_size=16))
    assert all(torch.equal(one.x, other.x.flip(3)) for one, other in zip(seen, bare))
    off = batches_seen(source, Recipe(epochs=2, batch_size=16, augment=False))
    assert all(torch.equal(one.x, other.x) for one, other in zip(off, bare))


def test_draws_of_a_step_belong_to_sample_and_epoch() -> None:
    def draws(size: int) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            for row, value in zip(batch.x[:, 0, 0, 0].tolist(), batch.rng.normal().tolist()):
                found.setdefault(int(row), []).append(value)
            return climb(module, batch)

        source = constant(train=12)
        split = source.splits["train"]
        x = np.arange(12, dtype=np.float32).reshape(-1, 1, 1, 1)
        source = replace(source, splits={**source.splits, "train": replace(split, x=x)})
        recipe = STEP.model_copy(update={"epochs": 2, "batch_size": size, "patience": 9})
        trainer(source, recipe).fit(level(), loss=loss)
        return found

    assert draws(4) == draws(6)
    assert all(len(set(values)) == 2 for values in draws(4).values())


def test_extras_reach_the_network() -> None:
    class Dusty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
            return self.scale * ebv

    source = constant()
    splits = {}
    for name, split in source.splits.items():
        ebv = np.linspace(0, 1, len(split))
        splits[name] = replace(split, y=2 * ebv, extras={"ebv": ebv})
    recipe = STEP.model_copy(update={"epochs": 60, "patience": 60})
    trained = trainer(replace(source, splits=splits), recipe).fit(Network(Dusty(), LINE, VALUE, "dusty"))
    assert float(trained.module.scale) == pytest.approx(2.0, abs=1e-3)  # type: ignore[union-attr, arg-type]


# Learning rates


def rates(schedule: str, lr: float = 0.5, epochs: int = 5, steps: int = 4) -> list[float]:
    """The learning rate of every step but the last: how far the level climbs."""
    levels: list[float] = []

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        levels.append(float(module.module.level.detach()))  # type: ignore[union-attr, operator]
        return climb(module, batch)

    recipe = STEP.model_copy(
        update={"schedule": schedule, "lr": lr, "epochs": epochs, "batch_size": 2, "patience": 99}
    )
    trainer(constant(train=2 * steps), recipe).fit(level(), loss=loss)
    assert len(levels) == epochs * steps
    return np.diff(levels).tolist()


def test_constant_schedule() -> None:
    np.testing.assert_allclose(rates("constant"), 0.5, rtol=1e-12)


def test_cosine_schedule() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(19)]
    np.testing.assert_allclose(rates("cosine"), expected, rtol=1e-9)


def test_one_cycle_schedule() -> None:
    # Smith and Topin 2018: from 1/25 of the peak up to it at 30 % of all steps, then down to almost nothing.
    found = rates("onecycle")
    peak = int(np.argmax(found))
    assert found[0] == pytest.approx(0.5 / 25)
    assert max(found) == pytest.approx(0.5, rel=0.02)
    assert peak in (5, 6)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[-1] < 0.03


# Whole trainings


@pytest.mark.parametrize(
    ("optimizer", "momentum", "lr"), [("adam", 0.9, 0.02), ("sgd", 0.9, 0.02), ("sgd", 0.0, 0.2)]
)
def test_a_classifier_learns(optimizer: str, momentum: float, lr: float) -> None:
    source = data(n=240)
    told: list[dict[str, Any]] = []
    recipe = Recipe(optimizer=optimizer, lr=lr, momentum=momentum, epochs=5, batch_size=32)  # type: ignore[arg-type]
    trained = trainer(source, recipe, told=told).fit(fresh(source))
    _, before = trainer(source, recipe).validate(fresh(source), source.splits["test"])
    _, after = trainer(source, recipe).validate(trained, source.splits["test"])
    assert before < 0.6
    assert after > 0.9
    assert told[-1]["train_loss"] < told[0]["train_loss"]


@pytest.mark.parametrize("column", [True, False])
def test_a_regression_finds_the_least_squares(column: bool) -> None:
    generator = np.random.default_rng(0)
    splits = {}
    for name, n in {"train": 64, "valid": 32, "test": 32}.items():
        x = generator.uniform(-1, 1, size=(n, 1, 1, 1)).astype(np.float32)
        y = 0.7 * x[:, 0, 0, 0] - 0.2
        splits[name] = Split(x, y[:, None] if column else y, np.array([f"{name}{i}" for i in range(n)]))
    source = Data(LINE, VALUE, splits)
    recipe = STEP.model_copy(update={"lr": 0.3, "epochs": 60, "batch_size": 16, "patience": 60})
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(1, 1)), LINE, VALUE, "line")
    told: list[dict[str, Any]] = []
    trained = trainer(source, recipe, told=told).fit(network)
    weight, bias = (float(value) for value in trained.parameters())
    assert (weight, bias) == pytest.approx((0.7, -0.2), abs=1e-4)
    assert told[-1]["valid_metric"] < 1e-4


def test_a_diverging_training_is_a_clear_error() -> None:
    source = data(n=60)
    recipe = Recipe(optimizer="sgd", lr=1e30, epochs=3, schedule="constant", batch_size=8)
    with pytest.raises(PluginError, match=r"training of net diverged in epoch \d: the loss is not finite"):
        trainer(source, recipe).fit(fresh(source))


def test_a_loss_that_is_not_finite_is_a_clear_error() -> None:
    def loss(module: nn.Module, batch: Batch) -> Tensor:
        return climb(module, batch) * math.nan

    with pytest.raises(PluginError, match="diverged in epoch 1"):
        trainer(constant(), STEP).fit(level(), loss=loss)


@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_missing_or_empty_split_is_named(name: str) -> None:
    source = constant()
    without = {key: split for key, split in source.splits.items() if key != name}
    empty = replace(source.splits[name], x=np.zeros((0, 1, 1, 1)), y=np.zeros(0), ids=np.zeros(0, str))
    for splits in (without, {**source.splits, name: empty}):
        with pytest.raises(
            PluginError, match=f"net has to be trained, but its data set has no split '{name}'"
        ):
            trainer(replace(source, splits=splits), STEP).fit(level(), loss=climb)


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_any_number_of_classes(classes: int) -> None:
    source = data(classes, n=80)
    assert isinstance(source.task, Classification)
    trained = trainer(source, Recipe(epochs=1, class_weights=True)).fit(fresh(source))
    assert trained(torch.zeros(2, 5, 6, 6)).shape == (2, classes)
