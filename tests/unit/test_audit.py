"""The audit: which cells it adds to those of a suite, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from advbench.api import Attack, Budget, Dataset, InputSpace, Model, Register, Tags, hookimpl, param
from advbench.components.identity import Spec, specify
from advbench.components.loader import Plugins, Source
from advbench.suite.audit import Audit, audit, spans, whole
from advbench.suite.grid import Cell, as_json, from_json
from advbench.suite.model import DatasetItem, DefenseItem, Item, PerturbationItem
from advbench.values import Mask

BANDS = InputSpace((2, 3, 5), (-1.0, 0.0), (1.0, 10.0), ("g", "r"))
GREY = InputSpace((1, 8, 8), (0.0,), (1.0,), ("grey",))


class Sky(Dataset):
    """Data."""


class Net(Model):
    """A network."""


class Climb(Attack):
    """An iterative gradient attack."""

    tags = Tags(norms=("linf", "l2", "l1"), needs_gradient=True, targeted=True, strength="eps")
    norm: str = param("linf", "norm")
    eps: Budget = param(0.1, "radius")
    steps: int = param(10, "steps", ge=1, le=100)
    alpha: Budget | None = param(None, "length of a step")


class Sign(Attack):
    """One step."""

    tags = Tags(norms=("linf",), needs_gradient=True, audit="one-step")
    eps: Budget = param(0.1, "radius")


class Dice(Attack):
    """Noise."""

    tags = Tags(norms=("linf", "l2"), audit="noise")
    norm: str = param("linf", "norm")
    eps: Budget = param(0.1, "radius")


class Search(Attack):
    """A black box."""

    tags = Tags(norms=("linf", "l2"), audit="black-box")
    norm: str = param("linf", "norm")
    eps: Budget = param(0.1, "radius")
    queries: int = param(500, "queries")


class Another(Search):
    """A black box that is registered under a later name."""


class Demanding(Search):
    """A black box that cannot be used without being told more."""

    secret: int = param(..., "what nobody knows")


class Everywhere(Climb):
    """One change for all inputs."""

    tags = Tags(norms=("linf",), needs_gradient=True, universal=True)


class Near(Climb):
    """Looks for the nearest adversarial input."""

    tags = Tags(norms=("linf",), needs_gradient=True, minimum_norm=True)


ATTACKS: Mapping[str, type[Attack]] = {
    "climb": Climb, "sign": Sign, "dice": Dice, "search": Search, "tsearch": Another, "a-demanding": Demanding,
    "everywhere": Everywhere, "near": Near,
}  # fmt: skip


def plugins(names: Sequence[str] = tuple(ATTACKS)) -> Plugins:
    module = ModuleType("mine")

    def register_perturbations(register: Register) -> None:
        for name in names:
            register(name, ATTACKS[name])
        register("broken", "no_such_module:Attack")  # an optional library that is not there

    setattr(module, "register_perturbations", hookimpl(register_perturbations))  # noqa: B010
    return Plugins([Source("mine", "mine 1", lambda: module)])


PLUGINS = plugins()


def attack(name: str, label: str = "", **params: Any) -> PerturbationItem:
    return PerturbationItem(label or name, specify(PLUGINS, "perturbation", f"mine/{name}", params))


def cell(item: PerturbationItem, knowledge: str = "adaptive", defense: str = "none", **changes: Any) -> Cell:
    sky = DatasetItem("sky", Spec("dataset", "mine/sky", "{}", 1), 100, None, "test")
    network = Item("net", Spec("model", "mine/net", "{}", 1))
    specs = () if defense == "none" else (Spec("defense", f"mine/{defense}", "{}", 1),)
    return Cell(
        sky, sky, network, DefenseItem(defense, specs), item, knowledge, changes.pop("seed", 0), **changes
    )


def audited(*cells: Cell, space: InputSpace | None = GREY, plugins: Plugins = PLUGINS) -> Audit:
    return audit(cells, plugins, lambda one: space)


def shown(found: Audit) -> list[tuple[str, dict[str, Any]]]:
    """Label and the parameters that matter of each added cell."""
    kept = ("norm", "eps", "steps", "alpha")
    specs = [(one.perturbation.label, one.perturbation.spec) for one in found.cells]
    return [(label, {k: v for k, v in spec.parameters.items() if k in kept}) for label, spec in specs if spec]


# --- which cells ---------------------------------------------------------------------------------------------------


def test_five_cells_for_one_attack() -> None:
    found = audited(cell(attack("climb", eps=0.2, steps=40)))
    climb = {"norm": "linf", "alpha": None}
    assert shown(found) == [
        ("climb: twice the steps", {**climb, "eps": 0.2, "steps": 80}),
        ("climb: unbounded", {**climb, "eps": 1.0, "steps": 40}),
        ("climb: one-step sign", {"eps": 0.2}),
        ("climb: noise dice", {"norm": "linf", "eps": 0.2}),
        ("climb: black-box search", {"norm": "linf", "eps": 0.2}),
    ]
    assert found.notes == ()
    assert all(one.audit and one.knowledge == "adaptive" and not one.skip for one in found.cells)


def test_the_most_steps_and_then_the_largest_budget_are_checked_for_each_norm() -> None:
    found = audited(
        cell(attack("climb", "short", eps=0.5, steps=10)),
        cell(attack("climb", "small", eps=0.1, steps=40)),
        cell(attack("climb", "large", eps=0.3, steps=40)),
        cell(attack("climb", "again", eps=0.3, steps=40, alpha=0.1)),
        cell(attack("climb", "round", norm="l2", eps=2.0, steps=20)),
    )
    assert {one.perturbation.label.partition(":")[0] for one in found.cells} == {"large", "round"}


def test_each_network_is_checked_by_itself() -> None:
    item = attack("climb")
    found = audited(cell(item), cell(item, defense="round"), cell(item, seed=1))
    assert len(found.cells) == 15
    assert {(one.defense.label, one.seed) for one in found.cells} == {("none", 0), ("round", 0), ("none", 1)}


@pytest.mark.parametrize(
    "one",
    [
        cell(attack("climb"), knowledge="oblivious"),
        cell(attack("climb"), knowledge="transfer"),
        cell(attack("climb"), skip="does not fit"),
        cell(attack("climb", goal="next")),
        cell(attack("climb", mask={"channels": [0]})),
        cell(attack("climb", eps=0)),
        cell(replace(attack("climb"), before=(Spec("perturbation", "mine/fog", "{}", 1),))),
        cell(attack("sign")),
        cell(attack("search")),
        cell(attack("everywhere")),
        cell(attack("near")),
        cell(PerturbationItem("none", None), knowledge="none"),
    ],
)
def test_what_is_no_iterative_gradient_attack_on_the_defended_network_is_not_checked(one: Cell) -> None:
    assert audited(one).cells == ()


def test_where_nothing_can_be_compared_it_says_so() -> None:
    (note,) = audited(cell(attack("near"))).notes
    assert "no iterative gradient attack with a budget" in note
    assert audited(cell(PerturbationItem("none", None), knowledge="none")) == Audit()


def test_what_the_suite_has_is_not_added() -> None:
    suite = [
        attack("climb", eps=0.2, steps=40),
        attack("climb", "whole", eps=1.0, steps=40),  # the reference now, and unbounded itself
        attack("search", eps=1.0, queries=5),
        attack("dice", eps=0.2),
    ]
    found = audited(*map(cell, suite))
    assert shown(found) == [
        ("whole: twice the steps", {"norm": "linf", "alpha": None, "eps": 1.0, "steps": 80}),
        ("whole: one-step sign", {"eps": 1.0}),
        ("whole: noise dice", {"norm": "linf", "eps": 1.0}),
    ]
    again = audited(*map(cell, suite), *(replace(one, audit=False) for one in found.cells))
    assert all("80" in one.perturbation.label or "twice" in one.perturbation.label for one in again.cells)


@pytest.mark.parametrize("knowledge", ["adaptive", "blackbox"])
def test_a_companion_of_the_suite_stands_for_the_registered_one(knowledge: str) -> None:
    own = cell(attack("search", eps=0.1, queries=5), knowledge)
    labels = [one.perturbation.label for one in audited(cell(attack("climb")), own).cells]
    assert "climb: black-box search" not in labels
    assert len(labels) == 4
    other = cell(attack("search", eps=0.2, queries=5), knowledge)
    assert len(audited(cell(attack("climb")), other).cells) == 5


def test_what_is_not_registered_is_left_out_with_a_note() -> None:
    few = plugins(("climb", "a-demanding"))
    found = audited(cell(attack("climb", norm="l1", eps=3)), plugins=few)
    labels = [one.perturbation.label for one in found.cells]
    assert labels == ["climb: twice the steps", "climb: unbounded", "climb: one step"]
    assert found.notes == (
        "audit: no noise attack for l1 is registered",
        "audit: no black-box attack for l1 is registered",
    )
    assert shown(found)[2][1]["steps"] == 1


def test_parameters_that_do_not_go_are_left_out_with_a_note() -> None:
    found = audited(cell(attack("climb", steps=60)))
    assert len(found.cells) == 4
    (note,) = found.notes
    assert note.startswith("audit: mine/climb cannot be run with twice the steps: ")


def test_bounds_that_are_not_known_yet_are_no_bounds() -> None:
    found = audited(cell(attack("climb")), cell(attack("climb"), seed=1), space=None)
    assert len(found.cells) == 8
    assert found.notes == ("audit: no unbounded attack on sky before its data are loaded",)


# --- budgets without bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("space", [GREY, BANDS])
def test_the_whole_budget_reaches_from_corner_to_corner_and_no_further(norm: str, space: InputSpace) -> None:
    limit = whole(space, norm)
    assert limit is not None
    widths = [high - low for low, high in zip(space.lower, space.upper)]
    pixels = space.shape[1] * space.shape[2]
    order = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}[norm]
    budgets = limit.values * (len(widths) // len(limit.values))
    shares = [width / budget for width, budget in zip(widths, budgets)]  # of each value of the diagonal
    length = (
        max(shares) if norm == "linf" else (pixels * sum(share**order for share in shares)) ** (1 / order)
    )
    assert length == pytest.approx(1.0)
    assert spans(limit, norm, space)
    assert not spans(Budget(tuple(0.99 * value for value in limit.values)), norm, space)


def test_one_number_spans_where_it_is_as_wide_as_the_widest_channel() -> None:
    assert not spans(Budget((9.0,)), "linf", BANDS)
    assert spans(Budget((10.0,)), "linf", BANDS)
    assert not spans(Budget((10.0, 9.0)), "linf", BANDS)
    assert whole(GREY, "l0") is None
    assert not spans(Budget((1000.0,)), "pixels", GREY)


def test_lengths_that_were_given_keep_their_share_of_the_budget() -> None:
    found = dict(shown(audited(cell(attack("climb", eps=0.2, alpha=0.05)))))
    assert found["climb: unbounded"]["alpha"] == pytest.approx(0.25)
    assert found["climb: twice the steps"]["alpha"] == 0.05
    found = dict(shown(audited(cell(attack("climb", eps=[0.2, 1.0], alpha=0.1)), space=BANDS)))
    assert found["climb: unbounded"]["eps"] == [2.0, 10.0]
    assert found["climb: unbounded"]["alpha"] == pytest.approx([1.0, 1.0])


# --- on the way ----------------------------------------------------------------------------------------------------


def test_a_job_file_keeps_the_mark() -> None:
    (one, *_) = audited(cell(attack("climb"))).cells
    assert from_json(as_json(one)) == one


def test_masks_are_part_of_the_threat_model() -> None:
    """The suite's own noise on one channel is no substitute for noise on all."""
    masked = attack("dice", eps=0.1, mask=Mask(channels=(0,)).model_dump())
    assert len(audited(cell(attack("climb")), cell(masked)).cells) == 5


SUITE = """\
version: 1
name: small
datasets: [{use: toys/blobs, name: blobs, params: {n: 80}, limit: 12}]
models: [{use: toys/net, params: {recipe: {epochs: 1}}}]
defenses: [none, toys/round]
perturbations:
  - none
  - {use: attacks/pgd, params: {eps: 2, steps: 3}}
  - {use: attacks/bim, params: {eps: 2, steps: 3}}
  - {use: attacks/square, params: {eps: 1, queries: 9}}
exclude: [{defense: toys/round, perturbation: attacks/square, reason: too slow}]
"""


@pytest.mark.torch
def test_a_run_adds_them_and_leaves_worst_cases_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import csv
    import json

    import toys

    from advbench.cli.main import invoke

    (tmp_path / "small.yaml").write_text(SUITE)

    def run(command: str, *arguments: str, out: str = "out") -> str:
        places = {"--plugins-dir": toys.FOLDER, "--out": tmp_path / out, "--cache": tmp_path / "cache"}
        options = [str(part) for pair in places.items() for part in pair]
        assert invoke([command, str(tmp_path / "small.yaml"), *options, *arguments]) == 0
        return capsys.readouterr().out

    def rows(out: str) -> list[dict[str, str]]:
        with (tmp_path / out / "leaderboard.csv").open(newline="") as handle:
            return list(csv.DictReader(handle))

    before = json.loads(run("plan", "--json", "--audit"))
    assert before["notes"] == ["audit: no unbounded attack on blobs before its data are loaded"]
    assert "of them added by the audit" in run("plan", "--audit")

    run("run", out="plain")
    said = run("run", "--audit")
    found = [row for row in rows("out") if row["kind"] == "audit"]
    names = {"twice the steps", "unbounded", "one-step fgsm", "noise random-noise", "black-box square"}
    for defense in ("none", "round"):
        labels = {row["perturbation"].partition(": ")[2] for row in found if row["defense"] == defense}
        assert labels == names
    skipped = [row for row in found if row["status"] == "skipped"]
    assert [(row["perturbation"], row["reason"]) for row in skipped] == [
        ("pgd: black-box square", "too slow")
    ]
    assert {row["strength"] for row in found if row["perturbation"].endswith("unbounded")} == {"54"}

    columns = [name for name in rows("plain")[0] if name != "flags"]
    rest = [[row[name] for name in columns] for row in rows("out") if row["kind"] != "audit"]
    assert rest == [[row[name] for name in columns] for row in rows("plain")]
    flags = {flag for row in rows("out") for flag in row["flags"].split(";")} - {""}
    assert all(f"{flag} (" in said for flag in flags)

    after = json.loads(run("plan", "--json", "--audit"))
    assert {row["status"] for row in after["rows"]} == {"cached", "skipped"}
    assert {row["cell_id"] for row in after["rows"] if row["kind"] == "audit"} == {
        row["cell_id"] for row in found
    }
