"""What `advbench compare` says, in all its forms, and its exit codes."""

import csv
import io
import json
import math
from pathlib import Path

import click
import pytest
from boards import cell, right, write_csv, write_run
from pairs import CLEAN, N, made, robust

from advbench.cli.differences import _over_seeds
from advbench.cli.main import invoke
from advbench.evidence.statistics import Seeds


def test_fail_on_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = (str(write_run(tmp_path / name, made(k))) for name, k in (("a", 200), ("b", 150)))
    assert invoke(["compare", before, before, "--fail-on", "regression"]) == 0
    assert capsys.readouterr().err == ""
    assert invoke(["compare", before, after]) == 0
    assert invoke(["compare", after, before, "--fail-on", "regression"]) == 0
    capsys.readouterr()
    assert invoke(["compare", before, after, "--fail-on", "regression"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(
        "regression: sky / net / squeezing / pgd, adaptive, seed 0: perturbed 0.5 -> 0.375, p = "
    )
    assert "after Holm's correction" in told
    lost = 100 * float((right(N, 200) & CLEAN & ~right(N, 150)).mean())
    for points, code in ((lost - 0.5, 1), (lost + 0.5, 0)):
        assert invoke(["compare", before, after, "--fail-on", f"regression:{points:g}"]) == code


def test_rows_that_are_gone_and_nothing_to_compare_are_regressions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*made(), cell(None, perturbation="skipped")]
    runs = [str(write_run(tmp_path / name, some)) for name, some in (("a", rows), ("b", rows[:2]))]
    assert invoke(["compare", *runs, "--fail-on", "regression"]) == 1
    told = capsys.readouterr().err
    assert told == f"regression: sky / net / squeezing / pgd, adaptive, seed 0: not in {runs[1]}\n"
    assert invoke(["compare", *reversed(runs), "--fail-on", "regression"]) == 0
    assert invoke(["compare", runs[0], runs[0], "--figure", "detector_auroc", "--fail-on", "regression"]) == 1
    assert capsys.readouterr().err == "regression: nothing was compared: no figure on both sides\n"


def test_a_row_that_lost_its_figures_is_a_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made()
    broken = {key: value for key, value in rows[1].items() if key in cell(None)}
    broken |= {"status": "failed", "reason": "it\nbroke", "weights": None, "outcomes": None}
    runs = [str(write_run(tmp_path / "a", rows)), str(write_run(tmp_path / "b", [rows[0], broken, rows[2]]))]
    assert invoke(["compare", *runs, "--fail-on", "regression"]) == 1
    output = capsys.readouterr()
    assert output.err == "regression: sky / net / none / pgd, adaptive, seed 0: failed now: it broke\n"
    assert "status: sky / net / none / pgd, adaptive, seed 0: ok -> failed" in output.out
    assert "changed: " not in output.out  # what has no figures has no origin


def test_two_labels_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write_run(tmp_path / "a", made()))
    assert invoke(["compare", run, "--between", "defense=none,squeezing"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["sky", "/", "net", "/"]
    assert "pgd, adaptive, seed 0" in lines[1]
    assert lines[1].endswith("better")
    assert "only in defense=none: sky / net / none, seed 0" in lines


def test_means_that_cancel_are_nothing() -> None:
    assert _over_seeds(Seeds(3.7e-17, 1e-17, 2), "+") == "+0 ± 0"
    assert _over_seeds(Seeds(-3.7e-17, math.nan, 1), "+") == "+0"
    assert _over_seeds(Seeds(2e-6, math.nan, 1), "+") == "+2e-06"


def test_table_markdown_csv_and_json_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / name, made(k))) for name, k in (("a", 200), ("b", 150))]
    assert invoke(["compare", *runs]) == 0
    told = capsys.readouterr().out
    assert "3 lines: 2 same, 1 worse (margin 1)" in told
    assert "tests: McNemar, exact; p after Holm's correction" in told
    assert invoke(["compare", *runs, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [line["verdict"] for line in document["lines"]] == ["same", "same", "worse"]
    assert invoke(["compare", *runs, "--format", "csv"]) == 0
    records = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [record["verdict"] for record in records] == ["same", "same", "worse"]
    for record, line in zip(records, document["lines"]):
        assert float(record["difference"]) == pytest.approx(line["difference"], rel=1e-5)
        assert float(record["p_holm"]) == pytest.approx(line["p_holm"], rel=1e-5)
    out = tmp_path / "deep" / "difference.md"
    assert invoke(["compare", *runs, "--format", "markdown", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    lines = out.read_text().splitlines()
    assert lines[0] == "| row | first | second | difference [95 %] | p | verdict |"
    assert lines[4].endswith("| worse |")
    assert "- 3 lines: 2 same, 1 worse (margin 1)" in lines
    assert invoke(["compare", *runs, "--by", "model,defense"]) == 0
    grouped = capsys.readouterr().out.splitlines()
    assert grouped[0].split()[:6] == ["run", "model", "defense", "kind", "metric", "rows"]
    assert grouped[3].split()[-2:] == ["1", "worse"]


def test_an_axis_that_is_named_twice_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write_run(tmp_path / "a", made()))
    shown = []
    for by in ("model,defense", "model,defense,model"):
        assert invoke(["compare", run, run, "--by", by]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


EVIL = "net\x1b]0;title\x07\x1b[2J\x9b1m"


def test_control_characters_of_labels_do_not_reach_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [cell(robust(100 + k), model=EVIL, defense=f"d{k}", cell_id=f"c{k}") for k in (0, 200)]
    before, after = write_csv(tmp_path / "a.csv", rows), write_csv(tmp_path / "b.csv", rows[:1])
    table = [["compare", str(before), str(after), "--fail-on", "regression"], ["rank", str(before)]]
    forms = [
        [*command, "--format", form] for command in table for form in ("table", "markdown", "csv", "json")
    ]
    kept = [
        ["export", str(before), "--format", form, "--columns", "model,clean"]
        for form in ("markdown", "latex")
    ]
    for command in [*forms, *kept]:
        invoke(command)
        output = capsys.readouterr()
        shown = click.unstyle(output.out + output.err)
        assert "net" in shown
        assert not [one for one in shown if one != "\n" and not one.isprintable()], command
    other = write_csv(tmp_path / "c.csv", [rows[0] | {"fingerprint": "11"}])
    assert invoke(["compare", str(before), str(other)]) == 2
    assert "\x07" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "one run alone; name another one, or use --between"),
        (["--between", "defense=none"], "not of the form AXIS=FIRST,SECOND"),
        (["--between", "dataset=a,b"], "'dataset' is none of model, defense"),
        (["--between", "defense=none,squeezin"], "has no defense 'squeezin' (did you mean 'squeezing'?)"),
        (["--between", "defense=none,none"], "'none' is there twice; name different labels"),
        (["--between", "defense=none,squeezing", "--out", "."], "--out .: is a folder; name a file in it"),
        (["--fail-on", "anything"], "not of the form regression or regression:POINTS"),
        (["--margin", "nan"], "--margin nan: not a finite number"),
        (["--margin", "inf"], "--margin inf: not a finite number"),
        (["--figure", "area", "--up-to", "nan"], "--up-to nan: not a finite number"),
        (["--by", "modle"], "there is no axis 'modle' (did you mean 'model'?)"),
        (["--figure", "luck"], "'luck' is not one of"),
        (["nowhere.csv"], "nowhere.csv: there is no such file"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    run = str(write_run(tmp_path / "a", made()))
    assert invoke(["compare", run, *options]) == 2
    assert words in capsys.readouterr().err
