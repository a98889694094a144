"""A cell's id follows everything that decides its numbers, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from advbench.api import (
    Attack,
    Classification,
    Dataset,
    Defense,
    InputSpace,
    Model,
    Register,
    Tags,
    hookimpl,
    param,
)
from advbench.components.identity import Spec, canonical, specify
from advbench.components.loader import Plugins, Source
from advbench.runtime import identify
from advbench.runtime.data import Card, Environment
from advbench.runtime.identify import cell_id, network_identity, training_defenses
from advbench.store.artifacts import Store
from advbench.suite.grid import Cell
from advbench.suite.model import DatasetItem, DefenseItem, Item, PerturbationItem

pytestmark = pytest.mark.torch  # its version is part of every network's name


class Sky(Dataset):
    """A data set."""

    depth: str = param("y10", "depth")


class Net(Model):
    """A model with weights in a file, and another that only a list of lists names."""

    width: int = param(8, "width")
    file: str = param("", "weights")
    more: dict[str, list[str]] = param({}, "other files")

    def files(self, data_dirs: Any) -> list[Path]:
        """The weights, and a source that no parameter names."""
        names = ["source.py", self.file, *(name for group in self.more.values() for name in group)]
        return [folder / name for folder in data_dirs for name in names if name]


class Step(Attack):
    """An attack."""

    tags = Tags(norms={"linf"})
    steps: int = param(10, "steps")


class Round(Defense):
    """Purifies."""

    tags = Tags(purifies=True)
    step: float = param(1.0, "step")


class Robust(Defense):
    """Trains."""

    tags = Tags(trains=True)


KINDS = {"dataset": (Sky,), "model": (Net,), "perturbation": (Step,), "defense": (Round, Robust)}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    module = ModuleType("mine")
    for kind, classes in KINDS.items():

        def hook(register: Register, classes: tuple[type, ...] = classes) -> None:
            for cls in classes:
                register(cls.__name__.lower(), cls)

        hook.__name__ = f"register_{kind}s"
        setattr(module, hook.__name__, hookimpl(hook))
    (tmp_path / "data" / "nets").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "data" / "nets" / f"{name}.safetensors").write_bytes(name.encode() * 100)
    plugins = Plugins([Source("mine", "mine 1", lambda: module)])
    return Environment(plugins, Store(tmp_path / "store"), (tmp_path / "data",))


SPACE = InputSpace((1, 2, 2), (0.0,), (1.0,), ("r",))
CARD = Card("f00d", {"train": 50, "test": 40, "valid": 40}, SPACE, Classification(("a", "b")), (), "turn")
SOURCE = replace(CARD, fingerprint="beef")


def spec(environment: Environment, kind: str, name: str, **params: Any) -> Spec:
    return specify(environment.plugins, kind, f"mine/{name}", params)


def make(environment: Environment, **model: Any) -> Cell:
    given = {"file": "nets/a.safetensors", **model}
    faint, deep = (spec(environment, "dataset", "sky", depth=depth) for depth in ("y1", "y10"))
    defenses = (spec(environment, "defense", "round"), spec(environment, "defense", "robust"))
    return Cell(
        dataset=DatasetItem("faint", faint, 30, "deep", "test"),
        source=DatasetItem("deep", deep, None, None, "test"),
        model=Item("net", spec(environment, "model", "net", **given)),
        defense=DefenseItem("both", defenses),
        perturbation=PerturbationItem("step", spec(environment, "perturbation", "step")),
        knowledge="adaptive",
        seed=0,
        budget=None,
    )


def of(environment: Environment, cell: Cell, card: Card | None = CARD, source: Card | None = SOURCE) -> str:
    return cell_id(environment, cell, card, source)


def changed(item: Any, **changes: Any) -> Any:
    """An item whose (first) component is another version or source, or has other parameters."""
    if isinstance(item, DefenseItem):
        return replace(item, specs=(replace(item.specs[0], **changes), *item.specs[1:]))
    return replace(item, spec=replace(item.spec, **changes))


MATTERS: dict[str, Callable[[Cell], Cell]] = {
    "parameter of the attack": lambda c: replace(
        c, perturbation=changed(c.perturbation, params=canonical({"steps": 11}))
    ),
    "parameter of the defense": lambda c: replace(
        c, defense=changed(c.defense, params=canonical({"step": 2.0}))
    ),
    "version of the attack": lambda c: replace(c, perturbation=changed(c.perturbation, version=2)),
    "version of the model": lambda c: replace(c, model=changed(c.model, version=2)),
    "version of the defense": lambda c: replace(c, defense=changed(c.defense, version=2)),
    "source of the attack": lambda c: replace(c, perturbation=changed(c.perturbation, source="changed")),
    "source of the model": lambda c: replace(c, model=changed(c.model, source="changed")),
    "source of the defense": lambda c: replace(c, defense=changed(c.defense, source="changed")),
    "no attack": lambda c: replace(c, perturbation=PerturbationItem("none", None)),
    "order of the defenses": lambda c: replace(c, defense=DefenseItem("both", c.defense.specs[::-1])),
    "one defense less": lambda c: replace(c, defense=DefenseItem("both", c.defense.specs[1:])),
    "n": lambda c: replace(c, dataset=replace(c.dataset, limit=29)),
    "split": lambda c: replace(c, dataset=replace(c.dataset, split="valid")),
    "knowledge": lambda c: replace(c, knowledge="oblivious"),
    "budget": lambda c: replace(c, budget=100),
    "seed": lambda c: replace(c, seed=1),
}


@pytest.mark.parametrize("name", MATTERS)
def test_what_decides_the_numbers_changes_the_id(environment: Environment, name: str) -> None:
    cell = make(environment)
    assert of(environment, MATTERS[name](cell)) != of(environment, cell)


@pytest.mark.parametrize("width", [9, 64])
def test_a_parameter_of_the_model_changes_the_id(environment: Environment, width: int) -> None:
    assert of(environment, make(environment, width=width)) != of(environment, make(environment))


@pytest.mark.parametrize("which", ["card", "source"])
def test_the_data_change_the_id(environment: Environment, which: str) -> None:
    cards = {"card": CARD, "source": SOURCE}
    other = cards | {which: replace(cards[which], fingerprint="0000")}
    cell = make(environment)
    assert of(environment, cell, **other) != of(environment, cell)


def test_the_train_time_transform_changes_the_network(environment: Environment) -> None:
    cell = make(environment)
    assert of(environment, cell, source=replace(SOURCE, augment="flip")) != of(environment, cell)
    # The evaluated data are never transformed.
    assert of(environment, cell, card=replace(CARD, augment="flip")) == of(environment, cell)


@pytest.mark.parametrize("constant", ["PROTOCOL", "DTYPE"])
def test_protocol_and_precision_change_the_id(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    before = of(environment, make(environment))
    monkeypatch.setattr(identify, constant, "another")
    assert of(environment, make(environment)) != before


def test_another_torch_trains_another_network(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make(environment)
    versions = {"2.13.0": "2.13.0", "2.13.0+cpu": "2.13.0", "2.14.0": "2.14.0"}
    found = []
    for version in versions:
        monkeypatch.setattr(identify.metadata, "version", lambda name, version=version: version)
        found.append(of(environment, cell))
    assert found[0] == found[1] != found[2]


def test_the_content_of_the_weights_changes_the_id_and_their_name_does_not(environment: Environment) -> None:
    folder = environment.data_dirs[0] / "nets"
    before = of(environment, make(environment))
    assert of(environment, make(environment, file="nets/b.safetensors")) != before

    (folder / "a.safetensors").rename(folder / "renamed.safetensors")
    renamed = make(environment, file="nets/renamed.safetensors")
    assert of(environment, renamed) == before
    absolute = make(environment, file=str(folder / "renamed.safetensors"))
    assert of(environment, absolute) == before
    elsewhere = replace(environment, data_dirs=(folder,))
    assert of(elsewhere, make(environment, file="renamed.safetensors")) == before

    (folder / "renamed.safetensors").write_bytes(b"x" * 100)
    assert of(environment, renamed) != before


def test_a_file_that_no_parameter_names_counts_once_it_is_there(environment: Environment) -> None:
    cell, path = make(environment), environment.data_dirs[0] / "source.py"
    found = [of(environment, cell)]
    for text in ("a", "b"):
        path.write_text(text)
        found.append(of(environment, cell))
    assert len(set(found)) == 3


def test_files_inside_lists_and_mappings_count_by_content(environment: Environment) -> None:
    folder = environment.data_dirs[0] / "nets"
    before = of(environment, make(environment, more={"x": ["nets/a.safetensors", "nets/b.safetensors"]}))
    (folder / "b.safetensors").rename(folder / "c.safetensors")
    after = make(environment, more={"x": ["nets/a.safetensors", "nets/c.safetensors"]})
    assert of(environment, after) == before
    swapped = make(environment, more={"x": ["nets/c.safetensors", "nets/a.safetensors"]})
    assert of(environment, swapped) != before


def test_a_text_that_only_looks_like_part_of_a_name_stays(environment: Environment) -> None:
    first, second = (make(environment, more={name: []}) for name in ("tensors", "safetensors"))
    assert of(environment, first) != of(environment, second)
    named = [make(environment, file=name) for name in ("", "absent", "tensors")]
    assert len({of(environment, cell) for cell in named}) == 3


IRRELEVANT: dict[str, Callable[[Cell], Cell]] = {
    "labels": lambda c: replace(
        c,
        dataset=replace(c.dataset, label="x", train_on="y"),
        source=replace(c.source, label="y"),
        model=replace(c.model, label="z"),
        defense=replace(c.defense, label="u"),
        perturbation=replace(c.perturbation, label="v"),
    ),
    "skip": lambda c: replace(c, skip="too slow"),
    "how the data are made": lambda c: replace(
        c, dataset=changed(c.dataset, params=canonical({"depth": "other"}), version=9, source="changed")
    ),
    "how many samples of the source are evaluated": lambda c: replace(c, source=replace(c.source, limit=3)),
}


@pytest.mark.parametrize("name", IRRELEVANT)
def test_what_decides_no_number_does_not_change_the_id(environment: Environment, name: str) -> None:
    cell = make(environment)
    assert of(environment, IRRELEVANT[name](cell)) == of(environment, cell)


def test_a_limit_beyond_the_split_is_no_limit(environment: Environment) -> None:
    cell = make(environment)
    whole, more, exact = (replace(cell, dataset=replace(cell.dataset, limit=k)) for k in (None, 1000, 40))
    assert of(environment, whole) == of(environment, more) == of(environment, exact) != of(environment, cell)


def test_place_of_store_and_folders_do_not_matter(environment: Environment, tmp_path: Path) -> None:
    cell = make(environment)
    (tmp_path / "data").rename(tmp_path / "moved")
    elsewhere = replace(
        environment, store=Store(tmp_path / "other"), data_dirs=(tmp_path / "moved", tmp_path), download=True
    )
    before = of(replace(environment, data_dirs=(tmp_path / "moved",)), cell)
    assert of(elsewhere, cell) == before


def test_data_that_could_not_be_read_still_give_different_ids(environment: Environment) -> None:
    cell = make(environment)
    other = replace(cell, dataset=changed(cell.dataset, params=canonical({"depth": "other"})))
    ids = {of(environment, one, None, None) for one in (cell, other)} | {of(environment, cell)}
    ids.add(of(environment, replace(cell, model=changed(cell.model, version=2)), None, None))
    assert len(ids) == 4


def test_a_network_is_named_by_its_training_alone(environment: Environment) -> None:
    cell = make(environment)
    assert [spec.id for spec in training_defenses(environment, cell)] == ["mine/robust"]
    robust = training_defenses(environment, cell)
    name = network_identity(environment, cell, SOURCE, robust)
    for other in ("n", "split", "knowledge", "budget", "parameter of the attack", "parameter of the defense"):
        assert network_identity(environment, MATTERS[other](cell), SOURCE, robust) == name, other
    assert network_identity(environment, MATTERS["seed"](cell), SOURCE, robust) != name
    assert network_identity(environment, cell, SOURCE, ()) != name
    assert canonical(name)  # it becomes a key of the store
