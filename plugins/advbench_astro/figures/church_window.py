"""Church windows: the plane through a sample's embedding that its perturbation and another data set span."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from advbench_astro.figures.latent import align, embed, linear_head, taken

GRID = np.arange(-110, 111) / 100
"""Coordinates of the points along each axis, in lengths of the two differences."""

TICKS = (-1, -0.5, 0, 0.5, 1)
WHITE: dict[str, Any] = {"color": "white", "markeredgecolor": "black"}
MARKS = ((0, 0, "X"), (1, 0, "^"), (0, 1, "*"))


class Window(NamedTuple):
    """One church window."""

    name: str  # of the sample
    true: int  # its class, -1 if none
    classes: NDArray[np.int64]  # (221, 221), row = y, column = x
    marked: tuple[int, int, int]  # classes of the sample, its perturbed self, and itself in the other data
    lengths: tuple[float, float]  # of the two differences in latent space


def church_window(
    head: Callable[[Tensor], Tensor], origin: Tensor, perturbed: Tensor, other: Tensor
) -> NDArray[np.int64]:
    """Classes on the grid ``origin + x (perturbed - origin) + y (other - origin)``, (221, 221) with y along the rows.

    The plane of Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299, for three embeddings (d,); its
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
    perturbed, (0, 1) = the same object in another data set. Shows the first samples of each class that are classified
    correctly and that the perturbation fools; where it fools none, correct ones.
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
        chosen = self._chosen(run, row, other)
        windows = _windows(run.network(row), chosen)
        path = folder / f"church-window-{trained.slug}.png"
        title = f"Church windows of {trained.name}: {chosen.words} (n = {row['n']})"
        save(_drawn(windows, task.classes, row, other, title), path, self.dpi)
        return [
            Picture(
                path,
                _caption(windows, task.classes, row, other, f"{trained.words}, {chosen.words}")
                + trained.inside,
            )
        ]

    def _chosen(self, run: Run, row: Row, other: Row) -> _Chosen:
        """Samples here, there and perturbed."""
        outcomes, elsewhere = run.outcomes(row), run.outcomes(other)
        rows, places = align(outcomes["id"], elsewhere["id"])
        right = outcomes["clean_correct"][rows]
        fooled = right & (outcomes["perturbed_prediction"] != outcomes["clean_prediction"])[rows]
        wanted, fit = (
            (fooled, f"that {row['perturbation']} fools") if fooled.any() else (right, "that stay correct")
        )
        if self.sample is not None:
            wanted = outcomes["id"][rows] == self.sample
        rows, places = rows[wanted], places[wanted]
        if not len(rows):
            one = "a correctly classified sample" if self.sample is None else f"sample {self.sample}"
            raise UserError(f"needs {one} of {row['dataset']} that is in {other['dataset']} too")
        first = in_turns(outcomes["target"][rows])[: self.count]
        words = (
            f"{len(first)} of {len(rows)} samples {fit}" if self.sample is None else f"sample {self.sample}"
        )
        rows, places = rows[first], places[first]
        most, far = int(rows.max()) + 1, int(places.max()) + 1
        here, there, perturbed = run.samples(row, most), run.samples(other, far), run.perturbed(row, most)
        index = torch.from_numpy(rows).to(perturbed.device)
        return _Chosen(taken(here, rows), taken(there, places), perturbed[index], words)


class _Chosen(NamedTuple):
    here: Shown
    there: Shown
    perturbed: Tensor
    words: str


def _windows(network: Any, chosen: _Chosen) -> list[Window]:
    """The windows; refused where a marked point has another class than the network predicts."""
    here, there = chosen.here, chosen.there
    inputs = [(here.x, here.extras), (chosen.perturbed, here.extras), (there.x, there.extras)]
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
        marked = (predicted[0], predicted[1], predicted[2])
        windows.append(Window(name, int(here.y[index]), classes, marked, lengths))
    return windows


def _drawn(windows: Sequence[Window], classes: Sequence[str], row: Row, other: Row, title: str) -> Any:
    rows, columns = grid_of(len(windows), 2)
    figure = sheet(1.1 + 3.7 * rows, 8.0 if columns > 1 else 5.0)
    palette = colours(classes)
    edges = (GRID[0] - 0.005, GRID[-1] + 0.005)
    for axes, window in zip(panels(figure, rows, columns), windows):
        axes.imshow(
            window.classes, ListedColormap(palette), vmin=-0.5, vmax=len(palette) - 0.5, origin="lower",
            extent=(*edges, *edges), interpolation="nearest",
        )  # fmt: skip
        for x, y, marker in MARKS:
            axes.plot(x, y, marker, markersize=13, markeredgewidth=1.3, **WHITE)
        true = classes[window.true] if window.true >= 0 else "none of the classes"
        axes.set_title(f"{window.name}, true class: {true}", fontsize=USUAL)
        axes.set(xticks=TICKS, yticks=TICKS)
        axes.set_xlabel(
            f"towards {row['perturbation']} (1 = {window.lengths[0]:.3g} latent units)", fontsize=USUAL
        )
        axes.set_ylabel(
            f"towards {other['dataset']} (1 = {window.lengths[1]:.3g} latent units)", fontsize=USUAL
        )
    for axes in figure.axes[len(windows) :]:
        axes.set_visible(False)
    handles: list[Any] = [Patch(color=colour, label=name) for colour, name in zip(palette, classes)]
    for (_, _, marker), name in zip(MARKS, (row["dataset"], row["perturbation"], other["dataset"])):
        handles.append(Line2D([], [], linestyle="", marker=marker, markersize=10, label=str(name), **WHITE))
    columns = len(handles) if len(handles) <= 6 and columns > 1 else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=SMALL)
    figure.suptitle(title, fontsize=LARGE if rows * columns > 1 else SMALL)
    return figure


def _caption(windows: Sequence[Window], classes: Sequence[str], row: Row, other: Row, words: str) -> str:
    first = windows[0]
    clean, perturbed, elsewhere = (classes[one] for one in first.marked)
    return (
        f"Church windows of {words}, {row['n']} evaluated: classes of the linear head on the plane through the"
        f" embedding of an unperturbed image of {row['dataset']} (cross), towards itself under"
        f" {row['perturbation']} (triangle) and towards the same object in {other['dataset']} (star). Both axes"
        " are in lengths of these differences in latent space, where they are not orthogonal. The first"
        f" sample, {first.name}, is {clean}, perturbed {perturbed}, and in {other['dataset']} {elsewhere}. The"
        " classes at all three marks of every window are those that the network predicts."
    )
