"""Outcomes of all rows in one file beside a CSV: as good as a run folder for every comparison, small, and checked."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import cell, classified, estimated, right, worst, write_csv, write_run

from advbench.cli.main import invoke
from advbench.errors import UserError
from advbench.evidence.board import Board, read_board
from advbench.evidence.curves import area, breaking, norm_of_curve
from advbench.evidence.figures import worst_of
from advbench.evidence.leaderboard import text
from advbench.evidence.packed import pack
from advbench.evidence.samples import COLUMN, FIGURES, compare_samples, same_outcomes
from advbench.report.page import write_report
from advbench.report.rows import read_sources
from advbench.report.samples import rocs
from advbench.values import Regression

N = 200
REDSHIFT = Regression(("z",), tolerance=0.15, relative=True)


def detected(rng: np.random.Generator) -> dict[str, Any]:
    """What a detector adds; every eighth sample is of no class."""
    return {
        "clean_score": rng.normal(0, 1, N).astype(np.float32),
        "perturbed_score": rng.normal(1, 1, N).astype(np.float32),
        "threshold": np.full(N, 1.5),
        "network_right": right(N, 180),
        "network_right_perturbed": right(N, 90),
        "network_fooled": right(N, 60, 3),
        "known": np.arange(N) % 8 > 0,
        "eligible": np.arange(N) % 8 > 0,
    }


def made() -> list[dict[str, Any]]:
    """Every kind of row: attacks and their worst case, a goal, a curve, a detector, a regressor, a skipped one."""
    rng = np.random.default_rng(0)
    clean = right(N, 180)

    def sizes() -> dict[str, Any]:
        return {norm: rng.uniform(0.1, 2, N).astype(np.float32) for norm in ("linf", "l2", "l1", "l0")}

    def margins(after: Any) -> dict[str, Any]:
        return {"perturbed_margin": np.where(after, 1, -1) * rng.uniform(0.1, 1, N)}

    after = {name: right(N, k, k) for name, k in (("fgsm", 120), ("pgd", 80))}
    two = [
        cell(classified(clean, one, **sizes(), **margins(one)), perturbation=name, cell_id=name)
        for name, one in after.items()
    ]
    aimed = sizes() | {"goal_reached": right(N, 40, 7), "eligible": right(N, 170, 8)}
    bare = {"strength": None, "perturbation_params": '{"steps":9}'}
    z = rng.uniform(0.1, 0.7, N)
    off = rng.normal(0.05, 0.2, N).astype(np.float32)
    photo = estimated(z, z + rng.normal(0, 0.05, N), z + off)
    return [
        *two,
        worst(two),
        cell(
            classified(clean, right(N, 100, 5), **aimed), perturbation="aimed", cell_id="aimed", targeted=True
        ),
        cell(
            classified(clean, right(N, 20, 6), **sizes()), perturbation="l1", cell_id="l1", norm="l1", **bare
        ),
        cell(
            classified(clean, right(N, 90, 2), **sizes(), **detected(rng)),
            perturbation="seen",
            cell_id="seen",
        ),
        cell(photo, REDSHIFT, dataset="photo", cell_id="photo"),
        cell(None, perturbation="ddn", cell_id="ddn"),
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", made())


def exported(run: Path, path: Path) -> Path:
    assert invoke(["export", str(run), "--format", "reference", "--out", str(path)]) == 0
    return path


@pytest.fixture
def reference(run: Path, tmp_path: Path) -> Path:
    return exported(run, tmp_path / "reference" / "made.csv")


def outcomes(board: Board) -> dict[str, Any]:
    return {row["perturbation"]: (row, board.outcomes(row)) for row in board.rows}


# --- as good as a run folder --------------------------------------------------------------------------------------


def test_every_figure_of_every_row_comes_out_of_the_file(run: Path, reference: Path) -> None:
    ours, theirs = read_board(reference), read_board(run)
    assert ours.rows == theirs.rows
    compared = 0
    for row in ours.rows:
        found, full = ours.outcomes(row), theirs.outcomes(row)
        assert (found is None) == (full is None)
        if found is None or full is None:
            continue
        assert same_outcomes(found, full) == ""
        for name in FIGURES:
            if row.get(COLUMN.get(name, name)) is not None:
                # This looks whether both sides give the figure of the row, too.
                assert compare_samples(name, (row, row), (found, full), mid_p=False).test == "identical", name
                compared += 1
    assert compared == 30


def test_the_worst_case_is_that_of_its_members(reference: Path) -> None:
    two = made()[:2]
    full = worst_of([one["outcomes"] for one in two])
    row, found = outcomes(read_board(reference))["worst of 2"]
    wrong = full["clean_correct"] & ~full["perturbed_correct"]
    np.testing.assert_array_equal(found["perturbed_correct"], full["perturbed_correct"])
    np.testing.assert_array_equal(found["l2"][wrong], full["l2"][wrong])
    assert text(float(np.median(np.where(wrong, full["l2"], np.inf)[full["clean_correct"]]))) == text(
        row["l2_median"]
    )


def test_curves_and_rocs_are_the_same(run: Path, reference: Path) -> None:
    pairs = [outcomes(read_board(path))["l1"] for path in (run, reference)]
    assert norm_of_curve(pairs[0][0]) == "l1"
    areas = [area(breaking(found, row, "l1"), 1.5) for row, found in pairs]
    assert areas[0] == areas[1]
    assert 0 < areas[0].value < 1
    first, second = (rocs(read_sources([path])) for path in (run, reference))
    assert first["rows"] == len(first["curves"]) == 1
    assert first == second


def test_commands_say_the_same_of_both(
    run: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    said = []
    for path in (run, reference):
        assert invoke(["rank", str(path), "--by", "perturbation"]) == 0
        assert invoke(["export", str(path), "--format", "json"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "sample by sample" in said[0]
    figures = [part for name in FIGURES for part in ("--figure", name)]
    for one, other in ((run, reference), (reference, run), (reference, reference)):
        assert invoke(["compare", str(one), str(other), *figures, "--fail-on", "regression"]) == 0
        told = capsys.readouterr().out.splitlines()
        lines = next(line for line in told if " lines: " in line)
        assert lines == f"{lines.split()[0]} lines: {lines.split()[0]} same (margin 1)"
        assert "unpaired" not in "\n".join(told)
    assert write_report([reference], tmp_path / "page.html").rows == 8


def test_a_reference_of_a_reference_has_the_same_bytes(run: Path, reference: Path, tmp_path: Path) -> None:
    for again in (
        exported(reference, tmp_path / "a" / "made.csv"),
        exported(run, tmp_path / "b" / "made.csv"),
    ):
        for suffix in (".csv", ".samples.npz", ".suite.yaml"):
            assert again.with_suffix(suffix).read_bytes() == reference.with_suffix(suffix).read_bytes()
    assert reference.read_bytes() == (run / "leaderboard.csv").read_bytes()


def test_bytes_do_not_depend_on_the_order_of_hashes(run: Path, reference: Path, tmp_path: Path) -> None:
    made = {reference.with_suffix(".samples.npz").read_bytes()}
    for seed in ("1", "2", "3"):
        out = tmp_path / f"{seed}.csv"
        arguments = ["export", str(run), "--format", "reference", "--out", str(out)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(
            [sys.executable, "-m", "advbench", *arguments], env=environment, check=True, capture_output=True
        )
        made.add(out.with_suffix(".samples.npz").read_bytes())
    assert len(made) == 1


def test_merging_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = made()
    parts = [exported(write_run(tmp_path / name, some), tmp_path / f"{name}.csv") for name, some in
             (("a", rows[:5]), ("b", rows[3:]))]  # fmt: skip
    assert invoke(["merge", *map(str, parts), "--out", str(tmp_path / "all.csv")]) == 0
    merged = read_board(tmp_path / "all.csv")
    assert len(merged.rows) == 8
    assert sum(merged.outcomes(row) is not None for row in merged.rows) == 7
    whole = exported(write_run(tmp_path / "whole", rows), tmp_path / "whole.csv")
    assert (tmp_path / "all.samples.npz").read_bytes() == whole.with_suffix(".samples.npz").read_bytes()
    capsys.readouterr()
    assert invoke(["merge", *map(str, parts), "--out", str(tmp_path / "folder")]) == 2
    assert "a run folder keeps more of each sample than" in capsys.readouterr().err


# --- small --------------------------------------------------------------------------------------------------------


def test_the_size_of_a_row(tmp_path: Path) -> None:
    """200 samples of an attack that fools half of them, 50 rows."""
    clean, rng = right(N, 190), np.random.default_rng(0)
    rows = []
    for k in range(50):
        drawn = rng.uniform(0.1, 2, N).astype(np.float32)
        rows.append(cell(classified(clean, right(N, 100, k), l2=drawn), perturbation=f"p{k}"))
    path = exported(write_run(tmp_path / "run", rows), tmp_path / "made.csv")
    assert path.with_suffix(".samples.npz").stat().st_size < 50 * 1000


def test_what_rows_share_is_there_once(reference: Path) -> None:
    with np.load(reference.with_suffix(".samples.npz")) as arrays:
        assert arrays["id"].shape == (N,)
        assert arrays["clean_correct"].shape == (2 * N,)  # of the classifier, and of redshifts
        assert arrays["l1"].shape == (N,)
        assert arrays["l1"].dtype == np.float32
        assert "l0" not in arrays
        assert "clean_margin" not in arrays


def test_single_precision_where_nothing_is_lost() -> None:
    row = cell(classified([1, 1], [0, 0], l2=np.array([0.5, 1e-300]), linf=np.array([0.5, np.inf])))
    packed = pack([row], [["x"]], lambda row: row["outcomes"])
    assert packed is not None
    arrays = np.load(io.BytesIO(packed))
    assert (arrays["l2"].dtype, arrays["linf"].dtype) == (np.float64, np.float32)
    assert arrays["l2"].tolist() == [0.5, 1e-300]


def test_of_run_json_nothing_about_host_user_and_place_is_kept(run: Path, tmp_path: Path) -> None:
    secret = {"host": "vm-7", "store": "/home/me/cache", "command": ["/home/me/advbench", "run", "--data", "/d"],
              "platform": "Linux-6.1-vm7-x86_64", "started": "2026-01-01"}  # fmt: skip
    (run / "run.json").write_text(json.dumps({**secret, "cores": 2, "seconds": 6.1, "python": "3.11.7"}))
    path = exported(run, tmp_path / "made.csv")
    assert read_board(path).run == {"cores": 2, "platform": "Linux", "python": "3.11.7", "seconds": 6.1}


# --- checked ------------------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_board(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damage_anywhere_is_found(reference: Path) -> None:
    """A bit of every 67th byte, and every length: refused in one line, or harmless, but never other outcomes."""
    file = reference.with_suffix(".samples.npz")
    whole = file.read_bytes()
    expected = {name: found for name, (_, found) in outcomes(read_board(reference)).items()}
    refusals = []
    changed = [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(0, len(whole), 67)]
    for data in [*changed, *(whole[:size] for size in range(0, len(whole), 997))]:
        file.write_bytes(data)
        try:
            board = read_board(reference)
        except UserError as error:
            refusals.append(str(error))
            continue
        for name, (_, found) in outcomes(board).items():
            for array in found or ():
                np.testing.assert_array_equal(found[array], expected[name][array])
    assert len(refusals) > 0.8 * len(changed)
    assert [one for one in refusals if not one.startswith(f"{file}: damaged (") or "\n" in one] == []


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with np.load(file) as arrays:
        content = dict(arrays)
    change(content)
    np.savez_compressed(file, **content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one.update(version=np.array(2)), "version 2 of its form, this advbench reads 1"),
        (lambda one: one.pop("block"), "damaged (it lacks block)"),
        (lambda one: one.update(l2=one["l2"][1:]), "damaged (its array l2 does not fit its lengths)"),
        (lambda one: one.update(digest=one["digest"][1:]), "damaged (its arrays do not fit each other)"),
        (lambda one: one.update(l2=np.array([{}])), "damaged (Object arrays cannot be loaded"),
    ],
)
def test_a_file_that_fits_no_more(
    reference: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    file = reference.with_suffix(".samples.npz")
    edited(file, change)
    assert refusal(reference).startswith(f"{file}: {words}")


def test_outcomes_that_are_not_those_of_the_row(reference: Path) -> None:
    file = reference.with_suffix(".samples.npz")
    edited(file, lambda one: one["perturbed_correct"].__setitem__(slice(None), True))
    board = read_board(reference)
    row = next(row for row in board.rows if row["cell_id"] == "pgd")
    with pytest.raises(UserError) as caught:
        board.outcomes(row)
    told = f"row pgd: column n_success says {row['n_success']}, its outcomes give 0: one of them was edited"
    assert str(caught.value) == f"{file}: {told}"


def test_a_row_that_was_edited_added_or_taken_away(reference: Path) -> None:
    lines = reference.read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if ",fgsm,cell," in line)
    reference.write_text(
        "".join(line.replace("00ff", "11ff") if i == place else line for i, line in enumerate(lines))
    )
    words = "does not stand in made.samples.npz as it does here: one of them was edited"
    assert refusal(reference) == f"{reference}:{place + 1}: row fgsm {words}"
    reference.write_text("".join(line for i, line in enumerate(lines) if i != place))
    assert refusal(reference) == f"{reference}: row fgsm of made.samples.npz is gone: one of them was edited"
    new = lines[place].replace(",fgsm,", ",other,")
    reference.write_text("".join([*lines, new]))
    assert refusal(reference) == f"{reference}:{len(lines) + 1}: row other {words}"
    reference.write_text("".join([lines[0], *lines[:0:-1]]))
    assert len(read_board(reference).rows) == 8  # the order of rows says nothing


def test_one_cell_under_two_names(tmp_path: Path) -> None:
    one = cell(classified([1, 1, 0], [1, 0, 0]), cell_id="same")
    board = read_board(
        exported(write_run(tmp_path / "run", [one, one | {"defense": "b"}]), tmp_path / "a.csv")
    )
    assert [board.outcomes(row) is not None for row in board.rows] == [True, True]


def test_the_file_is_an_npz_without_pickles(reference: Path) -> None:
    with zipfile.ZipFile(reference.with_suffix(".samples.npz")) as archive:
        assert {one.date_time for one in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(reference.with_suffix(".samples.npz"), allow_pickle=False) as arrays:
        assert all(not arrays[name].dtype.hasobject for name in arrays.files)


# --- the command --------------------------------------------------------------------------------------------------


def test_what_is_written_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(run, tmp_path / "made.csv")
    told = capsys.readouterr().out
    assert told.startswith(f"wrote {tmp_path / 'made.csv'}: 8 rows; made.samples.npz: ")
    assert told.endswith(" a row\n")


def test_files_of_an_earlier_leaderboard_do_not_stay(reference: Path, tmp_path: Path) -> None:
    exported(write_csv(tmp_path / "bare.csv", made()), reference)
    assert [path.name for path in reference.parent.iterdir()] == ["made.csv"]
    assert read_board(reference).packed is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--format reference needs --out NAME.csv: it is several files"),
        (["--out", "made"], "--out made: a reference is NAME.csv"),
        (["--out", "leaderboard.csv"], "leaderboard.csv is the table of a run folder"),
        (["--out", "made.csv", "--columns", "n"], "--columns: a reference has all of them"),
    ],
)
def test_mistakes(run: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert invoke(["export", str(run), "--format", "reference", *options]) == 2
    assert words in capsys.readouterr().err
