"""``advbench plan``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import click

from advbench.cli.forecast import Network, Spending, networks, regressions, sizes, spending
from advbench.cli.main import COMMANDS
from advbench.cli.selection import ONLY_EPILOG, Selection, selects
from advbench.components.loader import Plugins
from advbench.display.words import plural
from advbench.engines.planning import Options, Plan, Planned, Planner, Worst
from advbench.evidence.differences import detectable
from advbench.evidence.exact import least_changed
from advbench.evidence.statistics import Interval, wilson
from advbench.runtime.data import Environment
from advbench.store.artifacts import Store
from advbench.store.records import Records
from advbench.suite.grid import Grid

CHANGED = 0.1
"""Share of samples on which two rows are taken to differ where a difference that can be found is told."""


@click.command("plan", help=COMMANDS["plan"], epilog=ONLY_EPILOG)
@selects
@click.option("--json", "as_json", is_flag=True, help="Print JSON: rows, networks, passes.")
def command(as_json: bool, **selection: Any) -> None:
    """Print the grid."""
    show(Selection(**selection), as_json)


def show(selection: Selection, as_json: bool = False) -> None:
    """Print what a run would do."""
    plugins = selection.plugins()
    grid = selection.grid(plugins)
    planner = planner_of(grid, Options(**selection.execution(grid)), plugins)
    plan = planner.plan(load_data=False)
    needed = networks(plan, planner.environment)
    costs = spending(plan, planner.environment)
    if as_json:
        click.echo(json.dumps(as_document(plan, needed, costs), indent=1))
        return
    told = _precision(sizes(plan, planner.environment), regressions(plan, planner.environment))
    for line in [*_axes(plan), "", *_rows(plan), *_networks(needed), *_passes(costs), *told, *_unknown(plan)]:
        click.echo(line)


def planner_of(grid: Grid, options: Options, plugins: Plugins) -> Planner:
    """A planner over the cache and the run folder of ``options``."""
    environment = Environment(plugins, Store(options.store), options.data_dirs, options.download)
    return Planner(grid, options, environment, Records([options.out / "cells", options.store / "cells"]))


# --- what becomes of each row -------------------------------------------------------------------------------------


def status_of(one: Planned) -> tuple[str, str]:
    """``planned``, ``cached`` or ``skipped``, and why; a failure that is remembered is cached, too."""
    if one.cell.skip:
        return "skipped", one.cell.skip
    if one.record is None:
        return "planned", ""
    return "cached", "" if one.record.status == "ok" else f"{one.record.status}: {one.record.reason}"


def worst_status_of(worst: Worst) -> tuple[str, str]:
    """The status of a worst-case row, from those of its members."""
    members = [status_of(one) for one in worst.members]
    if any(reason for _, reason in members):
        return "skipped", "needs cells that have no result"
    return ("planned" if ("planned", "") in members else "cached"), ""


def as_document(plan: Plan, needed: Iterable[Network], costs: Iterable[Spending]) -> dict[str, Any]:
    """The plan as plain values. ``cell_id`` is null while the data are unknown: their content is part of it."""
    attack = {cost.label: cost.attack for cost in costs}
    rows: list[dict[str, Any]] = []
    for one in plan.cells:
        unknown = {one.cell.dataset.label, one.cell.source.label} & set(plan.unknown_data)
        status, reason = status_of(one)
        kind = "audit" if one.cell.audit else "cell"
        names = {"kind": kind, "cell_id": None if unknown else one.cell_id, **one.cell.labels}
        passes = {"passes": attack[one.cell.label]} if one.cell.label in attack else {}
        rows.append({**names, "status": status, "reason": reason, **passes})
    for worst in plan.worst:
        status, reason = worst_status_of(worst)
        first = worst.members[0].cell
        unknown = {first.dataset.label, first.source.label} & set(plan.unknown_data)
        names = {"kind": "worst-case", "cell_id": None if unknown else worst.cell_id, **first.labels}
        names |= {"perturbation": worst_label(worst)}
        members = [one.cell.perturbation.label for one in worst.members]
        rows.append({**names, "status": status, "reason": reason, "members": members})
    return {
        "suite": plan.grid.suite.name,
        "rows": rows,
        "merged": plan.grid.merged,
        "networks": [{"label": network.label, "status": network.status} for network in needed],
        "unknown_data": list(plan.unknown_data),
        "notes": list(plan.notes),
    }


def worst_label(worst: Worst) -> str:
    """``"worst of 2, linf 0.1"``."""
    eps = worst.eps if isinstance(worst.eps, list) else [worst.eps]
    return f"{worst.label}, {worst.norm} {':'.join(f'{value:.6g}' for value in eps)}"


# --- for people ---------------------------------------------------------------------------------------------------


def _axes(plan: Plan) -> list[str]:
    axes: dict[str, dict[str, None]] = {}
    for one in plan.cells:
        for axis, label in one.cell.labels.items():
            axes.setdefault(axis, {})[label] = None
    file = plan.grid.suite.file
    lines = [click.style(f"suite {plan.grid.suite.name}", bold=True) + f" ({file})"]
    for axis, labels in axes.items():
        lines += _wrapped(f"  {axis:<13}{len(labels):>4}   ", list(labels))
    return lines


def _wrapped(head: str, labels: list[str], width: int = 100) -> list[str]:
    lines, line = [], head
    for index, label in enumerate(labels):
        piece = label + (", " if index < len(labels) - 1 else "")
        if len(line + piece.rstrip()) > width and line.strip() and line != head:
            lines.append(line.rstrip())
            line = " " * len(head)
        line += piece
    return [*lines, line.rstrip()]


def _rows(plan: Plan) -> list[str]:
    states = [status_of(one) for one in plan.cells]
    count = Counter(status for status, _ in states)
    failed = Counter(reason for status, reason in states if status == "cached" and reason)
    skipped = Counter(reason for status, reason in states if status == "skipped")
    worst = f" + {plural(len(plan.worst), 'worst-case row')}" if plan.worst else ""
    merged = f"  ({plural(plan.grid.merged, 'identical combination')} merged)" if plan.grid.merged else ""
    audit = sum(one.cell.audit for one in plan.cells)
    cells = plural(len(plan.cells), "cell") + (f", {audit} of them added by the audit" if audit else "")
    lines = [_line("rows", plan.rows, f"{cells}{worst}{merged}")]
    lines.append(_line("to compute", count["planned"], ""))
    lines.append(_line("cached", count["cached"] - failed.total(), ""))
    if failed:
        lines.append(_line("failed before", failed.total(), "remembered; --retry-failed computes them again"))
        lines += _reasons(failed)
    lines.append(_line("skipped", count["skipped"], ""))
    return lines + _reasons(skipped)


def _line(name: str, count: int, words: str) -> str:
    return f"  {name:<13}{count:>4}   {words}".rstrip()


def _reasons(reasons: Mapping[str, int]) -> list[str]:
    return [f"  {'':<13}{count:>4} x {reason}" for reason, count in sorted(reasons.items())]


def _networks(needed: list[Network]) -> list[str]:
    count = Counter(network.status for network in needed)
    names = {"train": "to train", "cached": "cached", "given": "with weights of their own"}
    words = ", ".join(f"{count[status]} {name}" for status, name in names.items() if count[status])
    lines = [_line("networks", len(needed), words)]
    return lines + [f"  {'':<20}train {network.label}" for network in needed if network.status == "train"]


def _passes(costs: list[Spending]) -> list[str]:
    attacks = [cost.attack for cost in costs if cost.attack != 0]
    said = [passes for passes in attacks if passes is not None]
    words = (
        [f"at most {sum(said):,} forward and backward passes of single samples by attacks"] if said else []
    )
    if len(said) < len(attacks):
        words.append(f"not known before the run for {plural(len(attacks) - len(said), 'cell')}")
    return [f"  {'passes' if index == 0 else '':<20}{line}" for index, line in enumerate(words)]


def _precision(sizes: Mapping[str, int | None], regressions: Collection[str] = ()) -> list[str]:
    """What so many samples can tell, before they are paid for."""
    groups: dict[tuple[int, bool], list[str]] = {}
    for label, n in sizes.items():
        if n:
            groups.setdefault((n, label in regressions), []).append(label)
    lines: list[str] = []
    for (n, regression), labels in sorted(groups.items()):
        lines += _told(f"{plural(n, 'sample')} ({', '.join(labels)})", n, regression)
    return [f"  {'precision' if index == 0 else '':<20}{line}" for index, line in enumerate(lines)]


def _told(head: str, n: int, regression: bool) -> list[str]:
    if n < least_changed():
        return [f"{head}: too few to tell any two rows apart; it takes {least_changed()}"]
    half, most = (wilson(round(rate * n), n) for rate in (0.5, 0.1 if regression else 0.9))
    what, other = ("a share of outliers (eta)", 10) if regression else ("an accuracy", 90)
    return [
        f"{head}: {what} of 50 % is known to {_points(half)} points either way,"
        f" one of {other} % to {_points(most)} (95 %);",
        f"two rows of the same samples can be told apart from {100 * least_changed() / n:.2g} points on, at best",
        *_found(n),
    ]


def _found(n: int) -> list[str]:
    """The difference that is found more often than not, where so few samples allow for one."""
    least = detectable(n, CHANGED)
    if not least < 1:
        return []
    share = 100 * max(CHANGED, least)
    return [
        f"from about {100 * least:.2g} with a power of 80 %, if they differ in {share:.0f} % of the samples"
        " (before correction for several lines)"
    ]


def _points(interval: Interval) -> str:
    return f"{50 * (interval.high - interval.low):.2g}"


def _unknown(plan: Plan) -> list[str]:
    lines = [f"  {note}" for note in plan.notes]
    if plan.unknown_data:
        names = ", ".join(plan.unknown_data)
        lines.append(f"  never loaded: {names}; what was computed with such data counts as not cached here")
    return ["", *lines] if lines else []
