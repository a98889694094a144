"""Examples of perturbed inputs, where a run kept some: before, the change, after, and what was predicted."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.board import Outcomes, Row
from advbench.report.pictures import png
from advbench.report.rows import Source
from advbench.report.summary import network

FOLDER = "inputs"
MOST_ROWS = 12
"""Rows of which examples are shown, those that fool most of their inputs first, one of each kind before a second."""

MOST_SAMPLES = 4
SPECTRUM = "ugrizy"
"""Bands of optical surveys by rising wavelength: channels with such names are shown with the longest in red."""

LARGEST = 160
"""Pixels to which an image is reduced."""


@dataclass(frozen=True)
class Example:
    """One sample: three pictures as data URIs, the values that are black and white, and what was predicted."""

    sample: str
    before: str
    change: str
    after: str
    scale: str
    black: str
    white: str
    target: str
    clean: str
    perturbed: str
    fooled: bool


@dataclass(frozen=True)
class Panel:
    """Examples of one row; ``row`` is its number on the page."""

    row: int
    run: str
    dataset: str
    network: str
    perturbation: str
    knowledge: str
    shown: str
    examples: list[Example]


def panels(sources: Sequence[Source]) -> list[Panel]:
    """Examples of some rows of images; empty where no run kept its inputs."""
    found: list[Panel] = []
    for number, source, row in _chosen(sources):
        if len(found) == MOST_ROWS:
            break
        outcomes, path = source.board.outcomes(row), _path(source, row)
        kept = None if path is None else _kept(path)
        if outcomes is None or kept is None:
            continue
        names = _names(kept)
        colours = colours_of(names)
        examples = list(_examples(kept, outcomes, colours))
        if examples:
            words = [str(row[name]) for name in ("dataset", "perturbation", "knowledge")]
            shown = ", ".join(names[place] for place in colours)
            shown = f"{shown} as red, green, blue" if colours else "mean of the channels" * (len(names) > 1)
            found.append(
                Panel(number, source.name, words[0], network(row), words[1], words[2], shown, examples)
            )
    return found


def _chosen(sources: Sequence[Source]) -> list[tuple[int, Source, Row]]:
    """Rows that may have kept inputs, in the order in which they are worth a look."""
    found, number = [], -1
    for source in sources:
        for row in source.board.rows:
            number += 1
            path = _path(source, row)
            if row["status"] == "ok" and row["perturbation"] != "none" and path is not None:
                found.append((number, source, row))
    found.sort(key=lambda one: (-(one[2]["attack_success_rate"] or 0.0), one[0]))
    seen: dict[str, int] = {}
    ranked = []
    for entry in found:
        # One of each perturbation, whatever its strength, comes before a second one.
        kind = str(entry[2]["perturbation_id"])
        seen[kind] = seen.get(kind, 0) + 1
        ranked.append((seen[kind], entry))
    return [entry for _, entry in sorted(ranked, key=lambda one: one[0])]


def _path(source: Source, row: Row) -> Path | None:
    """The file with the inputs that a row kept, None if there is none."""
    path = source.home and source.home / FOLDER / f"{row['cell_id']}.npz"
    return path if path is not None and path.is_file() else None


def _kept(path: Path) -> Mapping[str, NDArray[Any]] | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            kept = {name: arrays[name] for name in ("id", "clean", "perturbed")}
            kept |= {name: arrays[name] for name in ("channel", "class") if name in arrays.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    clean, perturbed = kept["clean"], kept["perturbed"]
    sound = clean.ndim == 4 and clean.shape == perturbed.shape and len(kept["id"]) == len(clean)
    return kept if sound and min(clean.shape) > 0 and clean.shape[-1] > 1 else None


def _names(kept: Mapping[str, NDArray[Any]]) -> list[str]:
    """Of the channels; older files have none."""
    count = kept["clean"].shape[1]
    names = [str(name) for name in kept.get("channel", ())]
    return names if len(names) == count else [f"channel {number}" for number in range(1, count + 1)]


def colours_of(names: Sequence[str]) -> list[int]:
    """Which channels are red, green and blue; none for grey.

    Three channels in their order, unless they are bands of a survey: of those the reddest is red, and of more than four
    the bluest, which is mostly noise, is left out.
    """
    bands = len(set(names)) == len(names) >= 3 and set(names) <= set(SPECTRUM)
    if bands:
        rising = sorted(range(len(names)), key=lambda place: SPECTRUM.index(names[place]))
        first = 1 if len(names) > 4 else 0
        return rising[first : first + 3][::-1]
    return [0, 1, 2] if len(names) == 3 else []


def _examples(
    kept: Mapping[str, NDArray[Any]], outcomes: Outcomes, colours: Sequence[int]
) -> Iterator[Example]:
    place = {str(name): index for index, name in enumerate(outcomes["id"])}
    known = [(index, place[str(name)]) for index, name in enumerate(kept["id"]) if str(name) in place]
    fooled = outcomes["clean_correct"] & ~outcomes["perturbed_correct"]
    known.sort(key=lambda pair: not fooled[pair[1]])
    classes = [str(name) for name in kept.get("class", ())]
    for index, sample in known[:MOST_SAMPLES]:
        before, after = (_smaller(kept[name][index], colours) for name in ("clean", "perturbed"))
        change = after - before
        largest = float(np.abs(change).max())
        low, high = _range(before)
        yield Example(
            sample=str(kept["id"][index]),
            before=png(_bytes((before - low) / (high - low))),
            change=png(_bytes(0.5 + 0.5 * change / (largest or 1.0))),
            after=png(_bytes((after - low) / (high - low))),
            scale=f"{largest:.3g}",
            black=f"{low:.3g}",
            white=f"{high:.3g}",
            target=_word(outcomes["target"][sample], classes),
            clean=_word(outcomes["clean_prediction"][sample], classes),
            perturbed=_word(outcomes["perturbed_prediction"][sample], classes),
            fooled=bool(fooled[sample]),
        )


def _smaller(image: NDArray[Any], colours: Sequence[int]) -> NDArray[Any]:
    """Colours (h, w, 3), or the mean of all channels (h, w); every k-th pixel of large images."""
    step = -(-max(image.shape[1:]) // LARGEST)
    image = np.nan_to_num(image[:, ::step, ::step].astype(np.float64))
    return np.moveaxis(image[list(colours)], 0, -1) if colours else np.asarray(image.mean(0))


def _range(image: NDArray[Any]) -> tuple[float, float]:
    """The values that are black and white, of the unperturbed image and the same for both."""
    low, high = np.percentile(image, [0.5, 99.5])
    return float(low), float(high if high > low else low + 1.0)


def _bytes(image: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((np.clip(image, 0.0, 1.0) * 255).round(), dtype=np.uint8)


def _word(value: NDArray[Any], classes: Sequence[str]) -> str:
    """A class by its name, or its number if there is none; a real prediction with three digits."""
    flat = np.asarray(value).reshape(-1)
    if flat.dtype.kind != "f" and len(flat) == 1 and 0 <= flat[0] < len(classes):
        return classes[int(flat[0])]
    return ", ".join(f"{one:.3g}" if flat.dtype.kind == "f" else str(one) for one in flat)
