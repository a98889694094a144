"""Networks and samples that ours and the others are compared on."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from advbench.runtime.rng import isolated_rng
from advbench.testing.stage import Stage, a_stage
from advbench.values import Classification, InputSpace
from advbench_astro.convnet import ConvNet
from advbench_astro.resnet18 import ResNet18
from advbench_vision.lenet5 import LeNet5Network

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
SHAPES = ("round", "edge-on", "double")


@dataclass(frozen=True)
class Scene:
    """A frozen network in eval mode and samples (b, c, h, w) in [0, 1]; where it was trained here, all correct."""

    name: str
    network: nn.Module
    x: Tensor
    y: Tensor
    space: InputSpace
    task: Classification
    trained: str
    """What it was trained on, and how well it does."""

    def stage(self) -> Stage:
        """The same network and samples as the harness has them."""
        return a_stage(self.space, self.task, module=self.network, x=self.x, y=self.y)


def digits(count: int = 100, epochs: int = 15, smooth: bool = False) -> Scene:
    """A small CNN on scikit-learn's 8x8 digits, enlarged to 28x28; ``smooth``: without kinks."""
    act, pool = (nn.SiLU, nn.AvgPool2d) if smooth else (nn.ReLU, nn.MaxPool2d)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    x = F.interpolate(x, (28, 28), mode="bilinear", align_corners=False).clamp(0, 1)
    y = torch.tensor(labels)
    with isolated_rng(0):
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), act(), pool(2),
            nn.Conv2d(16, 32, 3, padding=1), act(), pool(2),
            nn.Flatten(), nn.Linear(32 * 49, 64), act(), nn.Linear(64, 10),
        )  # fmt: skip
    return _trained("SmallCNN on digits", network, x, y, tuple(map(str, range(10))), count, epochs, 1e-3)


def blobs(name: str, count: int = 32, epochs: int = 10) -> Scene:
    """``ConvNet`` or ``ResNet18`` of the astronomy plugin on simulated blobs in noise, 3x100x100."""
    x, y = _blobs(400 + 2 * count)
    space, task = _unit_space(x), Classification(SHAPES)
    with isolated_rng(0):
        network = {"ConvNet": ConvNet, "ResNet18": ResNet18}[name]().build(space, task)
    return _trained(f"{name} on blobs", _Logits(network), x, y, SHAPES, count, epochs, 1e-3)


def lenet5(count: int = 500) -> Scene:
    """The adversarially trained LeNet-5 of advertorch on real MNIST, from the optional data folder."""
    network = LeNet5Network()
    network.load_state_dict(torch.load(DATA / "models/mnist_lenet5_advtrained.pt", "cpu", weights_only=True))
    network.eval().requires_grad_(False)
    images, labels = (
        gzip.decompress((DATA / f"mnist/t10k-{what}-ubyte.gz").read_bytes())
        for what in ("images-idx3", "labels-idx1")
    )
    x = torch.frombuffer(bytearray(images), dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)[:count] / 255
    y = torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8)[:count].long()
    classes = tuple(map(str, range(10)))
    trained = f"trained adversarially by advertorch; first {count} test images"
    return Scene("LeNet5 on MNIST", _Logits(network), x, y, _unit_space(x), Classification(classes), trained)


class _Logits(nn.Module):
    """The logits of a network that returns (features, logits): no other library takes the pair."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[1]


def _blobs(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 3
    grid = torch.arange(100.0)
    centre = 50 + 10 * torch.randn(count, 2, generator=draw)
    angle = 6.283 * torch.rand(count, generator=draw)
    rows, columns = grid[:, None] - centre[:, :1, None], grid[None, :] - centre[:, 1:, None]
    along = columns * angle.cos()[:, None, None] + rows * angle.sin()[:, None, None]
    across = rows * angle.cos()[:, None, None] - columns * angle.sin()[:, None, None]
    flat = torch.where(y == 1, 0.25, 1.0)[:, None, None]
    apart = torch.where(y == 2, 12.0, 0.0)[:, None, None]
    light = sum(
        torch.exp(-(((along + s * apart) / 10) ** 2 + (across / 10 / flat) ** 2) / 2) for s in (-1, 1)
    )
    colour = torch.tensor([0.3, 0.25, 0.2]).view(1, 3, 1, 1) * (
        0.6 + 0.4 * torch.rand(count, 1, 1, 1, generator=draw)
    )
    noise = 0.05 * torch.randn(count, 3, 100, 100, generator=draw)
    return (0.2 + colour * light[:, None] / 2 + noise).clamp(0, 1), y


def _unit_space(x: Tensor) -> InputSpace:
    channels = x.shape[1]
    return InputSpace(
        tuple(x.shape[1:]), (0.0,) * channels, (1.0,) * channels, tuple(f"band{i}" for i in range(channels))
    )


def _trained(
    name: str, network: nn.Module, x: Tensor, y: Tensor, classes: tuple[str, ...], count: int, epochs: int, lr: float
) -> Scene:  # fmt: skip
    """Train on all but the last samples, briefly; keep ``count`` correct ones of the rest."""
    split = len(x) - min(2 * count, len(x) // 2)
    optimiser = torch.optim.Adam(network.parameters(), lr)
    order = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(split, generator=order).split(32):
            optimiser.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
    network.eval().requires_grad_(False)
    network.zero_grad(set_to_none=True)
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as others have theirs
    with torch.no_grad():
        right = network(x[split:]).argmax(1) == y[split:]
    rows = split + torch.nonzero(right)[:, 0][:count]
    if len(rows) < count:
        raise ValueError(f"{name}: only {len(rows)} of {count} samples are predicted correctly; train longer")
    trained = f"{split} samples, {epochs} epochs, accuracy {float(right.float().mean()):.3f}"
    return Scene(name, network, x[rows], y[rows], _unit_space(x), Classification(classes), trained)
