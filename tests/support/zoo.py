"""A zoo of broken networks and defenses, each with the mistake of a published one, and honest ones to compare with.

All of them share a small convolutional network for scikit-learn's digits, trained once in a few seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from advbench.api import (
    Attack,
    Budget,
    Defense,
    InputSpace,
    Model,
    Prediction,
    Register,
    Rng,
    Tags,
    Target,
    Task,
    hookimpl,
    param,
    split_indices,
)

FOLDER = Path(__file__).parent

Batch = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""Inputs to train on, from the network, the clean ones (b, 1, 8, 8), their classes (b,), and draws."""


# --- the shared network --------------------------------------------------------------------------------------------


class Convolutional(nn.Module):
    """Two convolutions, pooling, one hidden layer: logits (b, 10) of digits (b, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden, self.head = nn.Linear(256, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.hidden(self.features(x).flatten(1)).relu())


def clean(network: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
    """Inputs as they are."""
    return x


def noisy(network: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
    """With Gaussian noise."""
    return (x + 0.2 * torch.randn(x.shape, generator=draws)).clamp(0, 1)


def adversarial(network: nn.Module, x: Tensor, y: Tensor, draws: torch.Generator) -> Tensor:
    """After five steps of PGD with eps 0.15."""
    delta = 0.15 * (2 * torch.rand(x.shape, generator=draws) - 1)
    for _ in range(5):
        delta.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(network(x + delta), y), delta)
        delta = (delta.detach() + 0.06 * gradient.sign()).clamp(-0.15, 0.15)
        delta = (x + delta).clamp(0, 1) - x
    return x + delta


def training_digits() -> tuple[Tensor, Tensor]:
    """The training split of ``vision/digits``, (n, 1, 8, 8) and (n,)."""
    bunch = load_digits()
    ids = np.array([f"digit-{i:04d}" for i in range(len(bunch.target))], dtype=np.str_)
    fractions = {"train": 0.6, "valid": 0.1, "calibration": 0.1, "test": 0.2}
    rows = split_indices(ids, fractions, labels=bunch.target)["train"]
    x = torch.from_numpy((bunch.images[rows] / 16).astype(np.float32))[:, None]
    return x, torch.from_numpy(bunch.target[rows]).long()


@functools.cache
def trained(build: Callable[[], nn.Module], inputs: Batch = clean, epochs: int = 12) -> Mapping[str, Tensor]:
    """State dict of a network after training; the same whenever it is asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build()
    draws = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    x, y = training_digits()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draws).split(64):
            optimiser.zero_grad()
            batch = inputs(network, x[rows], y[rows], draws)
            F.cross_entropy(network(batch), y[rows]).backward()
            optimiser.step()
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


class Animal(Model):
    """The trained network inside a module of the zoo."""

    around: ClassVar[Callable[[nn.Module], nn.Module] | None] = None
    inputs: ClassVar[Batch] = clean
    body: ClassVar[Callable[[], nn.Module]] = Convolutional
    epochs: ClassVar[int] = 12

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The module; ``self.around`` makes it of the network."""
        cls = type(self)
        return cls.body() if cls.around is None else cls.around(cls.body())

    def normalisation(self) -> str:
        """None: inputs are in [0, 1]."""
        return "none"

    def pretrained(self, data_dirs: Sequence[Path]) -> Mapping[str, Tensor]:
        """The weights."""
        cls = type(self)
        weights = trained(cls.body, cls.inputs, cls.epochs)
        prefix = "" if cls.around is None else "body."
        return {f"{prefix}{name}": value for name, value in weights.items()}


# --- honest networks -----------------------------------------------------------------------------------------------


class Plain(Animal):
    """The network as it is."""


class Augmented(Animal):
    """Trained with noise."""

    inputs = noisy


class Robust(Animal):
    """Trained with PGD."""

    inputs, epochs = adversarial, 10


def _linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Straight(Animal):
    """Logistic regression."""

    body, epochs = _linear, 30


def _perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
    )


class Perceptron(Animal):
    """Another architecture."""

    body, epochs = _perceptron, 20


# --- broken networks -----------------------------------------------------------------------------------------------


class Around(nn.Module):
    """A module around the network."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or what passes for them."""
        raise NotImplementedError


class ShatteredModule(Around):
    """Inputs rounded to 8 levels, whose gradient is 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Of rounded inputs."""
        return self.body((x * 7).round() / 7)


class RippledModule(Around):
    """Inputs with a small ripple, at whose zeros (the levels of the data) the slope has the wrong sign."""

    def forward(self, x: Tensor) -> Tensor:
        """Of rippled inputs."""
        return self.body(x - 0.02 * torch.sin(2 * torch.pi * 16 * x))


class StaircaseModule(Around):
    """Inputs on a differentiable staircase of 8 steps, so flat between the steps that the slope underflows."""

    def forward(self, x: Tensor) -> Tensor:
        """Of inputs on the staircase."""
        place = x * 8
        step = place.floor().detach()
        return self.body((step + torch.sigmoid(600 * (place - step - 0.5))) / 8)


class HugeModule(Around):
    """Logits times 1,000."""

    def forward(self, x: Tensor) -> Tensor:
        """Huge logits."""
        return 1e3 * self.body(x)


class SoftmaxModule(Around):
    """Probabilities instead of logits."""

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities."""
        return self.body(x).softmax(1)


class DetachedModule(Around):
    """Logits without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.body(x).detach()


class OneHotModule(Around):
    """The decision alone."""

    def forward(self, x: Tensor) -> Tensor:
        """1 for the largest logit, else 0."""
        logits = self.body(x)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits)


class BlindingModule(Around):
    """Right values, but a gradient that all logits share: their differences, which losses look at, have none."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits = self.body(x)
        shared = logits.mean(1, keepdim=True)
        return logits.detach() + (shared - shared.detach())


class ShuffledModule(Around):
    """Right values, but each logit has the gradient of another."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits = self.body(x)
        other = logits.roll(1, 1)
        return logits.detach() + (other - other.detach())


class NanModule(Around):
    """A square root whose gradient is infinite at 0, where most pixels are."""

    def forward(self, x: Tensor) -> Tensor:
        """Of ``|x|``."""
        return self.body(x.square().sqrt())


class DropoutModule(Around):
    """Dropout that is never switched off."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.body(F.dropout(x, 0.3, training=True))


class BatchModule(Around):
    """Batch normalisation by the batch itself."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits, normalised over the batch."""
        return F.batch_norm(self.body(x), None, None, training=True)


class RestlessModule(Around):
    """Logits with noise of the global generator."""

    def forward(self, x: Tensor) -> Tensor:
        """Noisy logits."""
        logits = self.body(x)
        return logits + torch.randn_like(logits)


BROKEN_NETWORKS: Mapping[str, type[Around]] = {
    "shattered": ShatteredModule,
    "rippled": RippledModule,
    "staircase": StaircaseModule,
    "huge": HugeModule,
    "softmax": SoftmaxModule,
    "detached": DetachedModule,
    "one-hot": OneHotModule,
    "blinding": BlindingModule,
    "shuffled": ShuffledModule,
    "nan": NanModule,
    "dropout": DropoutModule,
    "batch": BatchModule,
    "restless": RestlessModule,
}


def _animal(name: str, around: type[Around]) -> type[Animal]:
    doc = around.__doc__
    return type(
        name.title().replace("-", ""), (Animal,), {"around": around, "__doc__": doc, "__module__": __name__}
    )


# --- broken defenses -----------------------------------------------------------------------------------------------


class OneDraw(Defense):
    """Random noise on the inputs, attacked with a single draw at each step."""

    tags = Tags(purifies=True, stochastic=True)

    @property
    def draws(self) -> int:
        """One."""
        return 1

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """With noise."""
        return x + 0.5 * rng.normal(*x.shape[1:])


class WrongWay(Defense):
    """Rounds to 16 levels, and sends attackers the other way."""

    tags = Tags(purifies=True)

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Rounded."""
        return (x * 16).round() / 16

    def surrogate(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """The gradient of its opposite."""
        return -x


class TunedOnAttacks(Defense):
    """Rejects what attacks looked like when its author tried some: its threshold has seen no clean score."""

    tags = Tags(detects=True, tasks={"classification"})
    false_positive_rate: float = param(0.05, "what it claims")

    def score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Doubt, in [0, 1]."""
        return 1 - inside.output(x).softmax(1).amax(1)

    def threshold(self, scores: Any) -> float:
        """Below that of most attacks that were seen."""
        return 0.001


class Quantile(TunedOnAttacks):
    """The same detector at the rate that it claims: honest."""

    def threshold(self, scores: Any) -> float:
        """Quantile of the clean scores."""
        return float(np.quantile(scores, 1 - self.false_positive_rate, method="higher"))


# --- a weak attack -------------------------------------------------------------------------------------------------


class Crawl(Attack):
    """Gradient steps of a hundredth of the budget."""

    tags = Tags(norms={"linf"}, needs_gradient=True, strength="eps", unit="input units")
    eps: Budget = param(0.2, "budget", unit="input units")
    steps: int = param(10, "steps", ge=1)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """The last point."""
        eps, point = self.eps.like(x), x
        for _ in range(self.steps):
            point = point + 0.02 * eps * target.input_gradient(point, y).sign()
            point = torch.minimum(torch.maximum(point, x - eps), x + eps).clamp(0, 1)
        return point


@hookimpl
def register_models(register: Register) -> None:
    """Honest and broken networks."""
    for cls in (Plain, Augmented, Robust, Straight, Perceptron):
        register(cls.__name__.lower(), cls)
    for name, around in BROKEN_NETWORKS.items():
        register(name, _animal(name, around))


@hookimpl
def register_defenses(register: Register) -> None:
    """Honest and broken defenses."""
    register("one-draw", OneDraw)
    register("wrong-way", WrongWay)
    register("tuned-on-attacks", TunedOnAttacks)
    register("quantile", Quantile)


@hookimpl
def register_perturbations(register: Register) -> None:
    """A weak attack."""
    register("crawl", Crawl)
