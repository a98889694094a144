"""MNIST from local files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator

from advbench.api import Data, DataContext, Dataset, Tags, param
from advbench_vision.idx import load_idx, locate
from advbench_vision.pixels import remainder

FOLDERS = ("mnist", "MNIST/raw")
CLASSES = tuple("0123456789")


class Mnist(Dataset):
    """MNIST handwritten digits, 28x28 grey, from local IDX files; LeCun et al. 1998, https://doi.org/10.1109/5.726791.

    The training file is split, class by class, into train, valid and calibration; the test file is the test
    split. Inputs are float32 in [0, 1], (n, 1, 28, 28). Sample names are ``train-000123`` and ``test-000045``, by
    row of the file.
    """

    tags = Tags(tasks={"classification"}, reference="https://doi.org/10.1109/5.726791")
    valid: float = param(0.1, "fraction of the training file used to choose the best epoch", ge=0, lt=1)
    calibration: float = param(0.1, "fraction of the training file used to set thresholds", ge=0, lt=1)
    split_seed: int = param(0, "which of the possible splits", ge=0)

    @model_validator(mode="after")
    def _fractions_fit(self) -> Mnist:
        self._fractions()
        return self

    def _fractions(self) -> dict[str, float]:
        return remainder(valid=self.valid, calibration=self.calibration)

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """The IDX files that are there."""
        return locate(FOLDERS, data_dirs)

    def load(self, context: DataContext) -> Data:
        """Read the four files."""
        return load_idx(context, FOLDERS, CLASSES, self._fractions(), self.split_seed)
