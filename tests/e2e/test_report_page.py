"""The report in a browser: it draws, sorts, filters, opens, and asks the network for nothing."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boards
import numpy as np
import pytest
import reports
from chromium import BROWSER, DRIVER, Chromium, chromium

from advbench.evidence.board import read_board
from advbench.evidence.statistics import wilson
from advbench.report.page import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER),
        reason="needs Chromium and its driver: apt-get install chromium chromium-driver",
    ),
]

COLUMN = """
const place = [...document.querySelectorAll('#table thead th')].findIndex((th) => th.textContent === arguments[0]);
return [...document.querySelectorAll('#table tbody tr[id^=row-]')].map((tr) => tr.cells[place].textContent);
"""
SORT = "document.querySelector(`#table thead button[data-key=${arguments[0]}]`).click()"
CHOOSE = """
const labels = [...document.querySelectorAll(`#${arguments[0]} label`)];
const label = labels.find((one) => one.firstChild.data === arguments[1]);
const field = label.querySelector('select, input');
field.value = arguments[2];
field.dispatchEvent(new Event(field.tagName === 'SELECT' ? 'change' : 'input'));
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    run = reports.write_everything(folder / "made")
    many = reports.write_many(folder / "many.csv")
    written = {
        "made": [run],
        "many": [many],
        "both": [run, reports.write_everything(folder / "again", "other")],
    }
    for name, runs in written.items():
        write_report(runs, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in written}


@pytest.fixture(scope="module")
def window() -> Iterator[Chromium]:
    with chromium() as found:
        yield found


@pytest.fixture(autouse=True)
def quiet(window: Chromium) -> Iterator[None]:
    """Whatever a test does, the console stays empty and nothing but the page is asked for."""
    window.size(1280, 900)
    window.console()
    window.requests()
    yield
    assert window.console() == []
    asked = [address for address in window.requests() if not address.startswith(("data:", "about:blank"))]
    assert asked
    assert [
        address for address in asked if not address.startswith("file:///") or ".html" not in address
    ] == []


def test_every_section_is_drawn(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["made"])
    shown = window.run(
        "return [...document.querySelectorAll('main > section:not([hidden])')].map((one) => one.id)"
    )
    assert shown == [
        "summary", "rows", "curves", "heat", "pareto", "transfer", "detectors", "trainings", "examples", "figures",
        "flags", "origin",
    ]  # fmt: skip
    drawn = window.run(
        "return ['curves', 'pareto', 'detectors', 'trainings'].map((id) =>"
        " [...document.querySelectorAll(`#${id} .chart > svg`)].every((one) => one.clientHeight > 150))"
    )
    assert drawn == [True] * 4
    lines = window.run(
        "return [...document.querySelectorAll('#curves .chart path[stroke-width]')].map((p) => p.getTotalLength())"
    )
    assert len(lines) >= 4
    assert min(lines) > 100
    assert window.run("return document.querySelectorAll('#heat td[style]').length") > 20
    assert window.run("return [...document.images].every((one) => one.complete && one.naturalWidth > 0)")


def test_names_are_text(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["made"], "row-1")
    assert window.run("return document.scripts.length") == 2
    for place in ("#summary", "#rows tr.detail", "#curves", "#pareto figcaption", "#examples"):
        assert reports.EVIL in window.run("return document.querySelector(arguments[0]).textContent", place)
    caption = "return [...document.querySelectorAll('#figures img')].map((one) => one.alt)"
    assert window.run(caption) == [reports.CAPTION]


@pytest.mark.parametrize(
    "name",
    ["__proto__", "constructor", "</script><b>", "'\"><img src=x onerror=alert(1)>", "<!--<script>", "${alert(1)}{{7}}",
     "\u2028&lt;"],
)  # fmt: skip
def test_no_name_is_more_than_a_name(window: Chromium, tmp_path: Path, name: str) -> None:
    rows = [row | {"model": name, "defense": name, "weights": name} for row in reports.everything(name)[:9]]
    write_report([boards.write_csv(tmp_path / "made.csv", rows)], tmp_path / "page.html")
    window.open(tmp_path / "page.html", "row-2")
    assert window.run("return document.scripts.length") == 2
    assert window.run("return document.querySelectorAll('b, img').length") == 0
    assert window.run(
        "return [...document.querySelectorAll('#heat thead th')].map((one) => one.textContent)"
    ) == [
        "Perturbation",
        f"{name} + {name}",
    ]
    assert name in window.run("return document.querySelector('#table tr.detail').textContent")


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def near(value: float) -> Any:
    """As a page shows it: four digits."""
    return pytest.approx(value, rel=1e-3, abs=1e-6)


def test_what_is_drawn_are_the_figures_of_the_leaderboard(window: Chromium, pages: dict[str, Path]) -> None:
    rows = read_board(pages["made"].with_suffix("")).rows
    window.open(pages["made"])
    titles = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent || one.title)"
    net = [row for row in rows if (row["model"], row["defense"]) == ("net", "none")]

    window.run(CHOOSE, "curves", "Show", "nnet")
    drawn = "\n".join(window.run(titles, "#curves .chart title"))
    for eps in reports.STRENGTHS:
        both = [row for row in net if row["perturbation"] == f"pgd(eps={eps})"]
        (found,) = re.findall(rf"pgd\(eps={eps}\) \(adaptive\): (\S+) \[(\S+), (\S+)\], mean of 2", drawn)
        ends = min(row["perturbed_lo"] for row in both), max(row["perturbed_hi"] for row in both)
        assert [float(value) for value in found] == [near(mean(both, "perturbed")), *map(near, ends)]

    clean, robust = (
        np.mean([min((row for row in net if row["seed"] == seed and row["knowledge"] != "none"),
                     key=lambda row: row["perturbed"])[name] for seed in (0, 1)])
        for name in ("clean", "perturbed")
    )  # fmt: skip
    (point,) = [title for title in window.run(titles, "#pareto .chart title") if title.startswith("net: ")]
    found = re.findall(r"[\d.]+", point)
    assert [float(value) for value in found[:2]] == [near(clean), near(robust)]

    cells = window.run("return [...document.querySelectorAll('#heat td[title]')].map((one) => one.title)")
    assert len(cells) == 4 * 9
    for title in cells:
        what, who, value = re.fullmatch(
            r"(.*), (net|deep|net \+ guard|deep \+ guard): (\S+) \[.*\]", title
        ).groups()
        model, _, defense = who.partition(" + ")
        label = "" if what.startswith("worst") else what.split(" (")[0]
        some = [
            row for row in rows
            if (row["model"], row["defense"]) == (model, defense or "none")
            and (row["perturbation"] == label if label else row["kind"] == "worst-case")
        ]  # fmt: skip
        assert len(some) == 2
        assert float(value) == near(mean(some, "perturbed"))

    crafted = window.run(
        "return [...document.querySelectorAll('#transfer td[title]')].map((one) => one.title)"
    )
    assert len(crafted) == 4
    for title in crafted:
        source, model, defense, value = re.match(r"(\w+) to (\w+)(?: \+ (\w+))?: (\S+)", title).groups()
        some = [
            row for row in rows
            if (row["perturbation"], row["model"], row["defense"]) == (f"from-{source}", model, defense or "none")
        ]  # fmt: skip
        assert float(value) == near(mean(some, "attack_success_rate"))


def with_whole_curves() -> list[dict[str, Any]]:
    """Two networks under an attack with the whole curve, the first in two seeds and also under PGD at two budgets."""
    rows = []
    for model, seed, scale in (("net", 0, 1.0), ("net", 1, 2.0), ("deep", 0, 3.0)):
        who = {"model": model, "seed": seed, "trained_on": "sky"}
        distances = scale * np.array([0.0, 0.1, 0.2, 0.2, 0.4])
        clean = distances > 0
        made = boards.classified(clean, [0] * 5, linf=distances)
        rows.append(boards.cell(made, **who, **reports.smallest()))
        for eps, left in ((0.15, [0, 0, 1, 1, 1]), (0.3, [0, 0, 0, 0, 0])):
            if model == "net":
                rows.append(boards.cell(boards.classified(clean, left), **who, **reports.pgd(eps)))
    return rows


@pytest.fixture(scope="module")
def whole_curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_report([boards.write_run(folder / "made", with_whole_curves())], folder / "page.html")
    return folder / "page.html"


def test_whole_curves_are_drawn_beside_budgets(window: Chromium, whole_curves: Path) -> None:
    window.open(whole_curves)
    window.run(CHOOSE, "curves", "Show", "nnet")
    (told,) = window.run(
        "return [...document.querySelectorAll('#curves .chart > svg')].map((one) => one.ariaLabel)"
    )
    assert "fmn (adaptive): from 0.8 at 0 to 0 at 0.8; pgd (adaptive): from 0.6 at 0.15 to 0 at 0.3;" in told
    fmn = "ALL.filter((row) => full[row] === 'net' && whole.has(row))"
    # One seed steps at 0.1, 0.2 and 0.4, the other at twice that; the curve is the mean of both.
    steps = f"return alongCurve({fmn}, arguments[0]).map(({{x, y}}) => [x, y])"
    corners = [(0, 0.8), (0.1, 0.7), (0.2, 0.4), (0.4, 0.1), (0.8, 0)]
    expected = [corners[0]]
    for before, now in itertools.pairwise(corners):
        expected += [(now[0], before[1]), now]
    assert np.allclose(window.run(steps, 0), expected)
    assert np.allclose(window.run(steps, 0.15)[:2], [(0.15, 0.7), (0.2, 0.7)])
    found = window.run(f"return alongCurve({fmn}, 0).find((one) => one.x === 0.2 && one.y < 0.5)")
    assert (found["lo"], found["hi"]) == (near(wilson(1, 5).low), near(wilson(3, 5).high))
    # PGD is below the curve at 0.15 and at 0.3; what it breaks at 0.3 is broken beyond.
    worst = "return worstEnvelope(ALL.filter((row) => full[row] === 'net'), [0.15, 0.3], 0).map(({x, y}) => [x, y])"
    lowest: dict[float, float] = {}
    for x, y in window.run(worst):
        assert y <= min([*lowest.values(), 1.0]) + 1e-9
        lowest[x] = y
    assert lowest == {0: near(0.8), 0.1: near(0.7), 0.15: near(0.6), 0.2: near(0.4), 0.3: 0, 0.4: 0, 0.8: 0}
    rows = window.run(
        "return [...document.querySelectorAll('#curves .areas tr')].map((tr) =>"
        " [...tr.cells].map((one) => one.textContent))"
    )
    assert rows[0] == ["Whole curves", "Seed", "Median linf", "Area up to 1.2"]
    assert [row[:3] for row in rows[1:]] == [["fmn (adaptive)", "0", "0.2"], ["fmn (adaptive)", "1", "0.4"]]
    assert [float(row[3].split()[0]) for row in rows[1:]] == [near(0.9 / 5 / 1.2), near(1.8 / 5 / 1.2)]
    window.run(CHOOSE, "curves", "Show", "pfmn · linf budget (input units)")
    legend = "return [...document.querySelectorAll('#curves .legend li')].map((one) => one.textContent)"
    assert window.run(legend) == ["deep", "net"]
    marks = window.run(
        "return [...document.querySelectorAll('#pareto .chart title')].map((one) => one.textContent)"
    )
    assert marks == ["net: clean 0.8, perturbed 0 by pgd(eps=0.3)"]
    threat = window.run("return threat(whole.keys().next().value).join(' ')")
    assert "looks for the smallest change in linf" in threat


LOOKS = """
const look = (one) => {
  const mark = one.querySelector('svg > :not(line)');
  return [one.querySelector('line').getAttribute('stroke-dasharray'), mark && mark.outerHTML];
};
return [...document.querySelectorAll(`${arguments[0]} .legend`)].map((one) => [...one.children].map(look));
"""
LINES = """
const lines = [...document.querySelectorAll(`${arguments[0]} .chart > svg > g > path[fill=none]`)];
return lines.map((one) => [one.getAttribute('stroke-dasharray'), one.parentNode.querySelectorAll('title').length]);
"""


def test_lines_differ_in_dash_and_mark(window: Chromium, pages: dict[str, Path], tmp_path: Path) -> None:
    rows = []
    for k in range(12):
        made = boards.classified([1] * 30, [0] * 30, linf=np.linspace(0.1, 1 + k, 30))
        rows.append(boards.cell(made, **reports.smallest(model=f"m{k:02}")))
    write_report([boards.write_run(tmp_path / "made", rows)], tmp_path / "page.html")
    window.open(tmp_path / "page.html")
    window.run(CHOOSE, "curves", "Show", "pfmn · linf budget (input units)")
    (looks,) = window.run(LOOKS, "#curves")
    assert len({tuple(one) for one in looks}) == len(looks) == 12
    assert len({dash for dash, _ in looks[:6]}) == 6
    # As it says in the legend, so in the chart; eight marks stand for many points.
    drawn = window.run(LINES, "#curves")
    assert drawn == [[dash, 8] for dash, _ in looks]
    window.open(pages["made"])
    for section in ("#detectors", "#trainings"):
        for looks in window.run(LOOKS, section):
            assert len({dash for dash, _ in looks}) == len(looks)
            assert all(mark for _, mark in looks if section == "#trainings")


TICKS = """
return [...document.querySelectorAll('#curves .chart > svg')].map((one) => {
  const texts = [...one.querySelectorAll('text[text-anchor=middle]:not([transform])')].slice(0, -1);
  return texts.sort((a, b) => a.getAttribute('x') - b.getAttribute('x')).map((text) => Number(text.textContent));
});
"""


def test_a_strength_of_which_less_is_more_falls(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["made"])
    window.run(CHOOSE, "curves", "Show", "nnet")
    told = window.run(
        "return [...document.querySelectorAll('#curves .chart > svg')].map((one) => one.ariaLabel)"
    )
    assert ["falling to the right" in one for one in told] == ["JPEG" in one for one in told]
    ticks = window.run(TICKS)
    assert len(ticks) == 2
    for values, one in zip(ticks, told):
        assert values == sorted(values, reverse="JPEG" in one)


def test_a_logarithmic_axis_has_no_beginning_of_a_whole_curve(window: Chromium, tmp_path: Path) -> None:
    distances = np.array([0.001, 0.02, 0.2])
    rows = [boards.cell(boards.classified([1] * 3, [0] * 3, linf=distances), **reports.smallest())]
    rows += [boards.cell(boards.classified([1] * 3, [1, 0, 0]), **reports.pgd(eps)) for eps in (0.01, 0.5)]
    write_report([boards.write_run(tmp_path / "made", rows)], tmp_path / "page.html")
    window.open(tmp_path / "page.html")
    told = window.run("return document.querySelector('#curves .chart > svg').ariaLabel")
    assert "fmn (adaptive): from 0.6667 at 0.01 to 0 at 0.2;" in told
    paths = window.run(
        "return [...document.querySelectorAll('#curves path')].map((one) => one.getAttribute('d'))"
    )
    assert len(paths) > 3
    assert not [path for path in paths if "NaN" in path or "Infinity" in path]


def test_what_cannot_be_compared_is_not_in_one_chart(window: Chromium, tmp_path: Path) -> None:
    tables = []
    for name, fingerprint in (("a", "00ff"), ("b", "11ee")):
        rows = [row | {"fingerprint": fingerprint} for row in reports.everything("sky")]
        tables.append(boards.write_csv(tmp_path / f"{name}.csv", rows))
    write_report(tables, tmp_path / "two.html")
    window.open(tmp_path / "two.html")
    options = "return [...document.querySelector('#pareto select').options].map((one) => one.value)"
    assert window.run(options) == ["sky of a", "sky of b"]
    assert "[b]" not in window.run("return document.querySelector('#pareto .legend').textContent")


def test_headers_sort_and_say_so(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["made"])
    state = "return document.querySelector('#table thead th:has([data-key=clean])').getAttribute('aria-sort')"
    assert window.run(state) == "none"
    window.run(SORT, "clean")
    values = [float(value) for value in window.run(COLUMN, "Clean") if value != "–"]
    assert window.run(state) == "ascending"
    assert values == sorted(values)
    assert len(set(values)) > 1
    window.run("document.querySelector('#table thead button[data-key=clean]').focus()")
    window.keys("\ue007")  # Enter
    assert window.run(state) == "descending"
    again = [float(value) for value in window.run(COLUMN, "Clean") if value != "–"]
    assert again == sorted(values, reverse=True)
    assert window.run("return document.activeElement.dataset.key") == "clean"


def test_the_worst_row_comes_first(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["made"])
    first = window.run(COLUMN, "Perturbed, 95 %")
    values = [float(value.split()[0]) for value in first if value != "–"]
    assert values == sorted(values)
    assert first[-1] == "–"  # what has no result comes last


def test_filters_search_and_groups(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["made"])
    count = "return document.getElementById('count').textContent"
    total = len(reports.everything())
    assert window.run(count) == f"{total} rows"
    window.run(CHOOSE, "filters", "Model", "deep")
    assert window.run(count) == f"{(total - 1) // 2} of {total} rows"
    assert {value.split()[0] for value in window.run(COLUMN, "Network")} == {"deep"}
    window.run(CHOOSE, "filters", "Search", "JPEG guard")
    window.wait("document.getElementById('count').textContent.startsWith('4 of')")
    assert all(value.startswith("jpeg") for value in window.run(COLUMN, "Perturbation"))
    window.run(CHOOSE, "filters", "Group by", "perturbation")
    heads = "return [...document.querySelectorAll('#table tr.group th')].map((one) => one.textContent)"
    assert len(window.run(heads)) == 2
    window.run("document.querySelector('#table tr.group button').click()")
    assert len(window.run(COLUMN, "Perturbation")) == 2
    window.run("document.querySelector('#filters .reset').click()")
    assert window.run(count) == f"{total} rows"
    window.run(CHOOSE, "filters", "Flags", "*")
    assert window.run(count).startswith("1 of")


def test_a_row_opens_by_the_keyboard(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["made"])
    window.run(CHOOSE, "filters", "Flags", "not-converged")
    window.run("document.querySelector('#table tbody button.open').focus()")
    window.keys(" ")
    detail = window.run("return document.querySelector('#table tr.detail').innerText")
    for words in ("steps: 10", "Adaptive: crafted on", "Budget: 0.08 input units in linf", "give it more steps",
                  "forward_passes_mean", "perturbed", "toys/pgd", "fingerprint"):  # fmt: skip
        assert words in detail
    assert window.run("return document.activeElement.getAttribute('aria-expanded')") == "true"
    window.keys(" ")
    assert window.run("return document.querySelectorAll('#table tr.detail').length") == 0


def test_an_address_opens_its_row(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["many"], "row-4321")
    assert window.run("return document.querySelectorAll('#table tr.detail').length") == 1
    assert window.run(
        "return document.getElementById('detail-4321').getBoundingClientRect().top < innerHeight"
    )


UNCOVERED = """
const button = document.querySelector('#row-12 button.open');
const { left, top, width, height } = button.getBoundingClientRect();
return button.contains(document.elementFromPoint(left + width / 2, top + height / 2));
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_an_addressed_row_is_not_under_the_header(
    window: Chromium, pages: dict[str, Path], width: int
) -> None:
    window.size(width, 900)
    window.open(pages["made"], "row-12")
    assert window.run(UNCOVERED)


VISIBLE = """
const heads = [...document.querySelectorAll('#table thead th')];
return heads.filter((one) => one.getClientRects().length).map((one) => one.innerText);
"""
FLAGGED = """
const lines = [...document.querySelectorAll('#table tr[id^=row-]')];
return lines.find((one) => one.textContent.includes('not-converged')).innerText.replaceAll('\u00a0', ' ');
"""


def test_seeds_and_flags_are_seen_on_a_phone(window: Chromium, pages: dict[str, Path]) -> None:
    window.size(390, 900)
    window.open(pages["made"])
    assert window.run(VISIBLE) == ["Perturbation", "Perturbed, 95 %"]
    assert "net · adaptive · seed 0 · not-converged · info-lost-by-8-bit" in window.run(FLAGGED)


def test_every_control_has_a_name_and_headers_a_scope(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["made"], "row-1")
    nameless = """
    const named = (one) => one.textContent.trim() || one.ariaLabel || (one.labels && one.labels.length);
    return [...document.querySelectorAll('button, select, input, [role=region]')].filter((one) => !named(one)).length;
    """
    assert window.run(nameless) == 0
    assert window.run("return [...document.querySelectorAll('th')].filter((one) => !one.scope).length") == 0
    assert window.run("return [...document.images].filter((one) => !one.alt).length") == 0
    assert (
        window.run(
            "return [...document.querySelectorAll('.chart > svg')].filter((one) => !one.ariaLabel).length"
        )
        == 0
    )
    ids = window.run("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))


CONTRAST = """
const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const ground = (node) => {
  for (let one = node; one; one = one.parentElement) {
    const colour = parse(getComputedStyle(one).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
let worst = [99, ''];
for (const node of document.querySelectorAll('body *')) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!own || !node.getClientRects().length || node.closest('script, style, option')) continue;
  const style = getComputedStyle(node);
  const ink = parse(node instanceof SVGElement ? style.fill : style.color);
  const [a, b] = [light(ink), light(ground(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < worst[0]) worst = [ratio, `${node.tagName} ${node.className} ${node.textContent.slice(0, 40)}`];
}
return worst;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_text_is_legible_and_fits(
    window: Chromium, pages: dict[str, Path], whole_curves: Path, scheme: str, width: int
) -> None:
    window.size(width, 900)
    window.scheme(scheme)
    try:
        window.open(pages["many"])
        assert window.run("return document.documentElement.scrollWidth") <= width
        window.open(pages["made"], "row-3")
        assert window.run("return document.documentElement.scrollWidth") <= width
        window.open(whole_curves)
        assert window.run("return document.querySelectorAll('#curves .areas').length") == 1
        assert window.run("return document.documentElement.scrollWidth") <= width
        window.open(pages["made"], "row-3")
        ratio, where = window.run(CONTRAST)
        assert ratio >= 4.5, where
        dark = window.run("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
    finally:
        window.scheme("light")


def test_many_rows_are_made_as_one_scrolls(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["many"])
    made = "return document.querySelectorAll('#table tbody tr[id^=row-]').length"
    first = window.run(made)
    assert 100 <= first <= 400
    window.run("const box = document.getElementById('table-box'); box.scrollTop = box.scrollHeight")
    window.wait(f"document.querySelectorAll('#table tbody tr[id^=row-]').length > {first}")
    assert window.run("return document.getElementById('table').getAttribute('aria-rowcount')") == "5001"
    window.run("dispatchEvent(new Event('beforeprint'))")
    assert window.run(made) == 5000


def test_several_runs_stand_side_by_side(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["both"])
    assert set(window.run(COLUMN, "Run")) == {"made", "again"}
    window.run(CHOOSE, "filters", "Run", "again")
    assert set(window.run(COLUMN, "Data set")) == {"other"}


def test_the_suite_is_copied(window: Chromium, pages: dict[str, Path]) -> None:
    window.open(pages["made"])
    window.run(
        "document.querySelector('#origin details').open = true; document.querySelector('button.copy').focus()"
    )
    window.keys("\ue007")
    window.wait("document.querySelector('button.copy').textContent !== 'Copy'")
    assert window.run("return document.querySelector('button.copy').textContent").startswith(
        ("Copied", "Selected")
    )
    suite = window.run("return document.getElementById('suite-1').textContent")
    assert suite == (pages["made"].parent / "made" / "suite.yaml").read_text()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_long_name_pushes_nothing_away(window: Chromium, tmp_path: Path, width: int) -> None:
    outcomes = boards.classified(boards.right(60, 50), boards.right(60, 30))
    names = {"model": "n" * 200, "perturbation": "x" * 300}
    run = boards.write_csv(tmp_path / "long.csv", [boards.cell(outcomes, **names)])
    write_report([run], tmp_path / "long.html")
    window.size(width, 900)
    window.open(tmp_path / "long.html")
    box = "document.getElementById('table-box')"
    assert window.run(f"return {box}.scrollWidth - {box}.clientWidth") <= 0


@pytest.mark.parametrize("width", [718, 790])  # A4 in points of a screen, with and without margins
def test_on_paper_nothing_is_cut_off(window: Chromium, pages: dict[str, Path], width: int) -> None:
    window.size(width, 1100)
    window.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        window.open(pages["both"])
        assert window.run("return document.documentElement.scrollWidth") <= width
        names = ["Perturbation", "Seed", "Clean", "Perturbed, 95 %", "Success", "Flags"]
        assert window.run(VISIBLE) == names
        flagged = window.run(FLAGGED)
        assert flagged.count("not-converged") == flagged.count("net [") == 1
        assert "0.833" in flagged
        assert not window.run("return document.getElementById('filters').getClientRects().length")
    finally:
        window.devtools("Emulation.setEmulatedMedia", media="")


def test_without_scripts_the_summary_is_there(window: Chromium, pages: dict[str, Path]) -> None:
    window.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        window.devtools("Page.navigate", url=pages["made"].as_uri())
        text = window.devtools("DOM.getDocument", depth=-1, pierce=True)
        assert "need JavaScript" in str(text)
        assert "Where each network does worst" in str(text)
    finally:
        window.devtools("Emulation.setScriptExecutionDisabled", value=False)
