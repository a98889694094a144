"""The table of the peers as CSV, as a page and as a picture."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.figure import Figure
from tests.peers.peers import DISTRIBUTIONS, installed

COLUMNS = {
    "who": "who",
    "seconds": "seconds",
    "over_floor": "over floor",
    "over_own_passes": "over own passes",
    "forward": "forward",
    "backward": "backward",
    "success": "success",
    "median_norm": "median norm",
    "peak_mib": "peak MiB",
}
COLOURS = {
    "torchattacks": "#4c78a8",
    "foolbox": "#f58518",
    "art": "#e45756",
    "adv_lib": "#72b7b2",
    "pyautoattack": "#b279a2",
    "ours": "#2f6b2f",
    "ours, all steps": "#2f6b2f",
    "ours, stopping": "#8fca8f",
}

TEXT = """\
# Speed beside other libraries

Written by `python -m tests.peers.speed`, from the repository's root, with the extra `bridges` and what
[bridges](bridges.md) says of torchattacks.

In one process and one run everybody takes turns; times are medians of {repetitions} repetitions. Compare ratios within
a table, not seconds: {machine}.

* *over floor*: time over that of the bare loop, the plain network as often as the task says (steps, queries or
  candidates), with its input gradient where the attack needs one. Below 1 is possible: a pass of the prepared network
  is cheaper, and finished samples leave the batch.
* *over own passes*: time over that of the passes that were really spent, each as dear as one of the plain network.
  What cannot go below is convolution: nine tenths of a pass of the prepared ResNet18, which has hardly anything else.
* *forward*, *backward*: passes per sample, counted in a run that is not timed.
* *success*: share of the samples that are misclassified afterwards, judged by a fresh pass; all are right before.
* *median norm*: of the change; failures are infinitely far.
* *peak*: memory in MiB beyond what was in use before.
* Numbers of samples are multiples of 16 where possible: that is the size of our chunks on a CPU, and a rest is padded.
* *ours, all steps* spends the full budget as the others do; *ours, stopping* is the default: a sample leaves once it
  is misclassified. The network is prepared once, as in a run, which took up to {preparation:.2g} s and is in no time.

![time over the floor](../results/reference/peers.png)

The same numbers as [CSV](../results/reference/peers.csv).
"""


def write_page(table: pd.DataFrame, folder: Path) -> None:
    """Write ``results/reference/peers.csv`` and ``.png`` and ``docs/peers.md`` into this folder."""
    if table.empty:
        return
    reference, docs = folder / "results" / "reference", folder / "docs"
    reference.mkdir(parents=True, exist_ok=True)
    docs.mkdir(parents=True, exist_ok=True)
    _replace(reference / "peers.csv", table.to_csv(index=False, float_format="%.6g").encode())
    _draw(table, reference / "peers.png")
    _replace(docs / "peers.md", _page(table).encode())


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(content)
    draft.replace(path)


def _page(table: pd.DataFrame) -> str:
    text = TEXT.format(
        repetitions=table["repetitions"].max(),
        machine=_machine(table),
        preparation=table["preparation"].max(),
    )
    parts = [text]
    for network, on_network in table.groupby("network", sort=False):
        parts.append(f"## {network}\n\nTrained on {on_network['trained'].iloc[0]}.\n")
        for _, rows in on_network.groupby(["attack", "norm", "eps"], sort=False):
            parts.append(f"### {_title(rows.iloc[0])}\n\n{_markdown(rows)}")
    return "\n".join(parts)


def _machine(table: pd.DataFrame) -> str:
    versions = [
        f"{library} {metadata.version(name)}" for library, name in DISTRIBUTIONS.items() if installed(library)
    ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    threads = f"{table['threads'].max()} threads"
    return f"{device}, {threads}, {platform.machine()}, torch {torch.__version__}, {', '.join(versions)}"


def _title(row: pd.Series) -> str:
    size = f", eps {row['eps']:.4g}" if row["eps"] else ""
    return f"{row['attack']}, {row['norm']}{size}, {row['steps']} steps, {row['samples']} samples"


def _markdown(rows: pd.DataFrame) -> str:
    cells = rows.sort_values("seconds")[list(COLUMNS)]
    lines = [f"| {' | '.join(COLUMNS.values())} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
    lines += [
        f"| {row[0]} | {' | '.join(f'{value:.3g}' for value in row[1:])} |"
        for row in cells.itertuples(index=False)
    ]
    return "\n".join(lines) + "\n"


def _draw(table: pd.DataFrame, path: Path) -> None:
    """One panel for each network, one bar for each contestant of an attack: time over the floor, on a log scale."""
    networks = list(dict.fromkeys(table["network"]))
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3 * len(networks)), layout="constrained")
        axes = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
        for axis, network in zip(axes, networks):
            rows = table[table["network"] == network]
            names, place = [], 0.0
            for (attack, norm, _), group in rows.groupby(["attack", "norm", "eps"], sort=False):
                for row in group.sort_values("over_floor").itertuples():
                    axis.bar(place, row.over_floor, 0.9, color=COLOURS[row.who], label=row.who)
                    place += 1
                names.append((place - len(group) / 2 - 0.5, f"{attack}\n{norm}"))
                place += 1
            axis.axhline(1, color="black", linewidth=0.8)
            axis.set(yscale="log", ylabel="time / floor", title=network)
            axis.set_xticks([position for position, _ in names], [name for _, name in names])
        found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())}
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False)
        draft = path.with_name(path.stem + ".part.png")
        figure.savefig(draft, dpi=150)
        draft.replace(path)
