"""Adam on many independent problems at once, Kingma and Ba 2015, https://arxiv.org/abs/1412.6980."""

from __future__ import annotations

import torch
from torch import Tensor

from advbench_attacks.lbfgs import Objective


def adam(start: Tensor, objective: Objective, *, evaluations: int, learning_rate: float) -> Tensor:
    """The last point (b, n) of so many steps from ``start`` (b, n); ``learning_rate`` bounds a step, nearly.

    The paper's decay rates, .9 and .999; its epsilon is so small that a factor on the objective changes nothing.
    """
    point, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    rows = torch.arange(len(start), device=start.device)
    for step in range(1, evaluations + 1):
        _, gradient = objective(point, rows)
        mean = mean.lerp(gradient, 0.1)
        square = square.lerp(gradient.square(), 0.001)
        scale = (square / (1 - 0.999**step)).sqrt() + 1e-12
        point = point - learning_rate / (1 - 0.9**step) * mean / scale
    return point
