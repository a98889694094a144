"""Isomap: latent space unrolled into two or three dimensions, and a film that walks around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse.csgraph import connected_components
from sklearn.manifold import Isomap as Manifold
from sklearn.neighbors import kneighbors_graph

from advbench.api import Picture, Run, Tags, UserError, param
from advbench_astro.figures.canvas import LARGE, SMALL, USUAL, save, sheet
from advbench_astro.figures.choose import PairFigure, Trained
from advbench_astro.figures.domains import Points, described, embedded_domains, key, scatter

ELEVATION = 10.0
FRAME = (5.6, 5.2)
"""Size of a frame of the film in inches."""


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
    """Isomap of latent space: samples unperturbed, of another data set and perturbed, in two and three dimensions.

    As in Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299, but every sample once. Draws the domains together,
    so distances between them can be compared. They are the same objects where both data sets have them.
    """

    tags: ClassVar[Tags] = Tags(reference="https://arxiv.org/abs/2112.14299")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60, "frames": 3},)

    samples: int = param(150, "samples of each data set, at most", ge=4)
    neighbours: int = param(5, "nearest neighbours; more are taken until all points hang together", ge=1)
    frames: int = param(45, "frames of the film, which turns once; 0 for none", ge=0, le=360)
    frame_ms: int = param(100, "how long a frame stands", unit="ms", ge=20)

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """A picture of both maps and a GIF of the second."""
        domains = embedded_domains(self, run, trained, self.samples)
        flat, used = isomap(domains.stacked, 2, self.neighbours)
        deep, _ = isomap(domains.stacked, 3, self.neighbours)
        maps = [described(places, domains) for places in (flat, deep)]
        words = (
            f"Isomap of the latent space of {trained.words} with {used} neighbours: {domains.words};"
            f" marker says which, colour the true {maps[0].meaning}. The axes are in units of latent"
            f" space.{trained.inside}"
        )
        path = folder / f"isomap-{trained.slug}.png"
        save(_drawn(maps, f"Isomap of {trained.name}, {domains.n}"), path, self.dpi)
        yield Picture(path, f"{words} Left in two dimensions, right in three.")
        if self.frames:
            path = folder / f"isomap-{trained.slug}.gif"
            film(maps[1], f"{trained.name}, {domains.n}, latent units", path, self.frames, self.frame_ms)
            yield Picture(path, f"{words} A film of the three-dimensional map turning once.")


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
