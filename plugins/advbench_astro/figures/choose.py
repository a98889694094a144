"""Which networks, data sets and perturbations of a run a figure shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.api import Figure, Picture, Run, UserError, param

Row = Mapping[str, Any]

NETWORK = ("model", "defense", "trained_on", "adapted_to")
"""Columns that tell networks apart, beside the seed."""


@dataclass(frozen=True)
class Trained:
    """One network and the rows that it made, none of them a worst case."""

    rows: Sequence[Row]
    slug: str

    @property
    def name(self) -> str:
        """Model and defense by their labels."""
        return network_name(self.rows[0])

    @property
    def words(self) -> str:
        """For captions: the network, what it was trained on and its seed."""
        row = self.rows[0]
        adapted = f" and adapted to {row['adapted_to']}" if row.get("adapted_to") else ""
        return f"{self.name} (trained on {row['trained_on']}{adapted}, seed {row['seed']})"

    @property
    def inside(self) -> str:
        """A sentence for figures of the network itself, where a defense may stand around it."""
        bare = self.rows[0]["defense"] == "none"
        return "" if bare else " What a defense does before or behind the network is left out."


class NetworkFigure(Figure):
    """A figure with pictures of each network by itself."""

    model: str | None = param(None, "label or id of the model, * and ? allowed; every model unless given")
    defense: str | None = param(None, "label or id of the defense; every one unless given")
    network_seed: int | None = param(None, "seed of the network; the lowest unless given", ge=0)
    dpi: int = param(150, "resolution; pictures are 8 inches wide", unit="dot/inch", ge=30, le=600)

    def networks(self, run: Run, every_seed: bool = False) -> list[Trained]:
        """The networks that are asked for, in the order of the leaderboard.

        Raises
        ------
        UserError
            If there is none.
        """
        groups: dict[tuple[str, ...], dict[int, list[Row]]] = {}
        for row in cells(run):
            if self._wanted(row):
                key = tuple(str(row.get(name) or "") for name in NETWORK)
                groups.setdefault(key, {}).setdefault(int(row["seed"]), []).append(row)
        if not groups:
            raise UserError(f"needs a finished row of {self._asked()}")
        names = [slug(*key[:2]) for key in groups]
        return [
            Trained(rows, name if names.count(name) == 1 else slug(*key))
            for name, (key, by_seed) in zip(names, groups.items())
            for seed, rows in sorted(by_seed.items())
            if every_seed or seed == min(by_seed)
        ]

    def _wanted(self, row: Row) -> bool:
        right_seed = self.network_seed is None or row["seed"] == self.network_seed
        return right_seed and fits(row, "model", self.model) and fits(row, "defense", self.defense)

    def _asked(self) -> str:
        asked = {"model": self.model, "defense": self.defense, "seed": self.network_seed}
        return (
            ", ".join(f"{axis} {value}" for axis, value in asked.items() if value is not None)
            or "any network"
        )

    def draw(self, run: Run, folder: Path) -> Sequence[Picture]:
        """One or more pictures of each network that has something to show."""
        pictures: list[Picture] = []
        problems = []
        for trained in self.networks(run):
            try:
                pictures += self.draw_network(run, trained, folder)
            except UserError as error:
                problems.append(str(error))
        if not pictures:
            raise UserError(problems[0])
        return pictures

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """The pictures of one network; UserError if it has nothing to show."""
        raise NotImplementedError


class PerturbedFigure(NetworkFigure):
    """A figure of samples of one data set under one perturbation."""

    dataset: str | None = param(None, "label or id of the data set; the one trained on unless given")
    perturbation: str | None = param(
        None,
        "label or id, * and ? allowed; a one-pixel attack, else an attack, else the first one unless given",
    )
    knowledge: str | None = param(None, "what the attacker knows; adaptive where there is a choice")

    def perturbed_row(self, trained: Trained) -> Row:
        """The row that fits best."""
        return perturbed_row(trained, self.dataset, self.perturbation, self.knowledge)


class PairFigure(PerturbedFigure):
    """A figure of the same objects in two data sets, and under one perturbation."""

    other: str | None = param(None, "label or id of the data set with the same objects; the first other one")

    def other_row(self, trained: Trained, row: Row) -> Row:
        """A row of the same network on the other data set; its samples are looked at unperturbed.

        Raises
        ------
        UserError
            If there is none.
        """
        found = [r for r in trained.rows if r["dataset"] != row["dataset"] and fits(r, "dataset", self.other)]
        if not found:
            wanted = (
                "a second data set with the same objects" if self.other is None else f"data set {self.other}"
            )
            raise UserError(f"needs rows of {trained.name} on {wanted}, beside {row['dataset']}")
        return min(found, key=lambda r: r["perturbation"] != "none")


def cells(run: Run) -> list[Row]:
    """Computed rows of the suite's own cells: no worst case, which has no samples, and none of an audit."""
    return [row for row in run.rows if row.get("status") == "ok" and row.get("kind") == "cell"]


def fits(row: Row, axis: str, pattern: str | None) -> bool:
    """Whether a row's label, its label without swept parameters, or its id fits ``pattern``."""
    names = (str(row[axis]), base_label(str(row[axis])), str(row.get(f"{axis}_id") or ""))
    return pattern is None or any(name == pattern or fnmatchcase(name, pattern) for name in names)


def base_label(label: str) -> str:
    """``pgd`` of ``pgd(eps=0.1)``."""
    return label.split("(")[0]


def perturbed_row(
    trained: Trained, dataset: str | None, perturbation: str | None, knowledge: str | None = None
) -> Row:
    """The row of a perturbation that fits best: adaptive, on pixels, an attack that succeeds, in this order.

    Raises
    ------
    UserError
        If there is none.
    """
    return perturbed_rows(trained, dataset, perturbation, knowledge)[0]


def perturbed_rows(
    trained: Trained, dataset: str | None, perturbation: str | None, knowledge: str | None = None
) -> list[Row]:
    """The rows of perturbations that fit, the best first.

    Raises
    ------
    UserError
        If there is none.
    """
    found = [
        row
        for row in trained.rows
        if row["perturbation"] != "none"
        and fits(row, "perturbation", perturbation)
        and (fits(row, "dataset", dataset) if dataset else True)
        and (knowledge is None or row["knowledge"] == knowledge)
    ]
    if not found:
        wanted = "a perturbation" if perturbation is None else f"perturbation {perturbation}"
        raise UserError(
            f"needs a row of {trained.name} with {wanted}" + (f" on {dataset}" if dataset else "")
        )
    return sorted(found, key=lambda row: rank(row, dataset, perturbation))


def rank(row: Row, dataset: str | None, perturbation: str | None) -> tuple[bool, ...]:
    """How far a row is from what fits best; what was asked for by name is not judged."""
    return (
        dataset is None and row["dataset"] != row["trained_on"],
        perturbation is None and row.get("norm") != "pixels",
        perturbation is None and row["knowledge"] == "none",
        perturbation is None and not row.get("n_success"),
        row["knowledge"] != "adaptive",
    )


def clean_row(trained: Trained, dataset: str | None) -> Row:
    """A row of a data set, of unperturbed inputs where there is one; the data set trained on unless given.

    Raises
    ------
    UserError
        If there is none.
    """
    found = [row for row in trained.rows if fits(row, "dataset", dataset)]
    if not found:
        raise UserError(f"needs a row of {trained.name} on data set {dataset}")
    return min(
        found,
        key=lambda r: (dataset is None and r["dataset"] != r["trained_on"], r["perturbation"] != "none"),
    )


def in_turns(classes: NDArray[Any]) -> NDArray[np.int64]:
    """An order of the samples (n,) that takes one of each class in turn, else in their own order."""
    turn = np.array([(classes[:i] == one).sum() for i, one in enumerate(classes)])
    return np.argsort(turn, kind="stable")


def network_name(row: Row) -> str:
    """Model and defense by their labels."""
    return str(row["model"]) if row["defense"] == "none" else f"{row['model']} + {row['defense']}"


def slug(*parts: object) -> str:
    """Letters, digits and hyphens, for file names."""
    words = [re.sub(r"[^a-z0-9.]+", "-", str(part).lower()).strip("-.") for part in parts]
    return "-".join(word for word in words if word)
