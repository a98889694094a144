"""Maximum mean discrepancy of two sets of features, Gretton et al. 2012, https://jmlr.org/papers/v13/gretton12a.html."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

VARIANCES = (
    1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 100.0, 1e3, 1e4, 1e5, 1e6
)  # fmt: skip
"""The 19 kernels of Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299: variances, not standard deviations."""

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The kernels of the median heuristic: variances in units of the median squared distance."""


def squared_distances(points: Tensor) -> Tensor:
    """``|p_i - p_j|^2`` of points (n, d): (n, n) float64, of which the diagonal is exactly 0.

    Memory is O(n^2): differences of coordinates are never stored. In double precision and about the common mean, so
    that what the narrowest kernels see is no rounding.
    """
    centred = points.double() - points.detach().double().mean(0)
    square = centred.square().sum(1)
    distances = (square[:, None] + square - 2 * centred @ centred.T).clamp_min(0)
    return distances * (1 - torch.eye(len(points), dtype=torch.float64, device=points.device))


def discrepancy(distances: Tensor, count: int, variances: Sequence[float] | Tensor) -> Tensor:
    """``mean K(x, x') + mean K(y, y') - 2 mean K(x, y)``, the V-statistic, a scalar >= 0.

    ``K(x, y) = sum_v exp(-|x - y|^2 / (2 v))`` over the ``variances``; ``distances`` (n, n) are squared, the first
    ``count`` rows and columns those of x.
    """
    kernel = torch.zeros_like(distances)
    for variance in variances:
        kernel = kernel + torch.exp(-distances / (2 * variance))
    mixed = kernel[:count, count:].mean()
    return kernel[:count, :count].mean() + kernel[count:, count:].mean() - 2 * mixed


def mmd(x: Tensor, y: Tensor, kernel: Literal["fixed", "median"] = "fixed", floor: float = 0.0) -> Tensor:
    """Squared maximum mean discrepancy of features x (n, d) and y (m, d), a float64 scalar in [0, 2 x kernels].

    Parameters
    ----------
    x, y
        Features of the two domains.
    kernel
        ``"fixed"``: the sum of Gaussians of `VARIANCES`; ``"median"``: of five, `MULTIPLES` times the median squared
        distance of the two sets together, which is a constant for the gradient.
    floor
        Least value returned, below which there is no gradient: 1e-4 in the code of Ciprijanovic et al. 2022.
    """
    distances = squared_distances(torch.cat([x, y]))
    if kernel == "fixed":
        found = discrepancy(distances, len(x), VARIANCES)
    else:
        pairs = torch.triu_indices(len(distances), len(distances), 1, device=x.device)
        middle = distances.detach()[pairs[0], pairs[1]].median().clamp_min(torch.finfo(torch.float64).tiny)
        found = discrepancy(distances, len(x), middle * distances.new_tensor(MULTIPLES))
    return found.clamp_min(floor) if floor else found
