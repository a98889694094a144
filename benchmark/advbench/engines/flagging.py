"""Red flags of the rows of a run: what the leaderboard needs of components and records to find them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.components.base import Attack, Defense
from advbench.components.identity import Spec, canonical, instantiate
from advbench.engines.planning import Planned
from advbench.evidence.figures import successes
from advbench.evidence.flags import joined, too_many_rejected
from advbench.evidence.paired import Entry, compare, inherited
from advbench.runtime.data import Card, Environment
from advbench.store.records import Records
from advbench.suite.audit import spans
from advbench.suite.grid import Cell
from advbench.values import Budget, Classification

Row = dict[str, Any]


@dataclass
class Flagger:
    """Finds the flags of the rows of one leaderboard."""

    environment: Environment
    records: Records
    entries: dict[str, Entry] = field(default_factory=dict)
    own: dict[str, set[str]] = field(default_factory=dict)
    found: Mapping[str, set[str]] = field(default_factory=dict)

    def flag(self, planned: Sequence[Planned], rows: Sequence[Row]) -> None:
        """Complete the column of these rows, one for each planned cell."""
        done = [(one, row) for one, row in zip(planned, rows) if row["status"] == "ok"]
        for one, row in done:
            self.own[one.cell_id] = {*str(row["flags"]).split(";"), *self._of_detector(one, row)}
            entry = self._entry(one, row)
            if entry is not None:
                self.entries[one.cell_id] = entry
        self.found = compare(list(self.entries.values()))
        for one, row in done:
            row["flags"] = joined(self.own[one.cell_id] | self.found.get(one.cell_id, set()))

    def worst(self, members: Sequence[Planned], flags: str) -> str:
        """The column of a worst-case row with these members, from the flags of its own outcomes."""
        names = [one.cell_id for one in members]
        doubts = {name for member in names for name in self.own[member] if not name.startswith("info-")}
        return joined(
            {*flags.split(";"), *doubts, *inherited(self.found, [self.entries[name] for name in names])}
        )

    def _of_detector(self, one: Planned, row: Row) -> set[str]:
        fpr, stated = row.get("detector_fpr"), self._stated_rate(one.cell)
        if fpr is None or stated is None or np.isnan(fpr):
            return set()
        fixed = "fixed-threshold" in str(row["flags"]).split(";")
        calibration = one.card.sizes.get("calibration") if one.card is not None and not fixed else None
        rejected = round(fpr * row["n"])
        return {"false-positives"} if too_many_rejected(rejected, row["n"], stated, calibration) else set()

    def _stated_rate(self, cell: Cell) -> float | None:
        for spec in cell.defense.specs:
            defense = self._component(spec)
            if isinstance(defense, Defense) and defense.tags.detects:
                rate: float | None = getattr(defense, "false_positive_rate", None)
                return rate
        return None

    def _entry(self, one: Planned, row: Row) -> Entry | None:
        spec = one.cell.perturbation.spec
        attack = self._component(spec) if spec is not None else None
        if spec is None or not isinstance(attack, Attack):
            return None
        ball, cell = attack.constraint(), one.cell
        before = [part.json() for part in cell.perturbation.before]
        aims = attack.model_dump(mode="json", include={"goal", "mask"})
        sizes = {name for name in type(attack).model_fields if isinstance(getattr(attack, name), Budget)}
        rest = attack.model_dump(mode="json", exclude={"steps", *sizes})
        return Entry(
            row=row,
            successes=functools.cache(functools.partial(self._successes, one.cell_id)),
            group=canonical([cell.dataset.label, cell.model.label, cell.defense.label, cell.seed]),
            threat=canonical([ball.norm if ball else None, aims, before]),
            attack=canonical([spec.id, rest]),
            role=attack.tags.audit,
            needs_gradient=attack.tags.needs_gradient,
            steps=_steps(attack),
            eps=_canonical(ball.eps) if ball else None,
            unbounded=ball is not None
            and one.card is not None
            and spans(ball.eps, ball.norm, one.card.space),
            chance=_chance(one.card),
        )

    def _successes(self, name: str) -> NDArray[np.bool_]:
        return successes(self.records.outcomes(name))

    def _component(self, spec: Spec) -> Any:
        return instantiate(self.environment.plugins, spec)


def _steps(attack: Attack) -> int | None:
    steps = getattr(attack, "steps", None)
    weak = attack.tags.universal or attack.tags.minimum_norm
    return steps if isinstance(steps, int) and not weak else None


def _canonical(eps: Budget) -> tuple[float, ...]:
    """One number where all channels have the same."""
    return eps.values[:1] if len(set(eps.values)) == 1 else eps.values


def _chance(card: Card | None) -> float | None:
    if card is None or not isinstance(card.task, Classification):
        return None
    return 1 / len(card.task.classes)
