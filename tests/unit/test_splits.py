"""Splits and order depend on the names of the samples and on nothing else."""

import numpy as np
import pytest

from advbench.api import Classification, Data, InputSpace, Split, sample_order, split_indices

IDS = np.array([f"galaxy-{i}" for i in range(997)])
FRACTIONS = {"train": 0.6, "valid": 0.1, "calibration": 0.1, "test": 0.2}


def names(split: np.ndarray, ids: np.ndarray = IDS) -> list[str]:
    return ids[split].tolist()


def test_order_is_a_permutation_that_follows_the_names() -> None:
    order = sample_order(IDS)
    assert np.array_equal(np.sort(order), np.arange(len(IDS)))
    shuffled = np.random.default_rng(3).permutation(IDS)
    assert names(sample_order(shuffled), shuffled) == names(order)
    assert names(sample_order(IDS, seed=1)) != names(order)


def test_the_first_k_of_fewer_samples_are_among_the_first_of_more() -> None:
    some = IDS[::2]
    first = names(sample_order(some)[:100], some)
    among = [name for name in names(sample_order(IDS)) if name in set(some)]
    assert first == among[:100]


@pytest.mark.parametrize("labelled", [False, True])
def test_splits_are_disjoint_and_have_their_sizes(labelled: bool) -> None:
    labels = np.arange(len(IDS)) % 3 if labelled else None
    splits = split_indices(IDS, FRACTIONS, labels=labels)
    together = np.concatenate(list(splits.values()))
    assert list(splits) == list(FRACTIONS)
    assert np.array_equal(np.sort(together), np.arange(len(IDS)))
    for name, fraction in FRACTIONS.items():
        assert abs(len(splits[name]) - fraction * len(IDS)) <= (3 if labelled else 1)


def test_every_class_is_split_by_the_same_fractions() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 7)
    splits = split_indices(IDS, FRACTIONS, labels=labels)
    for name, fraction in FRACTIONS.items():
        counts = np.bincount(labels[splits[name]], minlength=3)
        assert (np.abs(counts - fraction * np.array([900, 90, 7])) <= 1).all()


def test_membership_follows_the_names_whatever_the_order() -> None:
    shuffle = np.random.default_rng(0).permutation(len(IDS))
    labels = np.arange(len(IDS)) % 3
    here = split_indices(IDS, FRACTIONS, labels=labels)
    there = split_indices(IDS[shuffle], FRACTIONS, labels=labels[shuffle])
    for name in FRACTIONS:
        assert names(here[name]) == names(there[name], IDS[shuffle])
    assert names(split_indices(IDS, FRACTIONS, seed=1)["test"]) != names(here["test"])


def test_a_rest_may_stay_outside() -> None:
    splits = split_indices(IDS, {"train": 0.5, "test": 0.25})
    assert sum(map(len, splits.values())) == round(0.75 * len(IDS))


@pytest.mark.parametrize("fractions", [{"train": 0.9, "test": 0.2}, {"train": -0.1, "test": 0.5}])
def test_impossible_fractions_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="sum to at most 1"):
        split_indices(IDS, fractions)


def test_what_is_shifted_is_split_as_its_source_whatever_its_labels() -> None:
    labels = np.arange(len(IDS)) % 3
    source = split_indices(IDS, FRACTIONS, labels=labels)
    space, task = InputSpace((1,), (0.0,), (1.0,), ("a",)), Classification(("a", "b", "c"))
    zeros = np.zeros((len(IDS), 1), np.float32)
    data = Data(
        space, task, {name: Split(zeros[rows], labels[rows], IDS[rows]) for name, rows in source.items()}
    )
    again = split_indices(IDS, FRACTIONS, labels=labels[::-1], source=data)
    for name, rows in source.items():
        assert again[name].tolist() == rows.tolist()
    others = np.char.add(IDS[: len(IDS) // 2], "-other")
    mixed = np.concatenate([IDS, others])
    found = split_indices(mixed, FRACTIONS, labels=np.zeros(len(mixed)), source=data)
    assert sorted(np.concatenate(list(found.values()))) == list(range(len(mixed)))
    for name, rows in source.items():
        assert set(IDS[rows]) == set(mixed[found[name]]) & set(IDS)
        assert len(found[name]) == pytest.approx(FRACTIONS[name] * len(mixed), abs=3)
