"""The report as a file: what is in it, and that nothing from a run is taken for markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
import reports

from advbench.cli.main import invoke
from advbench.errors import UserError
from advbench.evidence.statistics import auroc, wilson
from advbench.report import curves, samples, summary
from advbench.report.page import json_for_script, number, write_report
from advbench.report.rows import read_sources, table


class Elements(HTMLParser):
    """Names of all elements, all attributes, and the text of script and style elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.raw: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag in ("script", "style"):
            self.raw.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.raw[-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reports.write_everything(tmp_path_factory.mktemp("report") / "made")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    written = write_report([run], run / "report.html")
    text = (run / "report.html").read_text(encoding="utf-8")
    assert written.size == len(text.encode())
    assert (written.rows, written.pictures) == (len(reports.everything()), 1)
    return text


# --- safety ------------------------------------------------------------------------------------------------------


def test_what_a_run_says_is_text(page: str) -> None:
    found = Elements(page)
    assert found.names.count("script") == 2  # the data and the page's own
    assert "b" not in found.names
    assert reports.EVIL not in page
    assert html.escape(reports.EVIL) in page
    assert reports.CAPTION in [value for name, value in found.attributes if name == "alt"]
    assert not any(name.startswith("on") or name == "style" for name, _ in found.attributes)


def test_the_page_names_no_other_file(page: str) -> None:
    found = Elements(page)
    addresses = [
        value for name, value in found.attributes if name in ("src", "href", "srcset", "action", "data")
    ]
    assert addresses
    assert [value for value in addresses if not value.startswith(("#", "data:"))] == []
    style, _, script = found.raw
    assert "url(" not in style
    assert "@import" not in style
    assert (
        re.findall(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|fetch\(|XMLHttp|import\(", script
        )
        == []
    )
    assert set(re.findall(r"https?://[^\"'\s]+", script + style)) == {"http://www.w3.org/2000/svg"}


def test_the_policy_allows_this_script_and_style_alone(page: str) -> None:
    found = Elements(page)
    style, _, script = found.raw
    (policy,) = [value for name, value in found.attributes if name == "content" and "default-src" in value]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for rule, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_json_in_a_script_cannot_end_it() -> None:
    value = {"</script><!--": ["<script>", "&amp;", "\u2028", "é", 0.1, None]}
    text = json_for_script(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_json_refuses_what_no_browser_reads() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_for_script(math.nan)


# --- rows --------------------------------------------------------------------------------------------------------


def unpacked(data: dict[str, Any], name: str) -> list[Any]:
    """A column as the page's script reads it."""
    column = data["columns"][name]
    if "n" in column:
        return list(column["n"])
    return [None if index < 0 else column["v"][index] for index in column["i"]]


def test_the_page_holds_every_value_of_the_leaderboard(run: Path, page: str) -> None:
    data = json.loads(Elements(page).raw[1])
    rows = read_sources([run])[0].board.rows
    assert data["count"] == len(rows)
    for name in rows[0]:
        expected = [row[name] for row in rows]
        if name == "schema" or all(value is None for value in expected):
            assert name not in data["columns"]
            continue
        if name == "targeted":
            expected = ["no" for _ in expected]
        assert unpacked(data, name) == ["inf" if value == math.inf else value for value in expected]
    assert "inf" in unpacked(data, "linf_median")
    assert set(data["flags"]) == {"not-converged", "info-lost-by-8-bit"}
    assert data["flags"]["not-converged"].startswith("the same attack with at least twice the steps")


def named(rows: list[dict[str, Any]], tmp_path: Path) -> list[tuple[Any, Any]]:
    """Perturbation, family and axis of rows that went through a file."""
    (source,) = read_sources([boards.write_csv(tmp_path / "made.csv", rows)])
    data = table([source])
    labels, families, axes = (unpacked(data, name) for name in ("perturbation", "family", "axis"))
    return sorted(zip(labels, zip(families, axes)))


def test_a_family_is_a_perturbation_without_its_strength(tmp_path: Path) -> None:
    outcomes = boards.classified([1] * 8, [1] * 4 + [0] * 4)
    with_alpha = {
        "perturbation_params": '{"alpha":0.05,"eps":0.2,"steps":10}',
        "perturbation": "slow(eps=0.2)",
    }
    rows = [
        boards.cell(outcomes, **reports.CLEAN),
        *(boards.cell(outcomes, **reports.pgd(eps)) for eps in (0.1, 0.2)),
        boards.cell(outcomes, **{**reports.pgd(0.2), **with_alpha}),
        *(boards.cell(outcomes, **reports.jpeg(quality)) for quality in (90, 50)),
    ]
    linf = "linf budget (input units)"
    assert named(rows, tmp_path) == [
        ("jpeg(quality=50)", ("jpeg", "jpeg: JPEG quality")),
        ("jpeg(quality=90)", ("jpeg", "jpeg: JPEG quality")),
        ("none", (None, None)),
        ("pgd(eps=0.1)", ("pgd", linf)),
        ("pgd(eps=0.2)", ("pgd", linf)),
        ("slow(eps=0.2)", ("slow", linf)),
    ]


def test_equal_labels_with_other_parameters_are_other_families(tmp_path: Path) -> None:
    outcomes = boards.classified([1] * 8, [1] * 4 + [0] * 4)
    more = {
        "perturbation_params": '{"eps":0.3,"steps":90}',
        "strength": 0.3,
        "perturbation": "pgd(eps=0.3, steps=90)",
    }
    rows = [boards.cell(outcomes, **reports.pgd(0.1)), boards.cell(outcomes, **{**reports.pgd(0.3), **more})]
    assert [family for _, (family, _) in named(rows, tmp_path)] == ["pgd #1", "pgd #2"]


def test_equal_labels_with_other_parameters_are_named_by_their_runs(tmp_path: Path) -> None:
    outcomes = boards.classified([1] * 8, [1] * 4 + [0] * 4)
    tables = []
    for name, steps in (("a", 5), ("b", 9), ("c", 9)):
        rows = []
        for eps in (0.1, 0.3):
            params = json.dumps({"eps": eps, "steps": steps})
            rows.append(boards.cell(outcomes, **reports.pgd(eps) | {"perturbation_params": params}))
        rows += [boards.cell(outcomes, **reports.jpeg(quality)) for quality in (90, 50)]
        params = json.dumps({"goal": "untargeted", "steps": steps})
        rows.append(boards.cell(outcomes, **reports.smallest(perturbation_params=params)))
        tables.append(boards.write_csv(tmp_path / f"{name}.csv", rows))
    data = table(read_sources(tables))
    runs, families = (unpacked(data, name) for name in ("run", "family"))
    assert set(zip(runs, families)) == {
        ("a", "fmn [a]"), ("a", "jpeg"), ("a", "pgd [a]"),
        *((run, family) for run in "bc" for family in ("fmn [b, c]", "jpeg", "pgd [b, c]")),
    }  # fmt: skip


def test_a_parameter_that_equals_one_strength_by_chance_stays(tmp_path: Path) -> None:
    outcomes = boards.classified([1] * 8, [1] * 4 + [0] * 4)
    rows = []
    for eps in (0.5, 1.0):
        params = json.dumps({"eps": eps, "restarts": 1, "steps": 10})
        rows.append(boards.cell(outcomes, **{**reports.pgd(eps), "perturbation_params": params}))
    assert [family for _, (family, _) in named(rows, tmp_path)] == ["pgd", "pgd"]


# --- whole curves ------------------------------------------------------------------------------------------------


def smallest(distances: Any, **changes: Any) -> dict[str, Any]:
    """A row of a minimum-norm attack: 0 is wrong as it is, inf was not fooled."""
    distances = np.asarray(distances, float)
    clean, found = distances > 0, np.isfinite(distances)
    outcomes = boards.classified(clean, clean & ~found, linf=np.where(found, distances, 0.0))
    return boards.cell(outcomes, **{**reports.smallest(), **changes})


def payload(paths: list[Path]) -> dict[str, Any]:
    return curves.curves(read_sources(paths))


def test_a_whole_curve_is_that_of_the_distances(tmp_path: Path) -> None:
    rows = [
        boards.cell(boards.classified([1] * 4, [1] * 4), **reports.CLEAN),
        smallest([0.3, 0, 0.1, math.inf]),
    ]
    found = payload([boards.write_run(tmp_path / "made", rows)])
    (curve,) = found["curves"]
    (at,) = [
        k for k, row in enumerate(read_sources([tmp_path / "made"])[0].board.rows) if row["norm"] == "linf"
    ]
    assert curve["row"] == at
    assert (curve["eps"], curve["y"]) == ([0, 0.1, 0.3], [0.75, 0.5, 0.25])
    for k, count in enumerate((3, 2, 1)):
        assert (curve["lo"][k], curve["hi"][k]) == pytest.approx(wilson(count, 4)[1:], rel=1e-3)
    assert curve["up_to"] == 0.3
    assert curve["area"][0] == pytest.approx((1 + 0 + 1 / 3 + 1) / 4, rel=1e-3)
    assert curve["area"][1] < curve["area"][0] < curve["area"][2]
    assert curve["median"] == 0.3
    assert found["left"] == 0


def test_areas_of_one_data_set_and_norm_end_together(tmp_path: Path) -> None:
    rows = [smallest([0.1, 0.2]), smallest([0.4, math.inf], model="deep"), smallest([0.9, 2.0], dataset="y1")]
    rows.append(smallest([math.inf, math.inf, math.inf], model="hard"))
    found = payload([boards.write_run(tmp_path / "made", rows)])["curves"]
    labels = [row["model"] + row["dataset"] for row in read_sources([tmp_path / "made"])[0].board.rows]
    ends = {labels[one["row"]]: (one["up_to"], one["area"][0], one["median"]) for one in found}
    assert ends == {
        "netsky": (0.4, 0.375, 0.15),
        "deepsky": (0.4, 1.0, "inf"),
        "hardsky": (0.4, 1.0, "inf"),
        "nety1": (2.0, 0.725, 1.45),
    }


def test_the_median_of_a_norm_without_column_is_that_of_the_distances(tmp_path: Path) -> None:
    outcomes = boards.classified([1, 1, 1, 0], [0, 0, 0, 0], l1=np.array([5.0, 7.0, 6.0, 0.0]))
    rows = [boards.cell(outcomes, **{**reports.smallest(), "norm": "l1"})]
    (curve,) = payload([boards.write_run(tmp_path / "made", rows)])["curves"]
    assert curve["median"] == 6.0


def test_long_curves_are_thinned_and_many_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distances = np.linspace(0.01, 1, 500)
    rows = [smallest(distances, model=f"m{k}") for k in range(3)]
    run = boards.write_run(tmp_path / "made", rows)
    for curve in payload([run])["curves"]:
        assert len(curve["eps"]) == len(curve["y"]) == curves.MOST_CORNERS
        assert (curve["eps"][0], curve["y"][0], curve["eps"][-1], curve["y"][-1]) == (0, 1, 1, 0)
        for eps, value in zip(curve["eps"], curve["y"]):
            assert value == pytest.approx((distances > eps).mean(), abs=0.003)
    monkeypatch.setattr(curves, "MOST_ROWS", 2)
    found = payload([run])
    assert ([one["row"] for one in found["curves"]], found["left"]) == ([0, 1], 1)


def test_a_csv_alone_has_no_curve(tmp_path: Path) -> None:
    path = boards.write_csv(tmp_path / "made.csv", [smallest([0.1, 0.2])])
    assert payload([path]) == {"curves": [], "left": 0}
    assert unpacked(table(read_sources([path])), "axis") == ["linf budget (input units)"]


def test_a_row_with_a_whole_curve_is_a_family_on_the_axis_of_budgets(tmp_path: Path) -> None:
    outcomes = boards.classified([1] * 8, [1] * 4 + [0] * 4)
    rows = [
        boards.cell(outcomes, **reports.pgd(0.1)),
        smallest([0.1] * 8),
        smallest([0.1] * 8, perturbation="b(x=1)"),
    ]
    linf = "linf budget (input units)"
    assert named(rows, tmp_path) == [
        ("b(x=1)", ("b(x=1)", linf)),
        ("fmn", ("fmn", linf)),
        ("pgd(eps=0.1)", ("pgd", linf)),
    ]


def test_an_attack_without_budget_stands_for_no_network_that_another_attacked(tmp_path: Path) -> None:
    after = boards.classified([1] * 4, [1] * 2 + [0] * 2)
    rows = [
        smallest([0.1] * 4),
        boards.cell(after, **reports.pgd(0.1)),
        smallest([0.2] * 4, model="deep"),
        boards.cell(after, **reports.jpeg(5), model="deep"),
    ]
    worst = summary.worst(read_sources([boards.write_csv(tmp_path / "made.csv", rows)]))
    assert [(row["model"], row["perturbation"]) for row in worst] == [
        ("deep", "fmn"),
        ("net", "pgd(eps=0.1)"),
    ]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    rows = [boards.cell(boards.classified([1, 1, 0], [1, 0, 0]))]
    paths = [boards.write_run(tmp_path / parent / "same", rows) for parent in ("a", "b")]
    paths.append(boards.write_csv(tmp_path / "other.csv", rows))
    sources = read_sources(paths)
    assert [source.name for source in sources] == ["same (1)", "same (2)", "other"]
    assert unpacked(table(sources), "run") == ["same (1)", "same (2)", "other"]
    assert [source.home for source in sources] == [*paths[:2], None]


def test_of_a_leaderboard_without_rows_there_is_no_page(tmp_path: Path) -> None:
    path = boards.write_csv(tmp_path / "empty.csv", [])
    with pytest.raises(UserError, match="has no rows"):
        write_report([path], tmp_path / "out.html")


# --- summary -----------------------------------------------------------------------------------------------------


def test_each_network_stands_with_its_worst_row(tmp_path: Path) -> None:
    clean = [1] * 10
    rows = [
        boards.cell(boards.classified(clean, clean), **reports.CLEAN),
        boards.cell(boards.classified(clean, [0] * 10), **reports.jpeg(5)),  # worse, but nobody attacks
        boards.cell(boards.classified(clean, [1] * 4 + [0] * 6), **reports.pgd(0.1)),
        boards.cell(boards.classified(clean, [0] * 10), **reports.pgd(9.0), kind="audit"),
        boards.cell(boards.classified(clean, [1] * 2 + [0] * 8), **reports.jpeg(5), model="deep"),
        boards.cell(boards.classified(clean, [1] * 3 + [0] * 7), **reports.jpeg(9), model="deep"),
    ]
    sources = read_sources([boards.write_csv(tmp_path / "made.csv", rows)])
    worst = summary.worst(sources)
    assert [(row["network"], row["perturbation"], row["perturbed"]) for row in worst] == [
        ("deep", "jpeg(quality=5)", 0.2),
        ("net", "pgd(eps=0.1)", 0.4),
    ]
    for row in worst:
        assert sources[0].board.rows[row["row"]]["cell_id"] == row["cell_id"]


def test_of_an_error_the_largest_is_the_worst() -> None:
    rows = [
        {"metric": metric, "perturbed": value} for metric in ("accuracy", "sigma_mad") for value in (0.1, 0.2)
    ]
    assert [summary.badness(row) for row in rows] == [-0.1, -0.2, 0.1, 0.2]


def test_a_network_is_named_with_what_it_was_trained_on() -> None:
    row = {"model": "net", "defense": "none", "dataset": "y1", "trained_on": "y10"}
    assert summary.network(row) == "net, trained on y10"
    assert summary.network(row | {"dataset": "y10", "defense": "guard"}) == "net + guard"


def test_facts_of_a_run(run: Path) -> None:
    facts = summary.facts(read_sources([run])[0])
    assert facts["datasets"] == [(reports.EVIL, "40")]
    assert facts["seeds"] == [0, 1]
    assert dict(facts["status"]) == {"ok": len(reports.everything()) - 1, "skipped": 1}
    assert facts["description"] == f"About {reports.EVIL} & more"
    assert facts["environment"]["torch"] == "2"
    assert facts["environment"]["plugins"] == "toys: 1"
    assert "host" not in facts["environment"]


def test_numbers() -> None:
    assert [number(0.12345), number(None), number(0.012345, "sigma_mad")] == ["0.123", "–", "0.0123"]


# --- detectors and trainings -------------------------------------------------------------------------------------


def test_roc_by_hand() -> None:
    fpr, tpr = samples.roc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.5, 4.0, 5.0, 0.5]))
    # From (0, 0) over thresholds 5, 4 (a tie), 3.5, then three negatives at once, then the last positive.
    assert list(zip(fpr, tpr)) == [(0, 0), (0, 0.25), (0.25, 0.5), (0.25, 0.75), (1, 0.75), (1, 1)]


@pytest.mark.parametrize("levels", [5, 10_000])
def test_the_area_under_the_curve_is_the_auroc(levels: int) -> None:
    rng = np.random.default_rng(0)
    negative, positive = rng.integers(0, levels, 300) / levels, rng.integers(0, levels, 200) / levels + 0.2
    fpr, tpr = samples.roc(negative, positive, most=10_000)
    area = float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())
    assert area == pytest.approx(auroc(negative, positive), abs=1e-12)
    few = samples.roc(negative, positive, most=20)
    assert len(few[0]) <= 20
    assert (few[0][0], few[1][0], few[0][-1], few[1][-1]) == (0, 0, 1, 1)


def test_every_detector_row_has_its_curve(run: Path) -> None:
    sources = read_sources([run])
    found = samples.rocs(sources)
    rows = sources[0].board.rows
    detecting = [number for number, row in enumerate(rows) if row["detector_auroc"] is not None]
    assert sorted(curve["row"] for curve in found["curves"]) == detecting
    assert found["rows"] == len(detecting) > 8
    values = [rows[curve["row"]]["detector_auroc"] for curve in found["curves"]]
    assert values == sorted(values)
    for curve in found["curves"]:
        fpr, tpr = np.array(curve["fpr"]), np.array(curve["tpr"])
        area = float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())
        assert area == pytest.approx(rows[curve["row"]]["detector_auroc"], abs=1e-3)


def test_histories_go_on_from_phase_to_phase(tmp_path: Path) -> None:
    run = boards.write_run(tmp_path / "run", [boards.cell(boards.classified([1, 0], [1, 0]))])
    path = run / "trainings" / "aa00.json"
    path.parent.mkdir()
    history = [
        {"purpose": "fit", "epoch": 1, "train_loss": 0.123456789, "flag": True},
        {"purpose": "fit", "epoch": 2, "train_loss": math.nan},
        {"purpose": "adapt", "epoch": 1, "train_loss": 0.5, "alignment": 2},
    ]
    path.write_text(json.dumps(history))
    found = samples.trainings(read_sources([run]))
    assert found == {
        "aa00": {"epoch": [1.0, 2.0, 3.0], "train_loss": [0.12346, None, 0.5], "alignment": [None, None, 2.0]}
    }
    for damaged in ("[", '{"a": 1}', "[1, 2]", "[]"):
        path.write_text(damaged)
        assert samples.trainings(read_sources([run])) == {}


# --- the command -------------------------------------------------------------------------------------------------


def test_the_page_is_put_beside_the_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "some.csv"
    table.write_bytes((run / "leaderboard.csv").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert invoke(["report", str(table)]) == 0
    assert invoke(["report", str(table), str(run)]) == 0
    assert invoke(["report", str(run), "--out", str(tmp_path / "new" / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, path in zip(lines, ("some.html", "report.html", "new/page.html")):
        assert (tmp_path / path).stat().st_size > 50_000
        assert re.search(rf"{path}: [\d.]+ kB, \d+ rows(, 1 picture of \d+ B)?$", line)


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["report", str(tmp_path / "nothing")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_needs_no_torch(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from advbench.cli.main import invoke; code = invoke(sys.argv[1:]);"
        "sys.exit(code or 10 * any(name in sys.modules for name in ('torch', 'matplotlib', 'pandas')))"
    )
    arguments = ["report", str(run), "--out", str(tmp_path / "page.html")]
    assert subprocess.run([sys.executable, "-c", code, *arguments], check=False).returncode == 0
