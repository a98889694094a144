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


def known(y: Tensor, task: Task) -> Tensor:
    """Whether a sample is of one of the classes, bool (b,)."""
    return torch.ones(len(y), dtype=torch.bool, device=y.device) if isinstance(task, Regression) else y >= 0


def margin(output: Tensor, y: Tensor, task: Task) -> Tensor:
    """Distance from being wrong, (b,): negative means wrong.

    Classification: logit of ``y`` minus the best other one, for any K >= 2; minus infinity where ``y`` is -1, none of
    them. Regression: tolerance minus the largest scaled error.
    """
    if isinstance(task, Regression):
        return task.tolerance - scaled_error(output, y, task).abs().amax(1)
    index = y.clamp_min(0)[:, None]
    own = output.gather(1, index)[:, 0]
    others = output.scatter(1, index, float("-inf")).amax(1)
    return torch.where(known(y, task), own - others, float("-inf"))


def is_wrong(output: Tensor, y: Tensor, task: Task) -> Tensor:
    """Whether the prediction is not (acceptably) ``y``, bool (b,). A tie or a NaN is wrong."""
    value = margin(output, y, task)
    return ~(value >= 0 if isinstance(task, Regression) else value > 0)


ROUNDING = 1e-5
"""Share of the largest output within which a margin may change sign with the company in the batch."""

COARSE = 2.0**-7
"""The same between bfloat16, which has eight bits, and the float32 of the judge."""


def goal_margin(output: Tensor, y: Tensor, task: Task, aim: Tensor | None) -> Tensor:
    """Distance from the attacker's goal, (b,); ``aim`` as `aims` gives it, None for untargeted attacks."""
    if aim is None:
        return margin(output, y, task)
    if isinstance(task, Regression):
        return task.tolerance - (aim[:, None] * scaled_error(output, y, task)).amax(1)
    return -margin(output, aim, task)


def with_margin(
    output: Tensor, y: Tensor, task: Task, aim: Tensor | None, margin: Tensor, wanted: Tensor
) -> Tensor:
    """Outputs (b, k) of which `goal_margin` is ``wanted`` (b,) instead of ``margin``; it may only grow.

    The logit of ``y`` is raised; a regressor's error shrinks, at most to nothing.
    """
    more = wanted > margin
    if isinstance(task, Regression):
        target = y.view_as(output)
        error = task.tolerance - margin
        factor = (task.tolerance - wanted).clamp_min(0) / torch.where(more, error, 1).clamp_min(1e-12)
        return torch.where(more[:, None], target + (output - target) * factor[:, None], output)
    others = output.scatter(1, y[:, None], float("-inf"))
    rival = others.amax(1) if aim is None else output.gather(1, aim[:, None])[:, 0]
    own = output.gather(1, y[:, None])[:, 0]
    return output.scatter(1, y[:, None], torch.where(more, rival + wanted, own)[:, None])


def is_adversarial(
    output: Tensor, y: Tensor, task: Task, aim: Tensor | None, rounding: float = ROUNDING
) -> Tensor:
    """Whether the goal is reached by more than ``rounding``, bool (b,). A NaN counts as reached: the judge decides."""
    return ~(goal_margin(output, y, task, aim) >= -rounding * output.abs().amax(1))


def aims(
    goal: str | int, output: Tensor, y: Tensor, task: Task, draw: Callable[[int], Tensor]
) -> Tensor | None:
    """What each sample is driven to: a class (b,) int64, the sign of the error (b,), or None if untargeted.

    Parameters
    ----------
    goal
        The attack's goal.
    output
        Clean outputs (b, k), for ``runner-up`` and ``least-likely``.
    y
        True classes (b,) or targets (b, t).
    task
        The task.
    draw
        ``draw(high)`` gives integers (b,) in ``[0, high)``.
    """
    if goal == "untargeted":
        return None
    if goal in ("up", "down"):
        return torch.full((len(output),), 1 if goal == "up" else -1, device=output.device)
    count, y = output.shape[1], y.clamp_min(0)  # nobody aims with a sample of no class
    others = output.scatter(1, y[:, None], float("-inf"))
    if goal == "runner-up":
        return others.argmax(1)
    if goal == "least-likely":
        return output.scatter(1, y[:, None], float("inf")).argmin(1)
    if goal == "next":
        return (y + 1) % count
    if goal == "random":
        return (y + 1 + draw(count - 1)) % count
    return torch.full_like(y, int(goal))


def attack_loss(
    name: str | Callable[..., Any], task: Task, aim: Tensor | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss (b,) that an attack maximises, as a function of (output, y); see `Target.evaluate`."""
    if callable(name):
        return name
    if name not in ("margin", "ce", "dlr"):
        raise PluginError(f"unknown loss {name!r}: 'margin', 'ce', 'dlr' or a function of (output, y)")
    if name == "ce" and isinstance(task, Regression) and aim is None:
        return lambda output, y: scaled_error(output, y, task).square().sum(1)
    if name == "margin" or isinstance(task, Regression):
        return lambda output, y: -goal_margin(output, y, task, aim)
    untargeted = _log_odds if name == "ce" else _dlr
    if aim is None:
        return untargeted
    if name == "ce":
        return lambda output, y: -_log_odds(output, aim)
    return lambda output, y: _dlr_targeted(output, y, aim)


def _log_odds(output: Tensor, y: Tensor) -> Tensor:
    """log((1 - p_y) / p_y): cross-entropy's gradient direction at any scale of the logits, (b,)."""
    own = output.gather(1, y[:, None])[:, 0]
    return output.scatter(1, y[:, None], float("-inf")).logsumexp(1) - own


def _dlr(output: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, Croce and Hein 2020, eq. 6 (https://arxiv.org/abs/2003.01690), (b,)."""
    own = output.gather(1, y[:, None])[:, 0]
    other = output.scatter(1, y[:, None], float("-inf")).amax(1)
    return (other - own) / _spread(output, [2])


def _dlr_targeted(output: Tensor, y: Tensor, aim: Tensor) -> Tensor:
    """The targeted ratio, eq. 7 of the same paper, (b,)."""
    own, wanted = (output.gather(1, k[:, None])[:, 0] for k in (y, aim))
    return (wanted - own) / _spread(output, [2, 3])


def _spread(output: Tensor, ranks: list[int]) -> Tensor:
    """Largest logit minus the mean of those of these ranks, (b,); 1 where there are too few classes."""
    if output.shape[1] <= max(ranks):
        return output.new_ones(len(output))
    top = output.topk(max(ranks) + 1, dim=1).values
    return (top[:, 0] - top[:, ranks].mean(1)).clamp_min(1e-12)


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
