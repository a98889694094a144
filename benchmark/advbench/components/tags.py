"""What a component says about itself, so that the grid can tell beforehand what fits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

TASKS = frozenset({"classification", "regression"})


@dataclass(frozen=True)
class Tags:
    """Facts about a component, read before anything is loaded.

    Parameters
    ----------
    tasks
        Tasks that it works for.
    norms
        Norms in which it can keep a budget (attacks).
    needs_gradient
        It asks for input gradients, which a black box does not grant.
    minimum_norm
        It looks for the smallest perturbation instead of keeping a budget.
    targeted
        It can aim at a class, or up or down for a regressor: it trusts the target's margin and losses.
    universal
        It looks for one perturbation for all inputs (`Attack.universal`).
    stochastic
        It draws random numbers. A stochastic defense is attacked in expectation over its draws.
    trains, purifies, wraps, detects
        The stages of a defense: it replaces the training, changes inputs, makes outputs from those of the network,
        or scores inputs.
    adapts
        Its training adapts the network to another data set, which the suite names by ``adapt_to``: one whose targets
        it never sees (``"unlabelled"``), or, if the suite names one, of which it sees them (``"labelled"``).
    learns
        It learns from clean training samples before it scores or wraps.
    certifies
        It proves for an input within which l2 radius its prediction holds.
    examines
        A metric of the network itself (`Metric.examine`).
    audit
        What an audit takes an attack for: the ``"noise"`` or ``"one-step"`` attack that no other may lose to, or the
        ``"black-box"`` attack that none with gradients may lose to.
    size
        What it measures its change by where no norm does (``"mean flow (px)"``); it tells by `Target.measure`.
    strength, unit
        Name of the parameter that says how strong a perturbation is, and its unit.
    stronger
        Whether a ``"higher"`` or a ``"lower"`` value is the stronger perturbation (JPEG quality: lower).
    reference
        Paper or page that it comes from.
    """

    tasks: Collection[str] = TASKS
    norms: Collection[str] = ()
    needs_gradient: bool = False
    minimum_norm: bool = False
    targeted: bool = False
    universal: bool = False
    stochastic: bool = False
    trains: bool = False
    adapts: Literal["", "unlabelled", "labelled"] = ""
    purifies: bool = False
    wraps: bool = False
    detects: bool = False
    learns: bool = False
    certifies: bool = False
    examines: bool = False
    audit: Literal["", "noise", "one-step", "black-box"] = ""
    size: str = ""
    strength: str = ""
    unit: str = ""
    stronger: Literal["higher", "lower"] = "higher"
    reference: str = ""
