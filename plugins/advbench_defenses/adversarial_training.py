"""Training on adversarial examples: Goodfellow et al. 2015, Madry et al. 2018, Rony et al. 2019."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from advbench.api import (
    Batch,
    Budget,
    Defense,
    InputSpace,
    Tags,
    Task,
    Training,
    Use,
    param,
    project,
)


def mixed(batch: Batch, fraction: float, perturb: Callable[[Batch], Tensor]) -> Tensor:
    """Inputs (b, c, ...) of a batch of which the first ``round(fraction * b)`` are perturbed.

    Batches are in random order, so these are a random share of the samples. ``perturb`` gets them as a batch.
    """
    count = round(fraction * len(batch.x))
    if not count:
        return batch.x
    return torch.cat([perturb(part(batch, torch.arange(count, device=batch.x.device))), batch.x[count:]])


def part(batch: Batch, rows: Tensor) -> Batch:
    """The samples ``rows`` (int64) of a batch."""
    extras = {name: value[rows] for name, value in batch.extras.items()}
    return Batch(batch.x[rows], batch.y[rows], extras, batch.rng.take(rows))


def unfit_budget(defense: Defense, space: InputSpace) -> str | None:
    """Which budget has neither one entry nor one for each channel, in words, or None."""
    for name, value in defense:
        if isinstance(value, Budget) and len(value.values) not in (1, space.shape[0]):
            return f"{name} has {len(value.values)} entries for {space.shape[0]} channels"
    return None


class Adversarial(Defense):
    """What trainings on adversarial examples share."""

    fraction: float = param(1.0, "share of each batch that is perturbed; the rest stays clean", gt=0, le=1)

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Budgets must fit the channels."""
        return unfit_budget(self, space)

    def attack_used(self) -> Use:
        """The attack, with its parameters."""
        raise NotImplementedError

    @property
    def longest(self) -> Budget | None:
        """The l2 norm to which longer perturbations are scaled back, or None."""
        return None

    def uses(self) -> Sequence[Use]:
        """The attack."""
        return (self.attack_used(),)

    def train(self, training: Training) -> nn.Module:
        """A network trained by the recipe, on batches perturbed against the network as it is at that step."""
        use, space = self.attack_used(), training.data.space

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            def perturb(some: Batch) -> Tensor:
                found, x = training.perturb(use, module, some), some.x
                if self.longest is None:
                    return found
                return project(found, x, "l2", self.longest.like(x), *space.bounds_like(x))

            x = mixed(batch, self.fraction, perturb)
            return training.loss(module, batch._replace(x=x))

        return training.fit(training.build(), loss=loss, validation=loss, purpose="adversarial")


class AdversarialTraining(Adversarial):
    """Training on a mix of clean samples and samples attacked on the network in training, Goodfellow et al. 2015.

    ``fraction: 1`` is the saddle point of Madry et al. 2018 (https://arxiv.org/abs/1706.06083): the loss of
    perturbed samples alone. With ``fraction: 0.5`` half of each batch stays clean; its mean loss is in expectation
    ``(J(x) + J(x')) / 2``, section 6 of Goodfellow et al. (https://arxiv.org/abs/1412.6572). For a classifier
    or a regressor. An attack that ends at the first error trains less than it could: ``attacks/pgd`` needs ``loss:
    ce, stop_on_success: false``.
    """

    tags: ClassVar[Tags] = Tags(trains=True, reference="https://arxiv.org/abs/1412.6572")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"attack": {"use": "attacks/pgd", "params": {"eps": 0.1, "steps": 2, "loss": "ce"}}, "fraction": 0.5},
    )

    attack: Use = param(
        Use(
            use="attacks/pgd",
            params={"eps": "8/255", "steps": 10, "loss": "ce", "stop_on_success": False},
        ),
        "attack on the network in training",
    )
    max_norm: Budget | None = param(
        None, "l2 norm to which longer perturbations are scaled back", unit="input units"
    )

    def attack_used(self) -> Use:
        """As given."""
        return self.attack

    @property
    def longest(self) -> Budget | None:
        """As given."""
        return self.max_norm


class FGSMTraining(Adversarial):
    """Adversarial training with one signed step, Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572.

    Half of each batch is perturbed, by 0.25 on MNIST in the paper. A network can learn to mislead a single step
    alone (Tramer et al. 2018, https://arxiv.org/abs/1705.07204), so PGD at the same ``eps`` joins the adaptive rows.
    """

    tags: ClassVar[Tags] = Tags(trains=True, reference="https://arxiv.org/abs/1412.6572")

    eps: Budget = param(0.25, "largest change of a value, one number or one per channel", unit="input units")
    fraction: float = param(0.5, "share of each batch that is perturbed; the rest stays clean", gt=0, le=1)

    def attack_used(self) -> Use:
        """FGSM that ascends the cross-entropy, or the squared error."""
        return Use(use="attacks/fgsm", params={"eps": self.eps.json(), "loss": "ce"})

    def adaptive_attacks(self) -> Sequence[Use]:
        """PGD at the same ``eps``."""
        return (Use(use="attacks/pgd", params={"eps": self.eps.json()}),)


class PGDTraining(Adversarial):
    """Adversarial training with projected gradient descent, Madry et al. 2018, https://arxiv.org/abs/1706.06083.

    All samples are perturbed, from a random start, by all steps: the loss is maximised, not only an error found.
    The default is that of the paper for MNIST; for CIFAR-10 it takes ``eps: 8/255, step: 2/255, steps: 7``.
    """

    tags: ClassVar[Tags] = Tags(trains=True, reference="https://arxiv.org/abs/1706.06083")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"steps": 3, "step": 0.1},)

    norm: Literal["linf", "l2"] = param("linf", "norm of the ball")
    eps: Budget = param(0.3, "radius of the ball, one number or one per channel", unit="input units")
    step: Budget = param(0.01, "length of a step, one number or one per channel", unit="input units")
    steps: int = param(40, "gradient steps", ge=1)

    def attack_used(self) -> Use:
        """PGD on the cross-entropy, or the squared error; it spends all steps."""
        options = {"norm": self.norm, "eps": self.eps.json(), "alpha": self.step.json(), "steps": self.steps}
        ascent = {"loss": "ce", "random_start": True, "stop_on_success": False}
        return Use(use="attacks/pgd", params={**options, **ascent})


class DDNTraining(Adversarial):
    """Adversarial training with DDN, Rony et al. 2019, section 5.3, https://arxiv.org/abs/1811.09600.

    Each sample is moved just beyond the decision boundary, or towards it by ``max_norm`` if that is nearer; one that
    is misclassified stays as it is. In the paper ``max_norm`` is 2.4 for MNIST and 1 for CIFAR-10, with 100 steps.
    """

    tags: ClassVar[Tags] = Tags(trains=True, reference="https://arxiv.org/abs/1811.09600")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"steps": 5},)

    max_norm: Budget = param(2.4, "l2 norm to which longer perturbations are scaled back", unit="input units")
    steps: int = param(100, "gradients per sample", ge=2)

    def attack_used(self) -> Use:
        """DDN."""
        return Use(use="attacks/ddn", params={"steps": self.steps, "line_search": 0})

    @property
    def longest(self) -> Budget:
        """As given."""
        return self.max_norm
