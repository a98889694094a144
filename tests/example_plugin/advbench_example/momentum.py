"""Momentum iterative FGSM, Dong et al. 2018, https://arxiv.org/abs/1710.06081."""

import torch
from torch import Tensor

from advbench.api import Attack, Budget, Rng, Tags, Target, clip, linf_box, param


class Momentum(Attack):
    """Momentum iterative FGSM, Dong et al. 2018, https://arxiv.org/abs/1710.06081."""

    tags = Tags(norms={"linf"}, needs_gradient=True, strength="eps", unit="input units")

    eps: Budget = param(
        "8/255", "largest change of a value, one number or one per channel", unit="input units"
    )
    steps: int = param(10, "number of steps, each of size eps / steps", ge=1)
    decay: float = param(1.0, "how much of the earlier gradients is kept", ge=0)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """Steps along the sign of the accumulated gradient."""
        eps = self.eps.like(x)
        low, high = linf_box(x, eps, *target.space.bounds_like(x))
        point, momentum = x, torch.zeros_like(x)
        for _ in range(self.steps):
            gradient = target.input_gradient(point, y)
            size = gradient.abs().flatten(1).mean(1).clamp_min(1e-12).view(-1, *[1] * (x.dim() - 1))
            momentum = self.decay * momentum + gradient / size
            point = clip(point + eps / self.steps * momentum.sign(), low, high)
        return point
