"""Metrics of networks: each is computed once for the weights that it speaks of."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import torch

from advbench.components.base import Defense, Metric
from advbench.components.identity import Spec
from advbench.errors import AdvbenchError
from advbench.runtime.data import Environment, load
from advbench.runtime.identify import (
    adaptation_target,
    component,
    identity,
    member_cells,
    network_identity,
    training_defenses,
)
from advbench.runtime.prepare import Kitchen
from advbench.store.files import write_json
from advbench.suite.grid import Cell

VALUE = "value.json"


def examined(environment: Environment, spec: Spec, cell: Cell, weights: str) -> float:
    """What a metric says of the network of a cell with these weights; NaN for several networks, or for none at hand.

    A network that is no longer in the store is not trained again for this.
    """
    defenses = [component(environment, one) for one in cell.defense.specs]
    if member_cells(cell, [one for one in defenses if isinstance(one, Defense)]):
        return math.nan
    made_from = {"metric": identity(environment, spec), "weights": weights}
    try:
        folder = environment.store.obtain("metric", made_from, partial(_examine, environment, spec, cell))
    except _NotAtHand:
        return math.nan
    value = json.loads((folder / VALUE).read_text(encoding="utf-8"))["value"]
    return math.nan if value is None else float(value)


class _NotAtHand(AdvbenchError):
    """The network is not in the store."""


def _examine(environment: Environment, spec: Spec, cell: Cell, folder: Path) -> None:
    metric = component(environment, spec)
    assert isinstance(metric, Metric)
    data, card = load(environment, cell.source.spec, None)
    trained = training_defenses(environment, cell)
    model = component(environment, cell.model.spec)
    given = not trained and model.files(environment.data_dirs)
    adapts = cell.target is not None and adaptation_target(environment, cell, trained)
    other = load(environment, cell.target.spec, cell.source.spec) if cell.target and adapts else None
    made_from = network_identity(environment, cell, card, trained, other[1] if other else None)
    if not given and environment.store.find("network", made_from) is None:
        raise _NotAtHand(cell.model.label)
    kitchen = Kitchen(environment, data, card, torch.device("cpu"), torch.get_num_threads(), other)
    value = float(metric.examine(kitchen.prepare(cell, trained).network, data.space))
    write_json(folder / VALUE, {"value": value if math.isfinite(value) else None})
