"""Outputs for many candidates that change a few pixels of the same image: only what the pixels reach is recomputed.

Each changed pixel carries a patch through the network: a window of the clean map with the changed patches of its
candidate laid over it goes through the layer, and gives the patch of the next map. At the end the first dense
layers, which are linear, add ``W (changed - clean)`` to the clean vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advbench.runtime.chain import Chain, Pair, Window
from advbench.runtime.network import Network

CANDIDATES = {"cpu": 512}
"""Most candidates at once, by device; 8192 elsewhere."""
IMAGES = {"cpu": 1}
"""Images whose clean maps are held at once; 16 elsewhere."""
FEWEST = 16
"""Candidates of an image below which its clean maps would cost more than they save."""


@dataclass(frozen=True)
class Clean:
    """What the layers see of the unchanged images, channels last."""

    seen: list[Tensor]  # for each window (g, h, w, c), padded
    last: Tensor  # (g, h, w, c): what is flattened
    vector: Tensor  # (g, d): after the linear layers


@dataclass(frozen=True)
class Patches:
    """The changed patch of each of ``p`` pixels of the candidates."""

    values: Tensor  # (m * p, c, h, w)
    corner: Tensor  # (m * p, 2): row and column of its first value in the map
    pixels: int

    @property
    def size(self) -> Pair:
        """Rows and columns."""
        return self.values.shape[2], self.values.shape[3]

    def rows(self) -> Tensor:
        """The values (m, p, h * w, c)."""
        last = self.values.permute(0, 2, 3, 1)
        return last.reshape(-1, self.pixels, last.shape[1] * last.shape[2], last.shape[3])


def pays(chain: Chain, candidates: int, pixels: int) -> bool:
    """Whether to evaluate so many candidates of each image this way; a rule, not a measurement."""
    return candidates >= FEWEST and chain.pays(pixels)


def pixel_outputs(network: Network, chain: Chain, x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Outputs (b, m, k), in chunks of one size: a candidate's output does not depend on its companions.

    Parameters
    ----------
    network, chain
        A frozen network and the chain that its module is.
    x
        Unchanged images (b, c, h, w).
    positions, values
        Row and column (b, m, p, 2) and new value (b, m, p, c) of each changed pixel. Of two pixels at the same
        place the later one stays.
    """
    count = positions.shape[1]
    group = IMAGES.get(x.device.type, 16)
    parts = -(-count // CANDIDATES.get(x.device.type, 8192))
    chunk = -(-count // parts)  # depends on nothing but the number of candidates of one image
    found = []
    for start in range(0, len(x), group):
        images = torch.arange(start, start + group, device=x.device).clamp_max(len(x) - 1)
        clean = _clean(network, chain, x[images])
        real = min(group, len(x) - start)
        places = positions[start : start + real].flatten(0, 1)
        fresh = values[start : start + real].flatten(0, 1)
        for first in range(0, len(places), chunk):
            rows = torch.arange(first, first + chunk, device=x.device).clamp_max(len(places) - 1)
            output = _evaluate(network, chain, clean, rows // count, places[rows], fresh[rows])
            found.append(output[: len(places) - first])
    return torch.cat(found).float().view(len(x), count, -1)


def _clean(network: Network, chain: Chain, x: Tensor) -> Clean:
    maps = ((x - network.mean) / network.std).contiguous(memory_format=torch.channels_last)
    seen = []
    for step in chain.body:
        if isinstance(step, Window):
            maps = step.pad(maps)
            seen.append(_channels_last(maps))
            maps = step.apply(maps)
        else:
            maps = step(maps)
    vector = maps.flatten(1)
    for layer in chain.linears:
        vector = layer(vector)
    return Clean(seen, _channels_last(maps), vector)


def _channels_last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).contiguous()


def _evaluate(
    network: Network, chain: Chain, clean: Clean, owner: Tensor, positions: Tensor, values: Tensor
) -> Tensor:
    """Outputs (m, k) of candidates (m, p, ...) of the images ``owner`` (m,)."""
    pixels = positions.shape[1]
    normal = (values - network.mean.flatten()) / network.std.flatten()
    patches = Patches(normal.flatten(0, 1)[:, :, None, None], positions.flatten(0, 1), pixels)
    image = owner.repeat_interleave(pixels)
    seen = iter(clean.seen)
    for step in chain.body:
        if isinstance(step, Window):
            patches = _through(step, next(seen), image, patches)
        else:
            patches = Patches(step(patches.values), patches.corner, pixels)
    vector = _through_linears(chain.linears, clean, owner, patches)
    for layer in chain.head:
        vector = layer(vector)
    return vector


def _through(step: Window, seen: Tensor, image: Tensor, patches: Patches) -> Patches:
    """The patches of the next map."""
    padding, reach, stride = (patches.corner.new_tensor(v) for v in (step.padding, step.reach, step.stride))
    before = (seen.shape[1] - 2 * step.padding[0], seen.shape[2] - 2 * step.padding[1])
    size = step.touched(patches.size, before)
    # The first output that looks at the patch, moved so that all of the window lies on the map.
    first = -torch.div(reach - 1 - padding - patches.corner, stride, rounding_mode="floor")
    room = patches.corner.new_tensor(step.outputs(before)) - patches.corner.new_tensor(size)
    corner = torch.minimum(first.clamp_min(0), room)
    windows = _gather(seen, image, corner * stride, step.looks_at(size), patches, padding)
    return Patches(step.apply(windows), corner, patches.pixels)


def _gather(
    seen: Tensor, image: Tensor, corner: Tensor, size: Pair, patches: Patches, padding: Tensor
) -> Tensor:
    """Windows (n, c, *size) of the padded clean maps at ``corner`` (n, 2), with the changed patches laid over them."""
    channels, (height, width) = seen.shape[3], size
    row, column = (_range(corner[:, axis], size[axis]) for axis in (0, 1))
    place = (image[:, None] * seen.shape[1] + row)[:, :, None] * seen.shape[2] + column[:, None, :]
    windows = seen.new_empty(place.numel() + 1, channels)  # the last row takes what falls outside
    torch.index_select(seen.view(-1, channels), 0, place.flatten(), out=windows[:-1])
    held, pixels = patches.rows(), patches.pixels
    own = corner.view(-1, pixels, 2)
    number = torch.arange(len(corner), device=corner.device).view(-1, pixels, 1)
    for other in range(pixels):  # one after the other: where two overlap, the later one stays
        start = (patches.corner + padding).view(-1, pixels, 2)[:, other : other + 1] - own
        row, column = (_range(start[..., axis], patches.size[axis]) for axis in (0, 1))
        inside = ((row >= 0) & (row < height))[..., :, None] & ((column >= 0) & (column < width))[
            ..., None, :
        ]
        place = (number * height + row)[..., :, None] * width + column[..., None, :]
        place = torch.where(inside, place, len(windows) - 1)
        fresh = held[:, other : other + 1].expand(-1, pixels, -1, -1)
        windows.index_copy_(0, place.flatten(), fresh.reshape(-1, channels))
    return windows[:-1].view(-1, height, width, channels).permute(0, 3, 1, 2)


def _through_linears(linears: tuple[nn.Linear, ...], clean: Clean, owner: Tensor, patches: Patches) -> Tensor:
    """The vectors (m, d) after the linear layers: the clean ones and what the changed values add."""
    count, (_, height, width, channels) = len(owner), clean.last.shape
    weight = linears[0].weight
    for layer in linears[1:]:
        weight = layer.weight @ weight
    weight = weight.view(-1, channels, height * width).transpose(1, 2).flatten(1)
    corner = patches.corner.view(count, -1, 2)
    row, column = (_range(corner[..., axis], patches.size[axis]) for axis in (0, 1))
    place = (row[..., :, None] * width + column[..., None, :]).flatten(2)  # (m, p, s)
    area = height * width
    before = clean.last.view(-1, channels)[(owner[:, None, None] * area + place).flatten()]
    change = patches.rows() - before.view(*place.shape, channels)
    dense = change.new_zeros(count * area, channels)
    start = torch.arange(count, device=place.device)[:, None] * area
    for pixel in range(patches.pixels):
        dense.index_copy_(0, (start + place[:, pixel]).flatten(), change[:, pixel].flatten(0, 1))
    return clean.vector[owner] + dense.view(count, -1) @ weight.T


def _range(start: Tensor, count: int) -> Tensor:
    """``start, start + 1, ...`` in a new last axis."""
    return start[..., None] + torch.arange(count, device=start.device)
