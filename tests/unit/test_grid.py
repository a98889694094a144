"""The grid: the whole product, nothing disappears, and what does not fit says why."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from advbench.api import Attack, Budget, Corruption, Dataset, Defense, Model, Register, Tags, hookimpl, param
from advbench.components.identity import Spec, specify
from advbench.components.loader import Plugins, Source
from advbench.errors import SuiteError
from advbench.suite.grid import Cell, Grid, as_json, expand, from_json
from advbench.suite.model import DatasetItem, DefenseItem, Exclusion, Item, PerturbationItem, Suite


class Sky(Dataset):
    """A data set."""

    tags = Tags(tasks={"classification"})
    depth: str = param("y10", "depth")


class Redshifts(Dataset):
    """A regression."""

    tags = Tags(tasks={"regression"})


class Net(Model):
    """A network for both tasks."""

    width: int = param(8, "width")


class Step(Attack):
    """Needs gradients."""

    tags = Tags(norms={"linf"}, needs_gradient=True, strength="eps")
    eps: Budget = param("1/255", "budget")


class Search(Attack):
    """Needs no gradients, and classes."""

    tags = Tags(norms={"linf"}, tasks={"classification"})


class Noise(Corruption):
    """A corruption."""


class Round(Defense):
    """Purifies."""

    tags = Tags(purifies=True)


class Robust(Defense):
    """Trains."""

    tags = Tags(trains=True)


class Distilled(Defense):
    """Trains, too."""

    tags = Tags(trains=True)


KINDS: dict[str, Sequence[type]] = {
    "dataset": (Sky, Redshifts),
    "model": (Net,),
    "perturbation": (Step, Search, Noise),
    "defense": (Round, Robust, Distilled),
}


def plugins() -> Plugins:
    module = ModuleType("mine")
    for kind, classes in KINDS.items():

        def hook(register: Register, classes: Sequence[type] = classes) -> None:
            for cls in classes:
                register(cls.__name__.lower(), cls)

        hook.__name__ = f"register_{kind}s"
        setattr(module, hook.__name__, hookimpl(hook))
    return Plugins([Source("mine", "mine 1", lambda: module)])


PLUGINS = plugins()


def spec(kind: str, name: str, **params: Any) -> Spec:
    return specify(PLUGINS, kind, f"mine/{name}", params)


def dataset(name: str, label: str = "", train_on: str | None = None, **params: Any) -> DatasetItem:
    return DatasetItem(label or name, spec("dataset", name, **params), 100, train_on, "test")


def item(kind: str, name: str, label: str = "", **params: Any) -> Any:
    made = Item if kind == "model" else PerturbationItem
    return made(label or name, spec(kind, name, **params) if name != "none" else None)


def defense(*names: str) -> DefenseItem:
    return DefenseItem(" + ".join(names) or "none", tuple(spec("defense", name) for name in names))


def suite(**changes: Any) -> Suite:
    parts: dict[str, Any] = {
        "name": "test", "description": "", "file": "test.yaml", "seeds": (0,),
        "datasets": (dataset("sky"),), "models": (item("model", "net"),), "defenses": (defense(),),
        "perturbations": (item("perturbation", "none"),), "knowledge": ("adaptive",),
        "exclude": (), "metrics": (), "figures": (), "budget": None,
    }  # fmt: skip
    return Suite(**parts | changes)


def grid(**changes: Any) -> Grid:
    return expand(suite(**changes), PLUGINS)


NATURAL = (item("perturbation", "none"), item("perturbation", "noise"))
ATTACKS = (item("perturbation", "step"), item("perturbation", "search"))


def test_the_grid_is_the_whole_product() -> None:
    found = grid(
        seeds=(0, 1, 2),
        datasets=(dataset("sky"), dataset("sky", "y1", depth="y1")),
        models=(item("model", "net"), item("model", "net", "wide", width=64)),
        defenses=(defense("round"), defense("robust"), defense("round", "robust")),
        perturbations=(*NATURAL, *ATTACKS),
        knowledge=("oblivious", "adaptive", "blackbox"),
        budget=1000,
    )
    # 3 seeds x 2 data sets x 2 models x 3 defenses x (2 natural + 2 attacks x 3 kinds of knowledge)
    assert len(found.cells) == len(set(found.cells)) == 3 * 2 * 2 * 3 * (2 + 2 * 3)
    assert found.merged == 0
    assert {cell.budget for cell in found.cells} == {1000}
    assert Counter(cell.knowledge for cell in found.cells) == {
        "none": 72, "oblivious": 72, "adaptive": 72, "blackbox": 72,
    }  # fmt: skip
    assert {cell.knowledge for cell in found.cells if cell.perturbation in NATURAL} == {"none"}


def test_an_undefended_network_is_the_same_to_oblivious_and_adaptive_attackers() -> None:
    found = grid(perturbations=(*NATURAL, *ATTACKS), knowledge=("oblivious", "adaptive"))
    assert [cell.knowledge for cell in found.cells] == ["none", "none", "adaptive", "adaptive"]
    assert found.merged == 2
    alone = grid(perturbations=ATTACKS, knowledge=("oblivious",))
    assert {cell.knowledge for cell in alone.cells} == {"adaptive"}
    assert alone.merged == 0


def test_order_is_that_of_the_suite() -> None:
    found = grid(seeds=(3, 1), perturbations=(*NATURAL, *ATTACKS))
    assert [(cell.perturbation.label, cell.seed) for cell in found.cells] == [
        (label, seed) for label in ("none", "noise", "step", "search") for seed in (3, 1)
    ]


def test_a_black_box_grants_no_gradients() -> None:
    found = grid(perturbations=(*NATURAL, *ATTACKS), knowledge=("blackbox", "adaptive"))
    skipped = {(cell.perturbation.label, cell.knowledge): cell.skip for cell in found.cells if cell.skip}
    assert skipped == {("step", "blackbox"): "needs gradients, which a black box does not grant"}


def test_two_defenses_cannot_both_replace_the_training() -> None:
    found = grid(defenses=(defense("robust"), defense("round", "robust"), defense("robust", "distilled")))
    assert [cell.skip for cell in found.cells] == [
        "", "", "mine/robust and mine/distilled both replace the training",
    ]  # fmt: skip


def test_every_component_must_fit_the_task() -> None:
    found = grid(datasets=(dataset("sky"), dataset("redshifts")), perturbations=ATTACKS)
    skipped = {(cell.dataset.label, cell.perturbation.label): cell.skip for cell in found.cells if cell.skip}
    assert skipped == {("redshifts", "search"): "mine/search does not fit the task of mine/redshifts"}


@pytest.mark.parametrize(
    ("patterns", "excluded"),
    [
        ({"perturbation": "step"}, 1 + 2),
        ({"perturbation": "mine/step"}, 1 + 2),
        ({"perturbation": "s*"}, 3 * (1 + 2)),  # step, search, and what is called hunt but is a search
        ({"perturbation": "mine/s*", "knowledge": "oblivious"}, 3),
        ({"defense": "round", "perturbation": "step"}, 2),
        ({"defense": "none"}, 2 + 3),
        ({"seed": "0"}, 13),
        ({"seed": "7"}, 0),
        ({"dataset": "sk?", "model": "n[de]t"}, 13),
        ({"perturbation": "STEP"}, 0),
    ],
)
def test_exclusions_keep_their_cells_with_the_reason(patterns: dict[str, str], excluded: int) -> None:
    parts: dict[str, Any] = {
        "defenses": (defense(), defense("round")),
        "perturbations": (*NATURAL, *ATTACKS, item("perturbation", "search", "hunt")),
        "knowledge": ("oblivious", "adaptive"),
    }
    whole, found = grid(**parts), grid(**parts, exclude=(Exclusion(patterns, "too slow"),))
    assert len(whole.cells) == (2 + 3) + (2 + 3 * 2)
    assert [replace(cell, skip="") for cell in found.cells] == list(whole.cells)
    assert Counter(cell.skip for cell in found.cells)["too slow"] == excluded
    assert all(bool(cell.skip) == cell.matches(patterns) for cell in found.cells)


def test_the_first_exclusion_that_fits_gives_the_reason() -> None:
    rules = (Exclusion({"perturbation": "noise"}, "first"), Exclusion({"perturbation": "no*"}, "second"))
    assert [cell.skip for cell in grid(perturbations=NATURAL, exclude=rules).cells] == ["second", "first"]


def test_a_composition_is_found_by_each_of_its_parts() -> None:
    rules = (Exclusion({"defense": "mine/robust"}, "no time"),)
    found = grid(defenses=(defense(), defense("round"), defense("round", "robust")), exclude=rules)
    assert [cell.skip for cell in found.cells] == ["", "", "no time"]


def test_a_shift_is_trained_on_its_source() -> None:
    deep, shallow = dataset("sky", "deep"), dataset("sky", "shallow", train_on="deep", depth="y1")
    found = grid(datasets=(deep, shallow))
    assert [cell.source for cell in found.cells] == [deep, deep]
    assert [cell.source_spec for cell in found.cells] == [None, deep.spec]


def test_labels_and_lines_for_people() -> None:
    cell = grid(perturbations=ATTACKS[:1], defenses=(defense("round", "robust"),)).cells[0]
    assert cell.label == "sky / net / round + robust / step / adaptive / seed 0"
    assert cell.labels == {
        "dataset": "sky", "model": "net", "defense": "round + robust", "perturbation": "step",
        "knowledge": "adaptive", "seed": "0",
    }  # fmt: skip
    assert grid().cells[0].label == "sky / net / none / none / seed 0"


def test_an_empty_grid_is_an_error() -> None:
    with pytest.raises(SuiteError, match=r"test\.yaml: the grid is empty"):
        grid(seeds=())


def cells() -> list[Cell]:
    shifted = dataset("sky", "y1", train_on="sky", depth="y1")
    return list(
        grid(
            datasets=(dataset("sky"), shifted),
            defenses=(defense(), defense("round", "robust"), defense("robust", "distilled")),
            perturbations=(*NATURAL, item("perturbation", "step", "step(2)", eps=[0.1, "2/255"])),
            knowledge=("blackbox", "adaptive"),
            budget=50,
        ).cells
    )


def test_cells_survive_json() -> None:
    assert {bool(cell.skip) for cell in cells()} == {True, False}
    for cell in cells():
        back = from_json(json.loads(json.dumps(as_json(cell))))
        assert back == cell
        assert back.source_spec == cell.source_spec
