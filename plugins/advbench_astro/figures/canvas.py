"""Paper and pencil: figures by matplotlib's objects alone, colours that colour-blind people can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Sheet

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#B8A800", "#666666")
"""Okabe and Ito 2008, the yellow darkened and the black lightened; https://jfly.uni-koeln.de/color."""

GALAXIES = {"spiral": "#ffa600", "elliptical": "#bc5090", "merger": "#003f5c"}
"""Colours of Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299."""

MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
SMALL, USUAL, LARGE = 8.5, 9.5, 10.5
"""Sizes of text in points; 8.5 points are 12 pixels where 8 inches are shown on 800 pixels."""

WIDTH = 8.0


def colours(names: Sequence[str]) -> list[str]:
    """One colour for each name; those of the paper for its three classes."""
    if set(names) <= set(GALAXIES):
        return [GALAXIES[name] for name in names]
    if len(names) <= len(OKABE_ITO):
        return list(OKABE_ITO[: len(names)])
    return [to_hex(colormaps["viridis"](place)) for place in np.linspace(0, 0.95, len(names))]


def sheet(height: float, width: float = WIDTH) -> Sheet:
    """An empty figure of this size in inches, white, with constrained layout."""
    figure = Sheet(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def grid_of(count: int, most: int) -> tuple[int, int]:
    """Rows and columns for this many panels, with at most ``most`` beside each other."""
    columns = min(count, most)
    return -(-count // columns), columns


def panels(figure: Sheet, rows: int, columns: int, **options: Any) -> list[Any]:
    """Axes in reading order, with text of one size."""
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for one in axes:
        one.tick_params(labelsize=SMALL)
    return axes


def save(figure: Sheet, path: Path, dpi: int) -> Path:
    """Write a PNG without dates or versions: the same picture has the same bytes."""
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    return path


def share(count: int, total: int) -> str:
    """``53 of 90 (59 %)``."""
    return f"{count} of {total}" + (f" ({100 * count / total:.0f} %)" if total else "")


def metric_name(row: Mapping[str, Any]) -> str:
    """What the columns clean and perturbed of a row are, for labels."""
    names = {"accuracy": "Accuracy", "sigma_mad": "sigma_MAD of the scaled error"}
    return names.get(str(row["metric"]), str(row["metric"]))
