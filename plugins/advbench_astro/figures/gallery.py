"""Panels: image, its perturbation, the perturbed image, and what the network says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.api import Classification, InputSpace, Picture, Run, Tags, Task, UserError, param
from advbench_astro.figures.canvas import LARGE, SMALL, USUAL, panels, save, sheet
from advbench_astro.figures.choose import PerturbedFigure, Row, Trained, in_turns
from advbench_astro.figures.display import colour_bands, visible, visible_change

FEW = 12
"""Changed pixels that are circled: nobody finds one in ten thousand."""


class Chosen(NamedTuple):
    """Samples to show with what the leaderboard says about them."""

    x: Tensor  # (n, c, h, w)
    perturbed: Tensor
    extras: dict[str, Tensor]
    ids: NDArray[np.str_]
    target: NDArray[Any]
    clean_prediction: NDArray[Any]
    perturbed_prediction: NDArray[Any]
    of: int  # how many there were to choose from
    kind: str  # fooled, correct or evaluated ones


def chosen_samples(run: Run, row: Row, count: int, which: str) -> Chosen:
    """The first samples of a row that are classified correctly and then fooled, or of all that were correct, or of all.

    ``which`` is ``fooled``, ``correct`` or ``all``; where nobody is fooled the correct ones are shown.

    Raises
    ------
    UserError
        If inputs are no images.
    """
    if len(run.space(row).shape) != 3:
        raise UserError(f"needs images (channels, height, width), not inputs of shape {run.space(row).shape}")
    outcomes = run.outcomes(row)
    right, wrong_after = outcomes["clean_correct"], ~outcomes["perturbed_correct"]
    groups = {"fooled": right & wrong_after, "correct": right, "all": np.ones_like(right)}
    order = ["fooled", "correct", "all"]
    kind = next(name for name in order[order.index(which) :] if groups[name].any())
    fitting = groups[kind]
    rows = np.flatnonzero(fitting)
    if isinstance(run.task(row), Classification):
        rows = rows[in_turns(outcomes["target"][rows])]
    rows = rows[:count]
    shown = run.samples(row, int(rows.max()) + 1)
    index = torch.from_numpy(rows).to(shown.x.device)
    target, clean, after = (
        outcomes[name][rows] for name in ("target", "clean_prediction", "perturbed_prediction")
    )
    words = "evaluated" if kind == "all" else kind
    extras = {name: value[index] for name, value in shown.extras.items()}
    perturbed = run.perturbed(row, int(rows.max()) + 1)[index]
    some = shown.ids[rows]
    return Chosen(shown.x[index], perturbed, extras, some, target, clean, after, int(fitting.sum()), words)


def said(value: Any, task: Task) -> str:
    """A class by its name, or a number."""
    if isinstance(task, Classification):
        return task.classes[int(value)] if int(value) >= 0 else "none of the classes"
    return f"{float(np.ravel(value)[0]):.3g} {task.unit}".rstrip()


class SamplesFigure(PerturbedFigure):
    """A figure with a row of images for each of some samples."""

    count: int = param(4, "samples shown", ge=1, le=12)
    which: str = param(
        "fooled",
        "fooled, correct or all: of which samples the first are shown",
        pattern="^(fooled|correct|all)$",
    )
    bands: tuple[str, ...] | None = param(None, "one band, or those for red, green and blue")


class Panels(SamplesFigure):
    """Image, perturbation and perturbed image side by side, with the predictions.

    Where the data have a link to fluxes these are stretched for the eye, both images alike. The change is that of the
    inputs, grey where there is none and scaled by the largest one, which is printed.
    """

    tags: ClassVar[Tags] = Tags()
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60, "count": 2},)

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """One picture with a row for each sample."""
        row = self.perturbed_row(trained)
        space, task = run.space(row), run.task(row)
        found = chosen_samples(run, row, self.count, self.which)
        path = folder / f"panels-{trained.slug}.png"
        save(self._drawn(found, space, task, row, trained), path, self.dpi)
        red, green, blue = (space.channels[index] for index in colour_bands(space, self.bands))
        bands = f"{red}, {green}, {blue} as red, green, blue" if red != blue else f"band {red}"
        stretch = "" if space.link is None else ", fluxes with an arcsinh stretch"
        samples = "; ".join(
            f"{name}: {said(clean, task)}, then {said(after, task)} (true {said(true, task)})"
            for name, clean, after, true in zip(
                found.ids.tolist(), found.clean_prediction, found.perturbed_prediction, found.target
            )
        )
        caption = (
            f"Images of {row['dataset']}, their change under {row['perturbation']} and the perturbed images"
            f" ({bands}{stretch}); the change is scaled by its largest value, which is printed. Predictions of"
            f" {trained.words}: {samples}. {len(found.ids)} of {found.of} {found.kind} samples, of {row['n']}"
            " evaluated."
        )
        return [Picture(path, caption)]

    def _drawn(self, found: Chosen, space: InputSpace, task: Task, row: Row, trained: Trained) -> Any:
        n = len(found.ids)
        figure = sheet(0.5 + 2.75 * n)
        axes = panels(figure, n, 3)
        images = [visible(one, found.x, space, self.bands) for one in (found.x, found.perturbed)]
        change, largest = visible_change(found.x, found.perturbed, space, self.bands)
        unit = space.unit or "input units"
        changed = (found.perturbed != found.x).any(1).cpu().numpy()
        for index in range(n):
            left, middle, right = axes[3 * index : 3 * index + 3]
            for axis, image in ((left, images[0]), (middle, change), (right, images[1])):
                axis.imshow(image[index], interpolation="nearest", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            ring(middle, changed[index])
            ring(right, changed[index])
            true = said(found.target[index], task)
            left.set_title(
                f"predicted {said(found.clean_prediction[index], task)} (true {true})", fontsize=USUAL
            )
            middle.set_title(f"change, at most {largest[index]:.2g} {unit}", fontsize=USUAL)
            right.set_title(f"predicted {said(found.perturbed_prediction[index], task)}", fontsize=USUAL)
            left.set_ylabel(str(found.ids[index]), fontsize=SMALL)
        shown = f"{n} of {found.of} {found.kind} (n = {row['n']})"
        title = f"{trained.name}: {row['dataset']} under {row['perturbation']}, {shown}"
        figure.suptitle(title, fontsize=LARGE)
        return figure


def ring(axes: Any, changed: NDArray[np.bool_]) -> None:
    """Rings around the changed pixels (h, w), if they are few."""
    rows, columns = np.nonzero(changed)
    if 0 < len(rows) <= FEW and changed.size > 100:
        axes.plot(columns, rows, "o", markersize=11, markerfacecolor="none", markeredgecolor="#56B4E9")
