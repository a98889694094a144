"""Counter-based randomness per sample, and a guard for the global generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class SampleRng:
    """Draws whose row i depends on (seed, purpose, id of sample i, how many draws it made) and on nothing else.

    Philox streams on the CPU, then moved: the same numbers on every device. Rows that `take` repeats share
    one stream, so draw before you repeat.
    """

    def __init__(
        self, seed: int, purpose: str, ids: Sequence[str] | NDArray[np.str_], device: torch.device
    ) -> None:
        self._keys = [_key(seed, purpose, str(name)) for name in ids]
        self._drawn = np.zeros(len(self._keys), dtype=np.int64)
        self._rows = torch.arange(len(self._keys), device=device)
        self._device = device

    def take(self, index: Tensor | slice) -> SampleRng:
        """The same streams for these samples (int64 or bool index of this batch)."""
        other = object.__new__(SampleRng)
        other._keys, other._drawn, other._device = self._keys, self._drawn, self._device
        other._rows = self._rows[index]  # stays on the device: most takes are never drawn from
        return other

    def copy(self) -> SampleRng:
        """The same streams where they stand now; drawing from one leaves the other."""
        other = self.take(slice(None))
        other._drawn = self._drawn.copy()
        return other

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform in ``[low, high)``, (b, *shape), float32."""
        draws = self._draw(lambda generator, _: generator.random(shape, dtype=np.float32))
        return draws * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (b, *shape), float32."""
        return self._draw(lambda generator, _: generator.standard_normal(shape, dtype=np.float32))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in ``[0, high)``, (b, *shape), int64."""
        return self._draw(lambda generator, _: generator.integers(high, size=shape, dtype=np.int64))

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson draws of the given rates (b, ...), float32."""
        rates = rate.detach().double().cpu().numpy()
        return self._draw(lambda generator, i: generator.poisson(rates[i]).astype(np.float32))

    def _draw(self, draw: Callable[[np.random.Generator, int], object]) -> Tensor:
        index = self._rows.cpu().numpy()
        drawn = self._drawn[index]
        rows = []
        for i, (row, call) in enumerate(zip(index, drawn)):
            # One block of the counter for each call; 2**64 numbers fit in a block.
            bits = np.random.Philox(key=self._keys[row], counter=np.array([0, call, 0, 0], dtype=np.uint64))
            rows.append(np.asarray(draw(np.random.Generator(bits), i)))
        self._drawn[index] = drawn + 1
        stacked = np.stack(rows) if rows else np.zeros(0, dtype=np.float32)
        return torch.from_numpy(stacked).to(self._device)


def _key(seed: int, purpose: str, name: str) -> NDArray[np.uint64]:
    raw = hashlib.blake2b(f"{seed}\x1f{purpose}\x1f{name}".encode(), digest_size=16).digest()
    return np.frombuffer(raw, dtype=np.uint64)


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything that prints."""
    raw = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(raw, "little") >> 1


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python for the block, and leave them as they were found."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - this guards the legacy generator
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
