"""How far a perturbation, and another data set, move samples in latent space."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from advbench.api import Picture, Run, Tags, UserError, param
from advbench_astro.figures.canvas import LARGE, OKABE_ITO, SMALL, USUAL, panels, save, sheet
from advbench_astro.figures.choose import PairFigure, Row, Trained
from advbench_astro.figures.latent import align, embedded_pair
from advbench_astro.figures.shared import Names, label, left_out, shared_rows


class Summary(NamedTuple):
    """Distances of some samples."""

    mean: float
    sd: float
    se: float
    n: int


class Line(NamedTuple):
    """A line of the table."""

    network: str
    seed: int
    between: str
    raw: Summary
    normalised: Summary
    scale: float
    n_evaluated: int
    n_clean_correct: int
    n_shared: int
    n_fooled: int
    ratio: float  # of the mean to the mean distance to the other data set


HEADER = (
    "network", "seed", "between", "n", "mean", "sd", "standard_error", "normalised_mean", "normalised_sd",
    "normalised_standard_error",
    "ratio_to_other_data_set", "scale", "n_looked_at", "n_clean_correct", "n_clean_correct_in_all",
    "n_fooled", "n_not_fooled",
)  # fmt: skip


def latent_scale(features: NDArray[Any]) -> float:
    """Root mean square distance between two of the samples (n, d), NaN for fewer than two.

    It is ``sqrt(2 * sum of the variances)`` with n - 1 in the denominator, and grows with any scaling of latent space.
    """
    if len(features) < 2:
        return float("nan")
    return float(np.sqrt(2 * np.var(np.asarray(features, dtype=np.float64), axis=0, ddof=1).sum()))


def distances(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """l2 distances (n,) of features (n, d) and (n, d), row by row."""
    gap = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return np.asarray(np.sqrt((gap**2).sum(1)))


def summary(values: NDArray[np.float64]) -> Summary:
    """Mean, standard deviation (n - 1) and standard error of values (n,); NaN where there are too few."""
    n = len(values)
    sd = float(values.std(ddof=1)) if n > 1 else float("nan")
    return Summary(float(values.mean()) if n else float("nan"), sd, sd / np.sqrt(n) if n else float("nan"), n)


class LatentDistances(PairFigure):
    """Mean distances in latent space from a sample to itself in another data set, and perturbed, with their errors.

    The comparison of Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299, on the samples that every network
    shown predicts correctly: a choice by success alone would compare other samples for each network. Raw distances
    depend on the scale of latent space; the normalised ones are in units of the root mean square distance between two
    of the unperturbed samples. All networks are shown under one perturbation: the best of those that all of them have,
    or that most have; the caption names those that are left out.
    """

    tags: ClassVar[Tags] = Tags(reference="https://arxiv.org/abs/2112.14299")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60},)

    samples: int | None = param(
        150, "samples of each data set that are looked at, at most; null for all", ge=2
    )

    def draw(self, run: Run, folder: Path) -> Sequence[Picture]:
        """One picture of all networks, and its numbers as CSV."""
        networks = self.networks(run, every_seed=True)
        names, rows = shared_rows(self, networks)
        found, problems = [], []
        for trained, row, other in rows:
            try:
                found.append((trained, row, other, _measured(self, run, row, other)))
            except UserError as error:
                problems.append(str(error))
        if not found:
            raise UserError(problems[0])
        lines = _table(found)
        words = _caption(lines, names) + left_out(networks, [one[0] for one in found], names)
        path = save(_drawn(lines, names), folder / "latent-distances.png", self.dpi)
        csv_path = folder / "latent-distances.csv"
        _write(lines, csv_path)
        return [Picture(path, words), Picture(csv_path, f"The numbers of this picture as a table. {words}")]


class _Measured(NamedTuple):
    ids: NDArray[np.str_]
    clean: NDArray[Any]  # (n, d)
    other: NDArray[Any]
    perturbed: NDArray[Any]
    right: NDArray[np.bool_]  # (n,)
    fooled: NDArray[np.bool_]


def _measured(figure: LatentDistances, run: Run, row: Row, other: Row) -> _Measured:
    latent = embedded_pair(run, row, other, figure.samples)
    outcomes = run.outcomes(row)
    _, places = align(latent.shown.ids, outcomes["id"])
    right = outcomes["clean_correct"][places]
    fooled = right & ~outcomes["perturbed_correct"][places]
    arrays = (latent.clean.numpy(), latent.other.numpy(), latent.perturbed.numpy())
    return _Measured(latent.shown.ids, *arrays, right, fooled)


def _table(found: Sequence[tuple[Trained, Row, Row, _Measured]]) -> list[Line]:
    """Lines of each network, on the samples that are right in all of them."""
    shared = set.intersection(*(set(one.ids[one.right].tolist()) for *_, one in found))
    if len(shared) < 2:
        raise UserError(f"needs two samples that every network predicts correctly; there are {len(shared)}")
    lines, every = [], [trained for trained, *_ in found]
    for trained, row, other, one in found:
        keep = np.array([name in shared for name in one.ids.tolist()])
        scale = latent_scale(one.clean[keep])
        if not scale > 0:
            raise UserError(
                f"needs a network whose features differ between samples; those of {trained.name} do not"
            )
        pairs = {
            str(other["dataset"]): (one.other, keep),
            f"{row['perturbation']}, all": (one.perturbed, keep),
            f"{row['perturbation']}, fooled": (one.perturbed, keep & one.fooled),
        }
        counts = (len(one.ids), int(one.right.sum()), int(keep.sum()), int((keep & one.fooled).sum()))
        to_other = float(distances(one.clean[keep], one.other[keep]).mean())
        for name, (features, rows) in pairs.items():
            raw = distances(one.clean[rows], features[rows])
            numbers = summary(raw), summary(raw / scale), scale
            ratio = summary(raw).mean / to_other if to_other > 0 else float("nan")
            lines.append(Line(label(trained, every), int(row["seed"]), name, *numbers, *counts, ratio))
    return lines


def _write(lines: Sequence[Line], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(HEADER)
        for one in lines:
            numbers = (*one.raw[:3], *one.normalised[:3], one.ratio, one.scale)
            writer.writerow([
                one.network, one.seed, one.between, one.raw.n, *(f"{value:.6g}" for value in numbers),
                one.n_evaluated, one.n_clean_correct, one.n_shared, one.n_fooled, one.n_shared - one.n_fooled,
            ])  # fmt: skip


def _drawn(lines: Sequence[Line], names: Names) -> Any:
    networks = list(dict.fromkeys((one.network, one.seed) for one in lines))
    pairs = list(dict.fromkeys(one.between for one in lines))
    figure = sheet(1.9 + 0.75 * len(networks))
    axes = panels(figure, 1, 2, sharey=True)
    titles = ("distance (latent units)", "distance / RMS distance\nbetween two samples")
    for axis, kind, title in zip(axes, ("raw", "normalised"), titles):
        for place, pair in enumerate(pairs):
            for height, network in enumerate(networks):
                (one,) = [x for x in lines if (x.network, x.seed) == network and x.between == pair]
                value: Summary = getattr(one, kind)
                y = height + 0.24 * (place - 1)
                shade = OKABE_ITO[place]
                axis.errorbar(value.mean, y, xerr=value.sd, color=shade, alpha=0.35, linewidth=1.2)
                axis.errorbar(
                    value.mean, y, xerr=value.se, color=shade, fmt="os^"[place], markersize=6, linewidth=3,
                    label=f"{names[0]} to {pair}" if axis is axes[0] and not height else None,
                )  # fmt: skip
                if kind == "raw":
                    axis.annotate(
                        f"n = {value.n}", (value.mean + np.nan_to_num(value.sd), y), (7, 0),
                        textcoords="offset points", va="center", fontsize=SMALL - 1,
                    )  # fmt: skip
        axis.set_xlabel(title, fontsize=USUAL)
        axis.margins(x=0.3 if kind == "raw" else 0.12)  # for the words beside the last point
        ends = [getattr(one, kind).mean - np.nan_to_num(getattr(one, kind).sd) for one in lines]
        axis.set_xlim(left=1.05 * min(0.0, np.nanmin(ends)))
        axis.grid(axis="x", alpha=0.3)
    labels = [f"{name}\nseed {seed}" for name, seed in networks]
    axes[0].set_yticks(range(len(networks)), labels, fontsize=SMALL)
    axes[0].set_ylim(len(networks) - 0.45, -0.55)
    figure.legend(loc="outside lower center", ncols=len(pairs), fontsize=SMALL)
    figure.suptitle(
        "Distances in latent space: mean, standard error (thick), standard deviation (thin)", fontsize=LARGE
    )
    return figure


def _caption(lines: Sequence[Line], names: Names) -> str:
    first = lines[0]
    counts = "; ".join(
        f"{one.network} seed {one.seed}: {one.n_clean_correct} of {one.n_evaluated} correct, {one.n_fooled} of"
        f" {one.n_shared} fooled, {one.n_shared - one.n_fooled} not, scale {one.scale:.3g}"
        for one in lines
        if one.between == first.between
    )
    values = "; ".join(
        f"{one.network} seed {one.seed} to {one.between}: {one.raw.mean:.3g} ({one.normalised.mean:.3g}"
        " normalised)"
        for one in lines
        if one.raw.n
    )
    return (
        f"Mean distance in latent space from an unperturbed sample of {names[0]} to the same object in"
        f" {names[1]}, to itself under {names[2]}, and to itself where {names[2]} fooled the network, over the"
        f" {first.n_shared} samples that every network shown predicts correctly in {names[0]}. Left"
        " raw, right divided by the root mean square distance between two of the unperturbed samples."
        f" {counts}. {values}."
    )
