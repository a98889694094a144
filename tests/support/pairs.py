"""Two leaderboards with a defense that is the same and one that is not: what the tests of comparisons compare."""

from pathlib import Path
from typing import Any

from boards import cell, classified, right, write_run

from advbench.evidence.board import Board, read_board
from advbench.values import Regression

N = 400
CLEAN = right(N, 380)
REDSHIFT = Regression(("z",), tolerance=0.15, relative=True)


def robust(count: int, seed: int = 0) -> dict[str, Any]:
    return classified(CLEAN, right(N, count, seed) & CLEAN)


def made(squeezed: int = 200, seeds: tuple[int, ...] = (0,)) -> list[dict[str, Any]]:
    """Two defenses under an attack, nested: what survives with fewer survivors also does with more."""
    rows = []
    for seed in seeds:
        rows += [
            cell(classified(CLEAN, CLEAN), perturbation="none", perturbation_id="none", knowledge="none", seed=seed),
            cell(robust(100 + seed), seed=seed),
            cell(robust(squeezed + seed), defense="squeezing", defense_id="toys/squeezing", seed=seed),
        ]  # fmt: skip
    return rows


def boards(tmp_path: Path, *some: list[dict[str, Any]]) -> list[Board]:
    return [read_board(write_run(tmp_path / name, rows)) for name, rows in zip("abc", some)]
