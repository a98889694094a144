"""What a plan will cost: networks to train, passes to spend. Nothing is loaded and no network is built."""

from __future__ import annotations

from dataclasses import dataclass

from advbench.components.base import Attack, Component, Defense
from advbench.components.identity import Spec, instantiate
from advbench.components.recipe import Recipe
from advbench.display.base import Outlook
from advbench.engines.planning import Plan, Planned
from advbench.runtime.data import Card, Environment, known_card
from advbench.runtime.identify import (
    adaptation_target,
    member_cells,
    network_identity,
    surrogate_cell,
    training_defenses,
)
from advbench.suite.grid import Cell
from advbench.values import Regression

JUDGING = 2
"""Forward passes per sample by which the harness judges a cell, before and after the perturbation."""

UNSAID = 50
"""Passes per sample that the remaining time assumes for an attack that does not say how many it spends."""


@dataclass(frozen=True)
class Network:
    """A network that the plan needs; ``status`` is ``train``, ``cached`` or ``given`` (it comes with weights)."""

    label: str
    status: str


@dataclass(frozen=True)
class Spending:
    """Forward plus backward passes of one cell that is to be computed.

    ``attack`` is the most that its attack spends on all samples together, 0 if it shares the perturbed inputs of
    another cell, None if the attack does not say or the number of samples is not known yet.
    """

    label: str
    samples: int | None
    attack: int | None


def networks(plan: Plan, environment: Environment) -> list[Network]:
    """Every network that a cell to be computed needs, once."""
    found: dict[tuple[object, ...], Network] = {}
    for cell in (one.cell for _, group in plan.jobs for one in group):
        others = [(surrogate_cell(cell, one), ()) for one in cell.perturbation.transfer_from]
        for trained, defenses in [*_trainings(environment, cell), *others]:
            target = trained.target if adaptation_target(environment, trained, defenses) else None
            key = (trained.source.spec, trained.model.spec, defenses, trained.seed, target)
            if key not in found:
                found[key] = _network(environment, trained, defenses)
    return list(found.values())


def _trainings(environment: Environment, cell: Cell) -> list[tuple[Cell, tuple[Spec, ...]]]:
    """The networks of a cell, with their training-time defenses: an oblivious attack needs the undefended one, too."""
    defenses = training_defenses(environment, cell)
    parts = [instantiate(environment.plugins, spec) for spec in cell.defense.specs]
    found = [(one, defenses) for one in member_cells(cell, parts) or [cell]]
    return [*found, (cell, ())] if defenses and cell.knowledge == "oblivious" else found


def _network(environment: Environment, cell: Cell, defenses: tuple[Spec, ...]) -> Network:
    assert cell.model.spec is not None
    model = instantiate(environment.plugins, cell.model.spec)
    defended = f" + {cell.defense.label}" if defenses else ""
    label = f"{cell.model.label} on {cell.source.label}{defended}, seed {cell.seed}"
    trained = isinstance(getattr(model, "recipe", None), Recipe) and not model.files(environment.data_dirs)
    if not trained and not defenses:
        return Network(label, "given")
    card, target = known_card(environment, cell.source.spec, None), None
    if cell.target is not None and adaptation_target(environment, cell, defenses):
        target = known_card(environment, cell.target.spec, cell.source.spec)
        label = f"{label}, adapted to {cell.target.label}"
        card = card if target is not None else None
    if card is None:
        return Network(label, "train")
    made_from = network_identity(environment, cell, card, defenses, target)
    return Network(label, "cached" if environment.store.find("network", made_from) else "train")


def sizes(plan: Plan, environment: Environment) -> dict[str, int | None]:
    """Samples of each data set that is evaluated; None where only loading it tells."""
    found: dict[str, int | None] = {}
    for one in plan.cells:
        if not one.cell.skip and one.cell.dataset.label not in found:
            card = known_card(environment, one.cell.dataset.spec, one.cell.source_spec)
            found[one.cell.dataset.label] = _samples(one.cell, card)
    return found


def regressions(plan: Plan, environment: Environment) -> set[str]:
    """Labels of the data sets whose task is no classification, as far as their card or their tags say so."""
    found = set()
    for cell in (one.cell for one in plan.cells):
        card = known_card(environment, cell.dataset.spec, cell.source_spec)
        component = _component(environment, cell.dataset.spec)
        kinds = component.tags.tasks if component is not None else ()
        if isinstance(card.task, Regression) if card is not None else "classification" not in kinds:
            found.add(cell.dataset.label)
    return found


def spending(plan: Plan, environment: Environment) -> list[Spending]:
    """What each cell to be computed costs, in the order in which they are computed."""
    crafted: set[tuple[object, ...]] = set()
    costs = []
    for job, group in plan.jobs:
        for one in group:
            key = (job, *_crafting(one.cell))
            costs.append(_spending(one, environment, shared=key in crafted))
            crafted.add(key)
    return costs


def _crafting(cell: Cell) -> tuple[object, ...]:
    """Equal for cells of a job that share their perturbed inputs."""
    attacked = () if cell.knowledge in ("oblivious", "transfer") else cell.defense.specs
    return (cell.dataset.label, cell.perturbation, cell.seed, attacked, cell.knowledge == "blackbox")


def _spending(one: Planned, environment: Environment, shared: bool) -> Spending:
    cell = one.cell
    card = known_card(environment, cell.dataset.spec, cell.source_spec)
    samples = _samples(cell, card)
    attack = _component(environment, cell.perturbation.spec)
    if shared or not isinstance(attack, Attack):
        return Spending(cell.label, samples, 0)
    most = attack.passes()
    if most is not None and cell.knowledge not in ("oblivious", "transfer"):
        times = _times(environment, cell)
        most = None if times is None else most * times
    if cell.budget is not None:
        most = cell.budget if most is None else min(most, cell.budget)
    return Spending(cell.label, samples, most * samples if most is not None and samples is not None else None)


def _times(environment: Environment, cell: Cell) -> int | None:
    """Passes of the network in one pass of the pipeline, at most; None where only a run tells."""
    times = 1
    for spec in cell.defense.specs:
        defense = _component(environment, spec)
        assert isinstance(defense, Defense)
        if defense.tags.wraps or defense.tags.detects:
            return None
        if defense.tags.purifies and defense.tags.stochastic:
            times = max(times, defense.draws)
    return times


def _samples(cell: Cell, card: Card | None) -> int | None:
    if card is None or cell.dataset.split not in card.sizes:
        return cell.dataset.limit
    return card.count(cell.dataset.split, cell.dataset.limit)


def _component(environment: Environment, spec: Spec | None) -> Component | None:
    return instantiate(environment.plugins, spec) if spec is not None else None


def outlook(plan: Plan, environment: Environment) -> Outlook:
    """What the display may know before the run."""
    costs = {}
    for one in spending(plan, environment):
        samples = one.samples or 1
        costs[one.label] = float(samples * JUDGING + (samples * UNSAID if one.attack is None else one.attack))
    seeds = plan.grid.suite.seeds
    trainings = sum(network.status == "train" for network in networks(plan, environment))
    return Outlook(costs, trainings, f" / seed {seeds[0]}" if len(seeds) == 1 else "")
