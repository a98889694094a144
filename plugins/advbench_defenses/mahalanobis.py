"""Detection by the distance of features, Lee et al. 2018, https://arxiv.org/abs/1807.03888."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from advbench.api import InputSpace, Prediction, Rng, Tags, param
from advbench_defenses.calibrated import Calibrated

LARGEST = torch.finfo(torch.float32).max


class Gaussians(NamedTuple):
    """Gaussians of K classes with one covariance, float64.

    The inverse covariance is ``directions @ diag(scale**2) @ directions.T`` plus ``rest**2`` times the
    identity on what is orthogonal to all directions.
    """

    means: Tensor  # (K, d)
    directions: Tensor  # (d, r), orthonormal columns
    scale: Tensor  # (r,)
    rest: Tensor  # ()


def ledoit_wolf(residuals: Tensor) -> float:
    """Weight of the scaled identity in the covariance of centred ``residuals`` (n, d), in [0, 1].

    Ledoit and Wolf 2004, lemma 3.3 (doi:10.1016/S0047-259X(03)00096-4); the covariance itself, which may be large, is
    not needed.
    """
    n, d = residuals.shape
    gram = residuals @ residuals.T if n < d else residuals.T @ residuals
    variance = residuals.square().sum() / (n * d)
    squared_norm = gram.square().sum() / n**2  # of the covariance
    spread = squared_norm / d - variance**2
    noise = (residuals.square().sum(1).square().sum() / n - squared_norm) / (n * d)
    return float((noise / spread).clamp(0, 1)) if spread > 0 else 1.0


def fit(features: Tensor, y: Tensor, *, shrinkage: float | None = None) -> Gaussians:
    """Means of the classes that occur and their pooled covariance, Lee et al. 2018, eq. 1.

    Parameters
    ----------
    features, y
        Features (n, d) and classes (n,) of clean training samples.
    shrinkage
        Weight in [0, 1] of the scaled identity in the covariance; `ledoit_wolf` unless given. With 0 the inverse
        is the pseudo-inverse.
    """
    features = features.double()
    present, row = torch.unique(y, return_inverse=True)
    count = torch.bincount(row, minlength=len(present))
    means = features.new_zeros(len(present), features.shape[1]).index_add_(0, row, features) / count[:, None]
    residuals = features - means[row]
    weight = ledoit_wolf(residuals) if shrinkage is None else shrinkage
    variance, directions = _principal(residuals)
    mean_variance = residuals.square().mean()
    if mean_variance == 0:  # nothing varies within a class: a plain distance
        weight, mean_variance = 1.0, torch.ones_like(mean_variance)
    scale = ((1 - weight) * variance + weight * mean_variance).rsqrt()
    complete = directions.shape[1] == features.shape[1] or weight == 0
    rest = torch.zeros_like(mean_variance) if complete else (weight * mean_variance).rsqrt()
    return Gaussians(means, directions, scale, rest)


def squared_distances(features: Tensor, gaussians: Gaussians) -> Tensor:
    """Squared Mahalanobis distances (b, K) of features (b, d), float64."""
    centre = gaussians.means.mean(0)
    points = _whitened(features.double() - centre, gaussians)
    means = _whitened(gaussians.means - centre, gaussians)
    lengths = points.square().sum(1, keepdim=True) + means.square().sum(1)
    return (lengths - 2 * points @ means.T).clamp_min(0)


def _whitened(centred: Tensor, gaussians: Gaussians) -> Tensor:
    """``centred`` (b, d) times the symmetric root of the inverse covariance."""
    along = centred @ gaussians.directions
    return gaussians.rest * centred + (along * (gaussians.scale - gaussians.rest)) @ gaussians.directions.T


def _principal(residuals: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (r,) and directions (d, r) in which residuals (n, d) vary; r <= min(n, d)."""
    n, d = residuals.shape
    wide = n < d
    values, vectors = torch.linalg.eigh((residuals @ residuals.T if wide else residuals.T @ residuals) / n)
    keep = values > 1e-10 * values[-1]
    values, vectors = values[keep], vectors[:, keep]
    return values, residuals.T @ vectors / (n * values).sqrt() if wide else vectors


class Mahalanobis(Calibrated):
    """Mahalanobis distance on features, Lee et al. 2018, https://arxiv.org/abs/1807.03888.

    The features of clean training samples are taken for Gaussian, with a mean for each class and one covariance; what
    lies far from all means is rejected. This is the paper's score (eq. 2) of one layer, the features that the network
    returns. Its step on the input and its weights of several layers are left out: they are tuned on attacked
    data. The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004), so that it has an inverse
    where samples are few or features never vary; ``shrinkage: 0`` is the paper's, with the pseudo-inverse there.
    """

    tags: ClassVar[Tags] = Tags(
        tasks=frozenset({"classification"}),
        detects=True,
        learns=True,
        reference="https://arxiv.org/abs/1807.03888",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"shrinkage": 0.1})

    shrinkage: float | None = param(
        None, "weight of the identity in the covariance; that of Ledoit and Wolf unless given", ge=0, le=1
    )

    def learn(self, x: Tensor, y: Tensor, inside: Prediction, space: InputSpace) -> Mapping[str, Tensor]:
        """`fit` on the features of clean training samples."""
        return fit(inside.features(x), y, shrinkage=self.shrinkage)._asdict()

    def score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Squared distance (b,) >= 0 to the nearest class mean, in units of the covariance."""
        gaussians = Gaussians(**{name: value.double() for name, value in inside.learned.items()})
        return squared_distances(inside.features(x), gaussians).amin(1).clamp_max(LARGEST).to(x)
