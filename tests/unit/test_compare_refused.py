"""Two leaderboards that may not be compared: every refusal names the field and both values."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import cell, classified, estimated, right, worst, write_csv, write_run
from pairs import REDSHIFT, N, boards, robust

from advbench.api import Attack
from advbench.cli.main import invoke
from advbench.components.loader import Plugins
from advbench.errors import UserError
from advbench.evidence.board import read_board
from advbench.evidence.bounds import SEARCH
from advbench.evidence.comparing import compare_boards
from advbench.evidence.protocol import PROTOCOL
from advbench.evidence.summing import regressions
from advbench.suite.model import THEN
from advbench.values import Regression


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("protocol", PROTOCOL + 1),
        ("fingerprint", "11ee"),
        ("dataset_id", "toys/other"),
        ("split", "valid"),
        ("norm", "l2"),
        ("strength", 0.2),
        ("strength_unit", "mag"),
        ("targeted", True),
        ("goal", "brightest"),
        ("budget_passes", 100),
        ("perturbation_id", "toys/fgsm"),
        ("n", 300),
        ("metric", "sigma_mad"),
    ],
)
def test_what_may_not_differ_is_refused_by_name_with_both_values(
    tmp_path: Path, column: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, outcomes, task = {column: value}, robust(100), {}
    if column == "goal":
        changes = {"perturbation_params": '{"eps":0.1,"goal":"brightest","steps":10}'}
    if column == "targeted":
        outcomes["goal_reached"] = ~outcomes["perturbed_correct"]
    if column == "n":
        changes, outcomes = {}, classified(right(300, 290), right(300, 100))
    if column == "metric":
        z = np.linspace(0.1, 0.9, N)
        changes, outcomes, task = {}, estimated(z, z + 0.01, z + 0.1), {"task": REDSHIFT}
    ours = write_run(tmp_path / "a", [cell(robust(100))])
    theirs = write_run(tmp_path / "b", [cell(outcomes, **task, **changes)])
    assert invoke(["compare", str(ours), str(theirs)]) == 2
    told = capsys.readouterr().err
    before = {"protocol": PROTOCOL, "budget_passes": "nothing", "goal": "untargeted", "fingerprint": "00ff"}
    before |= {"strength": 0.1, "norm": "linf", "split": "test", "n": N, "metric": "accuracy"}
    before |= {"targeted": "false", "strength_unit": "input units", "dataset_id": "toys/sky"}
    before |= {"perturbation_id": "toys/pgd"}
    after = str(value).lower() if isinstance(value, bool) else value
    words = f"{column} is {before[column]} in {ours} and {after} in {theirs}"
    assert f"not comparable: sky / net / none / pgd, adaptive, seed 0: {words}" in told
    assert len(told.splitlines()) == 1


def test_another_tolerance_is_refused(tmp_path: Path) -> None:
    z = np.linspace(0.1, 0.9, 50)
    rows = [
        [cell(estimated(z, z + 0.01, z + 0.1, limit), Regression(("z",), tolerance=limit, relative=True))]
        for limit in (0.15, 0.05)
    ]
    with pytest.raises(UserError, match=r"eta_threshold is 0\.15 in .* and 0\.05 in"):
        compare_boards(boards(tmp_path, *rows))


def test_other_samples_are_refused(tmp_path: Path) -> None:
    other = robust(100, seed=3)
    other["id"] = np.array([f"t{i:04d}" for i in range(N)])
    with pytest.raises(UserError, match=r"other samples in .* sample 0 is s0000 and t0000"):
        compare_boards(boards(tmp_path, [cell(robust(100))], [cell(other)]))


def test_leaderboards_without_a_common_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="no row of the same labels; `--between` compares rows of different labels"
    ):
        compare_boards(boards(tmp_path, [cell(robust(9))], [cell(robust(9), model="other")]))


def test_outcomes_that_do_not_give_the_figure_are_refused(tmp_path: Path) -> None:
    first, second = boards(tmp_path, [cell(robust(100))], [cell(robust(120))])
    row = dict(second.rows[0]) | {"perturbed": 0.31}
    lying = replace(second, rows=[row])
    with pytest.raises(UserError, match=r"column perturbed says 0\.31, its outcomes give 0\.3: one of them"):
        compare_boards([first, lying])


def test_an_edited_packed_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("a", 100), ("b", 120)):
        run = write_run(tmp_path / name, [cell(robust(count))])
        invoke(["export", str(run), "--format", "reference", "--out", str(tmp_path / f"{name}.csv")])
    file = tmp_path / "b.samples.npz"
    arrays = dict(np.load(file))
    arrays["l2"] = arrays["l2"] * 2
    np.savez(file, **arrays)
    capsys.readouterr()
    command = ["compare", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--figure", "l2_median"]
    assert invoke(command) == 2
    told = capsys.readouterr().err
    assert (
        f"{file}: row sky-net-none-pgd-adaptive-0-cell-0.1: column l2_median says 0.1, its outcomes give 0.2"
        in told
    )


def test_outcomes_that_are_gone_or_damaged_are_told_where_they_are_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = cell(robust(150), perturbation="fgsm")
    runs = []
    for name, count in (("a", 100), ("b", 110)):
        two = [same, cell(robust(count))]
        runs.append(write_run(tmp_path / name, [*two, worst(two)]))
    (runs[1] / "cells" / f"{same['cell_id']}.npz").unlink()  # records say that it is equal: nobody looks
    file = runs[1] / "cells" / f"{two[1]['cell_id']}.npz"
    data = file.read_bytes()
    file.write_bytes(data[:-40] + b"x" + data[-39:])
    for command in (["compare", *map(str, runs)], ["compare", *map(str, reversed(runs))]):
        assert invoke(command) == 2
        told = capsys.readouterr().err
        assert f"{file}: not the outcomes that {two[1]['cell_id']}.json speaks of" in told
        assert len(told.splitlines()) == 1
    file.unlink()
    comparison = compare_boards([read_board(run) for run in runs])
    tests = {line.pair.first["perturbation"]: line.difference.test for line in comparison.lines}
    unpaired = "Fisher, unpaired"
    assert tests == {"fgsm": "identical", "pgd": unpaired, "worst of 2": unpaired}
    assert str(file) in comparison.gone
    assert invoke(["compare", *map(str, runs)]) == 0
    assert f"gone: {file}, though its record speaks of it" in capsys.readouterr().out


NOISE = f"toys/noise{THEN}toys/fgsm"
BOX = {"box": [0, 0, 4, 4]}


@pytest.mark.parametrize(
    ("first", "second", "changes", "words"),
    [
        ({"eps": [0.1, 0.2]}, {"eps": [0.1, 0.9]}, {"strength": None},
         "perturbation_params.eps is [0.1, 0.2] in {} and [0.1, 0.9] in {}"),
        ({"max_angle": 10, "max_shift": 0.5}, {"max_angle": 10, "max_shift": 2}, {},
         "perturbation_params.max_shift is 0.5 in {} and 2 in {}"),
        ({"tau": 0.5, "steps": 5}, {"tau": 5.0, "steps": 5}, {},
         "perturbation_params.tau is 0.5 in {} and 5 in {}"),
        ({"mine": 1}, {}, {}, "perturbation_params.mine is 1 in {} and nothing in {}"),
        ({"attack": "PGD", "params": {"steps": 5}}, {"attack": "FGSM", "params": {}}, {},
         "perturbation_params.attack is PGD in {} and FGSM in {}"),
        ({"params": {"max_translation": 3}}, {"params": {"max_translation": 4}}, {},
         "perturbation_params.params.max_translation is 3 in {} and 4 in {}"),
        ({"eps": 0.1}, {"eps": 0.1, "mask": BOX}, {}, "mask.box is nothing in {} and [0, 0, 4, 4] in {}"),
        ({"then": [{"sigma": 0.05}, {"eps": 0.1}]}, {"then": [{"sigma": 0.4}, {"eps": 0.1}]},
         {"perturbation_id": NOISE}, "perturbation_params.then.0.sigma is 0.05 in {} and 0.4 in {}"),
        ({"then": [{"steps": 1}, {"eps": 0.1}]}, {"then": [{"steps": 2}, {"eps": 0.1}]},
         {"perturbation_id": NOISE}, "perturbation_params.then.0.steps is 1 in {} and 2 in {}"),
        ({"then": [{}, {"mask": BOX}]}, {"then": [{}, {"mask": None}]},
         {"perturbation_id": NOISE}, "mask.box is [0, 0, 4, 4] in {} and nothing in {}"),
        ({"then": [{}, {"goal": "untargeted"}]}, {"then": [{}, {"goal": 3}]},
         {"perturbation_id": NOISE}, "goal is untargeted in {} and 3 in {}"),
        ({"severity": 1, "steps": 3}, {"severity": 1, "steps": 4}, {"knowledge": "none"},
         "perturbation_params.steps is 3 in {} and 4 in {}"),
    ],
)  # fmt: skip
def test_whatever_bounds_the_change_must_be_equal(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    rows = [
        [cell(robust(100), **changes, perturbation_params=json.dumps(params))] for params in (first, second)
    ]
    two = boards(tmp_path, *rows)
    with pytest.raises(UserError) as caught:
        compare_boards(two)
    assert str(caught.value).startswith("not comparable: sky / net / none / pgd")
    assert str(caught.value).endswith(words.format(two[0].name, two[1].name))
    assert compare_boards([two[0], two[0]]).lines[0].verdict == "same"


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({"steps": 10}, {"steps": 40}, {"steps"}),
        ({"goal": "untargeted", "mask": None, "steps": 1}, {"steps": 1}, {"goal", "mask"}),
        ({"params": {"max_iter": 9}}, {"params": {"max_iter": 8}}, {"params.max_iter"}),
        ({"then": [{"sigma": 1}, {"steps": 1}]}, {"then": [{"sigma": 1.0}, {"steps": 2}]},
         {"then.0.sigma", "then.1.steps"}),
        ({"transfer_from": [{"params": {"width": 1}}]}, {"transfer_from": [{"params": {"width": 2}}]},
         {"transfer_from.0.params.width"}),
    ],
)  # fmt: skip
def test_how_hard_an_attack_searches_may_differ_and_is_told(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], told: set[str]
) -> None:
    rows = [[cell(robust(100), perturbation_params=json.dumps(params))] for params in (first, second)]
    (pair,) = compare_boards(boards(tmp_path, *rows)).joined[0].pairs
    assert {name for name, *_ in pair.changed} == {f"perturbation_params.{name}" for name in told}


def between(tmp_path: Path, *perturbations: dict[str, Any]) -> Any:
    rows = [cell(robust(100), perturbation=name, **one) for name, one in zip("ab", perturbations)]
    board = read_board(write_run(tmp_path, rows))
    return compare_boards([board.part("perturbation", name) for name in "ab"], free="perturbation")


def test_different_attacks_must_have_the_same_aims(tmp_path: Path) -> None:
    plain = {"perturbation_id": "toys/fgsm", "perturbation_params": '{"eps":0.1,"loss":"ce"}'}
    other = {"perturbation_params": '{"eps":0.1,"norm_of_steps":2}'}
    assert len(between(tmp_path / "0", plain, other).lines) == 1
    bridged = [{"perturbation_params": json.dumps({"attack": name, "params": {name: 1}})} for name in "xy"]
    assert len(between(tmp_path / "1", *bridged).lines) == 1
    after = {"perturbation_id": NOISE, "perturbation_params": '{"then":[{"sigma":1},{"eps":0.1}]}'}
    with pytest.raises(UserError, match=r'before the attack is nothing in .* and toys/noise {"sigma": 1} in'):
        between(tmp_path / "2", plain, after)
    with pytest.raises(UserError, match=r"mask is nothing in .* and {'box'"):
        between(tmp_path / "3", plain, {"perturbation_params": json.dumps({"mask": BOX})})
    budgets = [
        {"strength": None, "perturbation_id": name, "perturbation_params": json.dumps({"eps": [0.1, eps]})}
        for name, eps in (("toys/fgsm", 0.2), ("toys/pgd", 0.3))
    ]
    with pytest.raises(UserError, match=r"eps is \[0\.1, 0\.2\] in .* and \[0\.1, 0\.3\] in"):
        between(tmp_path / "4", *budgets)


def test_worst_cases_of_other_members_must_have_the_same_aims(tmp_path: Path) -> None:
    def run(names: str, mask: Any) -> list[dict[str, Any]]:
        params = json.dumps({"eps": 0.1, "mask": mask})
        members = [cell(robust(100), perturbation=name, perturbation_params=params) for name in names]
        return [*members, worst(members)]

    with pytest.raises(UserError, match=r"worst of 2 linf 0\.1, adaptive, seed 0: mask is nothing in"):
        compare_boards(boards(tmp_path / "other", run("ab", None), run("cd", BOX)))
    assert len(compare_boards(boards(tmp_path / "same", run("ab", BOX), run("cd", BOX))).lines) == 1


@pytest.mark.torch
def test_of_every_shipped_attack_it_is_decided_what_bounds_its_change() -> None:
    """A new parameter has to be put on one of the two sides: `SEARCH`, or this list."""
    always = {"norm", "eps", "goal", "mask"}
    bounding = {
        "attacks/apgd-targeted": {"classes"},
        "attacks/bisection": {"attack", "eps_max"},
        "attacks/ddn": {"levels"},
        "attacks/one-pixel": {"pixels", "preset", "factor", "start", "repair", "values", "stop"},
        "attacks/rotation-translation": {"max_angle", "max_shift", "angles", "shifts", "padding", "fill"},
        "attacks/simba": {"basis", "low"},
        "attacks/square": {"p"},
        "attacks/stadv": {"tau", "kappa", "relative", "neighbours", "sigma"},
        "attacks/universal": {"images"},
        **{f"bridges/{name}{end}": {"attack", "params"} for name in ("art", "foolbox", "torchattacks")
           for end in ("", "-blackbox")},
    }  # fmt: skip
    plugins = Plugins.discover(())
    found = {}
    for namespace in ("attacks", "bridges"):
        for entry in plugins.plugin(namespace).entries:
            part = entry.load() if entry.kind == "perturbation" else object
            if issubclass(part, Attack):
                rest = set(part.model_fields) - SEARCH - always
                found |= {entry.id: rest} if rest else {}
    assert found == bounding


def test_rows_with_figures_have_a_fingerprint(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [cell(robust(100), fingerprint=None)])
    with pytest.raises(UserError, match=r"a\.csv:2: column fingerprint: empty though status is ok"):
        read_board(path)
    failed = cell(None, fingerprint=None)
    comparison = compare_boards(boards(tmp_path, [cell(robust(100))], [failed]))
    assert comparison.lines == ()
    assert "seed 0: skipped now: not today" in regressions(comparison)[1]
