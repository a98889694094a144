"""Samples of several domains on a map of latent space: which ones, and how they are drawn and called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from advbench.api import Classification, Run, Shown, Task, UserError
from advbench_astro.figures.canvas import SMALL, USUAL, colours
from advbench_astro.figures.choose import PairFigure, Row, Trained, clean_row
from advbench_astro.figures.latent import align, embed, taken

MARKS = ("o", "x", "^")
"""Of unperturbed samples, samples of the other data set, and perturbed samples."""

UNKNOWN, GREY = "unknown", "#858585"
"""Samples that belong to no class of the task."""


class Domain(NamedTuple):
    """Samples of one domain in latent space."""

    name: str
    marker: str
    features: NDArray[Any]  # (n, d)
    y: NDArray[Any]  # (n,) class, or (n, targets)


@dataclass(frozen=True)
class Domains:
    """The domains of a map, the unperturbed one first, and words for captions."""

    each: Sequence[Domain]
    words: str
    task: Task

    @property
    def stacked(self) -> NDArray[Any]:
        """All samples (m, d), domain after domain."""
        return np.concatenate([one.features for one in self.each])

    @property
    def n(self) -> str:
        """``n = 150 in each domain``."""
        counts = [len(one.features) for one in self.each]
        if len(counts) == 1:
            return f"n = {counts[0]}"
        if len(set(counts)) == 1:
            return f"n = {counts[0]} in each domain"
        return f"n = {', '.join(map(str, counts[:-1]))} and {counts[-1]}"


def embedded_domains(figure: PairFigure, run: Run, trained: Trained, count: int) -> Domains:
    """Up to ``count`` samples of each domain: unperturbed, of another data set and perturbed, where there are such.

    Of the other data set they are the same objects where it has them, else its first ones.

    Raises
    ------
    UserError
        If a data set or a perturbation that is asked for has no row, or the network returns no features.
    """
    row, other, perturbed = _rows(figure, trained)
    network, task, name = run.network(row), run.task(row), str(row["dataset"])
    every = run.samples(row)
    rows = chosen(_no_class(every, task), count)
    here = taken(every, rows)
    each = [Domain(name, MARKS[0], _features(network, here), here.y.cpu().numpy())]
    words = [f"{len(here.ids)} samples of {name}"]
    if other is not None:
        every = run.samples(other)
        there = taken(every, chosen(_no_class(every, task), count, align(here.ids, every.ids)[1]))
        each.append(Domain(str(other["dataset"]), MARKS[1], _features(network, there), there.y.cpu().numpy()))
        shared = len(align(here.ids, there.ids)[0])
        words.append(_words(str(other["dataset"]), len(here.ids), len(there.ids), shared))
    if perturbed:
        most = run.perturbed(row, int(rows.max()) + 1)
        changed = here._replace(x=most[torch.from_numpy(rows).to(most.device)])
        label = f"{name}, {row['perturbation']}"
        each.append(Domain(label, MARKS[2], _features(network, changed), each[0].y))
        words.append(f"the {'first' if other is not None else 'same'} under {row['perturbation']}")
    text = ", ".join(words[:-1]) + (", and " if len(words) > 1 else "") + words[-1]
    return Domains(each, text + _unknown_words(each, task), task)


def _rows(figure: PairFigure, trained: Trained) -> tuple[Row, Row | None, bool]:
    """Row of the samples, row of the other data set, and whether the first is perturbed."""
    asked = figure.perturbation is not None or figure.knowledge is not None
    try:
        row, perturbed = figure.perturbed_row(trained), True
    except UserError:
        if asked:
            raise
        row, perturbed = clean_row(trained, figure.dataset), False
    try:
        return row, figure.other_row(trained, row), perturbed
    except UserError:
        if figure.other is not None:
            raise
        return row, None, perturbed


def _features(network: Any, shown: Shown) -> NDArray[Any]:
    return np.asarray(embed(network, shown.x, shown.extras)[0].numpy())


def chosen(
    no_class: NDArray[np.bool_], count: int, preferred: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Places, rising, of ``count`` of the samples (n,), fewer if there are fewer: the first ones.

    Those of no class, which may come last, are shown by their share, one at least. ``preferred`` are places of the same
    objects as those of another data set; they come first if there are no others or they are enough.
    """
    n = len(no_class)
    if n <= count:
        return np.arange(n)
    unknown, known = np.flatnonzero(no_class), np.flatnonzero(~no_class)
    few = max(1, round(count * len(unknown) / n)) if len(unknown) else 0
    if preferred is not None:
        same = preferred[~no_class[preferred]]
        known = same if len(same) >= min(count - few, len(known)) else known
    return np.sort(np.concatenate([known[: count - few], unknown[:few]]))


def _no_class(shown: Shown, task: Task) -> NDArray[np.bool_]:
    y = shown.y.cpu().numpy()
    return np.asarray(y < 0) if isinstance(task, Classification) else np.zeros(len(y), dtype=bool)


def _words(name: str, here: int, there: int, shared: int) -> str:
    """What is shown of another data set."""
    if shared == here:
        return f"the same in {name}"
    which = f"{shared} of them the same objects" if shared else "none of them the same objects"
    return f"{there} of {name} ({which})"


def _unknown_words(each: Sequence[Domain], task: Task) -> str:
    """How many samples of which domain are of no class, if any."""
    if not isinstance(task, Classification):
        return ""
    counts = {one.name: int((one.y < 0).sum()) for one in each}
    said = [f"{count} of {name}" for name, count in counts.items() if count]
    return f"; {UNKNOWN}, of no class of the task, are {' and '.join(said)}" if said else ""


class Points(NamedTuple):
    """Points of several domains on a map, with what to call and how to draw them."""

    places: NDArray[np.float64]  # (m, 2) or (m, 3)
    domain: NDArray[np.int64]  # (m,)
    group: NDArray[np.int64]  # (m,) class, -1 where it is none
    value: NDArray[np.float64]  # (m,) target of a regressor
    domains: Sequence[str]
    markers: Sequence[str]
    groups: Sequence[str]  # names of the classes; of a regressor its one target, with its unit
    classes: bool

    @property
    def meaning(self) -> str:
        """What colours are."""
        return "class" if self.classes else self.groups[0]


def described(places: NDArray[Any], domains: Domains) -> Points:
    """Places (m, 2 or 3) of the stacked samples, with their domains and classes."""
    each, task = domains.each, domains.task
    count = [len(one.features) for one in each]
    domain = np.repeat(np.arange(len(each)), count)
    if isinstance(task, Classification):
        group = np.concatenate([one.y for one in each]).astype(np.int64)
        value, names = np.zeros(len(group)), tuple(task.classes)
    else:
        value = np.concatenate([one.y.reshape(n, -1)[:, 0] for one, n in zip(each, count)]).astype(np.float64)
        group = np.zeros(len(value), dtype=np.int64)
        names = (task.targets[0] + (f" ({task.unit})" if task.unit else ""),)
    return Points(
        np.asarray(places), domain, group, value, tuple(one.name for one in each),
        tuple(one.marker for one in each), names, isinstance(task, Classification),
    )  # fmt: skip


def scatter(axes: Any, points: Points) -> None:
    """Colour by class, marker by domain."""
    palette = ListedColormap([*colours(points.groups), GREY])
    top = len(points.groups)
    ends = (0, top) if points.classes else (points.value.min(), points.value.max())
    options: dict[str, Any] = {
        "cmap": palette if points.classes else "viridis",
        "vmin": ends[0],
        "vmax": ends[1],
    }
    if points.places.shape[1] == 3:
        options["depthshade"] = False
    shade = np.where(points.group < 0, top, points.group) if points.classes else points.value
    for domain, marker in enumerate(points.markers):
        rows = points.domain == domain
        look = (
            {"linewidths": 1.0, "s": 22}
            if marker == "x"
            else {"linewidths": 0.4, "s": 26, "edgecolors": "white"}
        )
        axes.scatter(*points.places[rows].T, c=shade[rows], marker=marker, alpha=0.85, **look, **options)


def key(figure: Any, points: Points) -> None:
    """A legend below: classes by colour, domains by marker."""
    handles = []
    if points.classes:
        named = list(zip(colours(points.groups), points.groups))
        named += [(GREY, UNKNOWN)] if (points.group < 0).any() else []
        handles = [
            Line2D([], [], linestyle="", marker="s", markersize=8, color=colour, label=name)
            for colour, name in named
        ]
    else:
        scale = Normalize(points.value.min(), points.value.max())
        bar = figure.colorbar(ScalarMappable(scale, "viridis"), ax=figure.axes, shrink=0.8, pad=0.03)
        bar.set_label(f"true {points.groups[0]}", fontsize=USUAL)
        bar.ax.tick_params(labelsize=SMALL)
    handles += [
        Line2D([], [], linestyle="", marker=marker, markersize=7, color="#333333", label=name)
        for marker, name in zip(points.markers, points.domains)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), fontsize=SMALL)
