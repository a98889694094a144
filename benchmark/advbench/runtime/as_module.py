"""One sample of a target as a network that other libraries can call and differentiate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advbench.errors import BudgetExhausted, PluginError

if TYPE_CHECKING:
    from advbench.runtime.target import PipelineTarget


class AsModule(nn.Module):
    """Inputs (m, c, ...), all of the target's only sample, to outputs (m, k); passes are counted.

    Its one parameter is idle and tells the device. The network's own are hidden: nobody can train them, switch
    their mode or leave gradients in them. Rows are evaluated as they come, without padding: how many there are
    depends on that one sample alone.
    """

    def __init__(self, target: PipelineTarget) -> None:
        super().__init__()
        if len(target) != 1:
            raise PluginError(f"module() is for a target of one sample, not of {len(target)}; take one first")
        self._target = target
        self.idle = nn.Parameter(target.meter.clean.new_zeros(()), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (m, k): a forward pass for each row, and for each draw of the defense where a gradient is wanted."""
        x = x.to(self.idle)
        target = self._target.take(torch.zeros(len(x), dtype=torch.int64, device=x.device))
        graph = torch.is_grad_enabled() and x.requires_grad
        draws = target.pipeline.draws if graph else 1
        passes = draws * target.cost(x.detach(), graph)
        within = _charged(target, passes, 0)
        if target.mask is not None:
            x = torch.where(target.mask, x, x.detach())
        parts = torch.split(torch.arange(len(x), device=x.device), target.pipeline.chunk)
        output = torch.cat([_mean_output(target, x, rows, draws, graph) for rows in parts])
        target.observe(x.detach(), within, output.detach())
        if graph:
            output.register_hook(_counted(target, passes))  # type: ignore[no-untyped-call]
        return output


def _mean_output(target: PipelineTarget, x: Tensor, rows: Tensor, draws: int, graph: bool) -> Tensor:
    """Output (r, k) of some rows, averaged over the draws of the defense."""
    outputs = [target.seen(x[rows], rows, graph) for _ in range(draws)]
    return torch.stack(outputs).mean(0) if draws > 1 else outputs[0]


def _charged(target: PipelineTarget, forward: int, backward: int) -> Tensor:
    """Count passes; a library that knows of one sample alone is stopped as soon as this one has no budget left."""
    within = target.meter.charge(target.rows, forward, backward)
    if not bool(within.any()):
        raise BudgetExhausted(f"{target.meter.budget} passes per sample")
    return within


def _counted(target: PipelineTarget, passes: int) -> Callable[[Tensor], None]:
    """A hook for the backward pass, which a library may do once, often or never."""

    def count(_: Tensor) -> None:
        target.check_gradients()
        _charged(target, 0, passes)

    return count
