"""One HTML file that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from advbench import __version__
from advbench.report import curves, panels, pictures, samples, summary
from advbench.report.rows import Source, read_sources, table
from advbench.store.files import write_text

PAGE = "report.html"
"""What the page of a run is called in its folder."""

SCRIPTS = ("core.js", "detail.js", "table.js", "charts.js", "views.js")


class Written(NamedTuple):
    """What was written: where, its bytes, its rows, and its pictures with their bytes."""

    path: Path
    size: int
    rows: int
    pictures: int
    picture_bytes: int


def write_report(runs: Sequence[Path], out: Path) -> Written:
    """Write one page about one or more runs, each a run folder or a leaderboard.

    Raises
    ------
    UserError
        If a run cannot be read.
    """
    sources = read_sources(runs)
    figures = pictures.figures(sources)
    examples = panels.panels(sources)
    text = render(sources, figures, examples)
    write_text(out, text)
    shown = [picture.uri for picture in figures if picture.uri]
    rows = sum(len(source.board.rows) for source in sources)
    return Written(out, len(text.encode()), rows, len(shown), sum(map(len, shown)))


def render(
    sources: Sequence[Source], figures: Sequence[pictures.Picture], examples: Sequence[panels.Panel]
) -> str:
    """The page as text. Whatever comes from a run is escaped: by the template, or as JSON in a script element."""
    style = _asset("page.css")
    script = "\n".join(_asset(name) for name in SCRIPTS)
    worst = summary.worst(sources)
    runs = [summary.facts(source) for source in sources]
    data = table(sources) | {
        "several_runs": len(sources) > 1,
        "roc": samples.rocs(sources),
        "whole": curves.curves(sources),
        "trainings": samples.trainings(sources),
    }
    environment = Environment(
        loader=DictLoader({"page.html": _asset("page.html")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = number
    return environment.get_template("page.html").render(
        title=", ".join(dict.fromkeys(name for run in runs for name in run["suite"] or [run["name"]])),
        version=__version__,
        runs=runs,
        several_seeds=len({seed for run in runs for seed in run["seeds"]}) > 1,
        several_datasets=len({name for run in runs for name, _ in run["datasets"]}) > 1,
        worst=worst[: summary.SHOWN],
        n_worst=len(worst),
        flags=data["flags"],
        figures=figures,
        panels=examples,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=json_for_script(data),
    )


def json_for_script(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in, nor start a comment there."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII alone
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def number(value: Any, metric: str = "accuracy") -> str:
    """Three decimals of a rate, three digits of anything else, a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:.3f}" if metric == "accuracy" else f"{value:.3g}"


def _asset(name: str) -> str:
    return resources.files("advbench.report").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names the one script, or style, that may take effect."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
