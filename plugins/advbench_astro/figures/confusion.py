"""Confusion matrices, unperturbed and perturbed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from advbench.api import Classification, Picture, Run, Tags, UserError
from advbench_astro.figures.canvas import LARGE, SMALL, USUAL, panels, save, share, sheet
from advbench_astro.figures.choose import PerturbedFigure, Row, Trained, clean_row


def confusion(target: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Counts with true classes along the rows, (k, k), or (k + 1, k) with a last row for samples of no class (-1)."""
    rows = np.where(target < 0, classes, target)
    counts = np.zeros((classes + int((target < 0).any()), classes), dtype=np.int64)
    np.add.at(counts, (rows, predicted), 1)
    return counts


class Confusion(PerturbedFigure):
    """Confusion matrices of unperturbed and perturbed inputs: counts, and shares of each true class.

    Of all samples, also of those that were wrong before and that an attack therefore left alone. Where the run has no
    perturbation, of unperturbed inputs alone.
    """

    tags: ClassVar[Tags] = Tags(tasks={"classification"})
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60},)

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """A picture for each data set, or for the one that is asked for."""
        for dataset in dict.fromkeys(str(row["dataset"]) for row in trained.rows):
            if self.dataset is None or dataset == clean_row(trained, self.dataset)["dataset"]:
                yield self._picture(run, trained, dataset, folder)

    def _picture(self, run: Run, trained: Trained, dataset: str, folder: Path) -> Picture:
        only = Trained([row for row in trained.rows if row["dataset"] == dataset], trained.slug)
        bare = self.perturbation is None and all(row["perturbation"] == "none" for row in only.rows)
        # Here `dataset` is settled already.
        chooser = self.model_copy(update={"dataset": dataset})
        row = clean_row(only, None) if bare else chooser.perturbed_row(only)
        task = run.task(row)
        if not isinstance(task, Classification):
            raise UserError("needs a classifier")
        outcomes = run.outcomes(row)
        sides = ("clean",) if bare else ("clean", "perturbed")
        tables = [
            confusion(outcomes["target"], outcomes[f"{s}_prediction"], len(task.classes)) for s in sides
        ]
        path = folder / f"confusion-{trained.slug}-{dataset}.png"
        save(_drawn(tables, task, row, trained), path, self.dpi)
        right = [share(int(np.trace(table)), int(table.sum())) for table in tables]
        after = "" if bare else f", right under {row['perturbation']} with {right[1]}"
        caption = (
            f"Confusion matrices of {trained.words} on {dataset}: rows are true classes, columns predictions;"
            " each cell has the count and its share of the true class."
            f" {'Unperturbed' if bare else 'Left unperturbed'}, {right[0]} on the diagonal{after} there."
        )
        return Picture(path, caption)


def _drawn(tables: list[NDArray[np.int64]], task: Classification, row: Row, trained: Trained) -> Any:
    k = len(task.classes)
    many = k > 6  # then below each other, with more room for the numbers
    if many:
        figure = sheet(0.6 + len(tables) * (1.6 + 0.36 * len(tables[0])))
    else:
        figure = sheet(max(3.7, 1.6 + 0.36 * k), 8.0 if len(tables) > 1 else 5.0)
    shape = (len(tables), 1) if many else (1, len(tables))
    axes = panels(figure, *shape, sharey=True)
    for axis, table, title in zip(axes, tables, ("unperturbed", str(row["perturbation"]))):
        drawn = _matrix(axis, table, task.classes, "auto" if many else "equal")
        axis.set_title(title, fontsize=USUAL)
    for axis in axes if many else axes[:1]:
        axis.set_ylabel("true class", fontsize=USUAL)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.5 if many else 0.8, aspect=30)
    bar.set_label("share of the true class", fontsize=USUAL)
    bar.ax.tick_params(labelsize=SMALL)
    figure.suptitle(f"{trained.name} on {row['dataset']}, n = {row['n']}", fontsize=LARGE)
    return figure


def _matrix(axis: Any, table: NDArray[np.int64], classes: Sequence[str], aspect: str) -> Any:
    k = len(classes)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    drawn = axis.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect=aspect)
    size = USUAL if k <= 4 else max(7.0, SMALL - 0.3 * (k - 4))
    for (i, j), value in np.ndenumerate(table):
        shade = "white" if shares[i, j] < 0.55 else "black"
        words = f"{value}\n{100 * shares[i, j]:.0f} %"
        axis.text(j, i, words, ha="center", va="center", fontsize=size, color=shade, linespacing=1.0)
    names = [*classes, *(["none of these"] if len(table) > k else [])]
    between = "\n" if k <= 6 else " "
    totals = [f"{name}{between}(n = {count})" for name, count in zip(names, table.sum(1))]
    axis.set_yticks(range(len(names)), totals, fontsize=SMALL)
    turned = k > 3
    axis.set_xticks(
        range(k), classes, fontsize=SMALL, rotation=45 * turned, ha="right" if turned else "center"
    )
    axis.set_xlabel("predicted class", fontsize=USUAL)
    return drawn
