"""What bounds the change of a perturbation, and what only says how hard an attack searches within these bounds."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]

THEN = " then "
"""Between the ids of perturbations that follow each other."""

UNTARGETED = "untargeted"
"""The goal of an attack that has none."""

SEARCH = frozenset((
    "iterations", "generations", "max_iter", "max_iterations", "n_iter", "n_steps", "num_steps", "rounds",
    "search_steps", "steps", "line_search", "binary_search_steps",
    "queries", "max_queries", "n_queries", "batch_size", "population", "draws", "eot_iter", "sides",
    "restarts", "n_restarts", "nb_restarts", "num_restarts", "num_random_init", "random_start", "seed", "distribution",
    "abs_stepsize", "rel_stepsize", "step", "step_size", "stepsize", "eps_step", "alpha", "alpha_final", "gamma",
    "gamma_final", "scale_free", "init_norm", "initial_const", "p_init", "density", "overshoot",
    "learning_rate", "lr", "momentum", "decay", "optimiser", "optimizer", "loss",
    "abort_early", "stop_on_success", "give_up_after", "p_goal", "p_true", "verbose",
))  # fmt: skip
"""Parameters of attacks that may differ in rows that are compared: they say how hard an attack searches, or how it
goes about it. All others are taken to bound the change; so are all parameters of corruptions."""


@functools.lru_cache(maxsize=4096)
def mapping(document: str | None) -> Mapping[str, Any]:
    """Parameters out of a cell of the leaderboard; those in a list are named by their position."""
    try:
        value = json.loads(document or "")
    except ValueError:
        return {}
    if isinstance(value, list):
        return {str(index): one for index, one in enumerate(value)}
    return value if isinstance(value, dict) else {}


def leaves(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Values by their paths, ``{"recipe.epochs": 3}``; lists are values unless mappings are in them."""
    found: dict[str, Any] = {}
    for key, one in value.items():
        if isinstance(one, list) and any(isinstance(part, dict) for part in one):
            one = {str(index): part for index, part in enumerate(one)}
        if isinstance(one, dict):
            found |= leaves(one, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = one
    return found


def bounds(row: Row) -> dict[str, Any]:
    """The parameters of a row that must be equal in one that it is compared with, by their names in a message.

    The last of a chain is the attack, if there is one; what comes before it is natural.
    """
    named = _parameters(row["perturbation_params"])
    if row["knowledge"] == "none":
        return {name: value for name, value, _ in named}
    kept = {name: value for name, value, last in named if not last or name.rpartition(".")[2] not in SEARCH}
    return {"goal": UNTARGETED} | kept


def attack_of(row: Row) -> tuple[Any, Any]:
    """Which perturbation it is: its id, and the attack that a bridge or a search takes from elsewhere."""
    return row["perturbation_id"], mapping(row["perturbation_params"]).get("attack")


def aims(row: Row) -> dict[str, Any]:
    """What two attacks must share if they are not the same one: goal, mask, budgets per channel, what came before."""
    params = mapping(row["perturbation_params"])
    if row["knowledge"] == "none":
        return {}
    chain = params.get("then")
    members = chain if isinstance(chain, list) and chain else [params]
    attack = members[-1] if isinstance(members[-1], dict) else {}
    ids = str(row["perturbation_id"]).split(THEN)
    before = [f"{name} {json.dumps(one, sort_keys=True)}" for name, one in zip(ids, members[:-1])]
    return {
        "goal": attack.get("goal") or UNTARGETED,
        "mask": attack.get("mask"),
        "eps": attack.get("eps") if row["strength"] is None else None,
        "what comes before the attack": THEN.join(before) or None,
    }


@functools.lru_cache(maxsize=4096)
def _parameters(document: str | None) -> tuple[tuple[str, Any, bool], ...]:
    return tuple(_named(mapping(document)))


def _named(params: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Name, value, and whether it is one of the last of a chain: of the attack, if there is one.

    What is not given is the same as what is null; the networks that a transferred attack is crafted on are no bound.
    """
    chain = params.get("then")
    last = f"then.{len(chain) - 1}." if isinstance(chain, list) else ""
    for path, value in leaves({key: one for key, one in params.items() if key != "transfer_from"}).items():
        if value is not None:
            own = path.removeprefix(last)
            name = own if own.partition(".")[0] in ("goal", "mask") else f"perturbation_params.{path}"
            yield name, value, path.startswith(last)
