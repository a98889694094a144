"""How trainings went: losses, their terms, and accuracies, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.ticker import MaxNLocator

from advbench.api import Classification, Picture, Run, Tags, UserError
from advbench_astro.figures.canvas import LARGE, LINES, OKABE_ITO, SMALL, USUAL, grid_of, panels, save, sheet
from advbench_astro.figures.choose import NetworkFigure, Trained

LOSSES = ("train_loss", "valid_loss")
PLAIN, OWN = "validation loss", "validation criterion"
"""What weights are chosen by: with a defense it may be a criterion of its own, which can be negative."""
NOT_DRAWN = ("epoch", "purpose")
FACTORS = ("reversal",)
"""What is no loss but a factor on one: by how much the gradient of a domain network is reversed."""

UNITS = {"loss": "loss", "terms": "term of the loss", "factors": "factor of the reversed gradient"}
FIRST_COLOUR = {"terms": 2, "factors": 6}
"""Panels whose curves are not in the first colours."""


def panels_of(history: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What belongs into the panels: losses, rates (accuracies and the metric), other terms, and factors."""
    names = [name for entry in history for name, value in entry.items() if isinstance(value, (int, float))]
    names = [name for name in dict.fromkeys(names) if name not in NOT_DRAWN]
    rates = [name for name in names if name == "valid_metric" or "accuracy" in name]
    factors = [name for name in FACTORS if name in names]
    terms = [name for name in names if name not in (*LOSSES, *rates, *factors)]
    losses = [name for name in LOSSES if name in names]
    found = {"loss": losses, "rates": rates, "terms": terms, "factors": factors}
    return {title: members for title, members in found.items() if members}


class TrainingCurves(NetworkFigure):
    """Losses of training and validation, the terms of the loss, and accuracies against the epoch.

    A line marks the epoch with the lowest validation loss, or of what else a defense chooses the weights by. Where it
    trains several networks each has its style.
    """

    tags: ClassVar[Tags] = Tags()
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60},)

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """One picture with a panel for losses, one for rates and one for terms."""
        history = run.history(trained.rows[0])
        if not history:
            raise UserError(f"needs a network that was trained here; {trained.name} has no history")
        classes = isinstance(run.task(trained.rows[0]), Classification)
        path = folder / f"training-curves-{trained.slug}.png"
        chosen_by = PLAIN if trained.rows[0]["defense"] == "none" else OWN
        metric = "validation accuracy" if classes else "validation error"
        save(_drawn(history, trained, metric, chosen_by), path, self.dpi)
        last = history[-1]
        best = min(history, key=lambda entry: float(entry.get("valid_loss", np.inf)))
        found = panels_of(history)
        terms = ", ".join(found.get("terms", ())) or "none"
        factors = " In a panel of its own: the factor of the reversed gradient." if "factors" in found else ""
        caption = (
            f"Training of {trained.words}: losses, {'accuracies' if classes else 'errors'} and terms of the loss"
            f" against the epoch. The {chosen_by} is {float(best.get('valid_loss', np.nan)):.3g} at its best, in epoch"
            f" {best['epoch']}, and {float(last.get('valid_loss', np.nan)):.3g} in the last, {last['epoch']}."
            f" Further terms: {terms}.{factors}"
        )
        return [Picture(path, caption)]


def _drawn(history: Sequence[Mapping[str, Any]], trained: Trained, metric: str, chosen_by: str) -> Any:
    purposes = list(dict.fromkeys(str(entry.get("purpose", "fit")) for entry in history))
    found = panels_of(history)
    names_of = {"train_loss": "training loss", "valid_loss": chosen_by, "valid_metric": metric}
    labels = UNITS | {"rates": "share of samples" if "accuracy" in metric else metric}
    height, width = grid_of(len(found), 3 if len(found) < 4 else 2)
    figure = sheet(0.6 + height * (3.3 + 0.17 * len(purposes) * max(map(len, found.values()))))
    axes = panels(figure, height, width)
    for axis, (title, names) in zip(axes, found.items()):
        for index, name in enumerate(names):
            for style, purpose in enumerate(purposes):
                entries = [e for e in history if str(e.get("purpose", "fit")) == purpose and name in e]
                if not entries:
                    continue
                words = names_of.get(name, name.replace("_", " "))
                axis.plot(
                    [entry["epoch"] for entry in entries], [entry[name] for entry in entries],
                    LINES[style % len(LINES)], color=OKABE_ITO[(index + FIRST_COLOUR.get(title, 0)) % len(OKABE_ITO)],
                    marker="." if len(entries) < 40 else "",
                    label=words if len(purposes) == 1 else f"{words} ({purpose})",
                )  # fmt: skip
        if len(purposes) == 1 and all("valid_loss" in entry for entry in history):
            axis.axvline(
                min(history, key=lambda e: float(e["valid_loss"]))["epoch"], color="#999999", linestyle=":"
            )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axis.set_xlabel("epoch", fontsize=USUAL)
        axis.set_ylabel(labels[title], fontsize=USUAL)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=SMALL)
    epochs = max(int(entry["epoch"]) for entry in history)
    figure.suptitle(
        f"Training of {trained.name}, {epochs} epochs; dotted: lowest {chosen_by}", fontsize=LARGE
    )
    return figure
