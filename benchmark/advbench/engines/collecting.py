"""From records to the rows of the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advbench.components.base import Attack, Metric, Perturbation
from advbench.components.identity import canonical, instantiate
from advbench.engines.flagging import Flagger
from advbench.engines.planning import Plan, Planned, Worst
from advbench.evidence.figures import figures, worst_of
from advbench.evidence.protocol import PROTOCOL, SCHEMA
from advbench.runtime.data import Environment
from advbench.store.records import Records
from advbench.suite.grid import Cell
from advbench.suite.model import THEN, Suite

FAILURES = ("failed", "timeout", "crashed")
"""Statuses that make a run end with exit code 1."""

ORIGIN = ("weights", "advbench_version", "plugin_versions", "torch_version", "device", "precision")


@dataclass(frozen=True)
class Collector:
    """Makes rows from the records of one run."""

    suite: Suite
    environment: Environment
    records: Records

    def rows(self, plan: Plan) -> list[dict[str, Any]]:
        """One row for every cell of the plan and one for every worst case."""
        rows = [self._row(one) for one in plan.cells]
        flagger = Flagger(self.environment, self.records)
        flagger.flag(plan.cells, rows)
        status = {row["cell_id"]: row["status"] for row in rows}
        rows += [self._worst_row(worst, status, flagger) for worst in plan.worst]
        _price(rows)
        return rows

    def _row(self, one: Planned) -> dict[str, Any]:
        row = self._identity(one)
        if one.cell.skip:
            return row | {"status": "skipped", "reason": one.cell.skip}
        record = self.records.get(one.cell_id)
        # A failure that this run remembers, or has just seen, may stand in no folder.
        record = record or one.record
        if record is None:
            return row | {"status": "skipped", "reason": "not computed: the run was stopped before"}
        row |= {"status": record.status, "reason": record.reason, **record.figures}
        if record.status == "ok" and self.suite.metrics:
            row |= self._metrics(one, str(record.figures["weights"]))
        return row

    def _metrics(self, one: Planned, weights: str) -> dict[str, float]:
        outcomes = self.records.outcomes(one.cell_id)
        row = {}
        for spec in self.suite.metrics:
            metric = instantiate(self.environment.plugins, spec)
            assert isinstance(metric, Metric)
            if metric.tags.examines:
                from advbench.runtime.examining import examined  # imports torch

                row[spec.id] = examined(self.environment, spec, one.cell, weights)
                continue
            arrays = (outcomes["target"], outcomes["clean_prediction"], outcomes["perturbed_prediction"])
            row[spec.id] = float(metric.measure(*arrays))
        return row

    def _worst_row(self, worst: Worst, status: Mapping[str, str], flagger: Flagger) -> dict[str, Any]:
        first = worst.members[0]
        row = self._identity(first)
        ids = [one.cell.perturbation.spec.id for one in worst.members if one.cell.perturbation.spec]
        row |= {
            "cell_id": worst.cell_id,
            "kind": "worst-case",
            "perturbation": worst.label,
            "perturbation_id": " + ".join(ids),
            "perturbation_params": canonical([one.cell.perturbation.label for one in worst.members]),
        }
        missing = [one.cell.perturbation.label for one in worst.members if status[one.cell_id] != "ok"]
        if missing:
            states = {status[one.cell_id] for one in worst.members}
            verdict = "failed" if states & set(FAILURES) else "skipped"
            return row | {"status": verdict, "reason": f"needs {', '.join(missing)}"}
        records = [record for one in worst.members if (record := self.records.get(one.cell_id)) is not None]
        merged = worst_of([self.records.outcomes(one.cell_id) for one in worst.members])
        card = first.card
        assert card is not None  # its cells have records
        figure = figures(merged, card.task, attack=True)
        figure["flags"] = flagger.worst(worst.members, figure["flags"])
        shared = {name: records[0].figures[name] for name in ORIGIN}
        return row | {"status": "ok", "reason": "", **figure, **shared}

    def _identity(self, one: Planned) -> dict[str, Any]:
        cell, suite = one.cell, self.suite
        model = cell.model.spec
        row = {
            "schema": SCHEMA,
            "protocol": PROTOCOL,
            "suite": suite.name,
            "cell_id": one.cell_id,
            "kind": "audit" if cell.audit else "cell",
            "dataset": cell.dataset.label,
            "dataset_id": cell.dataset.spec.id,
            "dataset_params": cell.dataset.spec.params,
            "fingerprint": one.card.fingerprint if one.card else None,
            "split": cell.dataset.split,
            "trained_on": cell.source.label,
            "adapted_to": None if cell.target is None else cell.target.label,
            "model": cell.model.label,
            "model_id": model.id,
            "model_params": model.params,
            "defense": cell.defense.label,
            "defense_id": " + ".join(spec.id for spec in cell.defense.specs) or "none",
            "defense_params": canonical([spec.parameters for spec in cell.defense.specs]),
            "perturbation": cell.perturbation.label,
            "knowledge": cell.knowledge,
            "targeted": False,
            "budget_passes": cell.budget,
            "seed": cell.seed,
        }
        return row | self._threat(cell)

    def _threat(self, cell: Cell) -> dict[str, Any]:
        spec = cell.perturbation.spec
        if spec is None:
            return {"perturbation_id": "none", "perturbation_params": "{}"}
        part = instantiate(self.environment.plugins, spec)
        assert isinstance(part, Perturbation)
        ball = part.constraint() if isinstance(part, Attack) else None
        smallest = part.norm_made_small() if isinstance(part, Attack) else None
        item = cell.perturbation
        params: dict[str, Any] = spec.parameters
        if item.before:
            params = {"then": [one.parameters for one in item.specs]}
        if item.transfer_from:
            params["transfer_from"] = [{"label": one.label, **one.spec.json()} for one in item.transfer_from]
        return {
            "perturbation_id": THEN.join(one.id for one in item.specs),
            "perturbation_params": canonical(params),
            "norm": ball.norm if ball else smallest,
            "strength": part.strength(),
            "strength_unit": part.strength_unit(),
            "size": part.tags.size or None,
            "targeted": isinstance(part, Attack) and part.goal != "untargeted",
        }


def _price(rows: list[dict[str, Any]]) -> None:
    """What each defense costs on unperturbed inputs, where the undefended network is among the rows."""
    axes = ("dataset", "model", "seed")
    undefended = {
        tuple(row[axis] for axis in axes): row["clean"]
        for row in rows
        if row["status"] == "ok" and row["defense_id"] == "none"
    }
    for row in rows:
        price = undefended.get(tuple(row[axis] for axis in axes))
        if price is not None and row["status"] == "ok" and row["defense_id"] != "none":
            lost = price - row["clean"]
            row["clean_price"] = -lost if row["metric"] == "sigma_mad" else lost
