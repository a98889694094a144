"""Data sets: one clear message for each that is broken, a fingerprint of the content, cards that spare a load."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from advbench.api import (
    Classification,
    Data,
    DataContext,
    DataError,
    Dataset,
    InputSpace,
    Register,
    Regression,
    Split,
    hookimpl,
    param,
)
from advbench.components.identity import Spec, specify
from advbench.components.loader import Plugins, Source
from advbench.runtime import checks, reading
from advbench.runtime import data as data_room
from advbench.runtime.data import Card, Context, Environment, known_card, load
from advbench.runtime.reading import batches, channel_statistics
from advbench.store.artifacts import MANIFEST, Store

SPACE = InputSpace((2, 3, 3), (-4.0, 0.0), (50.0, 1.0), ("a", "b"), "electrons")
CLASSES = Classification(("cat", "dog", "emu"))


class Held(Dataset):
    """Whatever a test puts into ``held``."""

    name: str = param("", "which one")
    file: str = param("", "a file that decides its content")
    held: ClassVar[dict[str, Data]] = {}
    loads: ClassVar[list[str]] = []

    def files(self, data_dirs: Any) -> list[Path]:
        """The file."""
        return [folder / self.file for folder in data_dirs if self.file]

    def load(self, context: DataContext) -> Data:
        """The data."""
        self.loads.append(self.name)
        return self.held[self.name]


class Fleeting(Held):
    """The same, but nothing decides its content."""

    reproducible = False


class Generated(Held):
    """Keeps an artifact."""

    def load(self, context: DataContext) -> Data:
        """Generate, then load."""
        context.artifact("pixels", {"name": self.name}, lambda folder: np.save(folder / "x.npy", np.zeros(3)))
        return super().load(context)


class Shifted(Held):
    """Is on the scale of the data that the network was trained on."""

    def load(self, context: DataContext) -> Data:
        """Take the upper bound of the source."""
        data = super().load(context)
        top = context.source.space.upper if context.source is not None else data.space.upper
        return replace(data, space=replace(data.space, upper=top))


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    module = ModuleType("mine")

    @hookimpl
    def register_datasets(register: Register) -> None:
        for cls in (Held, Fleeting, Generated, Shifted):
            register(cls.__name__.lower(), cls)

    module.register_datasets = register_datasets  # type: ignore[attr-defined]
    (tmp_path / "files").mkdir()
    plugins = Plugins([Source("mine", "mine 1", lambda: module)])
    Held.held.clear()
    Held.loads.clear()
    return Environment(plugins, Store(tmp_path / "store"), (tmp_path / "files",))


def split(name: str, n: int, seed: int) -> Split:
    generator = np.random.default_rng(seed)
    x = generator.uniform(0, 1, size=(n, 2, 3, 3)).astype(np.float32)
    ids = np.array([f"{name}-{i}" for i in range(n)])
    extras = {"ebv": generator.normal(size=n)}
    return Split(x, generator.integers(3, size=n), ids, extras)


def good() -> Data:
    sizes = {"train": 12, "valid": 5, "test": 7}
    splits = {name: split(name, n, seed) for seed, (name, n) in enumerate(sizes.items())}
    return Data(SPACE, CLASSES, splits)


def with_split(data: Data, name: str = "test", **changes: Any) -> Data:
    return replace(data, splits={**data.splits, name: replace(data.splits[name], **changes)})


def changed(array: Any, index: Any, value: Any) -> Any:
    copy = np.array(array)
    copy[index] = value
    return copy


def spec_of(environment: Environment, cls: str = "held", **params: Any) -> Spec:
    return specify(environment.plugins, "dataset", f"mine/{cls}", params)


def loaded(environment: Environment, data: Data, name: str = "one", cls: str = "held") -> Card:
    Held.held[name] = data
    return load(environment, spec_of(environment, cls, name=name), None)[1]


def test_a_sound_data_set_and_its_card(environment: Environment) -> None:
    card = loaded(environment, good())
    assert card.sizes == {"train": 12, "valid": 5, "test": 7}
    assert (card.space, card.task) == (SPACE, CLASSES)
    assert len(card.fingerprint) == 16
    assert card.count("test", None) == card.count("test", 100) == 7
    assert card.count("test", 3) == 3
    with pytest.raises(DataError, match="no split 'calibration'; there are train, valid, test"):
        card.count("calibration", None)


# What may be wrong

TEST = good().splits["test"]
REDSHIFT = Regression(("z",), tolerance=0.15, relative=True)


def regression(y: Any, x: Any = TEST.x) -> Data:
    data = good()
    targets = {name: np.linspace(0, 1, len(part)) for name, part in data.splits.items()} | {
        "test": np.asarray(y)
    }
    splits = {name: replace(part, y=targets[name]) for name, part in data.splits.items()}
    return with_split(replace(data, task=REDSHIFT, splits=splits), x=x)


def broken_pixels(value: float, index: Any = (4, 1, 2, 0)) -> Data:
    return with_split(good(), x=changed(TEST.x, index, value))


BROKEN: dict[str, tuple[Callable[[], Data], str]] = {
    "nan": (lambda: broken_pixels(np.nan), "split 'test': sample 'test-4' has NaN or infinite values"),
    "inf": (lambda: broken_pixels(np.inf), "split 'test': sample 'test-4' has NaN or infinite values"),
    "too large for float32": (
        lambda: with_split(good(), x=changed(TEST.x.astype(np.float64), (2, 0, 0, 0), 1e300)),
        "split 'test': sample 'test-2' has NaN or infinite values",
    ),
    "above": (
        lambda: broken_pixels(1.01),
        r"split 'test': sample 'test-4' has values in \[.*, 1.01\], outside the declared bounds of channel b, \[0, 1\]",
    ),
    "below": (
        lambda: broken_pixels(-5, (6, 0, 0, 0)),
        r"sample 'test-6' has values in \[-5, .*outside the declared bounds of channel a, \[-4, 50\]",
    ),
    "first of many": (
        lambda: with_split(good(), "train", x=changed(good().splits["train"].x, slice(3, None), np.nan)),
        "split 'train': sample 'train-3'",
    ),
    "label too large": (
        lambda: with_split(good(), y=changed(TEST.y, 2, 3)),
        r"split 'test': label 3 of sample 'test-2' is outside 0..2",
    ),
    "label below zero": (
        lambda: with_split(good(), "valid", y=np.array([0, 1, -2, 2, 0])),
        r"split 'valid': label -2 of sample 'valid-2' is outside 0..2 \(-1: none of the classes\)",
    ),
    "float labels": (
        lambda: with_split(good(), y=TEST.y.astype(np.float32)),
        r"split 'test': class labels must be integers of shape \(n,\), got float32 \(7,\)",
    ),
    "boolean labels": (
        lambda: with_split(good(), y=TEST.y > 1),
        "split 'test': class labels must be integers",
    ),
    "one-hot labels": (
        lambda: with_split(good(), y=np.eye(3, dtype=np.int64)[TEST.y]),
        r"class labels must be integers of shape \(n,\), got int64 \(7, 3\)",
    ),
    "channels last": (
        lambda: with_split(good(), x=TEST.x.transpose(0, 2, 3, 1)),
        r"split 'test': inputs have shape \(7, 3, 3, 2\); 7 targets need \(7, 2, 3, 3\)",
    ),
    "too few inputs": (
        lambda: with_split(good(), x=TEST.x[:6]),
        r"split 'test': inputs have shape \(6, 2, 3, 3\); 7 targets need \(7, 2, 3, 3\)",
    ),
    "too few ids": (lambda: with_split(good(), ids=TEST.ids[:5]), "split 'test': 5 ids for 7 samples"),
    "too many extras": (
        lambda: with_split(good(), extras={"ebv": np.zeros(8)}),
        "split 'test': 8 ebv for 7 samples",
    ),
    "extras not finite": (
        lambda: with_split(good(), extras={"ebv": changed(TEST.extras["ebv"], 3, np.nan)}),
        "split 'test': ebv of sample 'test-3' is not finite",
    ),
    "extras of one split only": (
        lambda: with_split(good(), "valid", extras={}),
        "split 'valid' has no extras, split 'train' has the extras ebv",
    ),
    "duplicate ids": (
        lambda: with_split(good(), ids=changed(TEST.ids, 5, "test-1")),
        "split 'test': the id 'test-1' belongs to more than one sample",
    ),
    "overlapping splits": (
        lambda: with_split(good(), ids=changed(TEST.ids.astype("U9"), 5, "valid-2")),
        "sample 'valid-2' is in split 'valid' and in split 'test'",
    ),
    "no test split": (
        lambda: replace(good(), splits={"train": good().splits["train"]}),
        "there is no split 'test'; there are train",
    ),
    "empty test split": (lambda: with_split(good(), **vars(split("test", 0, 0))), "split 'test' is empty"),
    "target not finite": (
        lambda: regression(changed(np.linspace(0, 1, 7), 6, np.inf)),
        "split 'test': target of sample 'test-6' is not finite",
    ),
    "target that no error is relative to": (
        lambda: replace(
            regression(np.array([0.1, 0.2, -1.0, -3.0, 0, 0, 0])),
            task=Regression(("z",), 0.05, relative=True),
        ),
        "split 'test': target -3 of sample 'test-3' is not above -1, and errors are to be relative to 1",
    ),
    "too many targets": (
        lambda: regression(np.zeros((7, 2))),
        r"split 'test': targets have shape \(7, 2\) for 1 outputs",
    ),
    "targets that are no numbers": (
        lambda: regression(np.array(["a"] * 7)),
        r"split 'test': targets must be numbers, got <U1",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_data_set_is_one_clear_error(environment: Environment, name: str) -> None:
    make, words = BROKEN[name]
    with pytest.raises(DataError, match=words) as caught:
        loaded(environment, make(), name)
    assert str(caught.value).startswith("mine/held")
    assert "\n" not in str(caught.value)
    assert known_card(environment, spec_of(environment, name=name), None) is None


def test_rounding_at_the_bounds_is_no_error(environment: Environment) -> None:
    upper = np.nextafter(np.float32(1), np.float32(2))
    assert loaded(environment, broken_pixels(float(upper)))


def test_an_empty_split_is_none_unless_it_is_evaluated(environment: Environment) -> None:
    empty = split("valid", 0, 0)
    assert loaded(environment, with_split(good(), "valid", **vars(empty)), "classes").sizes["valid"] == 0
    data = regression(np.linspace(0, 1, 7))
    without = with_split(data, "valid", **{**vars(empty), "y": np.zeros(0)})
    assert loaded(environment, without, "redshifts").sizes["valid"] == 0


def test_targets_of_one_output_may_be_a_column(environment: Environment) -> None:
    y = np.linspace(0, 1, 7)
    assert loaded(environment, regression(y[:, None]), "column") == loaded(environment, regression(y), "row")


# The fingerprint


def moved(data: Data) -> Data:
    """The last training sample becomes a validation sample."""
    train, valid = data.splits["train"], data.splits["valid"]
    less = Split(train.x[:-1], train.y[:-1], train.ids[:-1], {"ebv": train.extras["ebv"][:-1]})
    more = Split(
        np.concatenate([valid.x, train.x[-1:]]),
        np.concatenate([valid.y, train.y[-1:]]),
        np.concatenate([valid.ids, train.ids[-1:]]),
        {"ebv": np.concatenate([valid.extras["ebv"], train.extras["ebv"][-1:]])},
    )
    return replace(data, splits={**data.splits, "train": less, "valid": more})


def reordered(data: Data) -> Data:
    order = np.array([1, 0, 2, 3, 4, 5, 6])
    extras = {"ebv": TEST.extras["ebv"][order]}
    return with_split(data, x=TEST.x[order], y=TEST.y[order], ids=TEST.ids[order], extras=extras)


CHANGES: dict[str, Callable[[Data], Data]] = {
    "one value of x": lambda d: with_split(d, x=changed(TEST.x, (3, 1, 1, 1), 0.123)),
    "one bit of x": lambda d: with_split(
        d, x=changed(TEST.x, (3, 1, 1, 1), np.nextafter(TEST.x[3, 1, 1, 1], np.float32(1)))
    ),
    "one label": lambda d: with_split(d, y=changed(TEST.y, 0, (TEST.y[0] + 1) % 3)),
    "one id": lambda d: with_split(d, ids=changed(TEST.ids, 0, "other")),
    "one extra": lambda d: with_split(d, extras={"ebv": changed(TEST.extras["ebv"], 0, 0.5)}),
    "name of the extra": lambda d: replace(
        d,
        splits={name: replace(part, extras={"dust": part.extras["ebv"]}) for name, part in d.splits.items()},
    ),
    "split of a sample": moved,
    "order": reordered,
    "name of a split": lambda d: replace(
        d, splits={**{k: v for k, v in d.splits.items() if k != "valid"}, "validation": d.splits["valid"]}
    ),
    "lower bound": lambda d: replace(d, space=replace(SPACE, lower=(-4.0, -0.5))),
    "upper bound": lambda d: replace(d, space=replace(SPACE, upper=(50.0, 1.5))),
    "channel names": lambda d: replace(d, space=replace(SPACE, channels=("a", "c"))),
    "unit": lambda d: replace(d, space=replace(SPACE, unit="nJy")),
    "class names": lambda d: replace(d, task=Classification(("cat", "dog", "yak"))),
    "number of classes": lambda d: replace(d, task=Classification(("cat", "dog", "emu", "yak"))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_the_data_changes_the_fingerprint(environment: Environment, name: str) -> None:
    before = loaded(environment, good(), "before").fingerprint
    assert loaded(environment, CHANGES[name](good()), "after").fingerprint != before


def test_tolerance_of_a_regression_is_part_of_the_fingerprint(environment: Environment) -> None:
    data = regression(np.linspace(0, 1, 7))
    prints = {
        loaded(environment, replace(data, task=replace(REDSHIFT, **change)), str(change)).fingerprint
        for change in ({}, {"tolerance": 0.05}, {"relative": False}, {"targets": ("mass",)})
    }
    assert len(prints) == 4


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_fingerprint_does_not_depend_on_how_the_data_are_read(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    before = loaded(environment, good(), "before").fingerprint
    monkeypatch.setattr(checks, "batches", partial(batches, size=size))
    assert loaded(environment, good(), "again").fingerprint == before


def test_the_fingerprint_is_of_the_values_and_not_of_their_storage(
    environment: Environment, tmp_path: Path
) -> None:
    before = loaded(environment, good(), "before").fingerprint
    np.save(tmp_path / "x.npy", TEST.x)
    variants: dict[str, Mapping[str, Any]] = {
        "float64": {"x": TEST.x.astype(np.float64)},
        "fortran": {"x": np.asfortranarray(TEST.x)},
        "memory map": {"x": np.load(tmp_path / "x.npy", mmap_mode="r")},
        "int32 labels": {"y": TEST.y.astype(np.int32)},
        "big endian labels": {"y": TEST.y.astype(">i8")},
        "object ids": {"ids": TEST.ids.astype(object)},
        "column": {"extras": {"ebv": TEST.extras["ebv"][:, None]}},
    }
    for name, changes in variants.items():
        assert loaded(environment, with_split(good(), **changes), name).fingerprint == before, name
    backwards = replace(good(), splits=dict(reversed(good().splits.items())))
    assert loaded(environment, backwards, "backwards").fingerprint == before
    assert loaded(environment, replace(good(), notes=("a note",)), "notes").fingerprint == before


def test_bounds_may_be_numpy_numbers(environment: Environment) -> None:
    lower, upper = (tuple(np.asarray(value, np.float32)) for value in (SPACE.lower, SPACE.upper))
    space = InputSpace(tuple(np.array([2, 3, 3])), lower, upper, SPACE.channels, SPACE.unit)
    card = loaded(environment, replace(good(), space=space), "numpy")
    assert card.fingerprint == loaded(environment, good(), "python").fingerprint
    assert known_card(environment, spec_of(environment, name="numpy"), None) is not None


def test_a_train_time_transform_is_no_part_of_the_data_but_of_the_card(environment: Environment) -> None:
    def flip(x: Any, draws: Any) -> Any:
        return x

    plain = loaded(environment, good(), "plain")
    cards = [loaded(environment, replace(good(), augment=flip), name) for name in ("a little", "a lot")]
    assert plain.augment == ""
    assert {card.fingerprint for card in cards} == {plain.fingerprint}
    assert len({card.augment for card in cards} | {""}) == 3  # its parameters may decide how it transforms
    assert known_card(environment, spec_of(environment, name="a lot"), None) == cards[1]


# Cards


@pytest.mark.parametrize("task", [CLASSES, REDSHIFT])
def test_a_card_survives_json(task: Any) -> None:
    card = Card("ab12", {"train": 3, "test": 2}, SPACE, task, ("a note",), "cd34")
    assert Card.from_json(json.loads(json.dumps(card.json()))) == card


def test_a_known_card_spares_the_load(environment: Environment) -> None:
    spec = spec_of(environment, name="one")
    assert known_card(environment, spec, None) is None
    card = loaded(environment, good())
    assert known_card(environment, spec, None) == card
    assert Held.loads == ["one"]
    assert known_card(environment, spec_of(environment, name="two"), None) is None
    assert known_card(environment, replace(spec, version=2), None) is None
    assert known_card(environment, replace(spec, source="changed"), None) is None


def test_values_are_walked_through_once_for_each_content(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(environment, good())
    monkeypatch.setattr(data_room, "fingerprint", None)
    assert loaded(environment, good()).sizes["test"] == 7


def test_a_card_falls_with_a_file_that_decides_the_content(environment: Environment) -> None:
    Held.held["one"] = good()
    spec = spec_of(environment, name="one", file="catalogue.csv")
    path = environment.data_dirs[0] / "catalogue.csv"
    path.write_text("a")
    card = load(environment, spec, None)[1]
    assert known_card(environment, spec, None) == card
    path.write_text("b")
    assert known_card(environment, spec, None) is None
    path.write_text("a")
    assert known_card(environment, spec, None) == card
    path.unlink()
    assert known_card(environment, spec, None) is None


def test_a_card_falls_with_its_artifact(environment: Environment) -> None:
    spec = spec_of(environment, "generated", name="one")
    card = loaded(environment, good(), cls="generated")
    assert known_card(environment, spec, None) == card
    (artifact,) = environment.store.artifacts()
    manifest = artifact.path / MANIFEST
    manifest.write_text(manifest.read_text() + " ")
    assert known_card(environment, spec, None) is None
    manifest.unlink()
    assert known_card(environment, spec, None) is None
    assert load(environment, spec, None)[1] == card
    assert known_card(environment, spec, None) == card


def test_a_damaged_card_does_not_count(environment: Environment) -> None:
    spec = spec_of(environment, name="one")
    card = loaded(environment, good())
    (memo,) = (environment.store.root / "cards").iterdir()
    for text in ("", "{", "[]", "3", "{}", '{"card": {}, "artifacts": {}}', '{"card": 3, "artifacts": []}'):
        memo.write_text(text)
        assert known_card(environment, spec, None) is None, text
        assert load(environment, spec, None)[1] == card
        assert known_card(environment, spec, None) == card


def test_what_nothing_decides_is_loaded_every_time(environment: Environment) -> None:
    spec = spec_of(environment, "fleeting", name="one")
    first = loaded(environment, good(), cls="fleeting")
    assert known_card(environment, spec, None) is None
    second = loaded(environment, with_split(good(), y=(TEST.y + 1) % 3), cls="fleeting")
    assert second.fingerprint != first.fingerprint
    with pytest.raises(DataError, match="NaN"):
        loaded(environment, broken_pixels(np.nan), cls="fleeting")


def test_a_shift_is_on_the_scale_of_its_source(environment: Environment) -> None:
    Held.held |= {"deep": replace(good(), space=replace(SPACE, upper=(40.0, 2.0))), "faint": good()}
    deep, faint = spec_of(environment, name="deep"), spec_of(environment, "shifted", name="faint")
    data, card = load(environment, faint, deep)
    assert data.space.upper == card.space.upper == (40.0, 2.0)
    assert known_card(environment, faint, deep) == card
    assert known_card(environment, faint, None) is None
    assert load(environment, faint, None)[1].space.upper == SPACE.upper


# Finding files


def test_files_are_found_in_the_data_folders_in_their_order(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = (tmp_path / "first", tmp_path / "second", tmp_path / "here")
    for folder in folders:
        folder.mkdir()
        (folder / f"only-{folder.name}.bin").touch()
        (folder / "all.bin").touch()
    monkeypatch.chdir(folders[2])
    context = Context(replace(environment, data_dirs=folders[:2]), spec_of(environment), None)
    assert context.find("all.bin") == folders[0] / "all.bin"
    assert context.find("only-second.bin") == folders[1] / "only-second.bin"
    assert context.find("only-here.bin").resolve() == folders[2] / "only-here.bin"
    assert context.find("none.bin", "only-second.bin") == folders[1] / "only-second.bin"
    assert context.find(str(folders[0] / "all.bin")) == folders[0] / "all.bin"
    expected = rf"mine/held: a.bin or b.bin not found \(data folders: {folders[0]}, {folders[1]}\); look in the attic"
    with pytest.raises(DataError, match=expected):
        context.find("a.bin", "b.bin", hint="look in the attic")
    bare = Context(replace(environment, data_dirs=()), spec_of(environment), None)
    with pytest.raises(DataError, match=r"data folders: none given\); say where it is with --data DIR"):
        bare.find("a.bin")


def test_slow_work_is_told(environment: Environment) -> None:
    told: list[dict[str, Any]] = []
    context = Context(replace(environment, emit=told.append), spec_of(environment), None)
    with context.progress("drawing", 10) as bar:
        for _ in range(10):
            bar.advance()
    assert told[-1] == {"event": "progress", "label": "mine/held: drawing", "done": 10, "total": 10}
    assert all(event["done"] < 10 for event in told[:-1])


# Statistics


def test_channel_statistics_are_those_of_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(31, 3, 4, 5)) * np.array([1, 10, 0.1])[:, None, None] + 100).astype(
        np.float32
    )
    x[:, 2] = 7
    part = Split(x, np.zeros(31, int), np.arange(31).astype(str))
    monkeypatch.setattr(reading, "batches", partial(batches, size=7))
    mean, std = channel_statistics(part)
    values = x.astype(np.float64)
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], values.std((0, 2, 3))[:2], rtol=1e-8)
    assert std[2] == 1  # a constant channel is not divided by zero


def test_batches_are_all_rows_in_order() -> None:
    parts = list(batches(10, 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert np.array_equal(np.concatenate(parts), np.arange(10))
    assert list(batches(0)) == []
