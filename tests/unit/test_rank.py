"""Rankings: the order, the groups, and what competes with what."""

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import cell, classified, estimated, right, worst, write_csv, write_run

from advbench.cli.main import invoke
from advbench.cli.rank import heading
from advbench.evidence.board import read_board
from advbench.evidence.exact import holm, mcnemar
from advbench.evidence.ranking import letter_display, rank
from advbench.values import Regression

N = 300
COUNTS = {"none": 100, "weak": 104, "middle": 150, "strong": 200, "stronger": 203}


def right_of(name: str) -> Any:
    return right(N, COUNTS[name])


def made() -> list[dict[str, Any]]:
    whole = np.ones(N)
    return [cell(classified(whole, right_of(name)), defense=name) for name in COUNTS]


def letters(found: list[str]) -> dict[str, set[int]]:
    return {one: {index for index, text in enumerate(found) if one in text} for one in set("".join(found))}


# --- letters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "apart", "expected"),
    [
        (3, set(), ["a", "a", "a"]),
        (2, {(0, 1)}, ["a", "b"]),
        (3, {(0, 2)}, ["a", "ab", "b"]),
        (4, {(0, 2), (0, 3), (1, 3)}, ["a", "ab", "bc", "c"]),
        (3, {(0, 1)}, ["a", "b", "ab"]),
    ],
)
def test_letters_by_hand(count: int, apart: set[tuple[int, int]], expected: list[str]) -> None:
    assert letter_display(count, apart) == expected


def test_letters_say_exactly_which_pairs_can_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    for share in (0.1, 0.3, 0.6, 0.9):
        pairs = list(itertools.combinations(range(7), 2))
        apart = {pair for pair in pairs if rng.random() < share}
        found = letter_display(7, apart)
        assert {(i, j) for i, j in pairs if not set(found[i]) & set(found[j])} == apart
        groups = list(letters(found).values())
        assert not any(a < b for a in groups for b in groups)


def test_more_groups_than_letters() -> None:
    pairs = set(itertools.combinations(range(30), 2))
    found = letter_display(30, pairs)
    assert (found[0], found[25], found[26], len(set(found))) == ("a", "z", "a2", 30)


# --- rankings -----------------------------------------------------------------------------------------------------


def test_the_best_comes_first_and_pairs_are_tested_on_their_samples(tmp_path: Path) -> None:
    (found,) = rank(read_board(write_run(tmp_path / "a", made())))
    assert [place.row["defense"] for place in found.places] == [
        "stronger",
        "strong",
        "middle",
        "weak",
        "none",
    ]
    assert [place.rank for place in found.places] == [1, 2, 3, 4, 5]
    assert (found.paired, found.pairs) == (True, 10)
    names = [place.row["defense"] for place in found.places]
    pairs = list(itertools.combinations(names, 2))
    exact = [
        mcnemar(int((right_of(a) & ~right_of(b)).sum()), int((right_of(b) & ~right_of(a)).sum()))
        for a, b in pairs
    ]
    apart = {pair for pair, p in zip(pairs, holm(exact)) if p <= 0.05}
    given = {place.row["defense"]: set(place.letters) for place in found.places}
    assert {(a, b) for a, b in pairs if not given[a] & given[b]} == apart
    assert [place.letters for place in found.places] == ["a", "a", "b", "c", "c"]
    assert found.apart == len(apart) == 8


def test_equal_figures_share_a_rank(tmp_path: Path) -> None:
    rows = [cell(classified(np.ones(N), right(N, 100, seed)), model=f"m{seed}") for seed in range(3)]
    (found,) = rank(read_board(write_run(tmp_path / "a", rows)))
    assert [(place.rank, place.letters) for place in found.places] == [(1, "a")] * 3


def test_a_csv_alone_tells_fewer_apart(tmp_path: Path) -> None:
    rows = [cell(classified(np.ones(N), right(N, count)), model=str(count)) for count in (100, 120)]
    (unpaired,) = rank(read_board(write_csv(tmp_path / "a.csv", rows)))
    (paired,) = rank(read_board(write_run(tmp_path / "b", rows)))
    assert (unpaired.paired, unpaired.apart, paired.paired, paired.apart) == (False, 0, True, 1)


def test_what_does_not_compete_is_never_mixed(tmp_path: Path) -> None:
    rows = [*made(), *(row | {"cell_id": f"{row['cell_id']}-2", "seed": 1} for row in made())]
    rows += [cell(classified(np.ones(N), right(N, 9)), strength=0.2, perturbation="far")]
    rows += [cell(None, defense="skipped")]
    two = [rows[0], cell(classified(np.ones(N), right(N, 90)), perturbation="fgsm")]
    rows += [two[1], worst(two)]
    board = read_board(write_run(tmp_path / "a", rows))
    found = rank(board)
    assert [ranking.shared["seed"] for ranking in found] == [0, 1]
    assert {len(ranking.places) for ranking in found} == {5}
    assert [len(one.places) for one in rank(board, ("model", "defense", "seed"))] == [10]
    assert [len(one.places) for one in rank(board, ("perturbation",))] == [2]


def test_regressors_with_the_smallest_spread_come_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z, noise = rng.uniform(0.1, 1, N), rng.normal(0, 0.02, N)
    task = Regression(("z",), tolerance=0.15, relative=True)
    rows = [cell(estimated(z, z, z + scale * noise), task, model=str(scale)) for scale in (2.0, 1.0, 1.01)]
    (found,) = rank(read_board(write_run(tmp_path / "a", rows)), figure="perturbed")
    assert [place.row["model"] for place in found.places] == ["1.0", "1.01", "2.0"]
    assert not set(found.places[0].letters) & set(found.places[2].letters)


def test_attacked_regressors_are_ranked_by_their_outliers(tmp_path: Path) -> None:
    z = np.linspace(0.1, 1, N)
    task = Regression(("z",), tolerance=0.15, relative=True)
    # All estimates are moved alike, so the spread is 0; but those of the first model are outliers.
    rows = [
        cell(estimated(z, z, z + shift * (1 + z)), task, model=name, **more)
        for name, shift in (("a", 0.5), ("b", 0.1))
        for more in ({}, {"perturbation": "none", "knowledge": "none"})
    ]
    found = {one.shared["perturbation"]: one for one in rank(read_board(write_run(tmp_path / "a", rows)))}
    assert [place.row["model"] for place in found["pgd"].places] == ["b", "a"]
    assert (found["pgd"].figure, found["pgd"].apart, found["none"].figure) == ("eta", 1, "perturbed")
    assert heading(found["pgd"]).endswith(f"eta (smaller is better) of {N} samples")


def test_attacks_without_a_budget_are_ranked_by_their_median_distance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = {"strength": None, "norm": "l2", "perturbation": "ddn", "perturbation_params": "{}"}
    clean = right(N, N)
    rows = [
        cell(classified(clean, ~clean, l2=size + np.linspace(0, 0.1, N)), model=model, **bare)
        for model, size in (("near", 0.1), ("far", 2.0), ("farther", 2.01))
    ]
    run = write_run(tmp_path / "a", rows)
    (found,) = rank(read_board(run))
    assert [place.row["model"] for place in found.places] == ["farther", "far", "near"]
    assert not set(found.places[0].letters) & set(found.places[2].letters)
    assert invoke(["rank", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"sky / ddn, adaptive, seed 0: l2 median (larger is better) of {N} samples"
    assert lines[1].split()[:4] == ["rank", "model", "defense", "l2_median"]
    assert lines[2].split()[:4] == ["1", "farther", "none", "2.06"]
    (other,) = rank(read_board(run), figure="perturbed")
    assert (other.figure, other.apart) == ("perturbed", 0)
    assert rank(read_board(run), figure="eta") == []
    assert invoke(["rank", str(run), "--figure", "linf_median", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["places"][0]["linf_median"] == pytest.approx(0.1)


# --- the command --------------------------------------------------------------------------------------------------


def test_table_markdown_csv_and_json_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write_run(tmp_path / "a", made()))
    assert invoke(["rank", run]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sky / pgd, adaptive, seed 0: accuracy of 300 samples"
    assert lines[1].split() == ["rank", "model", "defense", "perturbed", "95", "%", "clean", "group", "flags"]
    assert lines[2].split()[:3] == ["1", "net", "stronger"]
    assert lines[-1] == "8 of 10 pairs can be told apart (sample by sample)"
    assert invoke(["rank", run, "--format", "csv"]) == 0
    records = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [record["group"] for record in records] == ["a", "a", "b", "c", "c"]
    assert invoke(["rank", run, "--format", "json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert [place["cell_id"] for place in document["places"]] == [record["cell_id"] for record in records]
    assert (document["pairs"], document["apart"], document["paired"]) == (10, 8, True)
    out = tmp_path / "rank.md"
    assert invoke(["rank", run, "--format", "markdown", "--out", str(out)]) == 0
    assert out.read_text().splitlines()[0] == "### sky / pgd, adaptive, seed 0: accuracy of 300 samples"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--by", "modle"], "there is no axis 'modle'"),
        (["--dataset", "sea"], "no two rows with dataset sea differ in model and defense alone"),
        (["--by", "seed"], "no two rows with figures differ in seed alone"),
        (["--kind", "row"], "'row' is not one of"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    run = str(write_run(tmp_path / "a", made()))
    assert invoke(["rank", run, *options]) == 2
    assert words in capsys.readouterr().err


def test_other_threat_models_are_no_rivals(tmp_path: Path) -> None:
    """After a merge one label may stand for several; budgets per channel are no strength."""
    for free, other in (({}, {"mask": {"box": [0, 0, 2, 2]}}), ({"eps": [1, 2]}, {"eps": [1, 3]})):
        rows = [
            cell(
                classified(np.ones(N), right_of(name)),
                defense=name,
                strength=None,
                perturbation_params=json.dumps({"steps": steps, **more}),
            )
            for name, steps, more in (("none", 1, free), ("weak", 2, free), ("strong", 2, other))
        ]
        board = read_board(write_csv(tmp_path / "a.csv", rows))
        (found,) = rank(board)
        assert {place.row["defense"] for place in found.places} == {"none", "weak"}
        (found,) = rank(board, ("defense", "perturbation"))
        assert len(found.places) == 2
