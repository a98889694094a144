"""Photometric redshifts from files in the format of Pasquet et al. 2019."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from advbench.api import (
    Data,
    DataContext,
    DataError,
    Dataset,
    InputSpace,
    Regression,
    Split,
    Tags,
    param,
    split_indices,
)
from advbench_astro.photoz.sdss import BANDS
from advbench_astro.shares import with_train
from advbench_astro.symmetry import turn_and_mirror

KEYS = ("data", "z", "ebv")
BOUND_ROWS = 256
"""Rows of images that are read at a time to find bounds and broken values."""


class PhotozNpz(Dataset):
    """Galaxies in u, g, r, i, z from a file ``.npz`` with ``data`` (n, h, w, 5), ``z`` (n, 1) and ``ebv`` (n, 1).

    The format of the public code of Pasquet et al. 2019, https://arxiv.org/abs/1806.06607. Images are taken out of the
    archive once, kept, and from then on read batch by batch, channels first. Inputs are the values of the file
    divided by ``scale``; their bounds are the smallest and largest of the training split for each band, widened by
    ``margin`` of their range, unless given, and what lies beyond is cut off. So ``eps`` is in units of ``scale``.
    """

    tags: ClassVar[Tags] = Tags(tasks={"regression"}, reference="https://arxiv.org/abs/1806.06607")
    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"file": "photoz/galaxies.npz"},)

    file: str = param("photoz.npz", "the file, below a data folder or as a path")
    channels: tuple[str, ...] = param(
        tuple(band.name for band in BANDS), "names of the bands, in their order"
    )
    scale: float = param(1.0, "value of the file that is 1 in the inputs", gt=0)
    lower: float | None = param(None, "lower bound of the inputs; found in the training split unless given")
    upper: float | None = param(None, "upper bound of the inputs; found in the training split unless given")
    margin: float = param(0.05, "by how much of their range found bounds are widened", ge=0)
    eta_threshold: float = param(
        0.05, "scaled error |z - z_true| / (1 + z_true) beyond which a galaxy is an outlier", gt=0
    )
    seed: int = param(0, "seed of the splits", ge=0)
    valid: float = param(0.1, "fraction for validation; what the others leave is for training", gt=0, lt=1)
    calibration: float = param(0.1, "fraction for calibration", gt=0, lt=1)
    test: float = param(0.2, "fraction for testing", gt=0, lt=1)

    def _held_out(self) -> dict[str, float]:
        return {"valid": self.valid, "calibration": self.calibration, "test": self.test}

    @model_validator(mode="after")
    def _parameters_fit(self) -> PhotozNpz:
        with_train(self._held_out())
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError("lower must be below upper")
        return self

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """The file."""
        found = [folder / self.file for folder in (*data_dirs, Path()) if (folder / self.file).is_file()]
        return found[:1]

    def load(self, context: DataContext) -> Data:
        """All splits; images stay on disk.

        Raises
        ------
        DataError
            Naming the file, and the key, shape or row that is wrong.
        """
        path = context.find(self.file, hint="an .npz file with data (n, h, w, 5), z (n, 1) and ebv (n, 1)")
        kept = context.artifact("arrays", {"file": _stamp_of(path)}, lambda folder: unpack(path, folder))
        images = np.load(kept / "data.npy", mmap_mode="r")
        z, ebv = (np.load(kept / f"{key}.npy") for key in KEYS[1:])
        if images.shape[3] != len(self.channels):
            raise DataError(
                f"{path}: data has {images.shape[3]} bands, but {len(self.channels)} channels are named"
            )
        ids = np.array([f"g{row:07d}" for row in range(len(z))])
        rows = split_indices(ids, with_train(self._held_out()), seed=self.seed)
        space = self._space(path, images, rows["train"])
        splits = {
            name: Split(
                ChannelsFirst(images, part, self.scale, space), z[part], ids[part], {"ebv": ebv[part, 0]}
            )
            for name, part in rows.items()
        }
        task = Regression(("z",), tolerance=self.eta_threshold, relative=True)
        return Data(
            space, task, splits, augment=turn_and_mirror if images.shape[1] == images.shape[2] else None
        )

    def _space(self, path: Path, images: Any, train: NDArray[np.int64]) -> InputSpace:
        if not len(train):
            raise DataError(f"{path}: {len(images)} galaxies are too few for a training split")
        rows = np.sort(train)
        parts = [images[rows[start : start + BOUND_ROWS]] for start in range(0, len(rows), BOUND_ROWS)]
        low = np.min([part.min((0, 1, 2)) for part in parts], axis=0).astype(np.float64) / self.scale
        high = np.max([part.max((0, 1, 2)) for part in parts], axis=0).astype(np.float64) / self.scale
        reach = self.margin * (high - low) + 1e-6
        low = low - reach if self.lower is None else np.full_like(low, self.lower)
        high = high + reach if self.upper is None else np.full_like(high, self.upper)
        if (low >= high).any():
            raise DataError(
                f"{path}: the lower bound {low.tolist()} is not below the upper one {high.tolist()}"
            )
        count, height, width = images.shape[3], images.shape[1], images.shape[2]
        return InputSpace((count, height, width), tuple(low.tolist()), tuple(high.tolist()), self.channels)


@dataclass(frozen=True)
class ChannelsFirst:
    """Some rows of images (n, h, w, c) as inputs (n, c, h, w), read and scaled when they are asked for."""

    images: Any
    rows: NDArray[np.int64]
    scale: float
    space: InputSpace

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all of them, (n, c, h, w)."""
        return (len(self.rows), *self.space.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Inputs at an integer, a slice or an integer or bool array; float32, within the bounds."""
        found = np.moveaxis(np.asarray(self.images[self.rows[index]], dtype=np.float32), -1, -3) / self.scale
        low, high = (
            np.array(bound, dtype=np.float32)[:, None, None] for bound in (self.space.lower, self.space.upper)
        )
        return np.ascontiguousarray(np.clip(found, low, high), dtype=np.float32)


def unpack(path: Path, folder: Path) -> None:
    """Take ``data.npy`` (n, h, w, c), ``z.npy`` and ``ebv.npy``, both (n, 1) float32, out of an archive.

    Nothing is in memory at once but `BOUND_ROWS` images.

    Raises
    ------
    DataError
        Naming the file, and the key, shape or row that is wrong.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            missing = [key for key in KEYS if f"{key}.npy" not in names]
            if missing:
                held = ", ".join(sorted(name.removesuffix(".npy") for name in names)) or "nothing"
                raise DataError(f"{path} has no {', '.join(missing)}; it holds {held}")
            for key in KEYS:
                with archive.open(f"{key}.npy") as packed, (folder / f"{key}.npy").open("wb") as plain:
                    shutil.copyfileobj(packed, plain, 2**22)
        images = np.load(folder / "data.npy", mmap_mode="r", allow_pickle=False)
        scalars = {key: np.load(folder / f"{key}.npy", allow_pickle=False) for key in KEYS[1:]}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no readable .npz file: {error}") from None
    if images.ndim != 4 or not len(images):
        raise DataError(f"{path}: data has shape {images.shape}, not (n, height, width, bands)")
    _refuse_not_finite(path, "data", images)
    for key, values in scalars.items():
        if values.shape not in ((len(images),), (len(images), 1)):
            raise DataError(f"{path}: {key} has shape {values.shape} for {len(images)} images")
        _refuse_not_finite(path, key, values)
        np.save(folder / f"{key}.npy", values.astype(np.float32).reshape(-1, 1))


def _refuse_not_finite(path: Path, key: str, values: NDArray[Any]) -> None:
    if values.dtype.kind not in "fiu":
        raise DataError(f"{path}: {key} holds {values.dtype}, not numbers")
    for start in range(0, len(values), BOUND_ROWS):
        finite = np.isfinite(values[start : start + BOUND_ROWS])
        if not finite.all():
            row = start + int((~finite.reshape(len(finite), -1).all(1)).argmax())
            raise DataError(
                f"{path}: row {row} (counted from 0) of {key} has NaN or infinite values; remove it"
            )


def _stamp_of(path: Path) -> list[int | str]:
    """What changes when the file does, without reading it all."""
    about = path.stat()
    return [str(path.resolve()), about.st_size, about.st_mtime_ns]
