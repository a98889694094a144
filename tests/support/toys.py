"""Small components for tests of the core: everything fits a second."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advbench.api import (
    Attack,
    Budget,
    Classification,
    Corruption,
    Data,
    DataContext,
    Dataset,
    Defense,
    InputSpace,
    Model,
    Recipe,
    Register,
    Regression,
    Rng,
    Split,
    Tags,
    Target,
    Task,
    hookimpl,
    param,
    split_indices,
)
from advbench.components.base import Component
from advbench.components.loader import Plugins, Source
from advbench.runtime import cell
from advbench.runtime.cell import Case, Limits, Samples
from advbench.runtime.network import Network, freeze
from advbench.runtime.pipeline import Pipeline

CPU = torch.device("cpu")


class Blobs(Dataset):
    """K blobs in five bands on [-4, 50], or a linear regression."""

    n: int = param(240, "samples", ge=1)
    classes: int = param(3, "classes; 1 makes it a regression", ge=1)
    shift: float = param(0.0, "added to all inputs")
    broken: str = param("", "what to break")

    def load(self, context: DataContext) -> Data:
        """Blobs."""
        generator = np.random.default_rng(0)
        ids = np.array([f"blob-{i:04d}" for i in range(self.n)])
        centres = generator.normal(size=(max(self.classes, 2), 5, 6, 6)) * 4 + 20
        y = generator.integers(max(self.classes, 2), size=self.n)
        x = (centres[y] + generator.normal(size=(self.n, 5, 6, 6)) * 6 + self.shift).clip(-4, 50)
        x = x.astype(np.float32)
        if self.broken == "nan":
            x[7, 2, 3, 3] = np.nan
        if self.broken == "label":
            y[5] = 99
        if self.broken == "crash":
            raise RuntimeError("the disk is on fire")
        task: Task = (
            Classification(tuple(f"class {k}" for k in range(self.classes)))
            if self.classes > 1
            else Regression(("value",), tolerance=0.3)
        )
        targets = y if self.classes > 1 else (x.mean((1, 2, 3)) / 50).astype(np.float32)
        fractions = {"train": 0.5, "valid": 0.1, "calibration": 0.1, "test": 0.3}
        splits = {
            name: Split(x[rows], targets[rows], ids[rows])
            for name, rows in split_indices(ids, fractions).items()
        }
        bands = ("u", "g", "r", "i", "z")
        return Data(InputSpace((5, 6, 6), (-4.0,) * 5, (50.0,) * 5, bands, "electrons"), task, splits)


class Net(Model):
    """A small convolutional network."""

    recipe: Recipe = param(Recipe(epochs=4, batch_size=32, lr=5e-3), "training recipe")
    outputs: int = param(0, "outputs, if not those of the task")
    dropout: float = param(0.1, "dropout")
    probabilities: bool = param(False, "end with a softmax")
    features: bool = param(True, "return (features, logits)")

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network."""
        return ToyModule(space.shape[0], self.outputs or task.outputs, self)


class ToyModule(nn.Module):
    """Convolution, batch normalisation, dropout, head."""

    def __init__(self, channels: int, outputs: int, options: Net) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
        )
        self.dropout, self.head = nn.Dropout(options.dropout), nn.Linear(72, outputs)
        self.probabilities, self.features = options.probabilities, options.features

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """Features and logits, or one of them."""
        features = self.body(x)
        logits = self.head(self.dropout(features))
        logits = logits.softmax(1) if self.probabilities else logits
        return (features, logits) if self.features else logits


class Step(Attack):
    """One signed gradient step."""

    tags = Tags(norms={"linf"}, needs_gradient=True, strength="eps", unit="input")
    eps: Budget = param(1.0, "budget", unit="input")

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """FGSM."""
        return x + self.eps.like(x) * target.input_gradient(x, y).sign()


class Wander(Attack):
    """Random starts; keeps what is wrong. No gradients."""

    tags = Tags(norms={"linf"}, stochastic=True, strength="eps", unit="input")
    eps: Budget = param(3.0, "budget", unit="input")
    tries: int = param(4, "tries")

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """Random search that lets finished samples go."""
        best, active = x.clone(), torch.arange(len(x))
        for _ in range(self.tries):
            part, draws = target.take(active), rng.take(active)
            point = x[active] + self.eps.like(x) * draws.uniform(*x.shape[1:], low=-1, high=1)
            point = point.clamp(-4, 50)
            wrong = part.is_adversarial(part.output(point), y[active])
            best[active[wrong]] = point[wrong]
            active = active[~wrong]
            if not len(active):
                break
        return best


class Rogue(Attack):
    """Breaks its contract in the way that it is told."""

    tags = Tags(norms={"linf"}, strength="eps", unit="input")
    eps: Budget = param(1.0, "budget", unit="input")
    how: str = param("raise", "what to do")

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """Misbehave."""
        network = target.pipeline.network  # type: ignore[attr-defined]
        actions: dict[str, Callable[[], Any]] = {
            "raise": lambda: [][1],
            "exit": lambda: sys.exit(3),
            "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "train": network.train,
            "grad": lambda: network.requires_grad_(True),
            "weights": lambda: network.module.head.bias.add_(1),
            "inplace": lambda: x.add_(0.5),
            "shape": lambda: None,
            "global_rng": lambda: torch.rand(3),
        }
        if self.how in actions:
            actions[self.how]()
        if self.how == "shape":
            return x[:, :1]
        if self.how == "nan":
            return x * float("nan")
        if self.how == "far":
            return x + 1000 * (torch.arange(x[0].numel()).view_as(x[0]) % 2 * 2 - 1)
        if self.how == "gradient":
            return x + target.input_gradient(x, y)
        if self.how == "list":
            return [x]  # type: ignore[return-value]
        return x


class Noise(Corruption):
    """Gaussian noise."""

    tags = Tags(stochastic=True, strength="sigma", unit="input")
    sigma: float = param(2.0, "standard deviation", unit="input", ge=0)

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Add noise."""
        return x + self.sigma * rng.normal(*x.shape[1:])


class Round(Defense):
    """Rounds its inputs."""

    tags = Tags(purifies=True)
    step: float = param(4.0, "step", gt=0)

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Round."""
        return (x / self.step).round() * self.step


class Jitter(Defense):
    """Adds noise to its inputs: a random defense."""

    tags = Tags(purifies=True, stochastic=True)

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Add noise."""
        return x + 0.5 * rng.normal(*x.shape[1:])


class Noisy(Defense):
    """Trains with noisy inputs."""

    tags = Tags(trains=True)

    def train(self, training: Any) -> nn.Module:
        """Train on noise."""

        def loss(module: nn.Module, batch: Any) -> Tensor:
            noisy = batch.x + batch.rng.normal(*batch.x.shape[1:])
            return torch.nn.functional.cross_entropy(module(noisy, batch.extras), batch.y)

        return training.fit(training.build(), loss=loss, purpose="noisy")


class Confidence(Defense):
    """Detector: one minus the largest probability."""

    tags = Tags(detects=True)
    fpr: float = param(0.1, "false-positive rate")

    def score(self, x: Tensor, prediction: Any, space: InputSpace, rng: Rng) -> Tensor:
        """One minus confidence."""
        return 1 - prediction.output(x).softmax(1).amax(1)

    def threshold(self, scores: Any) -> float:
        """Quantile of clean scores."""
        return float(np.quantile(scores, 1 - self.fpr))


COMPONENTS: Mapping[str, Mapping[str, type[Component]]] = {
    "datasets": {"blobs": Blobs},
    "models": {"net": Net},
    "perturbations": {"step": Step, "wander": Wander, "rogue": Rogue, "noise": Noise},
    "defenses": {"round": Round, "jitter": Jitter, "noisy": Noisy, "confidence": Confidence},
}


def _registering(kind: str) -> Callable[[Register], None]:
    def hook(register: Register) -> None:
        for name, cls in COMPONENTS[kind].items():
            register(name, cls)

    hook.__name__ = f"register_{kind}"
    return hookimpl(hook)


register_models = _registering("models")
register_datasets = _registering("datasets")
register_perturbations = _registering("perturbations")
register_defenses = _registering("defenses")

FOLDER = Path(__file__).parent


def plugins() -> Plugins:
    """The installed engines and these components as namespace ``toys``."""
    module: ModuleType = sys.modules[__name__]
    core = Plugins.discover()
    return Plugins([core._sources["core"], Source("toys", "toys 1", lambda: module)])


def data(classes: int = 3, n: int = 240) -> Data:
    """The blobs, loaded."""
    return Blobs(n=n, classes=classes).load(None)  # type: ignore[arg-type]


def pipeline(data: Data, defenses: tuple[Defense, ...] = (), chunk: int = 32, seed: int = 0) -> Pipeline:
    """An untrained network on a data set."""
    torch.manual_seed(seed)
    network = Network(Net().build(data.space, data.task), data.space, data.task, "toys/net")
    network.normalise_by([20.0] * 5, [7.0] * 5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
    frozen = freeze(network)
    assert isinstance(frozen, Network)
    return Pipeline(frozen, defenses, data.space, data.task, chunk, CPU)


def samples(data: Data, rows: Any = slice(None), split: str = "test") -> Samples:
    """Samples of a split."""
    part = data.splits[split]
    y = torch.from_numpy(np.asarray(part.y)[rows])
    return Samples(torch.from_numpy(np.asarray(part.x)[rows]), y, {}, part.ids[rows])


def case(perturbation: Any, pipeline: Pipeline, samples: Samples, **options: Any) -> Case:
    """A case of a perturbation on a pipeline."""
    from advbench.components.identity import Spec

    spec = Spec("perturbation", f"toys/{type(perturbation).__name__.lower()}", "{}", 1)
    limits = Limits(batch=options.pop("batch", 256), seconds=options.pop("seconds", None))
    defaults: dict[str, Any] = {
        "guard": None, "learning": None, "knowledge": "adaptive", "seed": 0, "budget": None
    }  # fmt: skip
    return Case(
        samples,
        () if perturbation is None else (cell.Step(perturbation, spec),),
        options.pop("crafting", pipeline),
        pipeline,
        limits=limits,
        **{**defaults, **options},
    )
