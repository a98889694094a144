"""Names for networks and cells: hashes of everything that decides their numbers, and of nothing else.

Engine, device, batch size, paths, file names and time never enter. Weights that are given enter by the content of
their file, weights that are trained by everything that goes into the training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
from typing import Any

from advbench.components.base import Component, Defense
from advbench.components.identity import Spec, digest, instantiate, specify
from advbench.evidence.protocol import DTYPE, PROTOCOL
from advbench.runtime.contents import by_content
from advbench.runtime.data import Card, Environment
from advbench.suite.grid import Cell
from advbench.suite.model import NONE, DefenseItem, Item, Surrogate

MEMBERS_APART = 1000
"""Between the seeds of the networks of an ensemble: those of a suite's seeds 0, 1, 2 share none."""


def component(environment: Environment, spec: Spec) -> Component:
    """The component of a spec."""
    return instantiate(environment.plugins, spec)


def identity(environment: Environment, spec: Spec) -> dict[str, Any]:
    """A component with its parameters, its version and the content of its files."""
    return by_content(spec, component(environment, spec), environment.data_dirs, environment.store)


def training_defenses(environment: Environment, cell: Cell) -> tuple[Spec, ...]:
    """The defenses of a cell that replace the training."""
    return tuple(spec for spec in cell.defense.specs if _trains(environment, spec))


def _trains(environment: Environment, spec: Spec) -> bool:
    defense = component(environment, spec)
    return isinstance(defense, Defense) and defense.tags.trains


def adaptation_target(environment: Environment, cell: Cell, defenses: tuple[Spec, ...]) -> str:
    """What a training by these defenses sees of the cell's target data set: "", "unlabelled" or "labelled"."""
    if cell.target is None:
        return ""
    found = (component(environment, spec).tags.adapts for spec in defenses)
    return next((adapts for adapts in found if adapts), "")


def network_identity(
    environment: Environment, cell: Cell, source: Card, defenses: tuple[Spec, ...], target: Card | None = None
) -> dict[str, Any]:
    """Everything that decides a network; ``target`` is the card of the data set that it is adapted to."""
    adapts, adapted = adaptation_target(environment, cell, defenses), {}
    if adapts and target is not None:
        seen = target.fingerprint if adapts == "labelled" else target.unlabelled
        adapted = {"adapted_to": [adapts, seen, target.augment]}
    return {
        **adapted,
        "protocol": PROTOCOL,
        "torch": metadata.version("torch").split("+")[0],
        "model": identity(environment, cell.model.spec),
        "defenses": [_defense_identity(environment, spec) for spec in defenses],
        "trained_on": source.fingerprint,
        "augment": source.augment,
        "seed": cell.seed,
    }


def member_cells(cell: Cell, defenses: Iterable[Component]) -> list[Cell]:
    """The cells whose networks a defense asks for, the first being that of the cell; none where one is enough."""
    count = max((one.networks for one in defenses if isinstance(one, Defense)), default=1)
    return [replace(cell, seed=cell.seed + MEMBERS_APART * i) for i in range(count)] if count > 1 else []


def _defense_identity(environment: Environment, spec: Spec) -> dict[str, Any]:
    """A defense, and the perturbations that its training uses."""
    defense = component(environment, spec)
    assert isinstance(defense, Defense)
    used = [specify(environment.plugins, "perturbation", one.use, one.params) for one in defense.uses()]
    own = identity(environment, spec)
    return {**own, "uses": [identity(environment, one) for one in used]} if used else own


def surrogate_cell(cell: Cell, surrogate: Surrogate) -> Cell:
    """The undefended cell whose network a transfer attack is crafted on."""
    seed = cell.seed if surrogate.seed is None else surrogate.seed
    undefended = DefenseItem(NONE, ())
    model = Item(surrogate.label, surrogate.spec)
    return replace(cell, model=model, defense=undefended, seed=seed, target=None)


def cell_id(
    environment: Environment, cell: Cell, card: Card | None, source: Card | None, target: Card | None = None
) -> str:
    """The cell's id. Data that could not be read have no fingerprint; their cells can only fail."""
    network, surrogates = None, []
    if source is not None:
        network = network_identity(environment, cell, source, training_defenses(environment, cell), target)
        others = [surrogate_cell(cell, one) for one in cell.perturbation.transfer_from]
        surrogates = [network_identity(environment, one, source, ()) for one in others]
    perturbation = [identity(environment, spec) for spec in cell.perturbation.specs]
    return digest(
        {
            "protocol": PROTOCOL,
            "dtype": DTYPE,
            "dataset": cell.dataset.spec.json() if card is None else None,
            "fingerprint": card.fingerprint if card else None,
            "split": cell.dataset.split,
            "n": _count(cell, card),
            "network": network if network else cell.model.spec.json(),
            "defenses": [identity(environment, spec) for spec in cell.defense.specs],
            "perturbation": perturbation,
            "transfer_from": surrogates,
            "knowledge": cell.knowledge,
            "budget": cell.budget,
            "seed": cell.seed,
            # Named only where it is another one than that of the judge.
            **({} if cell.attack_precision == DTYPE else {"attack_precision": cell.attack_precision}),
        }
    )


def _count(cell: Cell, card: Card | None) -> int | None:
    if card is None or cell.dataset.split not in card.sizes:
        return cell.dataset.limit
    return card.count(cell.dataset.split, cell.dataset.limit)
