"""The table: fixed header, formatted cells, one order, readable by anything."""

import io
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advbench.evidence.columns import COLUMNS, NAMES
from advbench.evidence.leaderboard import from_csv, in_order, text, to_csv

ROW: dict[str, Any] = {
    "dataset": "lsst",
    "model": "net",
    "defense": "none",
    "kind": "cell",
    "cell_id": "00ff",
}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (math.nan, ""),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (True, "true"),
        (False, "false"),
        (0.123456789, "0.123457"),
        (1234567.8, "1.23457e+06"),
        (8 / 255, "0.0313725"),
        (1.0, "1"),
        (12345678, "12345678"),
        ("none", "none"),
        (np.float64(1 / 3), "0.333333"),
        (np.float32(1 / 3), "0.333333"),
        (np.float32("nan"), ""),
        (np.int64(7), "7"),
        (np.bool_(True), "true"),
    ],
)
def test_one_cell(value: Any, shown: str) -> None:
    assert text(value) == shown


def test_the_header_is_the_documented_columns_in_their_order() -> None:
    header = to_csv([ROW]).splitlines()[0].split(",")
    assert header == [column.name for column in COLUMNS] == list(NAMES)
    assert len(set(NAMES)) == len(NAMES)
    assert all(column.help and column.group for column in COLUMNS)
    assert to_csv([ROW], ["toys/metric"]).splitlines()[0] == ",".join([*NAMES, "toys/metric"])


def test_an_unknown_column_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a column of the leaderboard: a, b"):
        to_csv([ROW | {"b": 1, "a": 2}])
    assert "2.5" in to_csv([ROW | {"a/metric": 2.5}], ["a/metric"])


def rows() -> list[dict[str, Any]]:
    return [
        ROW
        | {"perturbation": name, "strength": strength, "seed": seed, "cell_id": f"{seed}-{strength}-{name}"}
        for name in ("fgsm", "pgd")
        for strength in (None, 0.5, 2.0, 10.0)
        for seed in (0, 1, 2, 10)
    ]


def test_order_follows_identity_and_not_the_order_of_computation() -> None:
    ordered = rows()
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert in_order(shuffled) == ordered
    assert to_csv(shuffled) == to_csv(ordered)


def test_rows_alike_in_all_labels_are_sorted_by_cell_id() -> None:
    twins = [ROW | {"cell_id": "b"}, ROW | {"cell_id": "a"}]
    assert [row["cell_id"] for row in in_order(twins)] == ["a", "b"]


def test_worst_cases_and_missing_values_have_a_place_in_the_order() -> None:
    mixed = [ROW | {"strength": [0.1, 0.2]}, ROW | {"strength": math.nan}, ROW | {"strength": 1.0}, ROW]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        assert in_order([mixed[i] for i in order])[-1]["strength"] == 1.0


def test_pandas_reads_back_what_was_written() -> None:
    pandas = pytest.importorskip("pandas")
    row = ROW | {
        "model_params": '{"a":[1,2],"b":"x, \\"y\\""}',
        "reason": 'said "no",\nthen left',
        "clean": 0.25,
        "linf_median": math.inf,
        "l2_median": math.nan,
        "n": 500,
        "targeted": False,
    }
    table = pandas.read_csv(io.StringIO(to_csv([row])), keep_default_na=False, na_values={"l2_median": ""})
    assert list(table.columns) == list(NAMES)
    back = table.iloc[0]
    for name in ("model_params", "reason", "dataset"):
        assert back[name] == row[name]
    assert (back["clean"], back["n"], back["linf_median"]) == (0.25, 500, math.inf)
    assert math.isnan(back["l2_median"])
    assert bool(back["targeted"]) is False


def test_csv_round_trip_is_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    path.write_text(to_csv(rows()), encoding="utf-8")
    assert b"\r" not in path.read_bytes()
    back = from_csv(path)
    assert [row["perturbation"] for row in back] == [row["perturbation"] for row in rows()]
    numbers = [{**row, "strength": float(row["strength"] or "nan"), "seed": int(row["seed"])} for row in back]
    assert to_csv(numbers) == to_csv(rows())
