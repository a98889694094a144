"""One perturbation and two data sets for all networks that a figure compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advbench.api import UserError
from advbench_astro.figures.choose import PairFigure, Row, Trained, perturbed_rows, rank

Names = tuple[str, str, str]
"""A data set, another one, and a perturbation."""


def shared_rows(
    figure: PairFigure, networks: Sequence[Trained]
) -> tuple[Names, list[tuple[Trained, Row, Row]]]:
    """What most of the networks have, the best of it, and for each of them its row there and on the other data set.

    Raises
    ------
    UserError
        If no network has such rows.
    """
    options: dict[Names, list[tuple[Trained, Row, Row]]] = {}
    problems = []
    for trained in networks:
        try:
            for names, row, other in _options(figure, trained):
                options.setdefault(names, []).append((trained, row, other))
        except UserError as error:
            problems.append(str(error))
    if not options:
        raise UserError(problems[0])

    def order(names: Names) -> tuple[Any, ...]:
        ranks = [rank(row, figure.dataset, figure.perturbation) for _, row, _ in options[names]]
        return -len(ranks), max(ranks)

    best = min(options, key=order)
    return best, options[best]


def _options(figure: PairFigure, trained: Trained) -> list[tuple[Names, Row, Row]]:
    """What can be shown of a network, each by the rows that fit best."""
    found: dict[Names, tuple[Row, Row]] = {}
    problems = []
    for row in perturbed_rows(trained, figure.dataset, figure.perturbation, figure.knowledge):
        try:
            other = figure.other_row(trained, row)
        except UserError as error:
            problems.append(str(error))
            continue
        names = (str(row["dataset"]), str(other["dataset"]), str(row["perturbation"]))
        found.setdefault(names, (row, other))
    if not found:
        raise UserError(problems[0])
    return [(names, *rows) for names, rows in found.items()]


def label(one: Trained, networks: Sequence[Trained]) -> str:
    """The network, with what it was trained on and adapted to where that tells networks of one name apart."""
    same, row = [other.rows[0] for other in networks if other.name == one.name], one.rows[0]
    words = [
        f", {said} {row[axis]}"
        for axis, said in (("trained_on", "trained on"), ("adapted_to", "adapted to"))
        if row.get(axis) and len({other.get(axis) for other in same}) > 1
    ]
    return one.name + "".join(words)


def left_out(networks: Sequence[Trained], shown: Sequence[Trained], names: Names) -> str:
    """A sentence on networks that could not be shown, if any."""
    missing = [f"{label(one, networks)} seed {one.rows[0]['seed']}" for one in networks if one not in shown]
    if not missing:
        return ""
    wanted = f"{names[2]} on {names[0]} and {names[1]}"
    return f" Not shown, for want of features or of rows with {wanted}: {', '.join(missing)}."
