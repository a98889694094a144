"""Church windows: the plane through a sample's embedding that its perturbation and another data set span."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from advbench.api import Classification, Picture, Run, Shown, Tags, UserError, param
from advbench_astro.figures.canvas import LARGE, SMALL, USUAL, colours, grid_of, panels, save, sheet
from advbench_astro.figures.choose import PairFigure, Row, Trained, in_turns
from advbench_astro.figures.latent import align, embed, linear_head

GRID = np.arange(-110, 111) / 100
"""Coordinates of the points along each axis, in lengths of the two differences."""

TICKS = (-1, -0.5, 0, 0.5, 1)
MARKS = ((0, 0, "X"), (1, 0, "^"), (0, 1, "*"))


class Window(NamedTuple):
    """One church window."""

    name: str  # of the sample
    classes: NDArray[np.int64]  # (221, 221), row = y, column = x
    marked: tuple[
        int, int, int
    ]  # classes of the sample, its perturbed self, and itself in the other data set
    lengths: tuple[float, float]  # of the two differences in latent space


def church_window(
    head: Callable[[Tensor], Tensor], origin: Tensor, perturbed: Tensor, other: Tensor
) -> NDArray[np.int64]:
    """Classes on the grid ``origin + x (perturbed - origin) + y (other - origin)``, (221, 221) with y along the rows.

    The plane of Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299, figure 4, for three embeddings (d,); its
    axes are not made orthogonal. All 48,841 points go through ``head``, (m, d) to (m, k), at once. Regions of a
    linear head are convex.
    """
    x, y = torch.meshgrid(torch.from_numpy(GRID), torch.from_numpy(GRID), indexing="xy")
    places = torch.stack([x.flatten(), y.flatten()], 1)
    directions = torch.stack([perturbed - origin, other - origin]).double()
    classes = head(origin.double() + places @ directions).argmax(1)
    return classes.view(len(GRID), len(GRID)).numpy()


def classes_at_marks(classes: NDArray[np.int64]) -> tuple[int, int, int]:
    """Classes of a window at (0, 0), (1, 0) and (0, 1)."""
    zero, one = int(np.searchsorted(GRID, 0)), int(np.searchsorted(GRID, 1))
    return int(classes[zero, zero]), int(classes[zero, one]), int(classes[one, zero])


class ChurchWindow(PairFigure):
    """Which class a linear head gives to the plane through a galaxy, its perturbed self and itself in other data.

    Church windows of Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299: origin = unperturbed, (1, 0) =
    perturbed, (0, 1) = the same object in another data set. Shows samples that are classified correctly and that the
    perturbation fools, the first ones of the data set.
    """

    tags: ClassVar[Tags] = Tags(tasks={"classification"}, reference="https://arxiv.org/abs/2112.14299")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60},)

    sample: str | None = param(None, "name of the sample; the first ones that fit unless given")
    count: int = param(4, "windows in a picture, a sample each", ge=1, le=9)

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """One picture with a window for each sample."""
        row = self.perturbed_row(trained)
        other = self.other_row(trained, row)
        task = run.task(row)
        if not isinstance(task, Classification):
            raise UserError("needs a classifier: a church window shows regions of classes")
        here, there, perturbed, fitting = self._samples(run, row, other)
        windows = _windows(run.network(row), here, there, perturbed)
        path = folder / f"church-window-{trained.slug}.png"
        save(_drawn(windows, task, row, other, trained, fitting, self.sample), path, self.dpi)
        return [Picture(path, _caption(windows, task, row, other, trained, fitting))]

    def _samples(self, run: Run, row: Row, other: Row) -> tuple[Shown, Shown, Tensor, int]:
        """Samples here and there and their perturbed selves, and how many there were to choose from."""
        outcomes, elsewhere = run.outcomes(row), run.outcomes(other)
        rows, places = align(outcomes["id"], elsewhere["id"])
        fooled = outcomes["clean_correct"] & (
            outcomes["perturbed_prediction"] != outcomes["clean_prediction"]
        )
        wanted = fooled if self.sample is None else outcomes["id"] == self.sample
        rows, places = rows[wanted[rows]], places[wanted[rows]]
        fitting = len(rows)
        if not fitting:
            fit = f"that {row['perturbation']} fools" if self.sample is None else f"named {self.sample}"
            raise UserError(f"needs a sample {fit} in {row['dataset']} that is in {other['dataset']} too")
        chosen = in_turns(outcomes["target"][rows])[: self.count]
        rows, places = rows[chosen], places[chosen]
        most, far = int(rows.max()) + 1, int(places.max()) + 1
        here, there, perturbed = run.samples(row, most), run.samples(other, far), run.perturbed(row, most)
        return (
            _take(here, rows),
            _take(there, places),
            perturbed[torch.from_numpy(rows).to(perturbed.device)],
            fitting,
        )


def _take(shown: Shown, rows: NDArray[np.int64]) -> Shown:
    index = torch.from_numpy(rows).to(shown.x.device)
    extras = {name: value[index] for name, value in shown.extras.items()}
    return Shown(shown.x[index], shown.y[index], extras, shown.ids[rows])


def _windows(network: Any, here: Shown, there: Shown, perturbed: Tensor) -> list[Window]:
    """The windows; refused where a marked point has another class than the network predicts."""
    inputs = [(here.x, here.extras), (perturbed, here.extras), (there.x, there.extras)]
    features, outputs = zip(*(embed(network, *one) for one in inputs))
    head = linear_head(network, torch.cat(features), torch.cat(outputs))
    windows = []
    for index, name in enumerate(here.ids.tolist()):
        origin, changed, other = (one[index] for one in features)
        classes = church_window(head, origin, changed, other)
        predicted = tuple(int(one[index].argmax()) for one in outputs)
        if classes_at_marks(classes) != predicted:
            raise UserError(f"cannot show {name}: two of its outputs are equal up to rounding")
        lengths = (float((changed - origin).norm()), float((other - origin).norm()))
        windows.append(Window(name, classes, (predicted[0], predicted[1], predicted[2]), lengths))
    return windows


def _drawn(
    windows: list[Window],
    task: Classification,
    row: Row,
    other: Row,
    trained: Trained,
    fitting: int,
    sampled: str | None,
) -> Any:
    rows, columns = grid_of(len(windows), 2)
    figure = sheet(1.1 + 3.7 * rows, 8.0)
    palette = colours(task.classes)
    for axes, window in zip(panels(figure, rows, columns), windows):
        edges = (GRID[0] - 0.005, GRID[-1] + 0.005)
        axes.imshow(
            window.classes, ListedColormap(palette), vmin=-0.5, vmax=len(palette) - 0.5, origin="lower",
            extent=(*edges, *edges), interpolation="nearest",
        )  # fmt: skip
        for x, y, marker in MARKS:
            axes.plot(
                x, y, marker, markersize=13, color="white", markeredgecolor="black", markeredgewidth=1.3
            )
        axes.set_title(str(window.name), fontsize=USUAL)
        axes.set(xticks=TICKS, yticks=TICKS)
        axes.set_xlabel(f"towards {row['perturbation']} (1 = {window.lengths[0]:.3g})", fontsize=USUAL)
        axes.set_ylabel(f"towards {other['dataset']} (1 = {window.lengths[1]:.3g})", fontsize=USUAL)
    for axes in figure.axes[len(windows) :]:
        axes.set_visible(False)
    names = (str(row["dataset"]), str(row["perturbation"]), str(other["dataset"]))
    marks = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            markersize=10,
            color="white",
            markeredgecolor="black",
            label=name,
        )
        for (_, _, marker), name in zip(MARKS, names)
    ]
    patches = [Patch(color=colour, label=name) for colour, name in zip(palette, task.classes)]
    figure.legend(
        handles=[*patches, *marks], loc="outside lower center", ncols=min(6, len(patches) + 3), fontsize=SMALL
    )
    some = (
        f"{len(windows)} of {fitting} samples that {row['perturbation']} fools"
        if sampled is None
        else sampled
    )
    figure.suptitle(f"Church windows of {trained.name}: {some} (n = {row['n']})", fontsize=LARGE)
    return figure


def _caption(
    windows: list[Window], task: Classification, row: Row, other: Row, trained: Trained, fitting: int
) -> str:
    first = windows[0]
    clean, perturbed, elsewhere = (task.classes[one] for one in first.marked)
    return (
        f"Church windows of {trained.words}: classes of the linear head on the plane through the embedding of"
        f" an"
        f" unperturbed image of {row['dataset']} (cross), towards itself under {row['perturbation']}"
        f" (triangle) and"
        f" towards the same object in {other['dataset']} (star). Both axes are in lengths of these differences"
        f" and are not"
        f" orthogonal in latent space. {len(windows)} of {fitting} samples that fit are shown, of {row['n']}"
        f" evaluated;"
        f" the first, {first.name}, is {clean}, perturbed {perturbed}, in {other['dataset']} {elsewhere}. The"
        f" classes at all"
        f" three marks of every window are those that the network predicts.{trained.inside}"
    )
