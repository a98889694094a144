"""What a run will do: every row of the leaderboard before it is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from advbench.components.base import Attack, Component
from advbench.components.identity import Spec, canonical, digest, instantiate
from advbench.components.registry import last_words
from advbench.errors import AdvbenchError, UserError
from advbench.runtime.data import Card, Environment, known_card, load
from advbench.runtime.identify import cell_id, training_defenses
from advbench.store.records import Record, Records
from advbench.suite.audit import Audit, audit
from advbench.suite.grid import Cell, Grid
from advbench.suite.model import DatasetItem
from advbench.values import Classification, InputSpace, task_name


@dataclass(frozen=True)
class Options:
    """How to run, apart from what to run."""

    store: Path
    out: Path
    data_dirs: tuple[Path, ...] = ()
    plugins_dirs: tuple[Path, ...] = ()
    only: tuple[Mapping[str, str], ...] = ()
    download: bool = False
    device: str = "auto"
    engine: str = "serial"
    workers: int = 1
    batch: int = 256
    cell_seconds: float | None = None
    keep_inputs: int = 0
    retry_failed: bool = False
    fail_fast: bool = False
    audit: bool = False


@dataclass(frozen=True)
class Planned:
    """A cell with its id and what is known of it before the run."""

    cell_id: str
    cell: Cell
    record: Record | None = None  # a valid earlier record
    card: Card | None = None  # what is known of its data set


@dataclass(frozen=True)
class Worst:
    """A worst-case row: the attacks of one threat model, sample by sample."""

    cell_id: str
    norm: str
    eps: Any
    members: tuple[Planned, ...]
    rest: str = (
        ""  # of the threat model: goal, mask, what came before; "" for untargeted attacks on the whole input
    )

    @property
    def label(self) -> str:
        """``"worst of 2"``, ``"worst of 2 (up)"``: what the leaderboard calls it."""
        return f"worst of {len(self.members)}" + (f" ({self.rest})" if self.rest else "")


@dataclass(frozen=True)
class Plan:
    """What a run will do: every row of the leaderboard before it is computed."""

    grid: Grid
    cells: tuple[Planned, ...]
    worst: tuple[Worst, ...]
    jobs: tuple[tuple[str, tuple[Planned, ...]], ...]
    unknown_data: tuple[str, ...]  # labels of data sets that have not been loaded yet
    notes: tuple[str, ...] = ()  # what an audit cannot look at

    @property
    def rows(self) -> int:
        """Rows of the leaderboard."""
        return len(self.cells) + len(self.worst)

    @property
    def pending(self) -> int:
        """Cells to be computed."""
        return sum(len(cells) for _, cells in self.jobs)


Cards = dict[tuple[Spec, Spec | None], Card | str]


@dataclass(frozen=True)
class Planner:
    """Finds out what is known, what is missing and what does not fit."""

    grid: Grid
    options: Options
    environment: Environment
    records: Records

    def cards(self, load_data: bool) -> Cards:
        """What is known of every data set; a text says why one cannot be read. Loads only what it may."""
        pairs: dict[tuple[Spec, Spec | None], str] = {}
        for cell in self.cells():
            if not cell.skip:
                pairs[cell.source.spec, None] = cell.source.label
                pairs[cell.dataset.spec, cell.source_spec] = cell.dataset.label
                if cell.target is not None:
                    pairs[cell.target.spec, cell.source.spec] = cell.target.label
        cards: Cards = {}
        for (spec, source), label in pairs.items():
            card = known_card(self.environment, spec, source)
            if card is None and load_data:
                cards[spec, source] = self._load(spec, source, label)
            elif card is not None:
                cards[spec, source] = card
        return cards

    def _load(self, spec: Spec, source: Spec | None, label: str) -> Card | str:
        try:
            card = load(self.environment, spec, source)[1]
        except AdvbenchError as error:
            return f"data: {error}"
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the cell boundary of all cells of this data set
            return f"data: {last_words(error)}"
        for note in card.notes:
            self.environment.emit({"event": "note", "text": f"{label}: {note}"})
        return card

    def cells(self) -> list[Cell]:
        """The cells of the grid that ``--only`` selects."""
        only = self.options.only
        return [
            cell for cell in self.grid.cells if not only or any(cell.matches(patterns) for patterns in only)
        ]

    def plan(self, load_data: bool) -> Plan:
        """Ids, earlier records, jobs. With ``load_data=False`` nothing is loaded and no network built."""
        cards = self.cards(load_data)
        cells = self.cells()
        if not cells:
            raise UserError("--only selects no cell; `advbench plan` shows the labels")
        added = self._audit(cells, cards) if self.options.audit else Audit()
        planned = [self._planned(cell, cards) for cell in [*cells, *added.cells]]
        names = {item.label: (item.spec, _source(self.grid, item)) for item in self.grid.suite.datasets}
        unknown = tuple(label for label, key in names.items() if key not in cards)
        jobs: dict[str, list[Planned]] = {}
        for one in planned:
            if not one.cell.skip and one.record is None:
                jobs.setdefault(self._job_name(one.cell), []).append(one)
        grouped = tuple((name, tuple(group)) for name, group in jobs.items())
        return Plan(self.grid, tuple(planned), tuple(self._worst(planned)), grouped, unknown, added.notes)

    def _audit(self, cells: Sequence[Cell], cards: Cards) -> Audit:
        def space_of(cell: Cell) -> InputSpace | None:
            card = _known(cards, cell)
            return None if card is None else card.space

        fitting = [cell for cell in cells if not self._unsupported(cell, _known(cards, cell))]
        added = audit(fitting, self.environment.plugins, space_of)
        left_out = self.grid.suite.exclude
        reasons = [
            next((one.reason for one in left_out if cell.matches(one.patterns)), "") for cell in added.cells
        ]
        return replace(added, cells=tuple(map(_skipped, added.cells, reasons)))

    def _planned(self, cell: Cell, cards: Cards) -> Planned:
        card = cards.get((cell.dataset.spec, cell.source_spec))
        source = cards.get((cell.source.spec, None))
        target = None if cell.target is None else cards.get((cell.target.spec, cell.source.spec))
        known, origin, other = (one if isinstance(one, Card) else None for one in (card, source, target))
        name = cell_id(self.environment, cell, known, origin, other)
        if cell.skip:
            return Planned(name, cell, card=known)
        trouble = next((one for one in (source, card, target) if isinstance(one, str)), None)
        if trouble is not None:
            return Planned(name, cell, Record(name, "failed", trouble, {}), known)
        reason = (
            self._unsupported(cell, known) or _missing_split(cell, known) or _other_task(cell, known, origin)
        )
        if reason:
            return Planned(name, _skipped(cell, reason), card=known)
        complete = known is not None and origin is not None and (other is not None or cell.target is None)
        record = self.records.get(name) if complete else None
        return Planned(name, cell, record if self._reusable(name, record) else None, known)

    def _reusable(self, name: str, record: Record | None) -> bool:
        if record is None or (record.status != "ok" and self.options.retry_failed):
            return False
        if record.status == "timeout":  # a limit is no part of what a cell is
            return self.options.cell_seconds is not None
        kept = self.options.out / "inputs" / f"{name}.npz"
        return record.status != "ok" or not self.options.keep_inputs or kept.is_file()

    def _unsupported(self, cell: Cell, card: Card | None) -> str:
        if card is None:
            return ""
        surrogates = [one.spec for one in cell.perturbation.transfer_from]
        for spec in (cell.model.spec, *surrogates, *cell.defense.specs, *cell.perturbation.specs):
            part = self._component(spec)
            fits = task_name(card.task) in part.tags.tasks
            reason = part.supports(card.space, card.task) if fits else f"not for {task_name(card.task)}"
            if reason:
                return f"{spec.id}: {reason}"
        return ""

    def _component(self, spec: Spec) -> Component:
        return instantiate(self.environment.plugins, spec)

    def _job_name(self, cell: Cell) -> str:
        trained = [spec.json() for spec in training_defenses(self.environment, cell)]
        assert cell.model.spec is not None
        target = [cell.target.spec.json()] if trained and cell.target else []
        key = digest([cell.source.spec.json(), cell.model.spec.json(), trained, cell.seed, *target], 8)
        return f"{cell.model.label}-{cell.source.label}-{key}".replace("/", "-").replace(" ", "-")

    def _worst(self, planned: Sequence[Planned]) -> list[Worst]:
        """Groups of at least two attacks of the same threat model on the same defended network."""
        groups: dict[str, list[Planned]] = {}
        balls, rests = {}, {}
        for one in planned:
            attack = self._component(one.cell.perturbation.spec) if one.cell.perturbation.spec else None
            if not isinstance(attack, Attack) or one.cell.skip or one.cell.audit:
                continue
            ball = attack.constraint()
            if ball is not None:
                labels = {**one.cell.labels, "perturbation": ""}
                aims = attack.model_dump(mode="json", include={"goal", "mask"})
                shift = [spec.json() for spec in one.cell.perturbation.before]
                key = canonical([labels, ball.norm, ball.eps.json(), aims, shift])
                groups.setdefault(key, []).append(one)
                balls[key], rests[key] = ball, _rest(aims, one.cell.perturbation.before)
        return [
            Worst(
                digest(["worst-case", [one.cell_id for one in group]]),
                balls[key].norm,
                balls[key].eps.json(),
                tuple(group),
                rests[key],
            )
            for key, group in groups.items()
            if len(group) > 1
        ]


def _rest(aims: Mapping[str, Any], before: Sequence[Spec]) -> str:
    """In words what else than norm and size makes a threat model."""
    goal, mask = aims["goal"], aims["mask"]
    words = [str(goal)] if isinstance(goal, str) else [f"class {goal}"]
    words = [] if goal == "untargeted" else words
    words += ["masked"] if mask else []
    words += [f"after {' + '.join(spec.id for spec in before)}"] if before else []
    return ", ".join(words)


def _known(cards: Cards, cell: Cell) -> Card | None:
    card = cards.get((cell.dataset.spec, cell.source_spec))
    return card if isinstance(card, Card) else None


def _source(grid: Grid, item: DatasetItem) -> Spec | None:
    if not item.train_on:
        return None
    return next(other.spec for other in grid.suite.datasets if other.label == item.train_on)


def _skipped(cell: Cell, reason: str) -> Cell:
    return replace(cell, skip=reason)


def _other_task(cell: Cell, card: Card | None, source: Card | None) -> str:
    """Why a network of the training data set cannot be evaluated on this one, or an empty string."""
    if card is None or source is None or card.task == source.task:
        return ""
    if task_name(card.task) != task_name(source.task) or card.task.outputs != source.task.outputs:
        return (
            f"{cell.dataset.label} has another task than {cell.source.label}, which the network is trained on"
        )
    if isinstance(card.task, Classification) and isinstance(source.task, Classification):
        classes = ", ".join(card.task.classes), ", ".join(source.task.classes)
        return f"{cell.dataset.label} has the classes {classes[0]}, but the network knows {classes[1]}"
    return ""


def _missing_split(cell: Cell, card: Card | None) -> str:
    if card is None or cell.dataset.split in card.sizes:
        return ""
    return f"{cell.dataset.label} has no split {cell.dataset.split!r}; it has {', '.join(card.sizes)}"
