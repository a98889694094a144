"""The latent space of a network: features of samples, and the linear head that classifies them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from advbench.api import Run, Shown, UserError
from advbench_astro.figures.choose import Row

CHUNK = 128


@dataclass(frozen=True)
class Head:
    """The last linear layer, in float64."""

    weight: Tensor  # (k, d)
    bias: Tensor  # (k,)

    def __call__(self, points: Tensor) -> Tensor:
        """Features (m, d) to outputs (m, k)."""
        return F.linear(points, self.weight, self.bias)


@dataclass(frozen=True)
class Embedded:
    """The same objects three times in latent space; rows belong together."""

    shown: Shown
    clean: Tensor  # (n, d)
    other: Tensor  # (n, d) of the other data set
    perturbed: Tensor  # (n, d)


def embed(network: Any, x: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features (n, d) and outputs (n, k) of inputs (n, c, h, w), a chunk at a time, on the CPU.

    Raises
    ------
    UserError
        If the network returns no features.
    """
    features, outputs = [], []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(x), device=x.device), CHUNK):
            some = {name: value[rows] for name, value in extras.items()}
            found, output = network.features(x[rows], some)
            if found is None:
                raise UserError(
                    "needs a network that returns (features, outputs); this one returns outputs alone"
                )
            features.append(found.flatten(1).float().cpu())
            outputs.append(output.float().cpu())
    return torch.cat(features), torch.cat(outputs)


def linear_head(network: nn.Module, features: Tensor, outputs: Tensor) -> Head:
    """The last linear layer that makes ``outputs`` (n, k) of ``features`` (n, d).

    Raises
    ------
    UserError
        If there is none: then straight lines in latent space say nothing about the classes.
    """
    tolerance = 1e-4 * max(1.0, float(outputs.abs().max()))
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    for layer in reversed(layers):
        if (layer.in_features, layer.out_features) != (features.shape[1], outputs.shape[1]):
            continue
        weight = layer.weight.detach().double().cpu()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().cpu()
        head = Head(weight, bias)
        if float((head(features.double()) - outputs).abs().max()) <= tolerance:
            return head
    raise UserError(
        "needs a network whose last linear layer makes its outputs of its features; this one has none"
    )


def align(first: NDArray[np.str_], second: NDArray[np.str_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the names that both have, in the order of ``first``."""
    place = {name: index for index, name in enumerate(second.tolist())}
    rows = np.array([i for i, name in enumerate(first.tolist()) if name in place], dtype=np.int64)
    return rows, np.array([place[first[i]] for i in rows.tolist()], dtype=np.int64)


def taken(shown: Shown, rows: NDArray[np.int64]) -> Shown:
    """The samples at these places."""
    index = torch.from_numpy(rows).to(shown.x.device)
    extras = {name: value[index] for name, value in shown.extras.items()}
    return Shown(shown.x[index], shown.y[index], extras, shown.ids[rows])


def embedded_pair(run: Run, row: Row, other: Row, count: int | None) -> Embedded:
    """Up to ``count`` samples that the data sets of two rows share, unperturbed in both and perturbed in the first.

    Raises
    ------
    UserError
        If there are no such samples, or the network returns no features.
    """
    network, here, there = run.network(row), run.samples(row, count), run.samples(other, count)
    rows, places = align(here.ids, there.ids)
    if not len(rows):
        raise UserError(
            f"needs two data sets of the same objects; {row['dataset']} and {other['dataset']} share none"
        )
    first, second = torch.from_numpy(rows).to(here.x.device), torch.from_numpy(places).to(here.x.device)
    extras = {name: value[first] for name, value in here.extras.items()}
    clean, _ = embed(network, here.x[first], extras)
    changed, _ = embed(network, run.perturbed(row, count)[first], extras)
    elsewhere, _ = embed(
        network, there.x[second], {name: value[second] for name, value in there.extras.items()}
    )
    shown = Shown(here.x[first], here.y[first], extras, here.ids[rows])
    return Embedded(shown, clean, elsewhere, changed)
