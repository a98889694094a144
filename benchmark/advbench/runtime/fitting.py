"""Defenses put around the networks of a cell: what they learn, their thresholds, the networks that they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from advbench.components.base import Defense
from advbench.errors import PluginError
from advbench.runtime.detection import Guard, calibrated, learned
from advbench.runtime.identify import member_cells, training_defenses
from advbench.runtime.pipeline import Pipeline
from advbench.runtime.prepare import Prepared
from advbench.suite.grid import Cell

if TYPE_CHECKING:
    from advbench.runtime.bench import Bench

LEARNED_FROM = 2000
"""Most samples that a defense learns from."""


def members(bench: Bench, cell: Cell, defenses: Sequence[Defense]) -> tuple[Prepared, ...]:
    """The independently trained networks that a defense asks for; none if one network is enough."""
    trained = training_defenses(bench.environment, cell)
    return tuple(bench.network(one, trained) for one in member_cells(cell, defenses))


def defend(bench: Bench, cell: Cell, bare: Pipeline, defenses: Sequence[Defense]) -> Pipeline:
    """The network behind those defenses that purify or wrap; what they learn is learned once."""
    around = tuple(one for one in defenses if one.tags.purifies or one.tags.wraps)
    networks = tuple(one.network for one in members(bench, cell, defenses))
    pipeline = replace(bare, defenses=around, members=networks)
    for place in [place for place, one in enumerate(around) if one.tags.wraps and one.tags.learns]:
        behind = replace(pipeline, defenses=around[place + 1 :])
        known = {**pipeline.learned, place: _learned(bench, cell, around[place], behind)}
        pipeline = replace(pipeline, learned=known)
    return pipeline


def guard(bench: Bench, cell: Cell, judged: Pipeline, defenses: Sequence[Defense]) -> Guard | None:
    """The detector among the defenses, calibrated once on the clean calibration split.

    Raises
    ------
    PluginError
        If the data set has no such split.
    """
    detector = next(
        (one for one in defenses if one.tags.detects), None
    )  # the grid lets no second one through
    if detector is None:
        return None
    key = ("guard", _name(detector), cell.dataset.spec, cell.source_spec, *_owner(cell, judged))
    if key not in bench.memo:
        data, _ = bench.dataset(cell.dataset.spec, cell.source_spec)
        if not len(data.splits.get("calibration", ())):
            raise PluginError(f"{type(detector).__name__} needs a split 'calibration' to set its threshold")
        known = _learned(bench, cell, detector, judged) if detector.tags.learns else {}
        calibration = bench.evaluated(cell, "calibration", None).of_known_class()
        # The pipeline is kept with what it gave: no later one can have its place in memory.
        bench.memo[key] = (judged, calibrated(detector, judged, calibration, cell.seed, known))
    found: Guard = bench.memo[key][1]
    return found


def adaptive_loss(defenses: Sequence[Defense]) -> str | None:
    """The loss that the defenses ask an adaptive attack to use, if any does."""
    return next((one.adaptive_loss for one in defenses if one.adaptive_loss is not None), None)


def _learned(bench: Bench, cell: Cell, defense: Defense, pipeline: Pipeline) -> Mapping[str, Tensor]:
    key = ("learned", _name(defense), cell.source.spec, *_owner(cell, pipeline))
    if key not in bench.memo:
        data, _ = bench.dataset(cell.source.spec, None)
        if not len(data.splits.get("train", ())):
            raise PluginError(
                f"{type(defense).__name__} learns from a split 'train', which the data set lacks"
            )
        count = min(LEARNED_FROM, len(data.splits["train"]))
        samples = bench.evaluated(replace(cell, dataset=cell.source), "train", count)
        bench.memo[key] = (pipeline, learned(defense, pipeline, samples, cell.seed))
    found: Mapping[str, Tensor] = bench.memo[key][1]
    return found


def _name(defense: Defense) -> tuple[type[Defense], str]:
    return type(defense), defense.model_dump_json()


def _owner(cell: Cell, pipeline: Pipeline) -> tuple[object, ...]:
    networks = (pipeline.network, *pipeline.members)
    return (*map(id, networks), repr(pipeline.defenses), cell.seed)
