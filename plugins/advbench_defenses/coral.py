"""Correlation alignment, Sun and Saenko 2016, https://arxiv.org/abs/1607.01719."""

from __future__ import annotations

import torch
from torch import Tensor


def covariance(features: Tensor) -> Tensor:
    """Covariance (d, d) of features (n, d), over n - 1; zeros of a single sample."""
    centred = features - features.mean(0)
    return centred.T @ centred / max(len(features) - 1, 1)


def coral(x: Tensor, y: Tensor) -> Tensor:
    """``|C_x - C_y|_F^2 / (4 d^2)`` of features (n, d) and (m, d), eq. 1 of the paper: a scalar >= 0."""
    return torch.square(covariance(x) - covariance(y)).sum() / (4 * x.shape[1] ** 2)
