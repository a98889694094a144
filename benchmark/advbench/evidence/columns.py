"""The leaderboard's columns: frozen order, one value per cell, units in the names."""

from __future__ import annotations

from typing import NamedTuple


class Column(NamedTuple):
    """One column: its name, its group and what it says."""

    name: str
    group: str
    help: str


def _group(group: str, **columns: str) -> list[Column]:
    return [Column(name, group, help) for name, help in columns.items()]


_ENDS = {
    "_lo": "lower end of the 95 % interval of the ",
    "_hi": "upper end of the same interval of the ",
}

COLUMNS = (
    *_group(
        "identity",
        schema="version of these columns",
        protocol="version of the evaluation protocol; rows of different protocols are not comparable",
        suite="name of the suite",
        cell_id="hash of everything that decides the row's numbers",
        kind="`cell`; `worst-case`: per sample the worst of all attacks of one threat model; `audit`: a cell that "
        "`--audit` added",
        dataset="label of the data set in the suite",
        dataset_id="full id of the data set",
        dataset_params="its effective parameters, JSON",
        fingerprint="hash of the data themselves: space, task, splits, ids, targets, inputs",
        split="split that is evaluated",
        trained_on="label of the data set that the network was trained on",
        adapted_to="label of the data set that the defense adapted the network to; empty if there is none",
        model="label of the model",
        model_id="full id of the model",
        model_params="its effective parameters, JSON",
        defense="label of the defense, `none` if there is none",
        defense_id="full ids of the defenses in their order, joined by ` + `",
        defense_params="their effective parameters, JSON list",
        perturbation="label of the perturbation, `none` for clean inputs",
        perturbation_id="full id of the perturbation; of all members for a worst-case row",
        perturbation_params="its effective parameters, JSON",
        norm="norm of the budget: linf, l2, l1, l0 (values) or pixels; without a `strength` the one that an attack "
        "makes small",
        strength="how strong the perturbation is, in `strength_unit`",
        strength_unit="unit of `strength`",
        knowledge="none (natural), blackbox, transfer, oblivious (crafted on the undefended network) or adaptive",
        adaptation="how an adaptive attack was adapted, JSON: the defenses that it goes through, the draws that it "
        "averages over, the loss that they ask for, the detector that it has to pass; empty if it was not",
        targeted="whether the attack aims at a class, or up or down; its goal is in `perturbation_params`",
        budget_passes="granted forward plus backward passes per sample; empty: unlimited",
        seed="seed of training and evaluation",
    ),
    *_group(
        "status",
        status="ok, skipped, failed, timeout or crashed",
        reason="why, if not ok",
    ),
    *_group(
        "result",
        n="samples evaluated",
        n_clean_correct="samples whose unperturbed input is predicted correctly (a regressor: within its tolerance), "
        "and accepted by the detector if there is one",
        n_eligible="clean-correct samples; for a targeted attack those of another class than its goal",
        n_success="eligible samples that the perturbation made wrong, or brought to its goal if it is targeted; past "
        "the detector if there is one",
        metric="what `clean` and `perturbed` are: accuracy, or sigma_mad for a regressor",
        clean="the metric on unperturbed inputs; what a detector rejects is not correct",
        clean_lo="lower end of its 95 % interval",
        clean_hi="upper end of its 95 % interval",
        perturbed="the metric on perturbed inputs; under attack what was wrong before stays wrong, and what a "
        "detector rejects has not fooled it",
        perturbed_lo="lower end of its 95 % interval",
        perturbed_hi="upper end of its 95 % interval",
        attack_success_rate="n_success / n_eligible",
        attack_success_rate_lo="lower end of its 95 % interval",
        attack_success_rate_hi="upper end of its 95 % interval",
    ),
    *_group(
        "clean price",
        clean_price="how much worse `clean` is than that of the undefended model; empty if that is not in the run",
        ece_clean="expected calibration error of the largest softmax value, 15 bins, unperturbed",
        ece_perturbed="the same, perturbed",
        gradient_norm_median="median l2 norm of the margin's gradient at up to 64 clean inputs, as an adaptive attack "
        "sees it",
    ),
    *_group(
        "distance",
        linf_median="median linf distance over eligible samples, failures counted as inf",
        linf_mean_success="mean linf distance over successes",
        l2_median="median l2 distance over eligible samples, failures counted as inf",
        l2_mean_success="mean l2 distance over successes",
        l0_median="median number of changed values over eligible samples, failures counted as inf",
        size="what an attack measures its change by where no norm does, with its unit",
        size_mean_success="mean of that over successes",
        n_lost_by_rounding="successes that are none any more once rounded to 256 levels between the bounds",
    ),
    *_group(
        "cost",
        forward_passes_mean="forward passes per attacked sample",
        backward_passes_mean="backward passes per attacked sample",
        violations="samples that left the threat model and were brought back before they were judged",
    ),
    *_group(
        "regression",
        eta_threshold="the task's tolerance: a sample whose scaled error is larger is an outlier",
        **{
            f"{figure}_{side}{end}": f"{'' if not end else _ENDS[end]}{words}, {side}"
            for figure, words in (
                ("bias", "mean scaled error (predicted - true, over 1 + true if the task is relative)"),
                ("sigma_mad", "1.4826 * median absolute deviation of the scaled error from its median"),
                ("eta", "share of samples beyond `eta_threshold`"),
            )
            for side in ("clean", "perturbed")
            for end in ("", "_lo", "_hi")
        },
    ),
    *_group(
        "detector",
        detector_auroc="probability that a perturbation that fools the network scores higher than a clean input",
        tpr_at_1pct_fpr="share of the perturbations that fool the network detected at 1 % false positives",
        tpr_at_5pct_fpr="share of the perturbations that fool the network detected at 5 % false positives",
        tpr_at_1pct_fpr_failed="share of the other perturbations detected at 1 % false positives",
        tpr_at_5pct_fpr_failed="share of the other perturbations detected at 5 % false positives",
        detector_fpr="share of clean inputs rejected at the calibrated threshold",
        detector_tpr="share of the perturbations that fool the network rejected at the calibrated threshold",
        detector_tpr_failed="share of the other perturbations rejected at the calibrated threshold",
        accuracy_detect_or_reject="share of samples that are rejected or predicted correctly when perturbed",
    ),
    *_group(
        "open set",
        n_unknown="samples that are none of the classes; empty if there is none",
        unknown_auroc="probability that such a sample scores higher than one of the classes, unperturbed",
        closed_set_clean="accuracy of the network, without its detector, on the samples of the classes, unperturbed",
        closed_set_perturbed="the same, perturbed",
    ),
    *_group(
        "certificate",
        certified_radius_median="median certified l2 radius of unperturbed inputs; 0 where wrong or abstaining",
        certified_radius_mean="mean of that (average certified radius)",
        certificate_confidence="probability that the certificate of a sample holds",
    ),
    *_group(
        "flags",
        flags="reasons to doubt the row, sorted and separated by `;`; empty if none was found",
    ),
    *_group(
        "origin",
        weights="hash of the network's weights",
        advbench_version="version of advbench",
        plugin_versions="distributions of the row's components, JSON",
        torch_version="version of torch",
        device="device type that computed the row",
        precision="precision of the judging forward pass, and of the attack if it is another one",
    ),
)

NAMES = tuple(column.name for column in COLUMNS)
