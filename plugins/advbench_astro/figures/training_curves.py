"""How trainings went: losses, their terms, and accuracies, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.ticker import MaxNLocator

from advbench.api import Classification, Picture, Run, Tags, UserError
from advbench_astro.figures.canvas import LARGE, LINES, OKABE_ITO, SMALL, USUAL, panels, save, sheet
from advbench_astro.figures.choose import NetworkFigure, Trained

LOSSES = ("train_loss", "valid_loss")
PLAIN, OWN = "validation loss", "validation criterion"
"""What weights are chosen by: with a defense it may be a criterion of its own, which can be negative."""
NOT_DRAWN = ("epoch", "purpose")


def panels_of(history: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What belongs into the panels: losses, rates (what is called an accuracy, and the metric), other terms."""
    names = [name for entry in history for name, value in entry.items() if isinstance(value, (int, float))]
    names = [name for name in dict.fromkeys(names) if name not in NOT_DRAWN]
    rates = [name for name in names if name == "valid_metric" or "accuracy" in name]
    terms = [name for name in names if name not in LOSSES and name not in rates]
    found = {"loss": [name for name in LOSSES if name in names], "rates": rates, "terms": terms}
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
        terms = ", ".join(panels_of(history).get("terms", ())) or "none"
        caption = (
            f"Training of {trained.words}: losses, {'accuracies' if classes else 'errors'} and terms of the loss"
            f" against the epoch. The {chosen_by} is {float(best.get('valid_loss', np.nan)):.3g} at its best, in epoch"
            f" {best['epoch']}, and {float(last.get('valid_loss', np.nan)):.3g} in the last, {last['epoch']}."
            f" Further terms: {terms}."
        )
        return [Picture(path, caption)]


def _drawn(history: Sequence[Mapping[str, Any]], trained: Trained, metric: str, chosen_by: str) -> Any:
    purposes = list(dict.fromkeys(str(entry.get("purpose", "fit")) for entry in history))
    found = panels_of(history)
    names_of = {"train_loss": "training loss", "valid_loss": chosen_by, "valid_metric": metric}
    figure = sheet(3.9 + 0.17 * len(purposes) * max(map(len, found.values())))
    axes = panels(figure, 1, len(found))
    for axis, (title, names) in zip(axes, found.items()):
        for index, name in enumerate(names):
            for style, purpose in enumerate(purposes):
                entries = [e for e in history if str(e.get("purpose", "fit")) == purpose and name in e]
                if not entries:
                    continue
                words = names_of.get(name, name.replace("_", " "))
                axis.plot(
                    [entry["epoch"] for entry in entries], [entry[name] for entry in entries],
                    LINES[style % len(LINES)], color=OKABE_ITO[(index + 2 * (title == "terms")) % len(OKABE_ITO)],
                    marker="." if len(entries) < 40 else "",
                    label=words if len(purposes) == 1 else f"{words} ({purpose})",
                )  # fmt: skip
        if len(purposes) == 1 and all("valid_loss" in entry for entry in history):
            axis.axvline(
                min(history, key=lambda e: float(e["valid_loss"]))["epoch"], color="#999999", linestyle=":"
            )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axis.set_xlabel("epoch", fontsize=USUAL)
        axis.set_ylabel(
            {"loss": "loss", "rates": "share of samples" if "accuracy" in metric else metric}.get(
                title, "term of the loss"
            ),
            fontsize=USUAL,
        )
        axis.grid(alpha=0.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=SMALL)
    epochs = max(int(entry["epoch"]) for entry in history)
    figure.suptitle(
        f"Training of {trained.name}, {epochs} epochs; dotted: lowest {chosen_by}", fontsize=LARGE
    )
    return figure
