"""A cross-entropy that no scale of the outputs changes: log-odds of the goal in units of the outputs' spread."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advbench.api import Classification, Target
from advbench_attacks.search import Active, Loss

LOSSES = (
    "what is increased: log-odds at a scale of their own (a regressor's error), the negative logit margin,"
    " cross-entropy or the ratio of logits"
)
"""Help on the parameter ``loss`` of attacks that can ascend ``odds``."""

SHARPNESS = 8.0
"""Units in one standard deviation of the outputs; networks trained by cross-entropy on ten classes are about here."""


def resolved(batch: Active, loss: Loss) -> tuple[Active, Loss]:
    """The samples and the loss for `Active.evaluate`: ``"odds"`` become `log_odds`, or a regressor's margin."""
    if loss != "odds":
        return batch, loss
    goal = goal_classes(batch.target, batch.y)
    return (batch, "margin") if goal is None else (replace(batch, label=goal), log_odds)


def goal_classes(target: Target, y: Tensor) -> Tensor | None:
    """Classes (b, k) bool whose prediction reaches the goal, as the target's margin tells; None for a regressor."""
    if not isinstance(target.task, Classification):
        return None
    count = target.task.outputs
    owner = torch.arange(len(y), device=y.device).repeat_interleave(count)
    sure = torch.eye(count, device=y.device).repeat(len(y), 1)
    return (target.take(owner).margin(sure, y[owner]) < 0).view(-1, count)


def log_odds(output: Tensor, goal: Tensor) -> Tensor:
    """``s log(p / (1 - p))``, (b,), with p the probability of the classes ``goal`` (b, k) under softmax(output / s).

    The unit ``s``, for each sample a share of the standard deviation of its outputs (b, k), counts as a constant.
    With cross-entropy it shares that all classes pull at once, where the margin follows the nearest alone; unlike it,
    it neither saturates nor depends on the scale of the outputs. For two classes it is the margin.
    """
    shifted = output - output.detach().mean(1, keepdim=True)
    unit = (shifted.detach().square().mean(1).sqrt() / SHARPNESS).clamp_min(1e-30)
    scaled = shifted / unit[:, None]
    inside, outside = (scaled.masked_fill(where, -torch.inf).logsumexp(1) for where in (~goal, goal))
    return unit * (inside - outside)
