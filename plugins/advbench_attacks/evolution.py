"""Differential evolution, rand/1 without crossover, for a whole batch of populations at once.

Storn and Price 1997, https://doi.org/10.1023/A:1008202821328. Genes lie in [0, 1].
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from advbench.api import Rng

Repair = Literal["clip", "resample"]
"""What happens to a gene that leaves [0, 1]: it stops there, or is drawn anew."""


def others(draws: Tensor) -> Tensor:
    """For each of n members three members, different from it and from each other; (b, n, 3) int64.

    Parameters
    ----------
    draws
        Uniform draws (b, n, 3) in [0, 1).
    """
    count = draws.shape[1]
    taken = torch.arange(count, device=draws.device).expand(len(draws), count)[..., None]
    found = []
    for k in range(3):
        left = count - 1 - k
        pick = (draws[..., k] * left).long().clamp_max(left - 1)
        for one in taken.sort(dim=2).values.unbind(2):  # the pick-th of those that are left
            pick = pick + (pick >= one)
        found.append(pick)
        taken = torch.cat([taken, pick[..., None]], 2)
    return torch.stack(found, 2)


def children(genes: Tensor, rng: Rng, *, factor: float, repair: Repair) -> Tensor:
    """One child ``a + factor * (b - c)`` for every member, like ``genes`` (b, n, d), n >= 4."""
    batch, count, length = genes.shape
    draws = rng.uniform(count, 3 + (length if repair == "resample" else 0)).to(genes)
    parents = others(draws[..., :3])
    picked = genes[torch.arange(batch, device=genes.device)[:, None, None], parents]
    born = picked[:, :, 0] + factor * (picked[:, :, 1] - picked[:, :, 2])
    if repair == "clip":
        return born.clamp(0.0, 1.0)
    return torch.where((born < 0) | (born > 1), draws[..., 3:], born)


def survivors(genes: Tensor, cost: Tensor, born: Tensor, born_cost: Tensor) -> tuple[Tensor, Tensor]:
    """Each child takes its own parent's place if it costs less; genes (b, n, d) and costs (b, n)."""
    better = born_cost < cost
    return torch.where(better[..., None], born, genes), torch.where(better, born_cost, cost)
