"""Leaderboards in other formats."""

import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from boards import cell, classified, right, write_run

from advbench.cli.main import invoke
from advbench.cli.sheet import Sheet, as_json, comma_separated, latex, markdown, plain
from advbench.evidence.board import read_board
from advbench.evidence.columns import NAMES

N = 80


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [
        cell(classified(right(N, 72), right(N, count)), defense=name, model="50 %_net")
        for name, count in (("none", 20), ("a|b <i>", 40))
    ]
    return write_run(tmp_path / "run", rows)


def told(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert invoke(["export", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_markdown_leaves_out_what_is_the_same_everywhere(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(capsys, run, "--format", "markdown").splitlines()
    assert lines[:2] == ["| defense | perturbed | attack success rate |", "| --- | ---: | ---: |"]
    assert lines[2].startswith("| a\\|b &lt;i> | 0.500 [0.393, 0.607] |")
    assert lines[3].startswith("| none | 0.250 [0.168, 0.355] |")


def test_latex_is_escaped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, run, "--format", "latex", "--columns", "model,defense,n").splitlines()
    assert lines[1:5] == [r"\begin{tabular}{llr}", r"\toprule", r"model & defense & n \\", r"\midrule"]
    assert lines[5] == r"50 \%\_net & a\textbar{}b \textless{}i\textgreater{} & 80 \\"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_json_has_every_column_with_its_type(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(told(capsys, run, "--format", "json"))
    assert [tuple(row) for row in rows] == [NAMES] * 2
    board = read_board(run)
    for row, ours in zip(rows, board.rows):
        for name in NAMES:
            expected = "inf" if ours[name] == math.inf else ours[name]
            assert row[name] == expected, name


def test_parquet_without_pyarrow_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = tmp_path / "x.parquet"
    assert invoke(["export", str(run), "--format", "parquet", "--out", str(out)]) == 2
    assert capsys.readouterr().err == "error: --format parquet needs pyarrow: pip install pyarrow\n"
    assert not out.exists()


def test_parquet_hands_over_columns_with_their_types(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = {name: (lambda name=name: name) for name in ("int64", "float64", "bool_", "string")}
    arrow = SimpleNamespace(array=lambda values, kind: (kind, values), table=dict, **types)
    writer = SimpleNamespace(write_table=lambda table, buffer: buffer.write(repr(table).encode()))
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", writer)  # type: ignore[arg-type]
    out = tmp_path / "x.parquet"
    assert (
        invoke(
            [
                "export",
                str(run),
                "--format",
                "parquet",
                "--columns",
                "n,clean,targeted,flags",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    expected = {
        "n": ("int64", [N, N]), "clean": ("float64", [0.9, 0.9]), "targeted": ("bool_", [False, False]),
        "flags": ("string", [None, None]),
    }  # fmt: skip
    assert out.read_text() == repr(expected)


def test_parquet_is_read_back(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "x.parquet"
    assert invoke(["export", str(run), "--format", "parquet", "--out", str(out)]) == 0
    table = importlib.import_module("pyarrow.parquet").read_table(out)
    assert table.to_pylist() == [dict(row) for row in read_board(run).rows]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "parquet"], "needs --out FILE: it is no text"),
        (["--format", "latex", "--columns", "modle"], "there is no column 'modle' (did you mean 'model'?)"),
        (["--format", "latex", "--columns", ""], "--columns: names no column; leave it out"),
        (["--format", "json", "--columns", "model,n,model"], "--columns: 'model' is there twice"),
        (["--format", "json", "--out", "."], "--out .: is a folder; name a file in it"),
        (["--format", "excel"], "'excel' is not one of"),
        ([], "Missing option '--format'"),
    ],
)
def test_mistakes(run: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert invoke(["export", str(run), *options]) == 2
    assert words in capsys.readouterr().err


# --- tables -------------------------------------------------------------------------------------------------------

TABLE = Sheet(["name", "x"], [["a_b", "1.5"], ["[c], d\n&", "10"]], frozenset({1}))


def test_a_table_in_a_terminal() -> None:

    styled = plain(
        Sheet(["name", "x"], [["worse", "1.5"], ["c", "10"]], frozenset({1})), {"worse": {"fg": "red"}}
    )
    assert click.unstyle(styled) == "name     x\nworse  1.5\nc       10\n"
    assert click.style("worse", fg="red") in styled


def test_a_table_as_text() -> None:
    assert markdown(TABLE).splitlines()[2:] == ["| a\\_b | 1.5 |", "| [c], d &amp; | 10 |"]
    assert comma_separated(TABLE) == 'name,x\na_b,1.5\n"[c], d\n&",10\n'
    assert r"{[}c], d \& & 10 \\" in latex(TABLE)


def test_nothing_is_markup_in_markdown() -> None:
    (row,) = markdown(Sheet(["name"], [[r"[a](b) ~~c~~ <i> &copy; \| `d`"]], frozenset())).splitlines()[2:]
    assert row == r"| [a\](b) \~\~c\~\~ &lt;i> &amp;copy; \\\| \`d\` |"


def test_json_says_what_json_can_say() -> None:
    value = {"a": [math.nan, math.inf, -math.inf, 1.5], "b": {"c": None}, "d": (True,)}
    assert json.loads(as_json(value)) == {"a": [None, "inf", "-inf", 1.5], "b": {"c": None}, "d": [True]}
    assert np.isfinite(json.loads(as_json([0.1]))[0])
