"""Fast gradient sign method, Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from advbench.api import Attack, Budget, Rng, Tags, Target, param


def fgsm(x: Tensor, y: Tensor, target: Target, *, eps: Tensor, loss: str = "margin") -> Tensor:
    """``x + eps * sign(d loss / d x)``, shaped like ``x``; neither clipped nor projected.

    Parameters
    ----------
    x, y
        Inputs (b, c, ...) in the input space and their true targets.
    target
        What is attacked. Costs one forward and one backward pass per sample.
    eps
        Step in units of ``x``, broadcast against it: (1, 1, 1, 1), (1, c, 1, 1) or (b, 1, 1, 1).
    loss
        See `Target.evaluate`.
    """
    return x + eps * target.input_gradient(x, y, loss).sign()


class FGSM(Attack):
    """Fast gradient sign method, Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572.

    One step of size ``eps`` along the sign of the input gradient. The default loss, the logit margin, keeps
    its gradient on a network so sure of itself that the cross-entropy of float32 logits is 0, and for two
    classes both give the same step.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf",),
        needs_gradient=True,
        targeted=True,
        audit="one-step",
        strength="eps",
        unit="input units",
        reference="https://arxiv.org/abs/1412.6572",
    )

    eps: Budget = param(
        "8/255", "largest change of a value, one number or one per channel", unit="input units"
    )
    loss: Literal["margin", "ce", "dlr"] = param(
        "margin", "what is increased: the negative logit margin, cross-entropy or the ratio of logits"
    )

    def passes(self) -> int:
        """One forward and one backward pass."""
        return 2

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`fgsm` with these parameters; the harness clips to the bounds."""
        return fgsm(x, y, target, eps=self.eps.like(x), loss=self.loss)
