"""Metric against the strength of perturbations, with intervals and the worst case."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from advbench_astro.figures.choose import NETWORK, NetworkFigure, Row, Trained, base_label, fits, slug


WORST = "worst case per sample"
"""The curve of the leaderboard's worst-case rows."""


class Curve(NamedTuple):
    """One family of perturbations."""

    name: str
    strength: NDArray[np.float64]  # (m,) rising
    value: NDArray[np.float64]  # (m,), mean over seeds
    low: NDArray[np.float64]  # lowest lower end of the seeds' intervals
    high: NDArray[np.float64]
    attack: bool


def worst_case(
    curves: Sequence[Curve], higher_is_better: bool, lower_is_stronger: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Strengths (m,) rising and the worst value of all curves at that strength or a weaker one.

    A ball contains the smaller ones, so what a weak attack reaches a strong one could reach too: the envelope is
    monotone, and lies nowhere above a curve (below, where small values are good).
    """
    strengths = np.unique(np.concatenate([curve.strength for curve in curves]))
    worst = []
    for strength in strengths:
        within = [
            curve.value[curve.strength >= strength if lower_is_stronger else curve.strength <= strength]
            for curve in curves
        ]
        values = np.concatenate(within)
        worst.append(values.min() if higher_is_better else values.max())
    return strengths, np.array(worst)


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
            worst = _worst_rows(run, trained) if self.perturbation is None else []
            for row in [*trained.rows, *worst]:
                if (
                    _drawable(row)
                    and fits(row, "dataset", self.dataset)
                    and fits(row, "perturbation", self.perturbation)
                ):
                    key = (str(row["dataset"]), _axis(row))
                    groups.setdefault(key, {}).setdefault(_network(trained, networks), []).append(row)
        pictures = []
        for (dataset, axis), by_network in sorted(groups.items()):
            curves = {name: self._curves(rows) for name, rows in by_network.items()}
            curves = {name: found for name, found in curves.items() if found}
            if curves:
                path = folder / f"robustness-{slug(dataset, axis)}.png"
                reverse = _lower_is_stronger(run, next(iter(by_network.values())))
                rows = [row for name in curves for row in by_network[name]]
                save(_drawn(curves, by_network, dataset, axis, reverse), path, self.dpi)
                pictures.append(Picture(path, _caption(curves, rows, dataset, axis)))
        if not pictures:
            raise UserError(f"needs a perturbation with at least {self.least} strengths: sweep its strength")
        return pictures

    def _curves(self, rows: Sequence[Row]) -> list[Curve]:
        found = []
        for name, members in groupby(sorted(rows, key=_family), key=_family):
            curve = _curve(name, list(members))
            if len(curve.strength) >= self.least:
                found.append(curve)
        return found


def _worst_rows(run: Run, trained: Trained) -> list[Row]:
    """The leaderboard's worst cases of a network, if there is one at most for a threat model that curves tell apart."""
    same = [
        row
        for row in run.rows
        if (row.get("kind"), row.get("status")) == ("worst-case", "ok")
        and all(row.get(name) == trained.rows[0].get(name) for name in (*NETWORK, "seed"))
    ]
    keys = [(row["dataset"], _axis(row), row["strength"], row["knowledge"]) for row in same]
    return same if len(set(keys)) == len(keys) else []


def _drawable(row: Row) -> bool:
    strength = row.get("strength")
    return row["perturbation"] != "none" and isinstance(strength, (int, float)) and np.isfinite(strength)


def _axis(row: Row) -> str:
    """What the strength is measured in: ``linf, input units``, or the unit with the corruption's name."""
    if row.get("norm"):
        return f"{row['norm']} budget ({row['strength_unit']})"
    return f"{base_label(str(row['perturbation']))} ({row.get('strength_unit') or 'strength'})"


def _network(trained: Trained, networks: Sequence[Trained]) -> str:
    """The network without its seed; with what it was trained on where that is not the same for all."""
    sources = {one.rows[0]["trained_on"] for one in networks}
    return trained.name + (f", trained on {trained.rows[0]['trained_on']}" if len(sources) > 1 else "")


def _family(row: Row) -> str:
    """The label without its strength, with the knowledge where there are several kinds."""
    known = "" if row["knowledge"] in ("none", "adaptive") else f" ({row['knowledge']})"
    return (WORST if row.get("kind") == "worst-case" else without_strength(row)) + known


def without_strength(row: Row) -> str:
    """``pgd(steps=10)`` of ``pgd(eps=0.1, steps=10)`` with strength 0.1; the bare name where no part is the strength."""
    name, _, inside = str(row["perturbation"]).partition("(")
    parts = [part for part in re.split(r",\s*(?=\w+=)", inside.removesuffix(")")) if part]
    rest = [part for part in parts if not _is(part.partition("=")[2], float(row["strength"]))]
    return f"{name}({', '.join(rest)})" if rest and len(rest) == len(parts) - 1 else name


def _is(text: str, strength: float) -> bool:
    """Whether a swept value is this strength, as far as labels are written out."""
    try:
        above, _, below = text.partition("/")
        return bool(np.isclose(float(above) / float(below or 1), strength, rtol=1e-3, atol=0))
    except (ValueError, ZeroDivisionError):
        return False


def _curve(name: str, rows: Sequence[Row]) -> Curve:
    """Mean over seeds at each strength, in the widest interval."""
    strengths = np.unique([float(row["strength"]) for row in rows])
    at = [[row for row in rows if float(row["strength"]) == strength] for strength in strengths]
    value, low, high = (
        np.array([reduce([float(row[column]) for row in some]) for some in at])
        for column, reduce in (("perturbed", np.mean), ("perturbed_lo", np.min), ("perturbed_hi", np.max))
    )
    attack = rows[0]["knowledge"] != "none" and not name.startswith(WORST)
    return Curve(name, strengths, value, low, high, attack)


def _lower_is_stronger(run: Run, rows: Sequence[Row]) -> bool:
    """Whether inputs change less as the number grows (the quality of a JPEG)."""
    strengths = [float(row["strength"]) for row in rows]
    if len(set(strengths)) < 2:
        return False
    sizes = [float(run.outcomes(row)["l2"].mean()) for row in rows]
    if np.ptp(sizes) == 0:
        return False
    return bool(np.corrcoef(np.argsort(np.argsort(strengths)), np.argsort(np.argsort(sizes)))[0, 1] < 0)


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
    for axes, (network, found) in zip(every, curves.items()):
        _panel(axes, found, rows[network], names, reverse)
        axes.set_title(network, fontsize=USUAL)
        axes.set_xlabel(f"{axis}, stronger to the right" if reverse else axis, fontsize=USUAL)
    for axes in every[len(curves) :]:
        axes.set_visible(False)
    one = next(iter(rows.values()))[0]
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
    for curve in curves:
        place = names.index(curve.name)
        shade, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
        line = LINES[place // len(OKABE_ITO) % len(LINES)]
        if not curve.name.startswith(WORST):
            axes.fill_between(curve.strength, curve.low, curve.high, color=shade, alpha=0.15, linewidth=0)
        shown = {"color": shade, "linestyle": line, "marker": marker}
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
    if accuracy:
        axes.set_ylim(-0.03, 1.03)
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _caption(curves: Mapping[str, Sequence[Curve]], rows: Sequence[Row], dataset: str, axis: str) -> str:
    parts = []
    for network, found in curves.items():
        for curve in found:
            ends = f"{curve.value[0]:.3g} at {curve.strength[0]:g} and {curve.value[-1]:.3g} at {curve.strength[-1]:g}"
            parts.append(f"{network} under {curve.name}: {ends}")
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
