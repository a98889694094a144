"""The table at the end of a run: it fits the terminal, and says what the leaderboard says."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from advbench.cli.table import MOST, Column, fitted, number, shorten, show_table


def row(**changes: Any) -> dict[str, Any]:
    network = {"dataset": "y10", "trained_on": "y10", "model": "convnet", "defense": "none", "seed": 0}
    cell = {
        "kind": "cell",
        "perturbation": "pgd(eps=0.1)",
        "knowledge": "adaptive",
        "status": "ok",
        "reason": "",
    }
    figures = {"clean": 0.9, "perturbed": 0.25, "perturbed_lo": 0.2, "perturbed_hi": 0.3125}
    return network | cell | {"metric": "accuracy", "attack_success_rate": 0.72} | figures | changes


def table(rows: list[dict[str, Any]], width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show_table(rows, console, "leaderboard.csv")
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_block_with_its_clean_row_first() -> None:
    clean = row(perturbation="none", knowledge="none", perturbed=0.9, perturbed_lo=0.85, perturbed_hi=0.93)
    worst = row(kind="worst-case", perturbation="worst of 2", norm="linf", strength=0.1, perturbed=0.2)
    failed = row(
        perturbation="jpeg", knowledge="none", status="failed", metric=None, clean=None, perturbed_lo=None
    )
    assert table([failed, clean, row(), worst]) == [
        "y10 / convnet / none",
        "  perturbation           knowledge  clean      perturbed [95 %]  success  status",
        "  none                              0.900  0.900 [0.850, 0.930]           ok",
        "  jpeg                                                             0.720  failed",
        "  pgd(eps=0.1)           adaptive   0.900  0.250 [0.200, 0.312]    0.720  ok",
        "  * worst of 2 linf 0.1  adaptive   0.900  0.200 [0.200, 0.312]    0.720  ok",
        "  clean, perturbed: accuracy; success: of the attack, where clean is right; *:",
        "  worst case per sample",
    ]


def test_blocks_name_the_defended_network_and_where_it_was_trained() -> None:
    found = table([row(), row(dataset="y1", defense="squeezing")], width=120)
    assert [line for line in found if line.startswith("y")] == [
        "y1 / convnet / squeezing, trained on y10",
        "y10 / convnet / none",
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    long = "a-very-long-label-of-a-model"
    rows = [
        row(
            perturbation=f"{long}(eps=0.0{digit},steps=40)",
            model=long,
            defense=f"{long} + {long}",
            status="crashed",
        )
        for digit in range(9)
    ]
    found = table(rows, width)
    assert max(map(len, found)) <= width
    cells = [line.split()[0] for line in found[2:11]]
    assert len(set(cells)) == 9  # shortened, but still told apart


def test_seeds_and_metrics_have_columns_where_they_differ() -> None:
    head = table([row(), row(seed=1, metric="sigma_mad", clean=0.01234)], width=120)[1]
    assert head.split()[:4] == ["perturbation", "knowledge", "seed", "metric"]
    assert "0.0123" in "".join(table([row(), row(metric="sigma_mad", clean=0.01234)], width=120))
    assert table([row(), row(perturbation="none")])[1].split()[:3] == ["perturbation", "knowledge", "clean"]


def test_the_rest_of_many_rows_is_in_the_file() -> None:
    rows = [row(perturbation=f"pgd({index:03d})") for index in range(MOST + 7)]
    found = table(rows)
    assert found[-1] == "  … and 7 more rows in leaderboard.csv"
    assert sum("pgd(" in line for line in found) == MOST
    assert not any("more rows" in line for line in table(rows[:MOST]))


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40), st.integers(3, 40))
def test_shortened_text_keeps_its_ends(text: str, size: int) -> None:
    found = shorten(text, size)
    assert len(found) == min(len(text), size)
    head, mark, tail = found.partition("…")
    assert text == found if not mark else (text.startswith(head) and text.endswith(tail) and len(text) > size)


@given(st.lists(st.text("abc", min_size=1, max_size=60), min_size=1, max_size=5), st.integers(40, 120))
def test_only_labels_are_shortened_and_lines_fit(labels: list[str], width: int) -> None:
    numbers = Column("number", ["0.123"] * len(labels), number=True)
    found = fitted([Column("label", labels, elastic=True), numbers], width)
    assert found[1] == numbers
    assert all(len(one) + 2 + len("number") <= width for one in found[0].cells)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("accuracy", 0.12345, "0.123"),
        ("sigma_mad", 0.012345, "0.0123"),
        ("accuracy", None, ""),
        ("accuracy", float("nan"), ""),
    ],
)
def test_numbers(metric: str, value: float | None, text: str) -> None:
    assert number({"metric": metric, "clean": value}, "clean") == text
