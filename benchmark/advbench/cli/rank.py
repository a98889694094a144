"""``advbench rank``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from advbench.cli.compare import axes_of, form, mid_p, out
from advbench.cli.main import COMMANDS
from advbench.cli.sheet import Sheet, as_json, comma_separated, deliver, markdown, plain, unmarked
from advbench.display.words import plural
from advbench.errors import UserError
from advbench.evidence.board import read_board
from advbench.evidence.joining import AXES, Row
from advbench.evidence.leaderboard import text, visible
from advbench.evidence.ranking import RANKED, Ranking, rank
from advbench.evidence.samples import COLUMN, smaller_is_better

EPILOG = """\b
Rows that share a letter cannot be told apart: no test of a pair of them is significant after Holm's
correction for all pairs of their table. The order within a letter says nothing.

\b
Examples:
  advbench rank results/mnist
  advbench rank results/mnist --kind worst-case --by defense
  advbench rank results/lsst --dataset y1 --format markdown --out ranking.md"""

WORDS = {
    "dataset": "Only this data set (its label).",
    "perturbation": "Only this perturbation (its label).",
    "knowledge": "Only this knowledge.",
    "kind": "Only cells, or only worst-case rows.",
}


Command = TypeVar("Command", bound=Callable[..., Any])


def _only(name: str) -> Callable[[Command], Command]:
    kind = click.Choice(["cell", "worst-case", "audit"]) if name == "kind" else None
    return click.option(f"--{name}", type=kind, metavar=None if kind else "LABEL", help=WORDS[name])


@click.command("rank", help=COMMANDS["rank"], epilog=EPILOG)
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--by",
    metavar="AXIS[,...]",
    callback=axes_of,
    default="model,defense",
    show_default=True,
    help="What competes; everything else is the same within a table.",
)
@_only("dataset")
@_only("perturbation")
@_only("knowledge")
@_only("kind")
@click.option(
    "--figure",
    type=click.Choice(RANKED),
    help="What to order by  [default: the median distance of an attack without a budget, eta of an attacked regressor, "
    "else the metric]",
)
@mid_p
@form
@out
def command(
    run: Path,
    by: tuple[str, ...],
    figure: str | None,
    mid_p: bool,
    form: str,
    out: Path | None,
    **only: str | None,
) -> int:
    """Order rows of the same data set and threat."""
    wanted = {name: label for name, label in only.items() if label is not None}
    rankings = [
        ranking
        for ranking in rank(read_board(run), by, mid_p, figure or "")
        if all(str(ranking.shared.get(name)) == label for name, label in wanted.items())
    ]
    if not rankings:
        chosen = ", ".join(f"{name} {label}" for name, label in wanted.items())
        raise UserError(
            f"{run}: no two rows with {chosen or figure or 'figures'} differ in {' and '.join(by)} alone"
        )
    if form == "json":
        deliver(as_json([document(ranking, by) for ranking in rankings]), out)
    elif form == "csv":
        deliver(comma_separated(flat_sheet(rankings, by)), out)
    else:
        write = _markdown if form == "markdown" else _plain
        deliver("\n".join(write(ranking, by) for ranking in rankings), out)
    return 0


def _plain(ranking: Ranking, by: Sequence[str]) -> str:
    head = click.style(heading(ranking), bold=True)
    return f"{head}\n{plain(sheet(ranking, by))}{click.style(remark(ranking), dim=True)}\n"


def _markdown(ranking: Ranking, by: Sequence[str]) -> str:
    return (
        f"### {unmarked(heading(ranking))}\n\n{markdown(sheet(ranking, by))}\n{unmarked(remark(ranking))}\n"
    )


def heading(ranking: Ranking) -> str:
    """``"digits / pgd(eps=0.1), adaptive, seed 0: accuracy of 200 samples"``."""
    shared = ranking.shared
    labels = " / ".join(str(shared[axis]) for axis in AXES[:4] if axis in shared)
    if shared["kind"] == "worst-case":
        labels += f" {shared['norm']} {text(shared['strength'])}".rstrip()
    knowledge = f", {shared['knowledge']}" if shared.get("knowledge", "none") != "none" else ""
    seed = f", seed {shared['seed']}" if "seed" in shared else ""
    return visible(f"{labels}{knowledge}{seed}: {_what(ranking)} of {plural(shared['n'], 'sample')}")


def _what(ranking: Ranking) -> str:
    """The figure in words; what is no accuracy says which end is the better one."""
    figure, row = ranking.figure, ranking.places[0].row
    name = row["metric"] if figure == "perturbed" else figure.replace("_", " ")
    if name == "accuracy":
        return "accuracy"
    return f"{name} ({'smaller' if smaller_is_better(figure, row) else 'larger'} is better)"


def remark(ranking: Ranking) -> str:
    """How many pairs can be told apart."""
    how = "sample by sample" if ranking.paired else "unpaired: outcomes of samples are missing"
    return f"{ranking.apart} of {plural(ranking.pairs, 'pair')} can be told apart ({how})"


def sheet(ranking: Ranking, by: Sequence[str]) -> Sheet:
    """The places of one ranking; with ids where several have the same labels, as after a merge."""
    labels = {tuple(place.row[axis] for axis in by) for place in ranking.places}
    more = [] if len(labels) == len(ranking.places) else ["cell_id"]
    column = COLUMN.get(ranking.figure, ranking.figure)
    rows = [
        [
            str(place.rank),
            *(str(place.row[name]) for name in (*by, *more)),
            _short(place.row[column]),
            _ends(place.row, column),
            _short(place.row["clean"]),
            place.letters,
            place.row["flags"] or "",
        ]
        for place in ranking.places
    ]
    at = len(by) + len(more) + 1
    return Sheet(
        ["rank", *by, *more, column, "95 %", "clean", "group", "flags"],
        rows,
        frozenset({0, at, at + 1, at + 2}),
    )


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _ends(row: Row, column: str) -> str:
    """The interval of a figure; nothing where it has none."""
    low, high = (row.get(f"{column}{end}") for end in ("_lo", "_hi"))
    return "" if low is None else f"[{_short(low)}, {_short(high)}]"


def flat_sheet(rankings: Sequence[Ranking], by: Sequence[str]) -> Sheet:
    """All rankings as one table, one value for each cell."""
    names = [
        *AXES, "kind", "norm", "strength", "metric", "n", "figure", "value", "rank", "perturbed", "perturbed_lo",
        "perturbed_hi", "clean", "group", "flags", "cell_id",
    ]  # fmt: skip
    rows = []
    for ranking in rankings:
        for place in ranking.places:
            value = place.row[COLUMN.get(ranking.figure, ranking.figure)]
            own = {**place.row, "figure": ranking.figure, "value": value}
            own |= {"rank": place.rank, "group": place.letters}
            rows.append([text(own[name]) for name in names])
    return Sheet(names, rows)


def document(ranking: Ranking, by: Sequence[str]) -> dict[str, Any]:
    """One ranking as plain values."""
    column = COLUMN.get(ranking.figure, ranking.figure)
    names = (
        *by,
        *dict.fromkeys([column, "perturbed"]),
        "perturbed_lo",
        "perturbed_hi",
        "clean",
        "flags",
        "cell_id",
    )
    places = [
        {"rank": place.rank, **{name: place.row[name] for name in names}, "group": place.letters}
        for place in ranking.places
    ]
    pairs = {
        "figure": ranking.figure,
        "paired": ranking.paired,
        "pairs": ranking.pairs,
        "apart": ranking.apart,
    }
    return {**ranking.shared, **pairs, "places": places}
