"""Rows of attacks against each other, sample by sample: which of them show that another is too weak to be believed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.exact import sign_test
from advbench.evidence.flags import ALPHA
from advbench.evidence.statistics import wilson

LEAST = math.ceil(-math.log2(ALPHA))
"""Samples by which one row must be ahead before a sign test can be significant."""

Successes = Callable[[], "NDArray[np.bool_]"]


@dataclass(frozen=True)
class Entry:
    """A row of an attack as comparisons see it. Rows of equal ``group`` and ``threat`` have the same samples."""

    row: Mapping[str, Any]
    successes: Successes  # which samples it fools, bool (n,); asked only where it decides
    group: str  # data, model, defense, seed
    threat: str  # norm, goal, mask, corruptions before: all of the threat model but its size
    attack: str  # id and parameters but for steps and sizes
    role: str = ""  # "noise", "one-step" or "black-box", see `Tags.audit`
    needs_gradient: bool = True
    steps: int | None = None  # None also for what is weak by nature, such as one change for all inputs
    eps: tuple[float, ...] | None = None
    unbounded: bool = False  # its budget spans the whole range of the bounds
    chance: float | None = None  # accuracy of guessing, None where the task has none

    @property
    def knowledge(self) -> str:
        """Its knowledge."""
        return str(self.row["knowledge"])

    @property
    def name(self) -> str:
        """Its cell id."""
        return str(self.row["cell_id"])

    @property
    def iterative(self) -> bool:
        """Whether it is an iterative gradient attack on the defended network, the only kind that none may beat."""
        return (
            self.needs_gradient
            and not self.role
            and self.knowledge == "adaptive"
            and self.steps is not None
            and self.steps > 1
            and self.eps is not None
        )

    @property
    def claim(self) -> str:
        """The flag of an iterative attack that this one beats, or an empty string."""
        if self.knowledge == "oblivious":
            return "oblivious-beats-adaptive"
        if self.role == "noise":
            return "noise-beats-attack"
        if self.role == "black-box" or not self.needs_gradient or self.knowledge in ("blackbox", "transfer"):
            return "black-box-beats-white-box"
        return "one-step-beats-iterative" if self.role == "one-step" or self.steps == 1 else ""


def compare(entries: Sequence[Entry]) -> dict[str, set[str]]:
    """Flags that rows raise against each other, by cell id."""
    found: dict[str, set[str]] = defaultdict(set)
    for group in _split(entries, lambda entry: entry.group):
        for entry in _oblivious_only(group):
            found[entry.name].add("oblivious-only")
        for rivals in _split(group, lambda entry: entry.threat):
            useless = {entry.attack for entry in rivals if _resists_everything(entry)}
            for entry in rivals:
                if entry.knowledge == "adaptive" and any(_twin_wins(entry, rival) for rival in rivals):
                    found[entry.name].add("oblivious-beats-adaptive")
                if not entry.iterative:
                    continue
                found[entry.name] |= {flag for rival in rivals for flag in _against(entry, rival)}
                if entry.attack in useless:
                    found[entry.name].add("unbounded-eps")
    return dict(found)


def inherited(members: Mapping[str, set[str]], entries: Sequence[Entry]) -> set[str]:
    """Comparison flags of a worst-case row: those of all its members, or of all iterative attacks among them.

    A weak member does not matter beside a better one, but what casts doubt on all of them does.
    """
    shared: set[str] = set()
    for some in (entries, [entry for entry in entries if entry.iterative]):
        if some:
            shared |= set.intersection(*(members.get(entry.name, set()) for entry in some))
    return shared


def _split(entries: Iterable[Entry], key: Callable[[Entry], str]) -> list[list[Entry]]:
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return list(groups.values())


def _oblivious_only(group: Sequence[Entry]) -> list[Entry]:
    """Rows of attacks that did not know the defense, where no row of the same attack, or none at all, did."""
    adapted = {entry.row["perturbation"] for entry in group if entry.knowledge == "adaptive"}
    if not adapted:  # a transferred attack or a black box knows nothing of the defense either
        return [
            entry for entry in group if entry.knowledge == "oblivious" or entry.row["defense_id"] != "none"
        ]
    oblivious = [entry for entry in group if entry.knowledge == "oblivious"]
    return [entry for entry in oblivious if entry.row["perturbation"] not in adapted]


def _twin_wins(entry: Entry, rival: Entry) -> bool:
    """Whether the same attack on the undefended network fools more, whatever kind of attack it is."""
    same = (rival.attack, rival.eps, rival.steps) == (entry.attack, entry.eps, entry.steps)
    return same and rival.knowledge == "oblivious" and beaten(entry, rival)


def _resists_everything(entry: Entry) -> bool:
    if not (entry.unbounded and entry.iterative) or entry.chance is None or entry.row["targeted"]:
        return False
    left = int(entry.row["n_clean_correct"]) - int(entry.row["n_success"])
    return wilson(left, int(entry.row["n"])).low > entry.chance


def _against(entry: Entry, rival: Entry) -> Iterator[str]:
    """Flags of an iterative attack from one other row of the same threat model but for its size."""
    if rival.eps is None or rival is entry:
        return
    if rival.eps == entry.eps and rival.claim and beaten(entry, rival):
        yield rival.claim
    if not (rival.iterative and rival.attack == entry.attack and rival.steps and entry.steps):
        return
    if rival.eps == entry.eps and rival.steps < entry.steps and beaten(entry, rival):
        yield "more-steps-help-the-defense"
    if rival.eps == entry.eps and rival.steps >= 2 * entry.steps and _far_ahead(entry, rival):
        yield "not-converged"
    if rival.steps == entry.steps and _smaller(rival.eps, entry.eps or ()) and beaten(entry, rival):
        yield "stronger-helps"


def beaten(entry: Entry, rival: Entry) -> bool:
    """Whether the rival fools significantly more samples, by a sign test on those that only one of them fools."""
    if _lead(entry, rival) < LEAST:
        return False
    ours, theirs = entry.successes(), rival.successes()
    return sign_test(int((theirs & ~ours).sum()), int((ours & ~theirs).sum())) < ALPHA


def _far_ahead(entry: Entry, rival: Entry) -> bool:
    n = int(entry.row["n"])
    interval = wilson(int(entry.row["n_clean_correct"]) - int(entry.row["n_success"]), n)
    return _lead(entry, rival) > n * (interval.high - interval.low) / 2 and beaten(entry, rival)


def _lead(entry: Entry, rival: Entry) -> int:
    return int(rival.row["n_success"]) - int(entry.row["n_success"])


def _smaller(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a budget is within another one, both a number or one per channel, and not the same."""
    length = max(len(one), len(other))
    pairs = list(zip(*(tuple(eps) * (length if len(eps) == 1 else 1) for eps in (one, other))))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
