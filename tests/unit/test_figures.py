"""Figures of a row on outcomes made by hand, and the worst case per sample."""

import math
from typing import Any

import numpy as np
import pytest
from boards import classified

from advbench.evidence import influence
from advbench.evidence.columns import NAMES
from advbench.evidence.figures import figures, worst_of
from advbench.evidence.statistics import auroc, sigma_mad, true_positive_rate, wilson
from advbench.values import Classification, Regression

THREE = Classification(("a", "b", "c"))
REDSHIFT = Regression(("z",), tolerance=0.15, relative=True)

# Eight samples: wrong from the start (0, 1), mended by the perturbation (1), broken by it (2, 3, 4), unmoved (5, 6, 7).
CLEAN = [0, 0, 1, 1, 1, 1, 1, 1]
AFTER = [0, 1, 0, 0, 0, 1, 1, 1]
SIZE = [9.0, 9.0, 1.0, 2.0, 6.0, 9.0, 9.0, 9.0]


def outcomes(**changes: Any) -> dict[str, Any]:
    made = classified(changes.pop("clean", CLEAN), changes.pop("after", AFTER))
    n = len(made["id"])
    made |= {name: np.zeros(n, np.int64) for name in ("forward_passes", "backward_passes")}
    made |= {norm: np.array(SIZE[:n]) for norm in ("linf", "l2", "l1", "l0")}
    return made | {name: np.asarray(value) for name, value in changes.items()}


def test_an_attack_is_judged_on_what_was_correct() -> None:
    row = figures(outcomes(), THREE, attack=True)
    assert (row["n"], row["n_clean_correct"], row["n_success"]) == (8, 6, 3)
    assert row["metric"] == "accuracy"
    assert (row["clean"], row["clean_lo"], row["clean_hi"]) == wilson(6, 8)
    assert (row["perturbed"], row["perturbed_lo"], row["perturbed_hi"]) == wilson(3, 8)
    rate = [row[f"attack_success_rate{end}"] for end in ("", "_lo", "_hi")]
    assert tuple(rate) == wilson(3, 6)


def test_noise_may_mend_an_error() -> None:
    row = figures(outcomes(), THREE, attack=False)
    assert row["perturbed"] == 4 / 8
    assert (row["n_success"], row["attack_success_rate"]) == (3, 0.5)


def test_rates_of_nothing_are_nan() -> None:
    row = figures(outcomes(clean=[0, 0], after=[0, 1]), THREE, attack=True)
    assert row["perturbed"] == 0
    for name in ("attack_success_rate", "linf_median", "l2_mean_success"):
        assert math.isnan(row[name]), name


def test_distances_count_failures_as_infinite() -> None:
    row = figures(outcomes(), THREE, attack=True)
    # Correct samples: distances 1, 2, 6 and three failures; the median lies between 6 and inf.
    assert row["linf_median"] == row["l2_median"] == row["l0_median"] == math.inf
    assert row["linf_mean_success"] == row["l2_mean_success"] == 3.0
    weaker = figures(outcomes(after=[0, 0, 0, 0, 0, 0, 1, 1]), THREE, attack=True)
    assert weaker["linf_median"] == (6.0 + 9.0) / 2
    none = figures(outcomes(after=CLEAN), THREE, attack=True)
    assert none["l2_median"] == math.inf
    assert math.isnan(none["l2_mean_success"])


def test_costs_are_means_over_attacked_samples() -> None:
    forward, backward = [0, 0, 4, 4, 4, 8, 8, 8], [0, 0, 1, 1, 1, 2, 2, 2]
    spent = outcomes(forward_passes=forward, backward_passes=backward, violation=np.array(AFTER, bool))
    row = figures(spent, THREE, attack=True)
    assert (row["forward_passes_mean"], row["backward_passes_mean"]) == (6.0, 1.5)
    assert row["violations"] == 4
    assert figures(outcomes(), THREE, attack=False)["forward_passes_mean"] == 0


def test_detector_columns() -> None:
    generator = np.random.default_rng(0)
    clean_score, perturbed_score = generator.normal(size=8), generator.normal(1.0, size=8)
    fooled, robust = np.isin(np.arange(8), [2, 3, 4]), np.isin(np.arange(8), [5, 6, 7])
    scored = outcomes(
        clean_score=clean_score, perturbed_score=perturbed_score, threshold=np.full(8, 0.5),
        network_right=fooled | robust, network_right_perturbed=~fooled, network_fooled=fooled,
    )  # fmt: skip
    row = figures(scored, THREE, attack=True)
    success, rejected = perturbed_score[[2, 3, 4]], perturbed_score > 0.5
    assert row["detector_auroc"] == auroc(clean_score, success)
    assert row["tpr_at_1pct_fpr"] == true_positive_rate(clean_score, success, 0.01)
    assert row["tpr_at_5pct_fpr"] == true_positive_rate(clean_score, success, 0.05)
    assert row["detector_fpr"] == (clean_score > 0.5).mean()
    assert row["detector_tpr"] == rejected[[2, 3, 4]].mean()
    assert row["detector_tpr_failed"] == rejected[~fooled].mean()
    assert row["tpr_at_5pct_fpr_failed"] == true_positive_rate(clean_score, perturbed_score[~fooled], 0.05)
    # What was wrong before the attack stays wrong.
    assert row["accuracy_detect_or_reject"] == (rejected | robust).mean()
    assert "detector_auroc" not in figures(outcomes(), THREE, attack=True)


def test_regression_columns() -> None:
    target = np.array([0.0, 1.0, 3.0, 0.5, 1.0, 1.0, 2.0, 0.0])
    scaled = np.array([0.0, 0.1, -0.1, 0.2, 0.05, -0.05, 0.02, 0.5])
    predicted = (target + scaled * (1 + target))[:, None]
    made = outcomes(target=target, clean_prediction=predicted, perturbed_prediction=predicted + 1.0)
    row = figures(made, REDSHIFT, attack=True)
    assert row["metric"] == "sigma_mad"
    assert row["bias_clean"] == pytest.approx(scaled.mean())
    assert row["bias_perturbed"] == pytest.approx((scaled + 1 / (1 + target)).mean())
    assert row["sigma_mad_clean"] == row["clean"] == pytest.approx(float(sigma_mad(scaled)))
    error = ((predicted[:, 0] - target) / (1 + target)).astype(np.float64)
    assert (row["clean"], row["clean_lo"], row["clean_hi"]) == influence.spread(error)
    assert (row["bias_clean"], row["bias_clean_lo"], row["bias_clean_hi"]) == influence.mean(error)
    assert (row["eta_clean"], row["eta_clean_lo"], row["eta_clean_hi"]) == wilson(2, 8)
    assert row["eta_clean"] == 2 / 8  # |0.2| and |0.5| exceed 0.15
    assert row["eta_perturbed"] == 1.0


def test_flags_and_columns() -> None:
    assert figures(outcomes(), THREE, attack=True)["flags"] == ""
    flagged = figures(outcomes(probabilities=np.ones(8, bool)), THREE, attack=True)
    assert flagged["flags"] == "probabilities"
    assert set(flagged) <= set(NAMES)


def test_the_worst_case_is_a_minimum_per_sample() -> None:
    first = outcomes(
        after=[0, 0, 1, 1, 0, 1, 1, 1],
        perturbed_margin=[-1, -1, 0.5, 0.2, -0.1, 2.0, 1.0, 0.5],
        linf=np.arange(8.0),
        forward_passes=np.full(8, 3),
        backward_passes=np.full(8, 1),
        violation=[0, 0, 0, 0, 0, 1, 0, 0],
    )
    second = outcomes(
        after=[0, 0, 0, 1, 0, 1, 1, 1],
        perturbed_margin=[-1, -2, -0.5, 0.3, -0.3, 1.0, 1.0, 0.6],
        linf=np.arange(8.0) + 10,
        forward_passes=np.full(8, 5),
        backward_passes=np.full(8, 0),
        violation=[0, 0, 0, 0, 0, 0, 1, 0],
    )
    worst = worst_of([first, second])
    assert worst["perturbed_margin"].tolist() == [-1, -2, -0.5, 0.2, -0.3, 1.0, 1.0, 0.5]
    assert worst["linf"].tolist() == [0, 11, 12, 3, 14, 15, 6, 7]
    assert worst["perturbed_correct"].tolist() == [0, 0, 0, 1, 0, 1, 1, 1]
    assert (worst["forward_passes"] == 8).all()
    assert (worst["backward_passes"] == 1).all()
    assert worst["violation"].tolist() == [0, 0, 0, 0, 0, 1, 1, 0]

    row, members = (
        figures(worst, THREE, attack=True),
        [figures(m, THREE, attack=True) for m in (first, second)],
    )
    assert row["perturbed"] == 4 / 8
    assert row["perturbed"] <= min(member["perturbed"] for member in members)
    union = (first["clean_correct"] & ~(first["perturbed_correct"] & second["perturbed_correct"])).sum()
    assert row["n_success"] == union == 2


def test_attacks_that_break_different_samples_add_up() -> None:
    halves = [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0, 0]]
    members = [outcomes(after=half) for half in halves]
    assert [figures(one, THREE, attack=True)["perturbed"] for one in members] == [3 / 8, 3 / 8]
    assert figures(worst_of(members), THREE, attack=True)["perturbed"] == 0


def test_a_success_without_a_margin_is_not_hidden() -> None:
    # A tie is wrong at margin 0, and so is a NaN.
    safe = outcomes(after=[1, 1], clean=[1, 1], perturbed_margin=[-0.0, 0.1])
    broken = outcomes(after=[0, 0], clean=[1, 1], perturbed_margin=[0.0, np.nan])
    for members in ([safe, broken], [broken, safe]):
        assert not worst_of(members)["perturbed_correct"].any()


def test_the_worst_of_a_goal_is_nearest_to_it() -> None:
    """An attack that shall push up is not worse for having pushed far down."""
    down = outcomes(after=[0, 0], clean=[1, 1], perturbed_margin=[-9.0, -9.0])
    up = outcomes(after=[0, 0], clean=[1, 1], perturbed_margin=[-1.0, -1.0])
    down |= {"goal_margin": np.array([9.0, -2.0]), "goal_reached": np.array([False, True])}
    up |= {"goal_margin": np.array([1.0, -1.0]), "goal_reached": np.array([False, True])}
    assert worst_of([down, up])["goal_margin"].tolist() == [1.0, -2.0]


def test_the_worst_of_one_is_itself() -> None:
    one = outcomes()
    for name, values in worst_of([one]).items():
        assert np.array_equal(values, one[name]), name
