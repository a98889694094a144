"""The check of defenses that train: they train a toy network, twice the same."""

from __future__ import annotations

import numpy as np
import torch

from advbench.components.base import Defense
from advbench.components.identity import Spec, specify
from advbench.runtime.data import Environment, load
from advbench.runtime.network import Network, Untouched
from advbench.runtime.prepare import Kitchen, Prepared
from advbench.runtime.training import batch_to
from advbench.store.artifacts import Store
from advbench.suite.grid import Cell
from advbench.suite.model import DatasetItem, DefenseItem, Item, PerturbationItem
from advbench.testing.check import Skip, Subject, require
from advbench.testing.spaces import classes, space_of
from advbench.testing.stage import CPU, global_state, with_toys
from advbench.values import Data, Split

BLOBS = space_of(2, 6, 6, low=-4.0, high=4.0)
"""The space of ``advbench-toys/blobs``."""


def trains_a_network(subject: Subject) -> str:
    """On three easy classes it trains the toy network to above 70 %, twice the same one, and cleans up."""
    defense = subject.as_a(Defense)
    reason = defense.supports(BLOBS, classes(3))
    if reason:
        raise Skip(reason)
    state, enabled = global_state(), torch.is_grad_enabled()
    first, accuracy = _train(subject, "training")
    require(global_state() == state, "training leaves another state of a global generator")
    require(torch.is_grad_enabled() == enabled, "training switches gradients on or off for everyone")
    complaint = Untouched(first.network).complaint()
    require(complaint is None, f"training {complaint}")
    require(accuracy > 0.7, f"the trained network has an accuracy of {accuracy:.0%} on three easy classes")
    second, _ = _train(subject, "training-again")
    require(first.weights_hash == second.weights_hash, "training twice gives two different networks")
    return f"accuracy {accuracy:.0%}"


def _train(subject: Subject, store: str) -> tuple[Prepared, float]:
    plugins, adapts = with_toys(subject), bool(subject.as_a(Defense).tags.adapts)
    environment = Environment(plugins, Store(subject.folder / store), ())
    data, model = (
        specify(plugins, "dataset", "advbench-toys/blobs", {}),
        specify(plugins, "model", "advbench-toys/small", {}),
    )
    blobs, card = load(environment, data, None)
    other = specify(plugins, "dataset", "advbench-toys/blobs", {"shift": 0.5}) if adapts else None
    target = None if other is None else load(environment, other, data)
    kitchen = Kitchen(environment, blobs, card, CPU, torch.get_num_threads(), target)
    prepared = kitchen.prepare(_cell(data, model, subject.spec, other), (subject.spec,))
    return prepared, _accuracy(prepared.network, blobs, blobs.splits["test"])


def _cell(data: Spec, model: Spec, defense: Spec, other: Spec | None) -> Cell:
    dataset = DatasetItem("blobs", data, None, None, "test")
    target = None if other is None else DatasetItem("shifted", other, None, "blobs", "test")
    item = DefenseItem("defense", (defense,), None if target is None else target.label)
    nothing = PerturbationItem("none", None)
    return Cell(dataset, dataset, Item("small", model), item, nothing, "none", 0, target=target)


def _accuracy(network: Network, data: Data, split: Split) -> float:
    x, y, extras = batch_to(split, np.arange(len(split)), data, CPU)
    with torch.no_grad():
        return float((network(x, extras).argmax(1) == y).double().mean())
