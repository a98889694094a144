"""Reading leaderboards back: what is read, and what is refused in one line."""

import csv
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import CLASSES, cell, classified, estimated, right, worst, write_csv, write_run

from advbench.cli.main import invoke
from advbench.errors import UserError
from advbench.evidence.board import read_board
from advbench.evidence.columns import NAMES
from advbench.evidence.figures import figures
from advbench.evidence.leaderboard import text
from advbench.evidence.protocol import SCHEMA
from advbench.evidence.table import text_hash
from advbench.values import Regression

REDSHIFT = Regression(("z",), tolerance=0.15, relative=True)


def made() -> list[dict[str, Any]]:
    clean = right(40, 36)
    two = [
        cell(classified(clean, right(40, k, k)), perturbation=name, cell_id=name)
        for name, k in (("fgsm", 25), ("pgd", 15))
    ]
    blur = cell(
        classified(clean, right(40, 30)), perturbation="blur", knowledge="none", norm=None, cell_id="blur"
    )
    return [*two, blur, worst(two), cell(None, perturbation="ddn", cell_id="ddn")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", made())


def edited(path: Path, change: Callable[[list[dict[str, str]]], object]) -> Path:
    """The same file after somebody was at it."""
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    change(rows)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_board(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# --- what is read -------------------------------------------------------------------------------------------------


def test_values_have_their_types(folder: Path) -> None:
    board = read_board(folder)
    assert [row["perturbation"] for row in board.rows] == ["blur", "ddn", "fgsm", "pgd", "worst of 2"]
    row = board.rows[2]
    assert tuple(row) == NAMES
    assert (row["schema"], row["n"], row["n_clean_correct"], row["seed"]) == (SCHEMA, 40, 36, 0)
    assert isinstance(row["n"], int)
    assert (row["clean"], row["strength"], row["targeted"]) == (0.9, 0.1, False)
    assert row["linf_median"] == math.inf
    assert (row["flags"], row["reason"], row["eta_clean"], row["model_params"]) == (
        None, None, None, '{"width":8}',
    )  # fmt: skip
    skipped = board.rows[1]
    assert (skipped["status"], skipped["reason"], skipped["n"]) == ("skipped", "not today", None)


def test_a_run_folder_has_its_suite_and_what_run_json_says(folder: Path) -> None:
    board = read_board(folder)
    assert (board.path, board.folder, board.extra) == (folder / "leaderboard.csv", folder, ())
    assert board.suite == "version: 1\nname: made\n"
    assert board.run == {"host": "here"}
    assert board.name == str(folder)
    assert read_board(folder / "leaderboard.csv") == board


def test_a_csv_alone_has_neither_outcomes_nor_suite(tmp_path: Path) -> None:
    board = read_board(write_csv(tmp_path / "some.csv", made()))
    assert (board.folder, board.suite, board.run) == (None, None, {})
    assert [board.outcomes(row) for row in board.rows] == [None] * 5
    assert board.name == str(tmp_path / "some.csv")


def test_a_named_csv_has_its_suite_and_its_origin_beside_it(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "some.csv", made())
    (tmp_path / "some.suite.yaml").write_text("name: beside\n")
    (tmp_path / "some.run.json").write_text('{"cores": 2}\n')
    board = read_board(path)
    assert (board.folder, board.suite, board.run) == (None, "name: beside\n", {"cores": 2})


def test_columns_of_metrics_are_numbers(tmp_path: Path) -> None:
    rows = [row | {"mine/f1": value} for row, value in zip(made(), (0.5, None, -2.0, math.inf, None))]
    board = read_board(write_csv(tmp_path / "some.csv", rows, ["mine/f1"]))
    assert board.extra == ("mine/f1",)
    assert [row["mine/f1"] for row in board.rows] == [-2.0, None, 0.5, None, math.inf]


def test_what_is_read_writes_the_same_file_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    z = rng.uniform(0.1, 0.7, 50)
    photo = estimated(z, z + rng.normal(0, 0.05, 50), z + rng.normal(0.05, 0.2, 50))
    rows = [*made(), cell(photo, REDSHIFT, dataset="photo", strength=1e-7)]
    path = write_csv(tmp_path / "some.csv", rows)
    assert write_csv(tmp_path / "again.csv", read_board(path).rows).read_text() == path.read_text()


def test_outcomes_of_a_row_and_of_a_worst_case(folder: Path) -> None:
    board = read_board(folder)
    known = {row["perturbation"]: row for row in board.rows}
    arrays = board.outcomes(known["pgd"])
    assert arrays is not None
    assert int(arrays["clean_correct"].sum()) == known["pgd"]["n_clean_correct"]
    assert board.outcomes(known["ddn"]) is None
    merged = board.outcomes(known["worst of 2"])
    assert merged is not None
    again = figures(merged, CLASSES, attack=True)
    for name in ("n_success", "perturbed", "perturbed_lo", "linf_median", "forward_passes_mean"):
        assert text(again[name]) == text(known["worst of 2"][name]), name


def test_outcomes_that_are_gone_and_outcomes_that_were_changed(folder: Path) -> None:
    board = read_board(folder)
    row = board.rows[3]
    path = folder / "cells" / "pgd.npz"
    arrays = dict(np.load(path))
    arrays["perturbed_correct"][:5] = True
    np.savez_compressed(path, **arrays)
    with pytest.raises(UserError, match=r"pgd\.npz: not the outcomes that pgd\.json speaks of"):
        board.outcomes(row)
    path.unlink()
    assert board.outcomes(row) is None
    assert board.outcomes(board.rows[4]) is None


# --- what is refused ----------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    assert complaint(tmp_path / "nowhere.csv") == ": there is no such file"
    assert (
        complaint(tmp_path) == "/leaderboard.csv: there is no such file (a run folder has a leaderboard.csv)"
    )


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe\x00", b"<html>"])
def test_not_a_leaderboard(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    assert complaint(path).startswith(": not a leaderboard: ")
    assert (": the file is empty" in complaint(path)) == (not content)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (SCHEMA - 1, f"older schema {SCHEMA - 1}, this advbench reads schema {SCHEMA}: run its suite again"),
        (
            SCHEMA + 1,
            f"newer schema {SCHEMA + 1}, this advbench reads schema {SCHEMA}: use the one that wrote it",
        ),
    ],
)
def test_another_schema_says_both_and_what_to_do(folder: Path, schema: int, words: str) -> None:
    path = folder / "leaderboard.csv"

    def other(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["schema"] = str(schema)
            row["surprise"] = row.pop("precision")

    assert words in complaint(edited(path, other))


def test_a_header_that_was_changed(folder: Path) -> None:
    path = folder / "leaderboard.csv"
    path.write_text(path.read_text().replace("clean_price", "cost", 1))
    assert complaint(path) == f":1: edited: the header of schema {SCHEMA} lacks clean_price"


def test_a_column_that_is_there_twice(folder: Path) -> None:
    path = folder / "leaderboard.csv"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line},{'perturbed' if not k else '0.1'}\n" for k, line in enumerate(lines)))
    assert complaint(path) == ":1: edited: the column perturbed is there 2 times"


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_told(folder: Path, separator: str, name: str) -> None:
    path = folder / "leaderboard.csv"
    path.write_text(path.read_text().replace(",", separator))
    assert complaint(path) == f": its columns are separated by {name}; a leaderboard has commas"


def test_a_leaderboard_that_is_not_the_one_its_run_wrote(folder: Path) -> None:
    """Labels and strengths are in no record; the hash of the whole file tells."""
    path = folder / "leaderboard.csv"
    (folder / "run.json").write_text(json.dumps({"leaderboard_sha256": text_hash(path)}))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(read_board(folder).rows) == 5
    edited(path, lambda rows: rows[2].update({"strength": "0.2", "perturbation": "mine"}))
    assert complaint(path).startswith(": edited: not as its run wrote it")


def test_a_file_that_is_cut_off(folder: Path) -> None:
    path = folder / "leaderboard.csv"
    whole = path.read_text()
    path.write_text(whole[:-200])
    assert ":6: " in complaint(path)
    assert "cut off" in complaint(path)
    header = whole.splitlines(keepends=True)[0]
    for cut in (3, 9, 200, len(header) - 1):
        path.write_text(header[:cut])
        assert complaint(path) == ": the file is cut off in its header"
    path.write_text(header)
    assert complaint(path) == ": has no rows"
    path.write_text("wavelength,flux\n")
    assert "not a leaderboard" in complaint(path)
    path.write_text(whole[:-3])
    assert complaint(path) == ":6: the file is cut off there: its last line has no end"
    lines = whole.splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[3].rsplit(",", 4)[0] + "\n", *lines[4:]]))
    assert complaint(path) == f":4: {len(NAMES) - 4} values in this row, {len(NAMES)} columns in the header"


@pytest.mark.parametrize(
    ("row", "column", "value", "words"),
    [
        (2, "n", "forty", "column n: 'forty' is not a whole number that is not negative"),
        (2, "n", "-40", "column n: '-40' is not a whole number that is not negative"),
        (2, "targeted", "maybe", "column targeted: 'maybe' is not true or false"),
        (2, "clean", "nan", "column clean: 'nan' is not a number that is not negative"),
        (2, "attack_success_rate", "1.2", "column attack_success_rate: '1.2' is not a number from 0 to 1"),
        (2, "clean", "0.95", "column clean: 0.95, but it is 0.9 of 36 of 40"),
        (2, "clean_lo", "0.8", "column clean_lo: 0.8, but it is 0.769"),
        (2, "clean_hi", "", "column clean_hi: empty, but it is 0.960"),
        (2, "perturbed", "0.9", "column perturbed: 0.9, but it is 0.525 of 21 of 40"),
        (0, "perturbed", "1.5", "column perturbed: 1.5 is more than 1"),
        (0, "perturbed", "0.76", "column perturbed: 0.76, but it is 0.75 of 30 of 40"),
        (2, "n_success", "37", "column n_success: 37 is more than n_eligible, 36"),
        (2, "n_clean_correct", "", "column n_clean_correct: empty though status is ok"),
        (2, "metric", "luck", "column metric: luck is none of accuracy, sigma_mad"),
        (2, "status", "fine", "column status: 'fine' is none of ok, skipped"),
        (2, "kind", "row", "column kind: 'row' is none of cell"),
        (2, "model", "", "column model: empty"),
        (1, "clean", "0.9", "column clean: 0.9 though status is skipped"),
        (4, "perturbation_params", "fgsm", "column perturbation_params: not the labels"),
        (3, "cell_id", "fgsm", "column n_success: 22, but 15 in line 4, which is the same cell"),
        (0, "dataset_params", '{"limit":3', "column dataset_params: not JSON: Expecting ','"),
        (2, "perturbation_params", "{'eps':1}", "column perturbation_params: not JSON: Expecting property name"),
        (4, "defense_params", "[", "column defense_params: not JSON: Expecting value"),
        (3, "schema", "1", f"column schema: older schema 1, this advbench reads schema {SCHEMA}: run its"),
        (3, "schema", "9", f"column schema: newer schema 9, this advbench reads schema {SCHEMA}: use the one"),
        (2, "knowledge", "godlike", "column knowledge: 'godlike' is none of none, blackbox, transfer"),
        (2, "fingerprint", "", "column fingerprint: empty though status is ok"),
        (2, "reason", "because", "column reason: 'because' though status is ok"),
        (2, "perturbation_params", "", "column perturbation_params: empty though status is ok"),
        (2, "perturbation_params", "[1]", "column perturbation_params: not a JSON object"),
        (4, "defense_params", "{}", "column defense_params: not a JSON list"),
        (0, "detector_auroc", "0.5", "column detector_auroc: 0.5, but detector_fpr is empty: there is no detector"),
        (2, "eta_perturbed", "0.3", "column eta_perturbed: 0.3, but the metric is accuracy"),
    ],
)  # fmt: skip
def test_a_file_that_was_edited(tmp_path: Path, row: int, column: str, value: str, words: str) -> None:
    path = write_csv(tmp_path / "some.csv", made())
    edited(path, lambda rows: rows[row].update({column: value}))
    found = complaint(path)
    assert found.startswith(f":{row + 2}: {words}")


def test_one_cell_may_have_two_names_but_no_two_rows(tmp_path: Path) -> None:
    rows = made()[:1]
    path = write_csv(tmp_path / "some.csv", [*rows, rows[0] | {"defense": "the same by another name"}])
    assert len(read_board(path).rows) == 2
    path = write_csv(tmp_path / "some.csv", [*rows, *rows])
    assert complaint(path) == ":3: column cell_id: fgsm is that of line 2, too"


def test_a_regressor_that_diverged_has_no_interval(tmp_path: Path) -> None:
    z = np.linspace(0.1, 0.7, 30)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = cell(estimated(z, z + 0.01, np.full(30, np.inf)), REDSHIFT)
    (read,) = read_board(write_csv(tmp_path / "some.csv", [row])).rows
    assert (read["bias_perturbed"], read["bias_perturbed_lo"], read["perturbed"]) == (math.inf, None, None)


def test_an_interval_without_its_estimate(tmp_path: Path) -> None:
    z = np.linspace(0.1, 0.7, 30)
    path = write_csv(tmp_path / "some.csv", [cell(estimated(z, z + 0.01, z + 0.02), REDSHIFT)])
    edited(path, lambda rows: rows[0].update({"eta_clean": ""}))
    assert complaint(path) == ":2: column eta_clean: empty, but an estimate and its interval come together"


def test_a_figure_that_is_not_the_one_of_its_record(folder: Path) -> None:
    path = folder / "leaderboard.csv"
    before = edited(path, lambda rows: rows[2].update({"forward_passes_mean": "9"}))
    words = "column forward_passes_mean: 9 here, 1 in cells/fgsm.json: one of them was edited"
    assert complaint(before) == f":4: {words}"
    (folder / "cells" / "fgsm.json").write_text("[]")
    with pytest.raises(UserError, match=r"fgsm\.json: not a record: run the suite again to mend it"):
        read_board(path)


def test_a_record_that_was_tried_again_or_is_gone_is_no_contradiction(folder: Path) -> None:
    record = folder / "cells" / "fgsm.json"
    record.write_text(json.dumps({"status": "failed", "figures": {"n": 1}}))
    assert len(read_board(folder).rows) == 5
    record.unlink()
    board = read_board(folder)
    assert board.outcomes(board.rows[2]) is None


def test_a_cell_id_is_no_path(tmp_path: Path) -> None:
    rows = made()
    rows[0]["cell_id"] = "../cells/fgsm"
    folder = write_run(tmp_path / "run", made())
    board = read_board(write_csv(folder / "leaderboard.csv", rows))
    assert [board.outcomes(row) is None for row in board.rows if row["perturbation"] == "fgsm"] == [True]


@pytest.mark.parametrize("name", ["leaderboard.csv", "suite.yaml"])
@pytest.mark.parametrize("command", ["compare", "rank", "rerun", "report", "export"])
def test_a_file_that_is_not_text_is_told_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"# caf\xe9\n")
    more = {
        "compare": [str(folder)],
        "export": ["--format", "reference", "--out", str(tmp_path / "x.csv")],
        "rerun": ["--display", "none"],
    }
    assert invoke([command, str(folder), *more.get(command, [])]) == 2
    told = capsys.readouterr().err
    assert str(folder / name) in told
    assert "not UTF-8 text" in told
    assert len(told.splitlines()) == 1
