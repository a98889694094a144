"""Red flags: reasons to doubt a row, from its own outcomes or from a comparison with other rows.

After the checklists of Athalye et al. 2018 (https://arxiv.org/abs/1802.00420), Carlini et al. 2019
(https://arxiv.org/abs/1902.06705) and Tramer et al. 2020 (https://arxiv.org/abs/2002.08347).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.evidence.exact import binomial_tail, calibrated_tail
from advbench.values import Classification, Task

FLAGS: Mapping[str, str] = {
    "black-box-beats-white-box": "an attack that sees no gradients of this network, or those of another one, fools more"
    " inputs than this one: its gradients mislead it, and the row shows too high an accuracy",
    "false-positives": "the detector rejects significantly more clean inputs than the rate that it states",
    "fixed-threshold": "the detector's threshold does not move with the scores of clean inputs: it was chosen on other"
    " grounds, and its false-positive rate is what it happens to be",
    "more-steps-help-the-defense": "the same attack with fewer steps fools more inputs: the gradients lead away from"
    " what would fool the network",
    "nan-gradient": "some input gradients are not finite, and an attack that follows gradients cannot move there",
    "noise-beats-attack": "random noise of the same budget fools more inputs than this attack, which finds nothing",
    "not-converged": "the same attack with at least twice the steps still lowers the robust accuracy by more than half"
    " the width of its interval: give it more steps",
    "oblivious-beats-adaptive": "an attack on the undefended network fools more inputs than this one, which knows the"
    " defense: the adaptive attack does not fit the defense",
    "oblivious-only": "this attack ignored the defense, and no row of the leaderboard shows it adapted to the defense",
    "one-step-beats-iterative": "one step of the same budget fools more inputs than many: the gradients beside the"
    " input are of no use",
    "probabilities": "the network returns probabilities, not logits: gradients through the softmax vanish where it is"
    " sure of itself",
    "saturated": "the margin of most inputs is so large that the cross-entropy of float32 logits is 0 and its gradient"
    " vanishes: attacks must use the margin of the logits",
    "stochastic-gradient": "two gradients at the same input point in different directions: the attack averages over too"
    " few draws of a random network",
    "stronger-helps": "the same attack with a smaller budget fools more inputs, though all that it may do a larger one"
    " may do, too: the row shows too high an accuracy",
    "unbounded-eps": "the same attack leaves more inputs right than guessing would although its budget allows any input"
    " at all: it says nothing about the network at any budget",
    "unrepeatable": "the output for an input changes with the company: the network draws at random or looks at the"
    " batch",
    "violations": "some results of the attack left the threat model and were brought back before they were judged",
    "zero-gradient": "at least a fifth of the input gradients are exactly 0: an attack that follows gradients stands"
    " still there",
    "info-lost-by-8-bit": "at least a tenth of the successes are none any more once the input is rounded to 256 levels,"
    " as a stored picture would be",
}
"""What each flag says of its row. Names with ``info-`` are information, no reason to doubt."""

ALPHA = 1e-3
"""Level of every test: a large leaderboard makes hundreds of comparisons, and an honest one shall show no flag."""

ZEROS = 0.2
AGREEMENT = 0.5
SATURATED = 87.0
"""Margin at which exp(-margin), and with it the gradient of cross-entropy, leaves the normal float32 numbers."""
LOST = 0.1
MEASURED = 64
"""The first samples, at which gradients are measured; beyond them NaN says nothing."""


def joined(flags: Iterable[str]) -> str:
    """The column: names sorted and separated by ``;``."""
    return ";".join(sorted(set(flags) - {""}))


def of_outcomes(outcomes: Mapping[str, NDArray[Any]], success: NDArray[Any], task: Task) -> Iterator[str]:
    """Flags that a row's own per-sample outcomes, all (n, ...), raise. ``success`` is bool (n,)."""
    yield from (name for name in ("probabilities", "unrepeatable") if name in outcomes)
    if "fixed_threshold" in outcomes and bool(outcomes["fixed_threshold"].any()):
        yield "fixed-threshold"
    if bool(outcomes["violation"].any()):
        yield "violations"
    if isinstance(task, Classification):
        margin = outcomes["clean_margin"][outcomes["clean_correct"]]
        if len(margin) and (margin > SATURATED).mean() > 0.5:
            yield "saturated"
    if "gradient_norm" in outcomes:
        yield from _of_gradients(outcomes["gradient_norm"][:MEASURED], outcomes["gradient_agreement"])
    lost = outcomes["lost_by_rounding"][success] if "lost_by_rounding" in outcomes else success[:0]
    if len(lost) and lost.mean() >= LOST:
        yield "info-lost-by-8-bit"


def _of_gradients(norm: NDArray[Any], agreement: NDArray[Any]) -> Iterator[str]:
    if np.isnan(norm).any():
        yield "nan-gradient"
    if len(norm) and (norm == 0).mean() >= ZEROS:
        yield "zero-gradient"
    known = agreement[np.isfinite(agreement)]
    if len(known) and np.median(known) < AGREEMENT:
        yield "stochastic-gradient"


def too_many_rejected(rejected: int, n: int, rate: float, calibration: int | None) -> bool:
    """Whether a detector rejects more clean inputs than at the rate that it states.

    ``calibration`` is the number of scores that its threshold comes from, None if it is fixed.
    """
    if calibration is None:
        return binomial_tail(rejected, n, rate) < ALPHA
    return calibrated_tail(rejected, n, rate, calibration) < ALPHA
