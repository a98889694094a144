"""Total-variation denoising, Rudin et al. 1992, as purification, Guo et al. 2018, https://arxiv.org/abs/1711.00117."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from advbench.api import Defense, InputSpace, Rng, Tags, Task, param
from advbench_defenses.squeezers import not_images

STEP = 0.125
"""Chambolle's tau; Theorem 3.1: the iterations converge for all up to 1/8."""


def gradient(u: Tensor) -> Tensor:
    """Forward differences (2, b, c, h, w) of images (b, c, h, w), down and right; 0 at the last pixel."""
    down = F.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))
    right = F.pad(u[..., 1:] - u[..., :-1], (0, 1))
    return torch.stack([down, right])


def divergence(p: Tensor) -> Tensor:
    """Divergence (b, c, h, w) of a field (2, b, c, h, w): minus the adjoint of `gradient`."""
    # The last row and column of a field meet no difference.
    down, right = F.pad(p[0, ..., :-1, :], (0, 0, 1, 1)), F.pad(p[1, ..., :-1], (1, 1))
    return down[..., 1:, :] - down[..., :-1, :] + right[..., 1:] - right[..., :-1]


def denoise(x: Tensor, lower: Tensor, upper: Tensor, *, weight: float, iterations: int) -> Tensor:
    """``argmin_u sum |grad u| + |u - x|^2 / (2 weight)`` for each channel, differentiable through the iterations.

    Chambolle 2004, https://doi.org/10.1023/B:JMIV.0000011325.36760.1e, eq. 9: ``u = x - weight div p`` with
    ``p <- (p + tau v) / (1 + tau |v|)``, ``v = grad(div p - x / weight)``.

    Parameters
    ----------
    x
        Images (b, c, h, w).
    lower, upper
        Bounds, broadcast against ``x``; in the objective values are in units of the range between them.
    weight
        The paper's lambda.
    iterations
        Steps from ``p = 0``.
    """
    width = upper - lower
    image = x / (width * weight)
    p = torch.zeros((2, *x.shape), dtype=x.dtype, device=x.device)
    # Blocks of steps are computed again on the way back: memory grows with the root of their number.
    block = math.isqrt(iterations - 1) + 1
    for done in range(0, iterations, block):
        count = min(block, iterations - done)
        p = checkpoint(_steps, p, image, count, use_reentrant=False, preserve_rng_state=False)
    return x - width * weight * divergence(p)


def _steps(p: Tensor, image: Tensor, count: int) -> Tensor:
    for _ in range(count):
        v = STEP * gradient(divergence(p) - image)
        # The addend, which single precision loses, keeps the gradient of the root finite where there is no slope.
        p = (p + v) / (1 + (v[0].square() + v[1].square() + 1e-30).sqrt())
    return p


class TotalVariation(Defense):
    """Total-variation denoising, Rudin et al. 1992, each channel on its own.

    As a defense Guo et al. 2018, https://arxiv.org/abs/1711.00117, without their random loss of pixels. Adaptive
    attacks follow the true gradient through all iterations.
    """

    tags: ClassVar[Tags] = Tags(purifies=True, reference="https://arxiv.org/abs/1711.00117")

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"weight": 0.5, "iterations": 7})

    weight: float = param(
        0.1, "weight of the total variation, over the range between the bounds", ge=1e-6, le=1e6
    )
    iterations: int = param(50, "steps of the dual problem", ge=1, le=10_000)

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images alone."""
        return not_images(space, "total variation")

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`denoise` within the bounds of the input space."""
        return denoise(x, *space.bounds_like(x), weight=self.weight, iterations=self.iterations)

    def surrogate(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """The same."""
        return self.purify(x, space, rng)
