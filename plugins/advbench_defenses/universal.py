"""Adaptation to a domain that may have classes of its own: DANCE, Saito et al. 2020, https://arxiv.org/abs/2002.07953.

Also the method of DeepAstroUDA, Ciprijanovic et al. 2023, https://arxiv.org/abs/2302.02005.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench_defenses.max_softmax import entropy

MOMENTUM = 0.9  # of the centres of the classes
NOTHING = -1e9  # has no share in a softmax, and unlike -inf no gradient that is not a number


def clustering(similarities: Tensor, temperature: float) -> Tensor:
    """Mean entropy of ``softmax(s / T)`` over the neighbours of each sample, a scalar: neighbourhood clustering.

    ``similarities`` (b, m) are cosines, ``-inf`` where something is no neighbour; a sample without any counts 0.
    """
    some = torch.isfinite(similarities).any(1)
    found = entropy((similarities / temperature).clamp_min(NOTHING).log_softmax(1))
    return torch.where(some, found, 0.0).mean()


def separation(logits: Tensor, threshold: float, margin: float) -> Tensor:
    """``-mean max(|H - threshold|, margin)`` of the entropies H of logits (b, K): a scalar <= 0.

    The paper's entropy separation: away from the threshold, where the network is sure or unsure enough, it is made more
    so. Samples within the margin are left alone: the constant that they add has no gradient.
    """
    away = (entropy(logits.log_softmax(1)) - threshold).abs()
    return -away.clamp_min(margin).mean()


class Memory(nn.Module):
    """What was last seen of each target sample, and where the classes of the source are.

    It keeps features of length 1: (n, d) of the target's training samples, and (K, d) running means of the source's
    classes, in the place of the weights of the cosine classifier of the paper, so that any network will do.
    """

    features: Tensor
    centres: Tensor
    seen: Tensor
    known: Tensor

    def __init__(self, samples: int, classes: int, width: int) -> None:
        super().__init__()
        for name, value in {
            "features": torch.zeros(samples, width),
            "centres": torch.zeros(classes, width),
            "seen": torch.zeros(samples, dtype=torch.bool),
            "known": torch.zeros(classes, dtype=torch.bool),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def similarities(self, features: Tensor, rows: Tensor) -> Tensor:
        """Cosines (b, K + n) of target features (b, d) with all centres and with all others in the memory.

        ``-inf`` stands for the sample itself, in ``rows`` (b,) of the memory, and for what has not been seen yet.
        """
        unit = F.normalize(features)
        others = (unit @ self.features.T).masked_fill(~self.seen, -torch.inf)
        others = others.scatter(1, rows[:, None], -torch.inf)
        return torch.cat([(unit @ self.centres.T).masked_fill(~self.known, -torch.inf), others], 1)

    @torch.no_grad()
    def remember(self, features: Tensor, rows: Tensor) -> None:
        """Target features (b, d) of the samples in ``rows`` (b,); of a sample that is there twice, the later ones."""
        last = torch.full_like(self.seen, -1, dtype=torch.int64)
        last = last.scatter_reduce(0, rows, torch.arange(len(rows), device=rows.device), "amax")[rows]
        # A new tensor: the gradient of this step still needs the old one.
        self.features = self.features.index_copy(0, rows, F.normalize(features)[last])
        self.seen = self.seen.index_fill(0, rows, True)

    @torch.no_grad()
    def learn_classes(self, features: Tensor, y: Tensor) -> None:
        """Move the centres of the classes y (b,) towards the mean of their source features (b, d)."""
        members = F.one_hot(y, len(self.centres)).to(features)
        present = members.sum(0) > 0
        means = F.normalize(members.T @ F.normalize(features))
        kept = torch.where(self.known, MOMENTUM, 0.0)[:, None]
        moved = F.normalize(kept * self.centres + (1 - kept) * means)
        self.centres.copy_(torch.where(present[:, None], moved, self.centres))
        self.known |= present
