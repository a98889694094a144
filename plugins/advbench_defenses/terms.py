"""Terms of losses of domain adaptation: how sure the network is, and how compact its classes are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advbench_defenses.max_softmax import entropy

SMALL = 1e-8  # keeps ratios finite where all features are equal


def mean_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the class probabilities of logits (b, K) in nat: a scalar in [0, log K]."""
    return entropy(logits.log_softmax(1)).mean()


def mutual_information(logits: Tensor) -> Tensor:
    """Entropy of the mean class probabilities of logits (b, K) less their mean entropy: a scalar in [0, log K].

    It is large where the network is sure of each sample and does not call all of them the same. Krause et al. 2010,
    https://papers.nips.cc/paper/4154.
    """
    mean = logits.log_softmax(1).logsumexp(0, keepdim=True) - math.log(len(logits))
    return entropy(mean)[0] - mean_entropy(logits)


def fisher(features: Tensor, y: Tensor) -> Tensor:
    """Scatter within classes over scatter between them, a scalar >= 0: trace ratio of Fisher's criterion.

    ``sum_i |f_i - m(y_i)|^2 / sum_i |m(y_i) - m|^2`` for features (b, d) of classes y (b,), with the means m(k) of the
    classes and m of all. 0 where the batch has one class only, or all features are equal. Used for domain adaptation by
    Ciprijanovic et al. 2021, https://arxiv.org/abs/2103.01373.
    """
    classes = torch.nn.functional.one_hot(y).to(features)  # (b, K)
    means = (classes.T @ features) / classes.sum(0).clamp_min(1)[:, None]
    own = means[y]
    within = (features - own).square().sum()
    between = (own - features.mean(0)).square().sum()
    several = (y != y[:1]).any()
    return torch.where(several, within / (between + SMALL), within.detach() * 0)
