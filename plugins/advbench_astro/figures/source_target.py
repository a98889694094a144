"""The matrix of data sets: trained on one, evaluated on another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from advbench.api import Picture, Run, Tags, UserError, param
from advbench_astro.figures.canvas import LARGE, SMALL, USUAL, grid_of, metric_name, panels, save, sheet
from advbench_astro.figures.choose import NetworkFigure, Row, base_label, fits


class Matrix(NamedTuple):
    """Values of one model and defense; NaN where there is no row."""

    name: str
    sources: Sequence[str]
    targets: Sequence[str]
    value: NDArray[np.float64]  # (sources, targets)
    words: dict[tuple[int, int], str]


class SourceTarget(NetworkFigure):
    """What a network reaches on each data set, by the data set that it was trained on.

    Needs data sets that name by ``train_on`` what networks are trained on. A row also says what it was adapted to.
    """

    tags: ClassVar[Tags] = Tags()
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60},)

    perturbation: str = param("none", "label or id of the perturbation; none for unperturbed inputs")

    def draw(self, run: Run, folder: Path) -> Sequence[Picture]:
        """One picture with a matrix for each model and defense."""
        rows = [
            row
            for one in self.networks(run)
            for row in one.rows
            if fits(row, "perturbation", self.perturbation)
        ]
        by_network: dict[str, list[Row]] = {}
        for row in rows:
            by_network.setdefault(_network(row), []).append(row)
        matrices = [matrix(name, found) for name, found in by_network.items()]
        matrices = [one for one in matrices if one.value.size > 1]
        if not matrices:
            raise UserError(
                f"needs rows with perturbation {self.perturbation} on two data sets, one with train_on"
            )
        path = save(_drawn(matrices, rows, self.perturbation), folder / "source-target.png", self.dpi)
        return [Picture(path, _caption(matrices, rows, self.perturbation))]


def _network(row: Row) -> str:
    return str(row["model"]) if row["defense"] == "none" else f"{row['model']} + {row['defense']}"


def _source(row: Row) -> str:
    return str(row["trained_on"]) + (f"\nadapted to {row['adapted_to']}" if row.get("adapted_to") else "")


def matrix(name: str, rows: Sequence[Row]) -> Matrix:
    """The matrix of rows of one model and defense; of several perturbations that fit the first counts."""
    sources = list(dict.fromkeys(_source(row) for row in rows))
    own = [str(row["trained_on"]) for row in rows]  # first, so that they make the diagonal
    evaluated = [str(row["dataset"]) for row in rows]
    targets = [name for name in dict.fromkeys([*own, *evaluated]) if name in evaluated]
    value, words = np.full((len(sources), len(targets)), np.nan), {}
    for row in reversed(rows):
        place = sources.index(_source(row)), targets.index(str(row["dataset"]))
        middle, low, high = (float(row[f"perturbed{end}"]) for end in ("", "_lo", "_hi"))
        value[place] = middle
        words[place] = f"{middle:.3g}\n[{low:.3g}, {high:.3g}]\nn = {row['n']}"
    return Matrix(name, sources, targets, value, words)


def _drawn(matrices: Sequence[Matrix], rows: Sequence[Row], perturbation: str) -> Any:
    narrow = max(len(one.targets) for one in matrices) <= 2  # two side by side, whose intervals stay apart
    height, width = grid_of(len(matrices), 2 if narrow else 1)
    deepest = max(len(one.sources) for one in matrices)
    figure = sheet(
        1.2 + height * (1.3 + 0.8 * deepest), 8.0 if width > 1 or len(matrices[0].targets) > 2 else 6.0
    )
    accuracy = rows[0]["metric"] == "accuracy"
    values = np.concatenate([one.value[np.isfinite(one.value)] for one in matrices])
    scale = Normalize(0, 1) if accuracy else Normalize(0, max(float(values.max()), 1e-12))
    every = panels(figure, height, width)
    for axes, one in zip(every, matrices):
        axes.set_facecolor("#dddddd")
        drawn = axes.imshow(np.ma.masked_invalid(one.value), cmap="cividis", norm=scale, aspect="auto")
        for (i, j), text in one.words.items():
            light = scale(one.value[i, j]) < 0.55
            axes.text(
                j, i, text, ha="center", va="center", fontsize=SMALL, color="white" if light else "black"
            )
        axes.set_xticks(range(len(one.targets)), one.targets, fontsize=SMALL)
        axes.set_yticks(range(len(one.sources)), one.sources, fontsize=SMALL)
        axes.set_title(one.name, fontsize=USUAL)
        axes.set_xlabel("evaluated on", fontsize=USUAL)
        axes.set_ylabel("trained on", fontsize=USUAL)
    for axes in every[len(matrices) :]:
        axes.set_visible(False)
    bar = figure.colorbar(drawn, ax=every, shrink=0.9)
    bar.set_label(metric_name(rows[0]), fontsize=USUAL)
    bar.ax.tick_params(labelsize=SMALL)
    inputs = "unperturbed" if perturbation == "none" else f"under {base_label(perturbation)}"
    figure.suptitle(
        f"{metric_name(rows[0])} by data set, {inputs}, 95 % intervals, seed {rows[0]['seed']}",
        fontsize=LARGE,
    )
    return figure


def _caption(matrices: Sequence[Matrix], rows: Sequence[Row], perturbation: str) -> str:
    inputs = "unperturbed inputs" if perturbation == "none" else f"inputs under {perturbation}"
    parts = [
        f"{one.name} trained on {one.sources[i].replace(chr(10), ', ')}: {one.value[i, j]:.3g} on"
        f" {one.targets[j]}"
        for one in matrices
        for i, j in sorted(one.words)
    ]
    return (
        f"{metric_name(rows[0])} on {inputs} with its 95 % interval, by the data set that a network was trained"
        " on (rows) and the one that it is evaluated on (columns); grey where the run has nothing."
        f" {'; '.join(parts)}."
    )
