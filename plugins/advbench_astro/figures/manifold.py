"""Isomap: latent space unrolled into two or three dimensions, and a film that walks around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse.csgraph import connected_components
from sklearn.manifold import Isomap as Manifold
from sklearn.neighbors import kneighbors_graph

from advbench.api import Classification, Picture, Run, Tags, Task, UserError, param
from advbench_astro.figures.canvas import LARGE, SMALL, USUAL, colours, save, sheet
from advbench_astro.figures.choose import PairFigure, Row, Trained
from advbench_astro.figures.latent import Embedded, embedded_pair

ELEVATION = 10.0
FRAME = (5.6, 5.2)
"""Size of a frame of the film in inches."""


class Points(NamedTuple):
    """Points of several domains on a map, with what to call and how to draw them."""

    places: NDArray[np.float64]  # (m, 2) or (m, 3)
    domain: NDArray[np.int64]  # (m,)
    group: NDArray[np.int64]  # (m,) class, -1 where it is none
    value: NDArray[np.float64]  # (m,) target of a regressor
    domains: Sequence[str]
    groups: Sequence[str]  # names of the classes; of a regressor its one target
    classes: bool

    @property
    def meaning(self) -> str:
        """What colours are."""
        return "class" if self.classes else self.groups[0]


def isomap(points: NDArray[Any], components: int, neighbours: int) -> tuple[NDArray[np.float64], int]:
    """Places (m, components) of points (m, d), and the number of neighbours that it took to connect them all.

    Tenenbaum, de Silva and Langford 2000, https://doi.org/10.1126/science.290.5500.2319: distances along the graph of
    nearest neighbours, then classical scaling. Each axis points to where its largest value is positive, so the result
    has no choice of sign.

    Raises
    ------
    UserError
        If there are too few points.
    """
    if len(points) < components + 2:
        raise UserError(
            f"needs at least {components + 2} points for {components} dimensions, not {len(points)}"
        )
    neighbours = min(neighbours, len(points) - 1)
    # Equal points would be their own neighbours and leave the graph in pieces.
    while neighbours < len(points) - 1 and _pieces(points, neighbours) > 1:
        neighbours += 1
    found = Manifold(n_neighbors=neighbours, n_components=components, eigen_solver="dense").fit_transform(
        points
    )
    largest = found[np.abs(found).argmax(0), np.arange(components)]
    return np.asarray(found * np.where(largest < 0, -1.0, 1.0)), neighbours


def _pieces(points: NDArray[Any], neighbours: int) -> int:
    return int(connected_components(kneighbors_graph(points, neighbours), directed=False)[0])


class Isomap(PairFigure):
    """Isomap of latent space: the same objects in two data sets and perturbed, in two and three dimensions.

    As in Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299, but every sample once. Draws the three maps
    together, so distances between them can be compared.
    """

    tags: ClassVar[Tags] = Tags(reference="https://arxiv.org/abs/2112.14299")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60, "frames": 3},)

    samples: int = param(150, "samples of each data set, at most", ge=4)
    neighbours: int = param(5, "nearest neighbours; more are taken until all points hang together", ge=1)
    frames: int = param(45, "frames of the film, which turns once; 0 for none", ge=0, le=360)
    frame_ms: int = param(100, "how long a frame stands", unit="ms", ge=20)

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """A picture of both maps and a GIF of the second."""
        row, other, latent = embedded_pair(self, run, trained, self.samples)
        stacked = np.concatenate([latent.clean.numpy(), latent.other.numpy(), latent.perturbed.numpy()])
        flat, used = isomap(stacked, 2, self.neighbours)
        deep, _ = isomap(stacked, 3, self.neighbours)
        maps = [described(places, latent, run.task(row), row, other) for places in (flat, deep)]
        n = len(latent.clean)
        words = (
            f"Isomap of the latent space of {trained.words} with {used} neighbours: {n} samples of"
            f" {row['dataset']}, the same in {other['dataset']}, and the first under {row['perturbation']};"
            f" marker says which, colour the true {maps[0].meaning}. The axes are in units of latent"
            f" space.{trained.inside}"
        )
        path = folder / f"isomap-{trained.slug}.png"
        save(_drawn(maps, f"Isomap of {trained.name}, n = {n} in each domain"), path, self.dpi)
        yield Picture(path, f"{words} Left in two dimensions, right in three.")
        if self.frames:
            path = folder / f"isomap-{trained.slug}.gif"
            film(
                maps[1],
                f"{trained.name}, n = {n} in each domain, latent units",
                path,
                self.frames,
                self.frame_ms,
            )
            yield Picture(path, f"{words} A film of the three-dimensional map turning once.")


def described(places: NDArray[Any], latent: Embedded, task: Task, row: Row, other: Row) -> Points:
    """Places of the clean, other and perturbed points, in this order, with their domains and classes."""
    n, y = len(latent.clean), latent.shown.y.cpu().numpy()
    classes = isinstance(task, Classification)
    group = y if classes else np.zeros(n, dtype=np.int64)
    value = np.zeros(n) if classes else y.reshape(n, -1)[:, 0].astype(np.float64)
    domains = (str(row["dataset"]), str(other["dataset"]), f"{row['dataset']}, {row['perturbation']}")
    names = task.classes if isinstance(task, Classification) else task.targets[:1]
    domain = np.repeat(np.arange(3), n)
    return Points(np.asarray(places), domain, np.tile(group, 3), np.tile(value, 3), domains, names, classes)


MARKS = ("o", "x", "^")


def scatter(axes: Any, points: Points) -> None:
    """Colour by class, marker by domain."""
    palette = ListedColormap([*colours(points.groups), "#999999"])
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
    for domain, marker in enumerate(MARKS[: len(points.domains)]):
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
        named += [("#999999", "none of the classes")] if (points.group < 0).any() else []
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
        for marker, name in zip(MARKS, points.domains)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), fontsize=SMALL)


def _drawn(maps: Sequence[Points], title: str) -> Any:
    figure = sheet(4.9)
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.15))
    left, right = figure.add_subplot(grid[0]), figure.add_subplot(grid[1], projection="3d")
    scatter(left, maps[0])
    left.tick_params(labelsize=SMALL)
    left.set_aspect("equal", adjustable="datalim")
    left.set_xlabel("component 1 (latent units)", fontsize=USUAL)
    left.set_ylabel("component 2 (latent units)", fontsize=USUAL)
    _three(right, maps[1], -60.0, 0.9)  # larger, the label of the vertical axis would be cut off
    key(figure, maps[0])
    figure.suptitle(title, fontsize=LARGE)
    return figure


def _three(axes: Any, points: Points, azimuth: float, zoom: float) -> None:
    scatter(axes, points)
    axes.tick_params(labelsize=SMALL - 1.5, pad=0)
    for index, name in enumerate("xyz"):
        getattr(axes, f"set_{name}label")(f"component {index + 1}", fontsize=SMALL)
        getattr(axes, f"{name}axis").set_major_locator(MaxNLocator(4))
    axes.set_box_aspect((1, 1, 0.85), zoom=zoom)
    axes.view_init(elev=ELEVATION, azim=azimuth)


def film(points: Points, title: str, path: Path, frames: int, frame_ms: int) -> None:
    """A GIF of a map in three dimensions that turns once about its vertical axis."""
    figure = sheet(FRAME[1], FRAME[0])
    axes = figure.add_subplot(projection="3d")
    _three(axes, points, 0.0, 1.05)
    key(figure, points)
    figure.suptitle(title, fontsize=LARGE)
    pictures = []
    for azimuth in np.arange(frames) * (360.0 / frames):
        axes.view_init(elev=ELEVATION, azim=azimuth)
        figure.canvas.draw()
        drawn = Image.fromarray(np.array(figure.canvas.buffer_rgba())[..., :3])  # type: ignore[attr-defined]
        pictures.append(drawn.quantize(128, dither=Image.Dither.NONE))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=frame_ms, loop=0)
