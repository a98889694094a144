"""Predicted against true redshift, unperturbed and perturbed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from advbench.api import Picture, Regression, Run, Tags, UserError
from advbench_astro.figures.canvas import LARGE, OKABE_ITO, SMALL, USUAL, panels, save, sheet
from advbench_astro.figures.choose import PerturbedFigure, Row, Trained


class RedshiftScatter(PerturbedFigure):
    """Predicted against true redshift (or the target of any regressor), unperturbed and perturbed.

    With bias, sigma_MAD and outlier fraction eta as in the leaderboard, their intervals, and the lines beyond which a
    prediction is an outlier.
    """

    tags: ClassVar[Tags] = Tags(tasks={"regression"}, reference="https://arxiv.org/abs/1806.06607")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60},)

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """One picture with both panels."""
        row = self.perturbed_row(trained)
        task = run.task(row)
        if not isinstance(task, Regression):
            raise UserError("needs a regressor: rows with bias, sigma_mad and eta")
        figure = drawn(run, row, task, trained)
        path = save(figure, folder / f"redshift-scatter-{trained.slug}.png", self.dpi)
        sides = [
            f"{name}: {_numbers(row, side)}"
            for name, side in (("Unperturbed", "clean"), ("Perturbed", "perturbed"))
        ]
        caption = (
            f"Predicted against true {_name(task)} of {trained.words} on {row['dataset']} (n = {row['n']}),"
            f" left unperturbed, right under {row['perturbation']}. {'. '.join(sides)}. The solid line is a"
            f" perfect prediction; beyond the dashed ones, {_criterion(task)}, a prediction is an outlier."
        )
        return [Picture(path, caption)]


def outlier_lines(
    true: NDArray[np.float64], task: Regression
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predictions at which a sample of this true value begins to be an outlier, below and above."""
    width = task.tolerance * (1 + true if task.relative else np.ones_like(true))
    return true - width, true + width


def drawn(run: Run, row: Row, task: Regression, trained: Trained) -> Any:
    """Two panels with equal axes."""
    outcomes = run.outcomes(row)
    n = len(outcomes["target"])
    true, clean, perturbed = (
        np.asarray(outcomes[name], dtype=np.float64).reshape(n, -1)[:, 0]
        for name in ("target", "clean_prediction", "perturbed_prediction")
    )
    both = np.concatenate([true, clean, perturbed])
    low, high = float(both.min()), float(both.max())
    pad = 0.04 * max(high - low, 1e-9)
    line = np.linspace(low - pad, high + pad, 2)
    figure = sheet(5.2)
    axes = panels(figure, 1, 2, sharex=True, sharey=True)
    unit = f" ({task.unit})" if task.unit else ""
    for axis, values, side in zip(axes, (clean, perturbed), ("clean", "perturbed")):
        below, above = outlier_lines(true, task)
        out = (values < below) | (values > above)
        for rows, shade, marker, words in (
            (~out, OKABE_ITO[0], "o", "within"),
            (out, OKABE_ITO[3], "x", "outliers"),
        ):
            axis.plot(
                true[rows], values[rows], marker, color=shade, markersize=3.5, alpha=0.6, rasterized=True,
                label=f"{words}: {int(rows.sum())}", linestyle="",
            )  # fmt: skip
        axis.plot(line, line, color="black", linewidth=1)
        for edge in outlier_lines(line, task):
            axis.plot(line, edge, "--", color="black", linewidth=0.9)
        title = "unperturbed" if side == "clean" else str(row["perturbation"])
        axis.set_title(f"{title}\n{_numbers(row, side, chr(10))}", fontsize=SMALL, linespacing=1.3)
        axis.set_xlabel(f"true {_name(task)}{unit}", fontsize=USUAL)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=SMALL)
    wide = 0.04 * max(float(np.ptp(true)), 1e-9)
    axes[0].set(xlim=(true.min() - wide, true.max() + wide), ylim=line)
    axes[0].set_ylabel(f"predicted {_name(task)}{unit}", fontsize=USUAL)
    figure.suptitle(
        f"{trained.name} on {row['dataset']}, n = {n}; dashed: {_criterion(task)}", fontsize=LARGE
    )
    return figure


def _name(task: Regression) -> str:
    return {"z": "redshift", "redshift": "redshift"}.get(task.targets[0], task.targets[0])


def _criterion(task: Regression) -> str:
    scale = " / (1 + true)" if task.relative else ""
    return f"|predicted - true|{scale} = {task.tolerance:g}"


def _numbers(row: Row, side: str, between: str = ", ") -> str:
    """Bias, sigma_MAD and eta with their intervals."""
    found = []
    for name, words, factor, unit in (
        ("bias", "bias", 1, ""),
        ("sigma_mad", "sigma_MAD", 1, ""),
        ("eta", "eta", 100, " %"),
    ):
        value, low, high = (factor * float(row[f"{name}_{side}{end}"]) for end in ("", "_lo", "_hi"))
        found.append(f"{words} {value:.3g}{unit} [{low:.3g}, {high:.3g}]")
    return between.join(found)
