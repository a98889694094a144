"""Learning from another network: defensive distillation and transfer learning."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import save_file
from scipy.special import log_softmax as scipy_log_softmax
from torch import nn
from toys import data
from training_kit import Workshop, captured, state

from advbench.api import Batch, Recipe, UserError
from advbench.runtime.network import Network
from advbench.runtime.rng import SampleRng
from advbench_defenses.distillation import Distillation, Tempered, soft_cross_entropy
from advbench_defenses.transfer_learning import (
    PartlyFrozen,
    TransferLearning,
    head_of,
    load_into,
    matching,
    read_state,
)

HEAD = ["module.head.weight", "module.head.bias"]


pytestmark = pytest.mark.usefixtures("one_thread")


def a_batch(n=8, classes=3):
    generator = torch.Generator().manual_seed(1)
    x = -4 + 54 * torch.rand(n, 5, 6, 6, generator=generator)
    rng = SampleRng(0, "test", [f"s{i}" for i in range(n)], torch.device("cpu"))
    return Batch(x, torch.arange(n) % classes, {}, rng)


def same(first, second, names=None):
    return all(torch.equal(first[name], second[name]) for name in (first if names is None else names))


# Distillation


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0, 100.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_soft_cross_entropy_by_hand(temperature, classes):
    generator = torch.Generator().manual_seed(classes)
    z = (30 * torch.randn(4, classes, generator=generator)).requires_grad_(True)
    q = torch.randn(4, classes, generator=generator).softmax(1)
    loss = soft_cross_entropy(z, q, temperature)
    log_p = scipy_log_softmax(z.detach().double().numpy() / temperature, axis=1)
    assert loss.item() == pytest.approx(-(q.double().numpy() * log_p).sum(1).mean(), rel=1e-5)
    loss.backward()
    expected = ((z / temperature).softmax(1) - q) / temperature / 4
    assert torch.allclose(z.grad, expected.detach(), atol=1e-7)


def test_soft_cross_entropy_of_hard_labels_is_cross_entropy():
    z, y = torch.tensor([[1.0, 3.0, -2.0], [0.0, 0.5, 9.0]]), torch.tensor([1, 0])
    q = F.one_hot(y, 3).float()
    assert soft_cross_entropy(z, q, 1.0).item() == pytest.approx(F.cross_entropy(z, y).item())
    assert soft_cross_entropy(z, q, 7.0).item() == pytest.approx(F.cross_entropy(z / 7, y).item())
    far = soft_cross_entropy(torch.tensor([[1e5, -1e5]]), torch.tensor([[0.0, 1.0]]), 1.0)
    assert far.item() == pytest.approx(2e5)


def test_the_loss_of_the_student_by_hand(tmp_path):
    shop = Workshop.at(tmp_path, idle=True)
    loss = captured(shop, Distillation(temperature=5.0))
    teacher_fit, student_fit = shop.fits
    assert (teacher_fit.purpose, student_fit.purpose) == ("teacher", "student")
    teacher, student = teacher_fit.module, student_fit.module
    assert teacher is not student
    assert teacher.network is not student.network
    with torch.no_grad():  # apart from each other, as after a training
        student.network.module.head.weight.mul_(3)
    batch = a_batch()
    before = state(teacher)
    found = loss(student.eval(), batch)
    q = (teacher.network(batch.x) / 5).softmax(1)
    expected = -(q * (student.network(batch.x) / 5).log_softmax(1)).sum(1).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    loss(student.train(), batch).backward()
    # The teacher neither learns nor draws.
    assert not any(part.training for part in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert same(before, state(teacher))
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_the_teacher_is_trained_at_the_temperature(tmp_path):
    recipe = Recipe(epochs=2, batch_size=16, lr=5e-3, class_weights=True)
    found = Distillation(temperature=4.0, network="teacher").train(Workshop.at(tmp_path, recipe=recipe))
    shop = Workshop.at(tmp_path, recipe=recipe)
    counts = torch.bincount(torch.from_numpy(shop.data.splits["train"].y), minlength=3)
    weights = counts.sum() / (3 * counts)

    def loss(module, batch):
        return F.cross_entropy(module(batch.x, batch.extras) / 4, batch.y, weights)

    def validation(module, batch):
        return F.cross_entropy(module(batch.x, batch.extras) / 4, batch.y)

    expected = shop.fit(shop.build(), loss=loss, validation=validation, purpose="teacher")
    assert same(state(found), state(expected))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_student_is_used_at_temperature_one(tmp_path, classes):
    source, recipe = data(classes), Recipe(epochs=10, batch_size=16, lr=0.05)
    shop = Workshop.at(tmp_path, source, recipe=recipe)
    plain, student = shop.fit(shop.build()), Distillation(temperature=20.0).train(shop)
    assert isinstance(student, Network)
    assert not student.training
    assert shop.accuracy(student) > 0.9
    x = torch.from_numpy(source.splits["test"].x)
    spread = [float((network(x).amax(1) - network(x).amin(1)).median()) for network in (plain, student)]
    assert spread[1] > 3 * spread[0]  # the logits grow with the temperature
    teacher = Distillation(temperature=20.0, network="teacher").train(shop)
    assert not same(state(teacher), state(student))


def test_a_saturated_student_has_a_margin_to_attack(tmp_path):
    defense = Distillation()
    assert defense.adaptive_loss == "margin"
    assert [use.use for use in defense.adaptive_attacks()] == ["attacks/ddn"]
    assert not defense.uses()
    with pytest.raises(ValidationError):
        Distillation(temperature=0)


def test_a_warm_start_is_shared(tmp_path):
    shop = Workshop.at(tmp_path)
    Distillation(temperature=3.0, warm_start=1).train(shop)
    warm, teacher, student = shop.fits
    assert warm.recipe == shop.recipe.model_copy(update={"epochs": 1})
    assert warm.loss is None
    assert same(warm.start, state(shop.build()))
    trained = {f"network.{name}": value for name, value in state(warm.module).items()}
    assert not same(trained, {f"network.{name}": value for name, value in warm.start.items()})
    assert same(trained, teacher.start)
    assert same(trained, student.start)
    assert all(fit.recipe is None for fit in (teacher, student))


@pytest.mark.parametrize(
    "defense", [Distillation(), TransferLearning(trainable="all")], ids=["distillation", "transfer"]
)
def test_the_seed_decides(tmp_path, defense):
    generator = torch.get_rng_state()
    first, again, other = (state(defense.train(Workshop.at(tmp_path, seed=seed))) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other, HEAD)
    assert torch.equal(torch.get_rng_state(), generator)


def test_tempered():
    network = nn.Linear(2, 3)
    network.forward = lambda x, extras: torch.ones(len(x), 3) * len(extras)
    assert torch.equal(Tempered(network, 4.0)(torch.zeros(2, 2), {"a": 1, "b": 2}), torch.full((2, 3), 0.5))


# Transfer learning


def prepared(shop):
    """The undefended network's weights, and those that training starts and ends with."""
    before = state(shop.undefended())
    return before, state(shop.build())


def trained(shop, **parameters):
    network = TransferLearning(**parameters).train(shop)
    fit = shop.fits[-1]
    start = {name.removeprefix("network."): value for name, value in fit.start.items()}
    return state(network), start


def test_only_the_head_is_trained(tmp_path):
    shop = Workshop.at(tmp_path)
    before, fresh = prepared(shop)
    after, start = trained(shop)
    assert same(start, before, set(before) - set(HEAD))
    assert same(start, fresh, HEAD)
    assert not same(before, fresh, HEAD)
    for name in before:  # running statistics and their counter, too
        assert torch.equal(after[name], before[name]) == (name not in HEAD), name
    assert "module.body.1.running_mean" in before
    assert int(before["module.body.1.num_batches_tracked"]) > 0


def test_the_head_may_go_on_as_it_was(tmp_path):
    shop = Workshop.at(tmp_path)
    before, _ = prepared(shop)
    after, start = trained(shop, fresh_head=False)
    assert same(start, before)
    assert not same(after, before, HEAD)


def test_everything_may_be_trained(tmp_path):
    shop = Workshop.at(tmp_path)
    before, _ = prepared(shop)
    after, start = trained(shop, trainable="all", fresh_head=False)
    assert same(start, before)
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed == set(before) - {"mean", "std"}


@pytest.mark.parametrize("patterns", [["body.*"], ["module.body.*"], ["body.0.*", "body.1.*"]])
def test_named_layers_are_frozen(tmp_path, patterns):
    shop = Workshop.at(tmp_path)
    before, _ = prepared(shop)
    after, _ = trained(shop, trainable="all", frozen=patterns)
    assert {name for name in before if not torch.equal(after[name], before[name])} == set(HEAD)


def test_frozen_statistics_of_a_layer_that_learns(tmp_path):
    shop = Workshop.at(tmp_path)
    before, _ = prepared(shop)
    after, _ = trained(
        shop, trainable="all", fresh_head=False, frozen=["*.running_*", "*.num_batches_tracked"]
    )
    kept = [name for name in before if "running" in name or "num_batches" in name]
    assert same(after, before, kept)
    assert not same(after, before, ["module.body.1.weight"])


def test_frozen_weights_do_not_decay(tmp_path):
    shop = Workshop.at(tmp_path, recipe=Recipe(optimizer="sgd", epochs=1, batch_size=16, weight_decay=0.1))
    before, _ = prepared(shop)
    after, _ = trained(shop, trainable="all", fresh_head=False, frozen=["body.0.weight"])
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert "module.body.0.weight" not in changed
    assert {"module.body.0.bias", *HEAD} <= changed


def test_what_is_frozen_rests():
    body = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(), nn.ReLU())
    network = nn.Sequential(body, nn.Dropout(), nn.Linear(2, 2))
    partly = PartlyFrozen(network, [name for name in network.state_dict() if name.startswith("0.")])
    partly.train()
    assert not any(part.training for part in body.modules())
    assert network[1].training
    assert network[2].training
    assert [p.requires_grad for p in partly.requires_grad_(True).parameters()] == [False] * 4 + [True] * 2
    partly.eval()
    assert not any(part.training for part in partly.modules())
    assert not any(p.requires_grad for p in partly.requires_grad_(False).parameters())


def test_weights_may_be_tied():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    PartlyFrozen(nn.Sequential(first, second), ["0.weight"]).requires_grad_(True)
    assert not first.weight.requires_grad


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", "nested.pt"])
@pytest.mark.parametrize("whole", [True, False])
def test_weights_from_a_file(tmp_path, suffix, whole):
    other = Workshop.at(tmp_path, seed=5)
    source = state(other.undefended())
    given = (
        source
        if whole
        else {n.removeprefix("module."): v for n, v in source.items() if n.startswith("module.")}
    )
    path = tmp_path / f"source{suffix}"
    if suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in given.items()}, path)
    else:
        torch.save({"state_dict": given, "epoch": 3} if "nested" in suffix else given, path)
    shop = Workshop.at(tmp_path, data_dirs=(tmp_path,))
    defense = TransferLearning(weights=path.name)
    assert list(defense.files((tmp_path,))) == [path]
    assert not defense.files(())
    after, start = trained(shop, weights=path.name)
    frozen = set(source) - set(HEAD)
    assert same(start, source, frozen)
    assert same(after, source, frozen)
    assert same(start, state(shop.build()), HEAD)


def test_a_source_of_other_classes(tmp_path):
    source = Workshop.at(tmp_path, data(4, n=80)).undefended()
    path = tmp_path / "four.safetensors"
    save_file({name: value.contiguous() for name, value in state(source).items()}, path)
    shop = Workshop.at(
        tmp_path, data(3, n=240), data_dirs=(tmp_path,), recipe=Recipe(epochs=6, batch_size=16, lr=2e-2)
    )
    network = TransferLearning(weights="four.safetensors").train(shop)
    assert shop.accuracy(network) > 0.8
    with pytest.raises(UserError, match=r"module.head.weight has shape \(4, 72\), not \(3, 72\)"):
        TransferLearning(weights="four.safetensors", fresh_head=False).train(shop)


def test_the_learning_rate(tmp_path):
    shop = Workshop.at(tmp_path, idle=True)
    TransferLearning(lr=1e-5, trainable="all").train(shop)
    assert shop.fits[-1].recipe == shop.recipe.model_copy(update={"lr": 1e-5})
    TransferLearning(trainable="all").train(shop)
    assert shop.fits[-1].recipe == shop.recipe


def test_what_is_returned_uses_the_trained_weights(tmp_path):
    # A prepared network on the CPU multiplies by padded copies of its weights; those must not be trained.
    shop = Workshop.at(tmp_path, data(3), recipe=Recipe(epochs=6, batch_size=16, lr=2e-2))
    network = TransferLearning().train(shop)
    assert isinstance(network, Network)
    assert shop.accuracy(network) > 0.9
    x = torch.from_numpy(shop.data.splits["test"].x)
    features, output = network.features(x)
    head = network.module.head
    assert torch.allclose(output, features @ head.weight.T + head.bias, atol=1e-5)


def test_mistakes_are_named(tmp_path):
    shop = Workshop.at(tmp_path)
    with pytest.raises(
        UserError, match=r"frozen: no weight is called 'boddy.\*'; there are mean, std, .* and \d+ more"
    ):
        TransferLearning(frozen=["boddy.*"]).train(shop)
    with pytest.raises(UserError, match="nothing is left to train"):
        TransferLearning(frozen=["head.*"]).train(shop)
    with pytest.raises(UserError, match=r"weights 'none.pt' not found"):
        TransferLearning(weights="none.pt").train(shop)
    with pytest.raises(UserError, match="no layer of the network has 7 outputs"):
        head_of(shop.build(), 7)
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pt")
    for name in ("bad.safetensors", "bad.pt", "list.pt", "code.pt"):
        with pytest.raises(UserError, match=name):
            read_state(tmp_path / name)


def test_weights_that_do_not_fit(tmp_path):
    network = Workshop.at(tmp_path).build()
    weights = state(network)
    weights.pop("module.body.1.num_batches_tracked")  # files of old have none
    load_into(network, weights, ())
    weights.pop("module.body.0.bias")
    with pytest.raises(UserError, match=r"lack module\.body\.0\.bias; there are mean, std"):
        load_into(network, weights, ())
    load_into(network, weights, ["module.body.0.bias"])


def test_the_head_is_the_last_layer_with_so_many_outputs():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.LayerNorm(3))
    assert head_of(network, 3) == ["2.weight", "2.bias"]
    assert matching(["module.a.w", "b.w"], ["*.w"]) == ["module.a.w", "b.w"]
    assert matching(["module.a.w", "b.w"], ["a.*"]) == ["module.a.w"]
