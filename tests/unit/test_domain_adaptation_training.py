"""Trainings towards a second domain: they help, and read no label that they may not read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import toys
from training_kit import PLUGINS, Workshop, captured, state

from advbench.api import (
    Batch,
    Classification,
    Data,
    DataError,
    InputSpace,
    Recipe,
    Split,
    UserError,
    split_indices,
)
from advbench.components.identity import specify
from advbench.runtime.checks import fingerprint
from advbench.runtime.data import Card
from advbench.runtime.rng import SampleRng
from advbench.runtime.training import batch_to
from advbench.suite.model import DatasetItem, DefenseItem
from advbench_defenses.domain_adaptation import Adapting, DomainAdaptation, both
from advbench_defenses.few_shots import chosen, few_shots
from advbench_defenses.terms import mutual_information
from advbench_defenses.transfer_learning import TransferLearning

RECIPE = Recipe(epochs=8, batch_size=32, lr=5e-3)
METHODS = {
    "mmd": {"weight": 0.3},
    "median": {"method": "mmd", "kernel": "median", "weight": 1.0},
    "coral": {"weight": 1e3},
    "dann": {},
    "cdan": {},
    "universal": {"weight": 0.5},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def domain(target: bool = False, n: int = 480, offset: float = 2.0, noise: float = 0.0) -> Data:
    """Two bands: in one the class shows in both domains; in the other the target shows another class.

    There the target is offset, or has more noise, too.
    """
    honest, spurious = 0.7 * np.random.default_rng(7).normal(size=(2, 3, 6, 6))
    y = np.arange(n) % 3
    shown = np.stack([honest[y], offset + spurious[(y + 1) % 3] if target else spurious[y]], 1)
    generator = np.random.default_rng(int(target))
    x = shown + generator.normal(size=shown.shape)
    x[:, 1] += noise * generator.normal(size=x[:, 1].shape)
    x = x.clip(-9, 9).astype(np.float32)
    ids = np.array([f"{'t' if target else 's'}{i:04d}" for i in range(n)])
    parts = split_indices(ids, {"train": 0.5, "valid": 0.2, "test": 0.3}, labels=y)
    space = InputSpace((2, 6, 6), (-9.0, -9.0), (9.0, 9.0), ("honest", "spurious"))
    splits = {name: Split(x[rows], y[rows], ids[rows]) for name, rows in parts.items()}
    return Data(space, Classification(("a", "b", "c")), splits)


def relabelled(data: Data, change) -> Data:
    splits = {name: replace(split, y=change(np.asarray(split.y))) for name, split in data.splits.items()}
    return replace(data, splits=splits)


def workshop(folder, target: Data, defense="domain-adaptation", recipe=RECIPE, **params) -> Workshop:
    """A shop on the source whose defense adapts to the target."""
    source = domain()
    shop = Workshop.at(folder, source, recipe=recipe)
    prints = fingerprint("target", target)
    sizes = {name: len(split) for name, split in target.splits.items()}
    card = Card(prints.everything, sizes, target.space, target.task, (), unlabelled=prints.unlabelled)
    spec = specify(PLUGINS, "defense", f"defenses/{defense}", params)
    item = DatasetItem(
        "target", specify(PLUGINS, "dataset", "toys/blobs", {"shift": 1.0}), None, None, "test"
    )
    cell = replace(shop.cell, defense=DefenseItem("defense", (spec,), "target"), target=item)
    return replace(shop, kitchen=replace(shop.kitchen, other=(target, card)), cell=cell)


def accuracy(network, data: Data) -> float:
    split = data.splits["test"]
    x, y, extras = batch_to(split, np.arange(len(split)), data, toys.CPU)
    with torch.no_grad():
        return float((network(x, extras).argmax(1) == y).double().mean())


@pytest.fixture(scope="module")
def unadapted(tmp_path_factory):
    torch.set_num_threads(1)
    shop = Workshop.at(tmp_path_factory.mktemp("plain"), domain(), recipe=RECIPE)
    return shop.fit(shop.build())


# They help


@pytest.mark.parametrize("name", METHODS)
def test_every_method_helps_where_no_adaptation_fails(tmp_path, unadapted, name):
    # CORAL looks at covariances alone, so its domains differ in them.
    source, target = domain(), domain(True, offset=0, noise=3) if name == "coral" else domain(True)
    assert accuracy(unadapted, source) > 0.9
    assert accuracy(unadapted, target) < 0.45  # a third is chance
    shop = workshop(tmp_path, target)
    network = DomainAdaptation(**{"method": name, **METHODS[name]}).train(shop)
    assert accuracy(network, target) > accuracy(unadapted, target) + 0.1
    assert accuracy(network, source) > 0.75
    last = shop.history[-1]
    assert last["purpose"] == "domain adaptation"
    assert {"task", "alignment", "train_loss", "valid_loss"} <= set(last)
    assert ("domain_accuracy" in last) == (name in ("dann", "cdan"))
    assert ("clustering" in last) == (name == "universal")
    if name in ("dann", "cdan"):
        assert 0.3 < min(epoch["domain_accuracy"] for epoch in shop.history) <= 1
        reversal = [epoch["reversal"] for epoch in shop.history]
        assert reversal == sorted(reversal)
        assert 0 < reversal[0] < reversal[-1] < 1


def test_few_labels_help_too(tmp_path, unadapted):
    source, target = domain(), domain(True)
    shop = workshop(tmp_path, target, "transfer-learning", shots=8, trainable="all", fresh_head=False)
    network = TransferLearning(shots=8, trainable="all", fresh_head=False).train(shop)
    assert accuracy(network, target) > accuracy(unadapted, target) + 0.2
    # The network that it starts from was trained as if there were no target.
    start = shop.fits[-1].start
    plain = Workshop.at(tmp_path / "..", source, recipe=RECIPE).undefended().state_dict()
    assert all(torch.equal(start[f"network.{name}"], value) for name, value in plain.items())


# The loss


def pair(classes=3) -> Batch:
    data, other = domain(), domain(True)
    rows = np.arange(12)
    found = []
    for one in (other, data):
        split = one.splits["train"]
        rng = SampleRng(0, "test", split.ids[rows], toys.CPU)
        where = torch.from_numpy(rows)
        found.append(Batch(*batch_to(split, rows, one, toys.CPU), rng, progress=0.4, rows=where))
    return found[1]._replace(other=found[0]._replace(y=torch.full((12,), -1)))


def test_both_domains_go_through_the_network_as_one_batch(tmp_path):
    shop, batch = workshop(tmp_path, domain(True)), pair()
    network, seen = shop.build().train(), []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    both(network, batch)
    (together,) = seen
    x = torch.cat([batch.x, batch.other.x])
    assert torch.equal(together, (x - network.mean) / network.std)


def test_the_loss_is_the_sum_of_its_weighted_terms(tmp_path):
    defense = DomainAdaptation(method="coral", weight=7.0, entropy=0.3, fisher=0.2)
    shop, batch = workshop(tmp_path, domain(True)), pair()
    loss = captured(shop, defense)
    module = Adapting(shop.build(), defense.aligner(shop.build(), shop.data, domain(True), 0)).eval()
    terms = loss(module, batch)
    assert set(terms) == {"loss", "task", "alignment", "entropy", "fisher"}
    total = terms["task"] + 7 * terms["alignment"] + 0.3 * terms["entropy"] + 0.2 * terms["fisher"]
    assert terms["loss"].item() == pytest.approx(total.item(), rel=1e-6)
    assert terms["task"].item() == pytest.approx(shop.loss(module.network, batch).item(), rel=1e-5)


def test_the_validator_sees_source_labels_and_target_images(tmp_path):
    defense = DomainAdaptation(validator_weight=0.5)
    shop, batch = workshop(tmp_path, domain(True)), pair()
    idle = replace(shop, idle=True)
    defense.train(idle)
    validation = idle.fits[-1].validation
    module = Adapting(shop.build(), defense.aligner(shop.build(), shop.data, domain(True), 0)).eval()
    with torch.no_grad():
        found = validation(module, batch)
        information = mutual_information(module(batch.other.x, {}))
    assert found.item() == pytest.approx((shop.loss(module, batch) - 0.5 * information).item(), rel=1e-5)


def test_only_the_network_is_returned(tmp_path):
    short = Recipe(epochs=1, batch_size=64)
    for method in ("mmd", "dann", "universal"):
        shop = workshop(tmp_path, domain(True), recipe=short)
        network = DomainAdaptation(method=method).train(shop)
        assert state(network).keys() == state(shop.build()).keys()
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


# Labels of the target


@pytest.mark.parametrize("method", ["mmd", "dann", "universal"])
def test_labels_of_the_target_change_no_byte_and_no_name(tmp_path, method):
    def shuffled(y):
        return np.random.default_rng(5).permutation(y)

    target, found = domain(True), []
    variants = (target, relabelled(target, shuffled), relabelled(target, lambda y: np.full_like(y, -1)))
    for one in variants:
        shop = workshop(tmp_path, one, recipe=Recipe(epochs=2, batch_size=64), method=method)
        withheld = shop.target_data
        assert all((split.y == -1).all() for split in withheld.splits.values())
        found.append(shop.kitchen.prepare(shop.cell, shop.cell.defense.specs))
    assert len({one.weights_hash for one in found}) == 1
    assert found[0].history == found[1].history == found[2].history
    assert fingerprint("a", variants[0]).unlabelled == fingerprint("b", variants[1]).unlabelled
    assert fingerprint("a", variants[0]).everything != fingerprint("b", variants[1]).everything


def test_the_order_of_the_validation_samples_changes_no_byte(tmp_path):
    """A validator that saw one class at a time would take a good network for one that calls everything the same."""
    target, found = domain(True, n=1200), []  # more than the source has
    valid = target.splits["valid"]
    for order in (np.arange(len(valid)), np.argsort(valid.y, kind="stable")):
        moved = Split(valid.x[order], valid.y[order], valid.ids[order])
        shop = workshop(tmp_path, replace(target, splits={**target.splits, "valid": moved}))
        network = DomainAdaptation().train(replace(shop, recipe=Recipe(epochs=3, batch_size=64)))
        found.append((state(network), shop.history))
    assert found[0][1] == found[1][1]
    assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())


def test_a_network_is_named_by_the_images_of_its_target(tmp_path):
    target, short = domain(True), Recipe(epochs=1, batch_size=64)
    shop = workshop(tmp_path, target, recipe=short)
    others = (target, relabelled(target, lambda y: y[::-1].copy()), domain(True, n=300))
    # On the same store.
    kitchens = [
        replace(shop.kitchen, other=workshop(tmp_path, other, recipe=short).kitchen.other) for other in others
    ]
    events = []
    for kitchen in kitchens:
        environment = replace(kitchen.environment, emit=events.append)
        replace(kitchen, environment=environment).prepare(shop.cell, shop.cell.defense.specs)
    assert [event["how"] for event in events if event["event"] == "network"] == [
        "trained",
        "loaded",
        "trained",
    ]


def test_labels_of_few_shots_do_matter(tmp_path):
    target, found = domain(True), []
    for one in (target, relabelled(target, lambda y: (y + 1) % 3)):
        shop = workshop(tmp_path, one, "transfer-learning", recipe=Recipe(epochs=1, batch_size=64), shots=3)
        found.append(shop.kitchen.prepare(shop.cell, shop.cell.defense.specs).weights_hash)
    assert found[0] != found[1]


# Few shots


def test_shots_are_the_first_of_each_class_in_hash_order():
    split = domain(True).splits["train"]
    few, more, everyone = (chosen(split, 3, shots) for shots in (2, 5, None))
    assert np.bincount(split.y[few]).tolist() == [2, 2, 2]
    assert set(few) < set(more) < set(everyone)
    assert sorted(everyone) == list(range(len(split)))
    backwards = Split(split.x[::-1], split.y[::-1], split.ids[::-1])
    assert set(backwards.ids[chosen(backwards, 3, 2)]) == set(split.ids[few])


def test_few_shots_make_an_epoch_as_long_as_the_source_s():
    source, target = domain(), domain(True)
    marked = relabelled(target, lambda y: np.where(np.arange(len(y)) % 5 == 0, -1, y))
    data = few_shots(source, marked, 4)
    train, valid = data.splits["train"], data.splits["valid"]
    assert len(train) == 240
    assert len(valid) == 12
    assert len(set(train.ids)) == 240
    assert (train.y >= 0).all()
    assert np.bincount(train.y).tolist() == [80, 80, 80]
    original = {name: i for i, name in enumerate(target.splits["train"].ids)}
    for place in (0, 5, 100, 239):
        row = original[str(train.ids[place]).partition("#")[0]]
        assert np.array_equal(train.x[np.array([place])][0], target.splits["train"].x[row])
        assert train.y[place] == target.splits["train"].y[row]
    assert set(data.splits) == {"train", "valid"}


def test_shots_of_nothing_are_clear_errors(tmp_path):
    shop = Workshop.at(tmp_path, domain(), recipe=RECIPE)
    with pytest.raises(UserError, match="shots are of another data set; say of which by `adapt_to: LABEL`"):
        TransferLearning(shots=3).train(shop)
    unknown = relabelled(domain(True), lambda y: np.full_like(y, -1))
    with pytest.raises(DataError, match="needs labelled samples in the split 'train'"):
        few_shots(domain(), unknown, 3)
    with pytest.raises(UserError, match="needs a data set to adapt to; say which by `adapt_to: LABEL`"):
        DomainAdaptation().train(shop)
    assert (
        TransferLearning(shots=3).supports(domain().space, toys.data(1).task) == "shots is for classification"
    )


def test_extra_inputs_of_both_domains(tmp_path):
    source = domain()
    splits = {
        name: replace(split, extras={"ebv": np.ones(len(split), np.float32)})
        for name, split in source.splits.items()
    }
    shop = workshop(tmp_path, domain(True))
    lacking = replace(shop, kitchen=replace(shop.kitchen, data=replace(source, splits=splits)))
    with pytest.raises(DataError, match=r"the extra input 'ebv' cannot be adapted: split '.*' of the target"):
        DomainAdaptation().train(lacking)
