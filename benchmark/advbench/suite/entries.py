"""The entries of an axis: an id, or ``{use, name, params, sweep}``, written out into labelled specs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from advbench.components.identity import Spec
from advbench.components.loader import Plugins
from advbench.suite.document import KeyPath, path_text
from advbench.suite.findings import Findings, shown
from advbench.suite.model import JOIN, NONE, THEN, known_as
from advbench.suite.parameters import Given, find_component, spec_of
from advbench.suite.sweeps import LABEL_MARKS, combinations, same

KEYS = ("use", "name", "params", "sweep")
WHOLE_ONLY = ("then", "transfer_from")
PERTURBATION_KEYS = (*KEYS, *WHOLE_ONLY)
DEFENSE_KEYS = (*KEYS, "adapt_to")
MAX_SWEEP = 1000
_LABEL = re.compile(rf"(?!\+ )[{LABEL_MARKS}]+(?: (?!\+(?: |$))[{LABEL_MARKS}]+)*")


@dataclass(frozen=True)
class Candidate:
    """One value of an axis. ``specs`` is None where it is not valid, and ``()`` for "none"."""

    path: KeyPath
    label: str
    ids: tuple[str, ...]
    specs: tuple[Spec, ...] | None

    @property
    def names(self) -> frozenset[str]:
        """Names by which ``exclude`` may speak of it."""
        return known_as(self.label, self.ids)


class Axis(NamedTuple):
    """The values of an axis, and whether no entry was too broken to be named."""

    candidates: list[Candidate]
    complete: bool


class _Sweep(NamedTuple):
    values: dict[str, list[Any]]
    broken: frozenset[str]


class EntryReader:
    """Reads the entries of one kind of component; mistakes go to ``findings``."""

    def __init__(self, findings: Findings, plugins: Plugins, kind: str, keys: Sequence[str] = KEYS) -> None:
        self._findings, self._plugins, self._kind = findings, plugins, kind
        self._keys = keys
        self._complete = True

    def axis(self, entries: Iterable[tuple[KeyPath, Any]]) -> Axis:
        """All values of an axis, with unique labels."""
        self._complete = True
        found = self.candidates(entries)
        self._check_labels(found)
        return Axis(found, self._complete)

    def candidates(self, entries: Iterable[tuple[KeyPath, Any]]) -> list[Candidate]:
        """All values, whatever their labels."""
        return [candidate for path, raw in entries for candidate in self._entry(path, raw)]

    def _entry(self, path: KeyPath, raw: Any) -> list[Candidate]:
        if raw == NONE and self._kind in ("defense", "perturbation"):
            return [Candidate(path, NONE, (), ())]
        if isinstance(raw, list) and self._kind == "defense":
            return self._composition(path, raw, JOIN)
        if isinstance(raw, dict) and "then" in raw and self._kind == "perturbation":
            return self._sequence(path, raw)
        return self._single(path, raw)

    def _sequence(self, path: KeyPath, raw: dict[str, Any]) -> list[Candidate]:
        """Perturbations that follow each other: ``{then: [corruptions/jpeg, attacks/pgd], name: ...}``."""
        self._findings.mapping(path, raw, ("then", "name", "transfer_from"))
        found = self._composition((*path, "then"), raw["then"], THEN)
        if "name" in raw:
            name = self._base_label(path, raw, "")
            found = [replace(one, label=name if len(found) == 1 else f"{name} {one.label}") for one in found]
        return [replace(one, path=path) for one in found]

    def _composition(self, path: KeyPath, raw: Any, joint: str) -> list[Candidate]:
        parts = [
            self._single(place, part) for place, part in self._findings.items(path, raw, f"{self._kind}s")
        ]
        count = math.prod(len(part) for part in parts)
        if count > MAX_SWEEP:
            self._findings.add(path, f"has {count} combinations; at most {MAX_SWEEP} are allowed")
        if not parts or not 0 < count <= MAX_SWEEP:
            self._complete = False
            return []
        return [_joined(path, combination, joint) for combination in itertools.product(*parts)]

    def _single(self, path: KeyPath, raw: Any) -> list[Candidate]:
        entry = {"use": raw} if isinstance(raw, str) else raw
        use = self._use(path, entry)
        if use is None:
            self._complete = False
            return []
        whole = len(path) == 2  # parts of a composition have fewer keys
        keys = self._keys if whole else [key for key in self._keys if key not in WHOLE_ONLY]
        entry = self._findings.mapping(path, entry, keys)
        base = self._base_label(path, entry, use)
        params = self._findings.mapping((*path, "params"), entry["params"]) if "params" in entry else {}
        sweep = self._sweep(path, entry, params)
        found = find_component(self._findings, self._plugins, self._kind, use, path)
        candidates = []
        for suffix, swept, places in combinations(path, sweep.values):
            where = {**{name: (*path, "params", name) for name in params}, **places}
            given = Given(path, {**params, **swept}, where, sweep.broken)
            spec = spec_of(self._findings, self._plugins, found[1], found[0], given) if found else None
            specs = None if spec is None else (spec,)
            candidates.append(Candidate(path, base + suffix, (found[0] if found else use,), specs))
        return candidates

    def _use(self, path: KeyPath, entry: Any) -> str | None:
        if not isinstance(entry, dict):
            hint = f" (write `{NONE}` for the undisturbed case)" if entry is None else ""
            self._findings.add(
                path, f"must be the id of a {self._kind} or a mapping with `use`, got {shown(entry)}{hint}"
            )
        elif "use" not in entry:
            self._findings.mapping(path, entry, self._keys)
            self._findings.add(path, f"the key 'use' is missing; it names the {self._kind}")
        elif entry["use"] == NONE and len(path) > 2:
            self._findings.add(path, f"{NONE!r} cannot be part of a composition; leave it out")
        else:
            return self._findings.text((*path, "use"), entry["use"])
        return None

    def _base_label(self, path: KeyPath, entry: Mapping[str, Any], use: str) -> str:
        default = use.rpartition("/")[2]
        given = "name" in entry
        name = self._findings.text((*path, "name"), entry["name"]) if given else default
        if name == NONE and use != NONE:
            where = (*path, "name") if given else path
            self._findings.add(where, f"the name {NONE!r} means that there is nothing; give another `name`")
            name = None
        elif given and name is not None and not _LABEL.fullmatch(name):
            allowed = "letters, digits, single spaces, . , : ; = ( ) < > % ~ @ + - _, but no ' + ' of its own"
            self._findings.add((*path, "name"), f"{name!r} is no name: it may hold {allowed}")
        self._complete = self._complete and name is not None
        return name or path_text(path)

    def _sweep(self, path: KeyPath, entry: Mapping[str, Any], params: Mapping[str, Any]) -> _Sweep:
        raw = self._findings.mapping((*path, "sweep"), entry["sweep"]) if "sweep" in entry else {}
        values = {name: self._swept((*path, "sweep", name), entries, params) for name, entries in raw.items()}
        good = {name: entries for name, entries in values.items() if entries}
        count = math.prod(len(entries) for entries in good.values())
        if count > MAX_SWEEP:
            self._findings.add((*path, "sweep"), f"has {count} combinations; at most {MAX_SWEEP} are allowed")
            good = {}
        broken = frozenset(raw) - frozenset(good)
        self._complete = self._complete and not broken
        return _Sweep(good, broken)

    def _swept(self, path: KeyPath, raw: Any, params: Mapping[str, Any]) -> list[Any]:
        name = path[-1]
        if name in params:
            self._findings.add(
                path[:-1], f"{name!r} is also given in `params`; keep one of the two", at=path, key=True
            )
            return []
        entries = self._findings.items(path, raw, "values")
        for index, (place, value) in enumerate(entries[:MAX_SWEEP]):
            if any(same(value, earlier) for _, earlier in entries[:index]):
                self._findings.add(place, f"the value {shown(value)} is listed twice")
        return [value for _, value in entries]

    def _check_labels(self, found: Sequence[Candidate]) -> None:
        first: dict[str, Candidate] = {}
        for candidate in found:
            other = first.setdefault(candidate.label, candidate)
            taken = f"the label {candidate.label!r} already belongs to"
            if other.path != candidate.path:
                hint = "remove one" if candidate.label == NONE else "give one of them another `name`"
                self._findings.add(candidate.path, f"{taken} {path_text(other.path)}; {hint}")
            elif other.specs != candidate.specs:
                self._findings.add(
                    candidate.path, f"{taken} another value of the sweep; write it as an entry with a `name`"
                )


def _joined(path: KeyPath, parts: Sequence[Candidate], joint: str) -> Candidate:
    specs = [spec for part in parts for spec in part.specs or ()]
    label, ids = joint.join(part.label for part in parts), tuple(name for part in parts for name in part.ids)
    return Candidate(path, label, ids, tuple(specs) if len(specs) == len(parts) else None)
