"""Metric against the strength of perturbations, with intervals and the worst case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any, ClassVar

import numpy as np

from advbench.api import Picture, Run, Tags, UserError, param
from advbench_astro.figures.canvas import (
    LARGE,
    LINES,
    MARKERS,
    OKABE_ITO,
    SMALL,
    USUAL,
    grid_of,
    metric_name,
    panels,
    save,
    sheet,
)
from advbench_astro.figures.choose import NetworkFigure, Row, Trained, fits, slug
from advbench_astro.figures.curves import (
    WORST,
    Curve,
    axis_of,
    curve_of,
    drawable,
    family,
    lower_is_stronger,
    worst_case,
    worst_rows,
)

LETTERS = 90
"""What fits beside each other below the panels."""


class RobustnessCurves(NetworkFigure):
    """The metric against the strength of each family of perturbations, with 95 % intervals.

    A family is a perturbation with its parameters but the strength. A picture holds what has its strength in the same
    unit, on one data set, a panel for each network. Several seeds are one curve: their mean, within the widest interval
    of them. The worst case is that of the leaderboard, for each sample over all attacks; where there are no such rows,
    or not all attacks are shown, the monotone envelope of the curves stands for it.
    """

    tags: ClassVar[Tags] = Tags()
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60, "least": 1},)

    dataset: str | None = param(None, "label or id of the data set; every one unless given")
    perturbation: str | None = param(
        None, "label or id, * and ? allowed; every one with a strength unless given"
    )
    least: int = param(2, "strengths that a family must have to be drawn", ge=1)

    def draw(self, run: Run, folder: Path) -> Sequence[Picture]:
        """A picture for each data set and unit of strength."""
        networks = self.networks(run, every_seed=True)
        groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
        for trained in networks:
            worst = worst_rows(run, trained) if self.perturbation is None else []
            for row in [*trained.rows, *worst]:
                if (
                    drawable(row)
                    and fits(row, "dataset", self.dataset)
                    and fits(row, "perturbation", self.perturbation)
                ):
                    key = (str(row["dataset"]), axis_of(row))
                    groups.setdefault(key, {}).setdefault(_network(trained, networks), []).append(row)
        pictures = []
        for (dataset, axis), by_network in sorted(groups.items()):
            curves = {name: self._curves(rows) for name, rows in by_network.items()}
            curves = {name: found for name, found in curves.items() if found}
            if curves:
                path = folder / f"robustness-{slug(dataset, axis)}.png"
                reverse = lower_is_stronger(run, next(iter(by_network.values())))
                rows = [row for name in curves for row in by_network[name]]
                save(_drawn(curves, by_network, dataset, axis, reverse), path, self.dpi)
                pictures.append(Picture(path, _caption(curves, rows, dataset, axis)))
        if not pictures:
            raise UserError(f"needs a perturbation with at least {self.least} strengths: sweep its strength")
        return pictures

    def _curves(self, rows: Sequence[Row]) -> list[Curve]:
        found = []
        for name, members in groupby(sorted(rows, key=family), key=family):
            curve = curve_of(name, list(members))
            if len(curve.strength) >= self.least:
                found.append(curve)
        return found


def _network(trained: Trained, networks: Sequence[Trained]) -> str:
    """The network without its seed; with what it was trained on where that is not the same for all."""
    sources = {one.rows[0]["trained_on"] for one in networks}
    return trained.name + (f", trained on {trained.rows[0]['trained_on']}" if len(sources) > 1 else "")


def _drawn(
    curves: Mapping[str, Sequence[Curve]],
    rows: Mapping[str, Sequence[Row]],
    dataset: str,
    axis: str,
    reverse: bool,
) -> Any:
    height, width = grid_of(len(curves), 3)
    figure = sheet(1.4 + 3.0 * height + (0.4 if width == 1 else 0.0))
    every = panels(figure, height, width, sharex=True, sharey=True)
    names = list(dict.fromkeys(curve.name for found in curves.values() for curve in found))
    label = fill(f"{axis}, stronger to the right" if reverse else axis, LETTERS // width)
    for axes, (network, found) in zip(every, curves.items()):
        _panel(axes, found, rows[network], names, reverse)
        axes.set_title(network, fontsize=USUAL)
        axes.set_xlabel(label, fontsize=USUAL)
    for axes in every[len(curves) :]:
        axes.set_visible(False)
    for axes in every[max(0, len(curves) - width) : len(curves)]:
        axes.tick_params(labelbottom=True)  # also above an empty place
    one = next(iter(rows.values()))[0]
    if one["metric"] == "accuracy":
        every[0].set_ylim(-0.03, 1.03)
    else:
        every[0].set_ylim(bottom=0)  # panels share it: the top is that of them all
    for index in range(0, len(curves), width):
        every[index].set_ylabel(metric_name(one), fontsize=USUAL)
    strengths = np.unique(np.concatenate([curve.strength for found in curves.values() for curve in found]))
    if not reverse and strengths.min() > 0 and strengths.max() / strengths.min() > 5:
        every[0].set_xscale("log")
        every[0].set_xticks(strengths if len(strengths) < 7 else strengths[:: len(strengths) // 5])
        every[0].xaxis.set_major_formatter("{x:g}")
        every[0].xaxis.minorticks_off()
    if reverse:
        every[0].invert_xaxis()
    handles: dict[str, Any] = {}
    for axes in every[: len(curves)]:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(4, len(handles)),
        fontsize=SMALL,
    )
    figure.suptitle(f"Robustness on {dataset}, n = {one['n']}{_seeds(one, rows)}", fontsize=LARGE)
    return figure


def _seeds(one: Row, rows: Mapping[str, Sequence[Row]]) -> str:
    count = len({row["seed"] for some in rows.values() for row in some})
    return f", {count} seeds" if count > 1 else ""


def _panel(
    axes: Any, curves: Sequence[Curve], rows: Sequence[Row], names: Sequence[str], reverse: bool
) -> None:
    faint = 0.15 if len(curves) < 5 else 0.08
    for curve in curves:
        place = names.index(curve.name)
        shade, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
        line = LINES[place // len(OKABE_ITO) % len(LINES)]
        if not curve.name.startswith(WORST):
            axes.fill_between(curve.strength, curve.low, curve.high, color=shade, alpha=faint, linewidth=0)
        shown: dict[str, Any] = {"color": shade, "linestyle": line, "marker": marker}
        if curve.name.startswith(WORST):
            shown = {"color": "black", "linestyle": "--", "zorder": 5}
        axes.plot(curve.strength, curve.value, markersize=5, label=curve.name, **shown)
    clean = float(np.mean([float(row["clean"]) for row in rows]))
    axes.axhline(clean, color="#666666", linestyle=":", linewidth=1.3, label="unperturbed")
    attacks = [curve for curve in curves if curve.attack]
    accuracy = rows[0]["metric"] == "accuracy"
    if len(attacks) > 1 and not any(curve.name.startswith(WORST) for curve in curves):
        strength, worst = worst_case(attacks, accuracy, reverse)
        axes.plot(
            strength, worst, "--", color="black", linewidth=1.4, label="worst of these curves", zorder=5
        )
    axes.grid(alpha=0.3)


def _caption(curves: Mapping[str, Sequence[Curve]], rows: Sequence[Row], dataset: str, axis: str) -> str:
    parts = []
    for network, found in curves.items():
        for curve in found:
            ends = f"{curve.value[0]:.3g} at {curve.strength[0]:g} and {curve.value[-1]:.3g} at {curve.strength[-1]:g}"
            under = f"in the {WORST}" if curve.name == WORST else f"under {curve.name}"
            parts.append(f"{network} {under}: {ends}")
    seeds = len({row["seed"] for row in rows})
    over = f", mean of {seeds} seeds within the widest of their intervals" if seeds > 1 else ""
    return (
        f"{metric_name(rows[0])} on {dataset} (n = {rows[0]['n']}) against {axis}, with 95 % intervals as"
        f" bands{over}; dotted: unperturbed inputs{_dashed(curves)}. {'; '.join(parts)}."
    )


def _dashed(curves: Mapping[str, Sequence[Curve]]) -> str:
    """What the dashed line is, if there is one."""
    if any(curve.name.startswith(WORST) for found in curves.values() for curve in found):
        return "; dashed: the worst of all attacks for each sample"
    if any(sum(curve.attack for curve in found) > 1 for found in curves.values()):
        return "; dashed: the worst of these curves at this strength or a weaker one"
    return ""
