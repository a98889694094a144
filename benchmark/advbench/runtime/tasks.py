"""What a task means in tensors: loss, margin, success. Outputs are (b, k), targets (b,) or (b, t)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advbench.errors import PluginError
from advbench.values import Classification, Regression, Task


def scaled_error(output: Tensor, y: Tensor, task: Regression) -> Tensor:
    """Signed error over its scale, (b, t)."""
    target = y.view_as(output)
    return (output - target) / (1 + target) if task.relative else output - target


def margin(output: Tensor, y: Tensor, task: Task) -> Tensor:
    """Distance from being wrong, (b,): negative means wrong.

    Classification: logit of ``y`` minus the best other one, for any K >= 2. Regression: tolerance minus the
    largest scaled error.
    """
    if isinstance(task, Regression):
        return task.tolerance - scaled_error(output, y, task).abs().amax(1)
    own = output.gather(1, y[:, None])[:, 0]
    others = output.scatter(1, y[:, None], float("-inf")).amax(1)
    return own - others


def is_wrong(output: Tensor, y: Tensor, task: Task) -> Tensor:
    """Whether the prediction is not (acceptably) ``y``, bool (b,). A tie or a NaN is wrong."""
    value = margin(output, y, task)
    return ~(value >= 0 if isinstance(task, Regression) else value > 0)


def attack_loss(name: str | Callable[..., Any], task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss (b,) that an attack maximises; see `Target.evaluate`."""
    if callable(name):
        return name
    if name not in ("margin", "ce"):
        raise PluginError(f"unknown loss {name!r}: 'margin', 'ce' or a function of (output, y)")
    if isinstance(task, Regression):
        return lambda output, y: scaled_error(output, y, task).square().sum(1)
    if name == "margin":
        return lambda output, y: -margin(output, y, task)
    return lambda output, y: F.cross_entropy(output, y, reduction="none")


def training_loss(
    output: Tensor, y: Tensor, task: Task, weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean loss of a batch, a scalar: weighted cross-entropy, or squared error."""
    if isinstance(task, Regression):
        return F.mse_loss(output, y.view_as(output))
    return F.cross_entropy(output, y, weight=weights, label_smoothing=label_smoothing)


def prediction(output: Tensor, task: Task) -> Tensor:
    """Class (b,) int64, or predicted targets (b, t)."""
    return output.argmax(1) if isinstance(task, Classification) else output


def looks_like_probabilities(output: Tensor, task: Task) -> bool:
    """Whether the rows of a classifier's output (b, k) are probabilities instead of logits."""
    if not isinstance(task, Classification) or not len(output):
        return False
    sums = output.double().sum(1)
    return bool((output >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))
