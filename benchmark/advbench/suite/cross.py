"""Checks between the parts of a suite: ``train_on`` and ``exclude`` speak of entries by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from advbench.suite.document import KeyPath
from advbench.suite.entries import Axis, Candidate
from advbench.suite.findings import Findings, near, shown
from advbench.suite.model import AXES, NONE, Exclusion, matches

EXCLUDE_AXES = (*AXES.values(), "knowledge", "seed")


def check_train_on(findings: Findings, axis: Axis) -> None:
    """``train_on`` names another data set of the suite, and that one is trained on itself."""
    sources = {candidate.label: _train_on(findings, candidate.path) for candidate in axis.candidates}
    for candidate in axis.candidates:
        source = _train_on(findings, candidate.path)
        path = (*candidate.path, "train_on")
        if source is None:
            continue
        if not isinstance(source, str):
            findings.text(path, source)
        elif source == candidate.label:
            findings.add(
                path, f"names the data set itself; leave it out, or name another one{near('', sources)}"
            )
        elif source not in sources and axis.complete:
            findings.add(path, f"there is no data set {source!r} in this suite{near(source, sources)}")
        elif sources.get(source) is not None:
            findings.add(path, f"{source!r} is itself trained on another data set; name one that is not")


def _train_on(findings: Findings, path: KeyPath) -> Any:
    entry = findings.document.at(path)
    return entry.get("train_on") if isinstance(entry, dict) else None


def check_adapt_to(
    findings: Findings, defense: Candidate, entry: Any, datasets: Axis, adapts: Collection[str]
) -> str | None:
    """``adapt_to`` of a defense, or of one part of a composition: the label of a data set of the suite.

    ``adapts`` are the tags of its parts; only one that adapts may have the key, and one that adapts to a data set
    without labels needs it.
    """
    whole = entry if isinstance(entry, list) else [entry]
    places = [
        (*defense.path, index) if isinstance(entry, list) else defense.path for index in range(len(whole))
    ]
    given = [
        ((*place, "adapt_to"), part["adapt_to"])
        for place, part in zip(places, whole)
        if isinstance(part, dict) and "adapt_to" in part
    ]
    labels = [candidate.label for candidate in datasets.candidates]
    if len(given) > 1:
        findings.add(given[1][0], "is given twice in one composition; keep one of the two")
    elif given and defense.specs and not any(adapts):
        findings.add(given[0][0], f"{defense.label} does not adapt to another data set; leave it out")
    elif given:
        path, label = given[0]
        text = findings.text(path, label)
        if text is not None and text not in labels and datasets.complete:
            findings.add(path, f"there is no data set {text!r} in this suite{near(text, labels)}")
        return text
    elif "unlabelled" in adapts:
        words = "adapts the network to another data set; say which by `adapt_to: LABEL`"
        findings.add(defense.path, f"{defense.label} {words}{near('', labels)}")
    return None


def check_exclusions(
    findings: Findings, raw: Any, axes: Mapping[str, Axis], knowledge: Collection[str], seeds: Sequence[int]
) -> tuple[Exclusion, ...]:
    """The entries of ``exclude``; a pattern that fits nothing of its axis is a mistake."""
    names: dict[str, set[str] | None] = {
        AXES[key]: {name for candidate in axis.candidates for name in candidate.names}
        if axis.complete
        else None
        for key, axis in axes.items()
    }
    # Without a defense the attacker who is oblivious of it is the adaptive one.
    reachable = {NONE, "transfer", *knowledge, *(["adaptive"] if "oblivious" in knowledge else [])}
    names |= {"knowledge": reachable if knowledge else None, "seed": {str(seed) for seed in seeds} or None}
    found = []
    for path, entry in findings.items(("exclude",), raw, "mappings of axes to patterns", empty=True):
        patterns = _patterns(findings, path, entry, names)
        if patterns:
            text = ", ".join(f"{axis}={pattern}" for axis, pattern in patterns.items())
            reason = findings.text((*path, "reason"), entry["reason"]) if "reason" in entry else None
            found.append(Exclusion(patterns, reason or f"excluded by the suite: {text}"))
    return tuple(found)


def _patterns(
    findings: Findings, path: KeyPath, entry: Any, names: Mapping[str, Collection[str] | None]
) -> dict[str, str]:
    given = findings.mapping(path, entry, (*EXCLUDE_AXES, "reason"))
    patterns: dict[str, str] = {}
    for axis in (key for key in given if key != "reason"):
        here, value = (*path, axis), given[axis]
        if axis == "seed" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        pattern = findings.text(here, value)
        known = names[axis]
        if pattern is not None:
            patterns[axis] = pattern
            if known is not None and not matches(pattern, known):
                findings.add(here, f"{shown(pattern)} fits no {axis} of this suite{near(pattern, known)}")
    if isinstance(entry, dict) and not set(entry) - {"reason"}:
        findings.add(path, f"says nothing; name at least one of {', '.join(EXCLUDE_AXES)}")
    return patterns
