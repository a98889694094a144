"""Red flags: what the outcomes of a row say, and what rows say of each other. No run is needed for either."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advbench.evidence.exact import binomial_tail, calibrated_tail, sign_test
from advbench.evidence.figures import figures, worst_of
from advbench.evidence.flags import FLAGS, SATURATED, joined, of_outcomes, too_many_rejected
from advbench.evidence.paired import LEAST, Entry, beaten, compare, inherited
from advbench.values import Classification, Regression

DOCS = Path(__file__).parents[2] / "docs" / "flags.md"
TEN = Classification(tuple("0123456789"))
N = 100


# --- exact tests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "less"), [(0, 0), (0, 5), (5, 0), (10, 0), (30, 12), (600, 500)])
def test_the_sign_test_is_the_tail_of_a_fair_coin(more: int, less: int) -> None:
    n = more + less
    expected = sum(Fraction(math.comb(n, k), 2**n) for k in range(more, n + 1))
    assert sign_test(more, less) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(("found", "n", "rate"), [(0, 10, 0.1), (9, 100, 0.05), (100, 100, 0.9), (3, 7, 0.5)])
def test_the_binomial_tail_is_the_sum_of_its_terms(found: int, n: int, rate: float) -> None:
    p = Fraction(rate)
    expected = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(found, n + 1))
    assert binomial_tail(found, n, rate) == pytest.approx(float(expected), rel=1e-10)


def test_a_rate_of_0_or_1_leaves_nothing_to_chance() -> None:
    assert binomial_tail(1, 10, 0.0) == 0
    assert binomial_tail(10, 10, 1.0) == 1
    assert calibrated_tail(3, 10, 1.0, 20) == 1


@pytest.mark.parametrize(
    ("found", "n", "rate", "calibration"), [(3, 10, 0.1, 20), (5, 40, 0.05, 20), (1, 6, 0.0, 9)]
)
def test_ranks_of_exchangeable_scores_decide_the_calibrated_tail(
    found: int, n: int, rate: float, calibration: int
) -> None:
    """Put all scores in one row: which of them are new is a uniform draw, so ways can be counted."""
    beyond = round(rate * calibration)
    ways = Fraction(0)
    for new in range(found, n + 1):  # new scores above the calibration score that is the threshold
        above = math.comb(new + beyond, beyond)
        below = math.comb(n - new + calibration - beyond - 1, n - new)
        ways += Fraction(above * below, math.comb(n + calibration, n))
    assert calibrated_tail(found, n, rate, calibration) == pytest.approx(float(ways), rel=1e-9)


# --- one row -------------------------------------------------------------------------------------------------------


def outcomes(**changes: Any) -> dict[str, Any]:
    none = np.zeros(N, dtype=bool)
    plain = {"violation": none, "clean_margin": np.full(N, 5.0), "clean_correct": ~none}
    return {**plain, **changes}


def measured(norm: Any, agreement: Any = 1.0) -> dict[str, Any]:
    """Gradients of the first 64 samples, as they are kept."""
    kept = {name: np.full(N, np.nan) for name in ("gradient_norm", "gradient_agreement")}
    kept["gradient_norm"][:64], kept["gradient_agreement"][:64] = norm, agreement
    return kept


def flags_of(success: Any = None, task: Any = TEN, **changes: Any) -> set[str]:
    success = np.zeros(N, dtype=bool) if success is None else success
    return set(of_outcomes(outcomes(**changes), success, task))


def first(k: int, n: int = N) -> Any:
    return np.arange(n) < k


def test_a_sound_row_has_no_flag() -> None:
    fixed = np.zeros(N, dtype=bool)
    found = flags_of(first(50), **measured(1.0), lost_by_rounding=first(4), fixed_threshold=fixed)
    assert found == set()


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        (measured(np.where(first(13, 64), 0.0, 1.0)), "zero-gradient"),
        (measured(np.where(first(1, 64), np.nan, 1.0)), "nan-gradient"),
        (measured(1.0, np.where(first(33, 64), 0.4, 1.0)), "stochastic-gradient"),
        ({"clean_margin": np.where(first(51), SATURATED + 1, 1.0)}, "saturated"),
        ({"violation": first(1)}, "violations"),
        ({"fixed_threshold": first(N)}, "fixed-threshold"),
        ({"probabilities": first(N)}, "probabilities"),
        ({"unrepeatable": first(N)}, "unrepeatable"),
        ({"success": first(40), "lost_by_rounding": first(4)}, "info-lost-by-8-bit"),
    ],
)
def test_what_a_row_shows_by_itself(changes: dict[str, Any], flag: str) -> None:
    assert flags_of(**changes) == {flag}


@pytest.mark.parametrize(
    "changes",
    [
        measured(np.where(first(12, 64), 0.0, 1.0)),
        measured(1.0, np.where(first(31, 64), 0.4, 1.0)),
        measured(1.0, np.where(first(60, 64), np.nan, 1.0)),  # no cosine where a gradient is zero
        {"clean_margin": np.where(first(50), SATURATED + 1, 1.0)},
        {"clean_margin": np.full(N, 100.0), "task": Regression(("z",), 200.0)},
        {"success": first(41), "lost_by_rounding": first(4)},
        {"lost_by_rounding": first(0)},
    ],
)
def test_a_little_less_is_no_flag(changes: dict[str, Any]) -> None:
    assert flags_of(**changes) == set()


def test_gradients_that_were_not_measured_are_not_broken() -> None:
    assert flags_of(**measured(1.0)) == set()
    assert flags_of(gradient_norm=np.ones(8), gradient_agreement=np.ones(8)) == set()


def test_saturation_is_looked_at_where_the_network_is_right() -> None:
    wrong = np.where(first(80), 1000.0, 1.0)
    assert flags_of(clean_margin=wrong, clean_correct=~first(80)) == set()


def test_a_detector_may_reject_what_it_states_and_what_its_calibration_cannot_exclude() -> None:
    assert not too_many_rejected(5, 100, 0.05, None)
    assert not too_many_rejected(13, 100, 0.05, None)
    assert too_many_rejected(14, 100, 0.05, None)
    assert not too_many_rejected(14, 100, 0.05, 100)  # the threshold is as uncertain as the count
    assert too_many_rejected(30, 100, 0.05, 100)


def test_honest_detectors_are_hardly_ever_accused() -> None:
    """Thresholds from 100 scores, 200 new ones: a plain binomial test would accuse more than one in fifty."""
    generator = np.random.default_rng(0)
    scores, new = generator.random((4000, 100)), generator.random((4000, 200))
    rejected = (new > np.sort(scores, axis=1)[:, -6:-5]).sum(1)
    limit = next(k for k in count() if too_many_rejected(k, 200, 0.05, 100))
    plain = next(k for k in count() if too_many_rejected(k, 200, 0.05, None))
    assert (rejected >= limit).mean() < 0.003
    assert (rejected >= plain).mean() > 0.02


def test_the_column_is_sorted_and_has_no_doubles() -> None:
    assert joined(["b", "a", "", "b"]) == "a;b"
    assert joined([]) == ""


def test_the_figures_of_a_row_hold_its_flags() -> None:
    many = {name: np.zeros(N) for name in ("linf", "l2", "l0")}
    passes = {"forward_passes": np.ones(N, int), "backward_passes": np.ones(N, int)}
    right = {"target": np.zeros(N, int), "clean_prediction": np.zeros(N, int)}
    after = {
        "perturbed_correct": ~first(50),
        "perturbed_prediction": np.zeros(N, int),
        "perturbed_margin": np.ones(N),
    }
    whole = outcomes(**many, **passes, **right, **after, **measured(0.0), lost_by_rounding=first(50))
    assert figures(whole, TEN, attack=True)["flags"] == "info-lost-by-8-bit;zero-gradient"
    assert "zero-gradient" in figures(worst_of([whole, whole]), TEN, attack=True)["flags"]


# --- rows against each other ---------------------------------------------------------------------------------------

names = (f"cell-{k:03d}" for k in count())


def entry(fools: Any = 50, **changes: Any) -> Entry:
    """A row of an iterative gradient attack on the defended network that fools these samples, or the first few."""
    success = first(fools) if isinstance(fools, int) else fools
    row = {"knowledge": "adaptive", "perturbation": "pgd", "targeted": False, "cell_id": next(names)}
    row["defense_id"] = changes.pop("defense", "none")
    row |= {"n": N, "n_clean_correct": N, "n_success": int(success.sum())}
    row |= {name: changes.pop(name) for name in list(changes) if name in row}
    facts: dict[str, Any] = {"group": "net", "threat": "linf", "attack": "pgd", "steps": 40, "eps": (0.1,)}
    return Entry(row=row, successes=lambda: success, **{**facts, **changes})


def flags(entry: Entry, *others: Entry) -> set[str]:
    return compare([entry, *others]).get(entry.name, set())


RIVALS: dict[str, Callable[[int], Entry]] = {
    "one-step-beats-iterative": lambda k: entry(k, role="one-step", attack="fgsm", steps=None),
    "black-box-beats-white-box": lambda k: entry(k, role="black-box", needs_gradient=False, attack="square"),
    "noise-beats-attack": lambda k: entry(k, role="noise", needs_gradient=False, attack="noise"),
    "oblivious-beats-adaptive": lambda k: entry(k, knowledge="oblivious"),
    "not-converged": lambda k: entry(k, steps=80),
    "more-steps-help-the-defense": lambda k: entry(k, steps=20),
    "stronger-helps": lambda k: entry(k, eps=(0.05,)),
}


@pytest.mark.parametrize("flag", RIVALS)
def test_a_rival_that_should_be_worse_is_ahead(flag: str) -> None:
    ours, rival = entry(50), RIVALS[flag](65)
    assert flags(ours, rival) == {flag}
    assert flags(rival, ours) == set()


@pytest.mark.parametrize("flag", RIVALS)
def test_chance_raises_no_flag(flag: str) -> None:
    # All that differ speak against it, but nine tosses of a coin may all show heads.
    assert flags(entry(50), RIVALS[flag](50 + LEAST - 1)) == set()
    assert flags(entry(65), RIVALS[flag](50)) == set()


@pytest.mark.parametrize("flag", RIVALS)
@pytest.mark.parametrize("name", ["group", "threat"])
def test_another_network_or_threat_model_is_no_rival(flag: str, name: str) -> None:
    rival = RIVALS[flag](90)
    moved = Entry(**{**vars(rival), name: "other"})
    assert flags(entry(50), moved) == set()


@pytest.mark.parametrize(
    "rival",
    [
        entry(90, role="one-step", eps=(0.2,)),
        entry(90, role="noise", eps=(0.05,)),
        entry(90, eps=(0.2,)),
        entry(90, eps=(0.05,), steps=20),
        entry(90, eps=(0.05,), attack="apgd"),
        entry(90, steps=20, attack="apgd"),
        entry(90, attack="apgd"),  # a better attack is a better attack
        entry(90, role="noise", eps=None),
    ],
)  # fmt: skip
def test_rows_that_differ_otherwise_prove_nothing(rival: Entry) -> None:
    assert flags(entry(50), rival) == set()


@pytest.mark.parametrize(
    "weak",
    [
        {"role": "one-step", "steps": None},
        {"steps": 1},
        {"steps": None},
        {"needs_gradient": False},
        {"role": "black-box", "needs_gradient": False},
        {"knowledge": "oblivious", "perturbation": "other"},
        {"knowledge": "transfer"},
        {"knowledge": "blackbox"},
        {"eps": None},
    ],
)
def test_what_is_weak_by_nature_may_be_beaten(weak: dict[str, Any]) -> None:
    ours = entry(0, **weak)
    found = flags(ours, *(make(90) for make in RIVALS.values()))
    assert found <= {"oblivious-only", "oblivious-beats-adaptive"}  # the latter by the same attack alone


def test_a_single_step_of_an_iterative_attack_is_a_one_step_attack() -> None:
    assert flags(entry(50), entry(65, steps=1, attack="apgd")) == {"one-step-beats-iterative"}


@pytest.mark.parametrize("knowledge", ["blackbox", "transfer"])
def test_gradients_of_other_networks_are_a_black_box(knowledge: str) -> None:
    assert flags(entry(50), entry(65, knowledge=knowledge)) == {"black-box-beats-white-box"}


def test_rows_are_compared_sample_by_sample() -> None:
    """60 against 40 of 100, but on other samples: 80 pairs differ, 50 to 30 is chance at this level."""
    ours = entry(first(45) & ~first(5))
    theirs = np.arange(N) >= 40
    assert not beaten(ours, entry(theirs))
    assert beaten(ours, entry(first(60)))


def test_not_converged_needs_more_than_half_the_interval() -> None:
    """At 2,000 samples 40 more are significant, but the interval is 43.8 wide to each side."""

    def of(fooled: int, steps: int) -> Entry:
        success = np.arange(2000) < fooled
        made = entry(success, steps=steps)
        return Entry(**{**vars(made), "row": {**made.row, "n": 2000, "n_clean_correct": 2000}})

    assert beaten(of(1000, 40), of(1040, 80))
    assert flags(of(1000, 40), of(1040, 80)) == set()
    assert flags(of(1000, 40), of(1045, 80)) == {"not-converged"}
    assert flags(of(1000, 40), of(1500, 79)) == set()


def test_budgets_per_channel_are_compared_channel_by_channel() -> None:
    wide = entry(50, eps=(0.1, 0.2))
    assert flags(wide, entry(90, eps=(0.1,))) == {"stronger-helps"}
    assert flags(wide, entry(90, eps=(0.15,))) == set()
    assert flags(wide, entry(90, eps=(0.1, 0.1))) == {"stronger-helps"}


def test_outcomes_are_asked_only_where_they_decide() -> None:
    def refuse() -> Any:
        raise AssertionError("nobody needs to know")

    rows = [Entry(**{**vars(make(55)), "successes": refuse}) for make in RIVALS.values()]
    assert flags(Entry(**{**vars(entry(50)), "successes": refuse}), *rows) == set()


# --- flags of several rows -----------------------------------------------------------------------------------------


def test_no_budget_at_all_must_leave_chance() -> None:
    facts = {"unbounded": True, "eps": (1.0,), "chance": 0.1}
    resists, falls = (
        entry(80, **facts),
        entry(88, **facts),
    )  # 20 of 100: [0.13, 0.29]; 12 of 100: [0.07, 0.20]
    assert flags(resists) == {"unbounded-eps"}
    assert flags(falls) == set()
    assert flags(entry(0, **{**facts, "chance": None})) == set()
    assert flags(entry(0, **{**facts, "unbounded": False})) == set()
    assert flags(entry(0, targeted=True, **facts)) == set()
    assert flags(entry(0, **{**facts, "role": "noise"})) == set()


def test_an_attack_that_fails_without_a_budget_says_nothing_with_one() -> None:
    resists = entry(50, unbounded=True, eps=(1.0,), chance=0.1)
    assert flags(entry(50), resists) == {"unbounded-eps"}
    assert flags(entry(50, steps=80), resists) == {"unbounded-eps"}
    assert flags(entry(50, attack="apgd"), resists) == set()
    assert flags(entry(50, group="other"), resists) == set()


def test_an_oblivious_row_wants_an_adaptive_one() -> None:
    oblivious = entry(50, knowledge="oblivious")
    assert flags(oblivious) == {"oblivious-only"}
    assert flags(oblivious, entry(60, perturbation="fgsm", attack="fgsm")) == {"oblivious-only"}
    assert flags(oblivious, entry(60)) == set()
    assert flags(oblivious, entry(60, group="other")) == {"oblivious-only"}
    assert flags(oblivious, entry(60, knowledge="transfer")) == {"oblivious-only"}


@pytest.mark.parametrize("knowledge", ["transfer", "blackbox"])
def test_a_defense_that_nobody_attacked_knowing_it_is_marked(knowledge: str) -> None:
    assert flags(entry(50, knowledge=knowledge, defense="squeezing")) == {"oblivious-only"}
    assert flags(entry(50, knowledge=knowledge)) == set()
    assert flags(entry(50, knowledge=knowledge, defense="squeezing"), entry(60)) == set()


def test_any_attack_must_fool_as_many_as_its_oblivious_twin() -> None:
    weak = {"steps": None, "eps": None, "attack": "ddn"}
    ours = entry(20, **weak)
    assert flags(ours, entry(60, knowledge="oblivious", **weak)) == {"oblivious-beats-adaptive"}
    assert flags(ours, entry(60, knowledge="oblivious", **{**weak, "attack": "fmn"})) == set()


def test_a_worst_case_row_has_what_all_its_iterative_attacks_have() -> None:
    good, weak = entry(50), entry(20, attack="bim", steps=5)
    square = RIVALS["black-box-beats-white-box"](40)
    found = compare([good, weak, square])
    assert found[weak.name] == {"black-box-beats-white-box"}
    assert inherited(found, [good, weak, square]) == set()
    assert inherited(found, [weak, square]) == {"black-box-beats-white-box"}
    assert inherited(found, [square]) == set()
    alone = entry(50, knowledge="oblivious")
    assert inherited(compare([alone]), [alone]) == {"oblivious-only"}


def test_no_outcomes_are_loaded_for_rows_that_agree() -> None:
    """Nothing is read for 5,000 rows of which none is far enough ahead of another."""
    asked = []

    def success() -> Any:
        asked.append(1)
        return first(50)

    rows = [
        Entry(**{**vars(entry(50, eps=(e,))), "group": str(g), "successes": success})
        for g in range(500)
        for e in range(10)
    ]
    assert compare(rows) == {row.name: set() for row in rows}
    assert not asked


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_has_every_flag_with_its_sentence() -> None:
    lines = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    table = dict(line.strip("|` ").split("` | ") for line in lines if "` | " in line)
    assert {name: sentence.strip() for name, sentence in table.items()} == dict(FLAGS)


def test_every_flag_that_can_be_raised_is_explained() -> None:
    assert {*RIVALS, "unbounded-eps", "oblivious-only", "false-positives"} <= set(FLAGS)
    assert list(FLAGS) == sorted(FLAGS, key=lambda name: (name.startswith("info-"), name))
