"""Checks of data sets; those whose files are not at hand are skipped with what they look for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from advbench.components.base import Component
from advbench.runtime.data import read
from advbench.testing.check import CheckFunction, Skip, Subject, require
from advbench.testing.stage import global_state, sample_draws
from advbench.values import Classification, Data, task_name


def checks(cls: type[Component]) -> list[CheckFunction]:
    """For data sets."""
    return [loads, same_twice, any_rows_in_any_order, targets_fit, trainable, augmentation]


def loads(subject: Subject) -> str:
    """It loads: splits are disjoint, ids unique, values finite and within the bounds, labels in range."""
    state = global_state()
    data = subject.data
    require(global_state() == state, "loading draws from a global generator; use a seeded one")
    require(
        task_name(data.task) in subject.component.tags.tasks,
        f"tags.tasks does not name {task_name(data.task)}",
    )
    require(len(data.splits["test"]), "the split 'test' is empty")
    reason = subject.component.supports(data.space, data.task)
    require(reason is None, f"does not support its own data: {reason}")
    return ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())


def same_twice(subject: Subject) -> None:
    """Loading again, with an empty cache, gives the same data."""
    first, second = subject.loaded[1], subject.load_data("second")[1]
    require(first.fingerprint == second.fingerprint, "loading twice gives different data")
    require(first.sizes == second.sizes, f"loading twice gives splits of {first.sizes} and {second.sizes}")


def any_rows_in_any_order(subject: Subject) -> None:
    """Inputs can be read by an array of row numbers, unsorted and repeated, as float32."""
    for name, split in subject.data.splits.items():
        if len(split) < 2:
            continue
        rows = np.array([len(split) - 1, 0, 0])
        x = read(split, rows)
        require(x.dtype == np.float32, f"{name}: rows are {x.dtype}")
        require(x.shape == (3, *subject.data.space.shape), f"{name}: three rows have shape {x.shape}")
        one_by_one = np.concatenate([read(split, rows[i : i + 1]) for i in range(3)])
        require(np.array_equal(x, one_by_one), f"{name}: rows read together are not those read one by one")
        again = read(split, rows)
        require(np.array_equal(x, again), f"{name}: the same rows read twice differ")


def targets_fit(subject: Subject) -> None:
    """Targets are arrays of one entry per sample; classes of the test split occur in training."""
    data = subject.data
    for name, split in data.splits.items():
        require(isinstance(split.y, np.ndarray), f"{name}: y is {type(split.y).__name__}, not a NumPy array")
        require(
            isinstance(split.ids, np.ndarray),
            f"{name}: ids are {type(split.ids).__name__}, not a NumPy array",
        )
    if isinstance(data.task, Classification) and len(data.splits.get("train", ())):
        unseen = set(data.splits["test"].y.tolist()) - set(data.splits["train"].y.tolist())
        require(not unseen, f"classes {sorted(unseen)} of the split 'test' do not occur in 'train'")


def trainable(subject: Subject) -> None:
    """With a split `train` there is a split `valid`, and neither is empty."""
    data = subject.data
    if "train" not in data.splits:
        raise Skip("has no split 'train'")
    for name in ("train", "valid"):
        require(len(data.splits.get(name, ())), f"has a split 'train', but no samples in {name!r}")


def augmentation(subject: Subject) -> None:
    """`augment` keeps shape, dtype and bounds, changes something, and depends on its draws alone."""
    data = subject.data
    if data.augment is None:
        raise Skip("has no augment")
    split = data.splits.get("train", data.splits["test"])
    rows = np.arange(min(8, len(split)))
    x, draws = torch.from_numpy(read(split, rows)), sample_draws(split.ids[rows]).uniform(16)
    before, state = x.clone(), global_state()
    result = data.augment(x, draws)
    require(result.shape == x.shape, f"augment returned shape {tuple(result.shape)} for {tuple(x.shape)}")
    require(result.dtype == x.dtype, f"augment returned {result.dtype} for {x.dtype}")
    require(torch.equal(x, before), "augment changes its inputs in place")
    require(global_state() == state, "augment draws from a global generator; use the draws it is given")
    require(torch.equal(data.augment(x, draws), result), "augment gives two results for the same draws")
    require(not torch.equal(result, x), "augment changes nothing")
    _require_bounds(data, result)


def _require_bounds(data: Data, x: Tensor) -> None:
    lower, upper = data.space.bounds_like(x)
    slack = 1e-5 * (upper - lower)
    require(bool(torch.isfinite(x).all()), "augment is not finite")
    inside = (x >= lower - slack) & (x <= upper + slack)
    require(bool(inside.all()), f"augment leaves the bounds: [{float(x.min()):.6g}, {float(x.max()):.6g}]")
