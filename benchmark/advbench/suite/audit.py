"""``--audit``: the few cells that red flags need beside those of a suite.

An iterative gradient attack is believed once twice its steps change nothing, a budget without bounds leaves nothing,
and neither one step, nor noise, nor an attack without gradients does better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from advbench.components.base import Attack
from advbench.components.identity import Spec, instantiate, specify
from advbench.components.loader import Plugins
from advbench.errors import AdvbenchError
from advbench.suite.grid import Cell
from advbench.suite.model import PerturbationItem
from advbench.values import Budget, InputSpace

COMPANIONS = ("one-step", "noise", "black-box")
"""Roles of `Tags.audit`, in the order of their rows."""


@dataclass(frozen=True)
class Audit:
    """Cells to add, and what could not be added."""

    cells: tuple[Cell, ...] = ()
    notes: tuple[str, ...] = ()


def audit(cells: Sequence[Cell], plugins: Plugins, space_of: Callable[[Cell], InputSpace | None]) -> Audit:
    """Cells that tell whether the attacks of these cells can be believed, less those that are there already.

    For each data set, model, defense, seed and norm the untargeted iterative gradient attack with the most steps,
    and among these the largest budget, is checked. ``space_of`` is None where the data are not known yet.
    """
    auditor = _Auditor(plugins, space_of)
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        if not cell.skip and cell.knowledge in ("adaptive", "blackbox"):
            axes = (cell.dataset.label, cell.model.label, cell.defense.label, str(cell.seed))
            groups.setdefault(axes, []).append(cell)
    added = [found for group in groups.values() for found in auditor.added(group)]
    return Audit(tuple(added), tuple(auditor.notes))


def whole(space: InputSpace, norm: str) -> Budget | None:
    """The budget whose ball around any input holds every other input; None for a norm without such a number."""
    values = math.prod(space.shape)
    factor = {"linf": 1.0, "l2": math.sqrt(values), "l1": float(values)}.get(norm)
    if factor is None:
        return None
    widths = [(high - low) * factor for low, high in zip(space.lower, space.upper)]
    return Budget(tuple(widths[:1] if len(set(widths)) == 1 else widths))


def spans(eps: Budget, norm: str, space: InputSpace) -> bool:
    """Whether a ball of this size around any input holds every other input."""
    wanted = whole(space, norm)
    if wanted is None:
        return False
    count = max(len(eps.values), len(wanted.values))
    ours, theirs = _per_channel(eps, count), _per_channel(wanted, count)
    return all(a >= b * (1 - 1e-9) for a, b in zip(ours, theirs))


@dataclass
class _Auditor:
    plugins: Plugins
    space_of: Callable[[Cell], InputSpace | None]
    notes: dict[str, None] = field(default_factory=dict)  # a set in its order
    registered: dict[str, list[tuple[str, type[Attack]]]] = field(default_factory=dict)

    def added(self, group: Sequence[Cell]) -> Iterator[Cell]:
        """Cells to add for one defended network."""
        attacks = [(cell, attack) for cell in group if (attack := self._attack(cell)) is not None]
        there = {cell.perturbation.specs for cell in group if cell.knowledge == "adaptive"}
        references = _references(attacks)
        if attacks and not references:
            axes = group[0].labels
            where = " / ".join(axes[axis] for axis in ("dataset", "model", "defense"))
            self._note(f"nothing to compare for {where}: no iterative gradient attack with a budget")
        for norm, (cell, attack) in references.items():
            for name, spec in self._wanted(cell, attack, norm, attacks):
                if (spec,) not in there:
                    there.add((spec,))
                    item = PerturbationItem(f"{cell.perturbation.label}: {name}", spec)
                    yield replace(cell, perturbation=item, audit=True)

    def _attack(self, cell: Cell) -> Attack | None:
        part = instantiate(self.plugins, cell.perturbation.spec) if cell.perturbation.spec else None
        return part if isinstance(part, Attack) else None

    def _wanted(
        self, cell: Cell, attack: Attack, norm: str, others: Sequence[tuple[Cell, Attack]]
    ) -> Iterator[tuple[str, Spec]]:
        reference = cell.perturbation.spec
        assert reference is not None
        steps, eps = _size(attack)
        yield from self._changed(reference, "twice the steps", {"steps": 2 * steps})
        space = self.space_of(cell)
        limit = whole(space, norm) if space is not None else None
        if limit is not None:
            yield from self._changed(reference, "unbounded", _scaled(attack, limit))
        elif space is None:
            self._note(f"no unbounded attack on {cell.dataset.label} before its data are loaded")
        roles = {other.tags.audit for one, other in others if _comparable(one, other, norm, eps)}
        for role in COMPANIONS:
            if role not in roles:
                yield from self._companion(role, reference, norm, eps)

    def _companion(self, role: str, reference: Spec, norm: str, eps: Budget) -> Iterator[tuple[str, Spec]]:
        for name, cls in self._of_role(role):
            params = {"eps": eps.json(), **({"norm": norm} if "norm" in cls.model_fields else {})}
            if norm in cls.tags.norms and _accepts(cls, params):
                yield f"{role} {name.rpartition('/')[2]}", specify(self.plugins, "perturbation", name, params)
                return
        if role == "one-step":
            yield from self._changed(reference, "one step", {"steps": 1})
        else:
            self._note(f"no {role} attack for {norm} is registered")

    def _changed(self, reference: Spec, name: str, params: Mapping[str, Any]) -> Iterator[tuple[str, Spec]]:
        try:
            changed = {**reference.parameters, **params}
            yield name, specify(self.plugins, "perturbation", reference.id, changed)
        except ValidationError as error:
            self._note(f"{reference.id} cannot be run with {name}: {error.errors()[0]['msg']}")

    def _of_role(self, role: str) -> list[tuple[str, type[Attack]]]:
        """Registered attacks of a role, sorted by id; those that cannot be imported do not count."""
        if not self.registered:
            self.registered = {role: [] for role in COMPANIONS}
            for entry in self.plugins.registry():
                if entry.kind != "perturbation":
                    continue
                try:
                    cls = entry.load()
                except AdvbenchError:  # an optional library that is not there
                    continue
                if issubclass(cls, Attack) and cls.tags.audit:
                    self.registered[cls.tags.audit].append((entry.id, cls))
        return self.registered[role]

    def _note(self, text: str) -> None:
        self.notes[f"audit: {text}"] = None


def _accepts(cls: type[Attack], params: Mapping[str, Any]) -> bool:
    try:
        cls(**params)
    except ValidationError:  # it has no budget, or wants more to be given
        return False
    return True


def _references(attacks: Sequence[tuple[Cell, Attack]]) -> dict[str, tuple[Cell, Attack]]:
    """The attack to be checked for each norm; the first of those that are equally large."""
    found: dict[str, tuple[Cell, Attack]] = {}
    for cell, attack in attacks:
        ball = attack.constraint()
        if ball is None or not _is_reference(cell, attack):
            continue
        best = found.get(ball.norm)
        if best is None or _rank(attack) > _rank(best[1]):
            found[ball.norm] = (cell, attack)
    return found


def _is_reference(cell: Cell, attack: Attack) -> bool:
    tags = attack.tags
    weak = tags.universal or tags.minimum_norm or tags.audit
    plain = (
        cell.knowledge == "adaptive"
        and attack.goal == "untargeted"
        and attack.mask is None
        and len(cell.perturbation.specs) == 1
    )
    steps = getattr(attack, "steps", None)
    return (
        plain
        and tags.needs_gradient
        and not weak
        and isinstance(steps, int)
        and max(_size(attack)[1].values) > 0
    )


def _size(attack: Attack) -> tuple[int, Budget]:
    ball = attack.constraint()
    assert ball is not None
    return int(getattr(attack, "steps")), ball.eps  # noqa: B009 - a field of the subclass


def _rank(attack: Attack) -> tuple[int, tuple[float, ...]]:
    steps, eps = _size(attack)
    return steps, eps.values


def _comparable(cell: Cell, attack: Attack, norm: str, eps: Budget) -> bool:
    """Whether a cell has exactly this threat model."""
    ball = attack.constraint()
    if ball is None or len(cell.perturbation.specs) > 1:
        return False
    return (ball.norm, ball.eps, attack.goal, attack.mask) == (norm, eps, "untargeted", None)


def _scaled(attack: Attack, limit: Budget) -> dict[str, Any]:
    """Parameters of the attack with another budget; step lengths that were given keep their share of it."""
    eps = _size(attack)[1]
    lengths = {name: getattr(attack, name) for name in type(attack).model_fields}
    changed: dict[str, Any] = {}
    for name, value in lengths.items():
        if isinstance(value, Budget) and name != "eps":
            count = max(len(one.values) for one in (value, eps, limit))
            triples = zip(*(_per_channel(one, count) for one in (value, limit, eps)))
            changed[name] = [length * wide / narrow if narrow else wide for length, wide, narrow in triples]
    return {**changed, "eps": limit.json()}


def _per_channel(budget: Budget, count: int) -> tuple[float, ...]:
    return budget.values * (count if len(budget.values) == 1 else 1)
