"""The arcsinh stretch between fluxes and inputs, and data that are stretched when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advbench.api import Data, DataError, InputSpace, PhysicalLink, sample_order

SLOPE = 0.85
PERCENTILES = (0.1, 99.9)
FIT_ROWS = 512
"""Training images that the percentiles are measured on, at most: 15 million values of 3x100x100 pixels."""


@dataclass(frozen=True)
class ArcsinhStretch:
    """``x = (arcsinh(0.85 / high * flux) + 1) / 2`` for fluxes clipped to ``[low, high]``.

    No flux is 0.5, ``high`` is 0.8856. The scaling of Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299,
    where ``low`` and ``high`` are the 0.1 and 99.9 percentile of all channels together.
    """

    low: float
    high: float
    unit: str = "e-/s"

    def to_physical(self, x: Tensor) -> Tensor:
        """Inputs to fluxes, any shape."""
        return torch.sinh(2 * x - 1) * (self.high / SLOPE)

    def from_physical(self, value: Tensor) -> Tensor:
        """Fluxes to inputs, any shape; inverse of `to_physical` for fluxes within ``[low, high]``."""
        scaled = value.clamp(self.low, self.high) * (SLOPE / self.high)
        # arcsinh, as precise here and seven times faster than torch's own on a CPU
        square = scaled * scaled
        return (torch.log1p(scaled + square / (1 + torch.sqrt(1 + square))) + 1) / 2

    def bounds(self) -> tuple[float, float]:
        """The inputs that ``low`` and ``high`` become."""
        low, high = ((float(np.arcsinh(SLOPE / self.high * flux)) + 1) / 2 for flux in (self.low, self.high))
        return low, high

    def space(self, shape: tuple[int, ...], channels: tuple[str, ...]) -> InputSpace:
        """Input space of images that went through this stretch."""
        low, high = self.bounds()
        count = len(channels)
        return InputSpace(shape, (low,) * count, (high,) * count, channels, link=cast(PhysicalLink, self))

    @classmethod
    def fit(cls, flux: Any, rows: NDArray[np.int64], unit: str = "e-/s") -> ArcsinhStretch:
        """Measured on ``flux[rows]``, of which at most `FIT_ROWS` are read, chosen by a hash of the row number.

        Raises
        ------
        DataError
            If these images are too dark or too broken to say how bright bright is.
        """
        chosen = np.sort(rows[sample_order(rows)[:FIT_ROWS]])
        read = np.asarray(flux[chosen], dtype=np.float32)
        _refuse_not_finite(read, chosen)
        low, high = np.percentile(read, PERCENTILES)
        if not (np.isfinite(low) and np.isfinite(high) and low < high and high > 0):
            percentiles = " and ".join(f"{p} %" for p in PERCENTILES)
            raise DataError(
                f"no stretch can be fitted: the {percentiles} percentiles of the training fluxes are {low} and {high}"
            )
        return cls(float(low), float(high), unit)


def space_for(
    source: Data | None,
    flux: Any,
    train: NDArray[np.int64],
    channels: tuple[str, ...],
    unit: str,
    facts: Mapping[str, tuple[float, ...]] | None = None,
) -> InputSpace:
    """Input space of the images ``flux`` (n, c, h, w): the source's stretch, else one fitted on the rows ``train``.

    Channels and observing conditions, ``facts``, are always the images' own.

    Raises
    ------
    DataError
        If the network is trained on data of another shape, or without a link to fluxes.
    """
    shape = tuple(flux.shape[1:])
    if source is None:
        own = ArcsinhStretch.fit(flux, train, unit).space(shape, channels)
        return replace(own, facts=facts or {})
    if source.space.link is None or source.space.shape != shape:
        raise DataError(
            f"images of shape {shape} cannot take the stretch of the data set that the network is trained on, which has"
            f" inputs of shape {source.space.shape} and {'no' if source.space.link is None else 'a'} link to fluxes"
        )
    return replace(source.space, channels=channels, facts=facts or {})


@dataclass(frozen=True)
class StretchedRows:
    """Some rows of fluxes (n, c, h, w), as inputs: read, cut to float32 and stretched when they are asked for."""

    flux: Any
    rows: NDArray[np.int64]
    space: InputSpace

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all of them, (n, c, h, w)."""
        return (len(self.rows), *self.space.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Inputs at an integer, a slice or an integer or bool array; float32."""
        assert self.space.link is not None
        rows = self.rows[index]
        flux = np.array(self.flux[rows], dtype=np.float32)
        _refuse_not_finite(flux, rows)
        stretched: NDArray[np.float32] = self.space.link.from_physical(torch.from_numpy(flux)).numpy()
        return stretched


@dataclass(frozen=True)
class Joined:
    """Two arrays of stamps, one after the other, read where they lie."""

    first: Any
    second: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of both together, (n, c, h, w)."""
        return (len(self.first) + len(self.second), *self.first.shape[1:])

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Stamps at an integer or an integer array; float32."""
        rows = np.asarray(index)
        flat, count = rows.reshape(-1), len(self.first)
        found = np.empty((flat.size, *self.first.shape[1:]), dtype=np.float32)
        early = flat < count
        found[early], found[~early] = self.first[flat[early]], self.second[flat[~early] - count]
        return found.reshape(*rows.shape, *self.first.shape[1:])


@dataclass(frozen=True)
class Scaled:
    """Stamps (n, c, h, w) in other units: channel k times ``gain[k]``, when they are read; float32."""

    stamps: Any
    gain: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all of them."""
        return tuple(self.stamps.shape)

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Stamps at any index of rows."""
        gain = np.asarray(self.gain, dtype=np.float32)[:, None, None]
        return np.asarray(self.stamps[index], dtype=np.float32) * gain


def _refuse_not_finite(flux: NDArray[np.float32], rows: Any) -> None:
    """A clipped infinity would pass for a bright pixel."""
    if np.isfinite(flux).all():
        return
    broken = ~np.isfinite(flux.reshape(np.size(rows), -1)).all(axis=1)
    row = int(np.atleast_1d(rows)[broken.argmax()])
    raise DataError(f"the image in row {row} (counted from 0) has NaN or infinite fluxes; remove or mask it")
