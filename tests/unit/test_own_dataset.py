"""Your own torch data sets: items of every kind, splits, and factories that do not work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from advbench.api import Classification, Data, DataContext, DataError, UserError
from advbench_own.factories import call, sources
from advbench_own.torch_dataset import TorchDataset

Contexts = Callable[..., DataContext]

FACTORIES = '''
import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset


class Ramp(Dataset):
    """Sample i is filled with i / count; what comes with it is chosen."""

    def __init__(self, count=30, kind="number", first=0):
        self.count, self.kind, self.first = count, kind, first

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        x, label = torch.full((1, 4, 4), (i + self.first) / 100), (i + self.first) % 3
        return {
            "number": (x, label),
            "tensor": (x, torch.tensor(label)),
            "text": (x.numpy(), "abc"[label]),
            "one_hot": (x, np.eye(3)[label]),
            "float": (x, float(i) / 10),
            "extras": (x, label, {"ebv": i / 7, "pair": torch.tensor([i, 2 * i])}),
            "grey": (x[0], label),
            "alone": x,
            "strings": ("x", label),
            "ragged": (x if i < 5 else x[:, :2], label),
            "ragged_y": (x, np.zeros(1 + (i == 5))),
            "forgetful": (x, label, {"ebv": 1.0} if i < 5 else {}),
            "listed": (x, label, [1.0]),
        }[self.kind]


def parts(names=("train", "test")):
    return {name: Ramp(12, first=20 * i) for i, name in enumerate(names)}


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 2, 2), 0


number = 3


def raises():
    raise RuntimeError("from within")
'''


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The import path of a module of factories in the current folder, which is not on ``sys.path``."""
    name = f"own_factories_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    yield name
    sys.modules.pop(name, None)


def load(context: DataContext, factory: str, bounds: Any = (0, 1), **settings: Any) -> Data:
    return TorchDataset(factory=factory, bounds=bounds, **settings).load(context)


def all_rows(data: Data) -> Iterator[tuple[np.ndarray, Any, int, int]]:
    for split in data.splits.values():
        x = split.x[np.arange(len(split))]
        for i in range(len(split)):
            yield x[i], split.y[i], int(split.ids[i]), i


@pytest.mark.parametrize("kind", ["number", "tensor", "text", "one_hot", "grey"])
def test_items_of_every_kind(factory: str, data_context: Contexts, kind: str) -> None:
    data = load(data_context(), f"{factory}:Ramp", kwargs={"kind": kind})
    assert data.space.shape == (1, 4, 4)
    assert data.task == Classification(("a", "b", "c") if kind == "text" else ("0", "1", "2"))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 18,
        "valid": 3,
        "calibration": 3,
        "test": 6,
    }
    for x, y, number, _ in all_rows(data):
        np.testing.assert_array_equal(x, np.full((1, 4, 4), number / 100, dtype=np.float32))
        assert y == number % 3


def test_regression_and_extras(factory: str, data_context: Contexts) -> None:
    data = load(
        data_context(), f"{factory}:Ramp", kwargs={"kind": "float"}, target_names=("z",), tolerance=0.1
    )
    assert all(y[0] == number / 10 for _, y, number, _ in all_rows(data))
    data = load(data_context(), f"{factory}:Ramp", kwargs={"kind": "extras"})
    for split in data.splits.values():
        np.testing.assert_array_equal(split.extras["ebv"], split.ids.astype(int) / 7)
        np.testing.assert_array_equal(split.extras["pair"][:, 1], 2 * split.ids.astype(int))
    with pytest.raises(ValidationError, match="needs `tolerance`"):
        TorchDataset(factory="a:b", bounds=(0, 1), target_names=("z",))


def test_one_data_set_for_each_split(factory: str, data_context: Contexts) -> None:
    data = load(data_context(), f"{factory}:parts")
    assert list(data.splits) == ["train", "test"]
    np.testing.assert_array_equal(
        data.splits["test"].x[np.array([3, 0])][:, 0, 0, 0], np.float32([0.23, 0.20])
    )
    assert data.splits["test"].ids[0] == "test-000000"
    with pytest.raises(DataError, match="no data set 'test', only train, valid"):
        load(data_context(), f"{factory}:parts", kwargs={"names": ["train", "valid"]})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("alone", r"item 0 is a Tensor, expected \(x, y\)"),
        ("strings", "the input of item 0 is a str"),
        ("ragged_y", r"target of item 5 has shape \(2,\), of item 0 \(1,\)"),
        ("forgetful", r"item 5 has the extras \[\], item 0 has \['ebv'\]"),
        ("listed", "the extras of item 0 are a list"),
        ("float", "label 0.1 of row 1 is not a class number"),
    ],
)
def test_wrong_items_are_named(factory: str, data_context: Contexts, kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(data_context(), f"{factory}:Ramp", kwargs={"kind": kind})
    assert f"{factory}:Ramp" in str(caught.value)


def test_ragged_inputs_are_named_when_they_are_read(factory: str, data_context: Contexts) -> None:
    data = load(data_context(), f"{factory}:Ramp", kwargs={"kind": "ragged"})
    with pytest.raises(DataError, match=r"has shape \(1, 2, 4\), item 0 has \(1, 4, 4\)"):
        list(all_rows(data))


def test_streams_and_empty_data_sets_are_refused(factory: str, data_context: Contexts) -> None:
    with pytest.raises(DataError, match="Stream has no length or no items by number"):
        load(data_context(), f"{factory}:Stream")
    with pytest.raises(DataError, match="the data set is empty"):
        load(data_context(), f"{factory}:Ramp", kwargs={"count": 0})


def test_data_are_loaded_to_name_them() -> None:
    assert TorchDataset.reproducible is False


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("{}:absent", {}, "has no 'absent'"),
        ("{}:number", {}, "is a int, not a class or a function"),
        ("{}:Ramp", {"size": 3}, r"cannot be called with size=3: .*unexpected keyword argument 'size'"),
        (
            "absent_module_for_sure:build",
            {},
            "cannot be imported: ModuleNotFoundError: No module named 'absent",
        ),
    ],
)
def test_factories_that_do_not_work(factory: str, name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(name.format(factory), kwargs)


def test_module_that_raises_is_named_with_its_cause(factory: str, tmp_path: Path) -> None:
    (tmp_path / f"{factory}_broken.py").write_text("1 / 0\n")
    with pytest.raises(
        UserError, match=r"_broken:build' cannot be imported: ZeroDivisionError: division by zero"
    ):
        call(f"{factory}_broken:build", {})


def test_what_a_factory_raises_is_passed_on(factory: str) -> None:
    with pytest.raises(RuntimeError, match="from within"):
        call(f"{factory}:raises", {})


def test_import_path_is_restored(factory: str, tmp_path: Path) -> None:
    before = list(sys.path)
    assert len(call(f"{factory}:Ramp", {"count": 5})) == 5
    with pytest.raises(UserError):
        call("absent_module_for_sure:build", {})
    assert sys.path == before


@pytest.mark.parametrize("path", ["no_colon", "a:b:c", ":build", "mod:", "mod-ule:build", "a..b:c"])
def test_import_paths_are_checked(path: str) -> None:
    with pytest.raises(ValidationError, match="factory"):
        TorchDataset(factory=path, bounds=(0, 1))


def test_sources_of_a_factory(factory: str, tmp_path: Path) -> None:
    assert sources(f"{factory}:Ramp") == [tmp_path / f"{factory}.py"]
    package = tmp_path / f"{factory}_package" / "inner"
    package.mkdir(parents=True)
    for file in (
        package.parent / "__init__.py",
        package / "__init__.py",
        package / "blocks.py",
        package / "notes.txt",
    ):
        file.write_text("raise SystemExit\n")  # nothing may be imported to find them
    found = sources(f"{factory}_package.inner:build")
    assert [path.name for path in found] == ["__init__.py", "__init__.py", "blocks.py"]
    assert sources("torch.nn:Linear") == []
    assert sources("absent_module_for_sure:build") == []


def test_example_stripes_are_separable() -> None:
    """The example of the documentation: along its stripes an image varies least."""
    stripes = call("advbench_own.example:stripes", {"count": 60})
    x, y = (torch.stack([torch.as_tensor(item[k]) for item in stripes]) for k in (0, 1))
    across, along = x.diff(dim=2).abs().mean((1, 2, 3)), x.diff(dim=3).abs().mean((1, 2, 3))
    assert bool((across[y == 0] > 1.5 * along[y == 0]).all())
    assert bool((along[y == 1] > 1.5 * across[y == 1]).all())
    assert bool(((across - along).abs()[y == 2] < 0.1).all())
