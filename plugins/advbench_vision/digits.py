"""scikit-learn's digits."""

from __future__ import annotations

import numpy as np
from pydantic import model_validator
from sklearn.datasets import load_digits

from advbench.api import Classification, Data, DataContext, Dataset, Split, Tags, param, split_indices
from advbench_vision.pixels import remainder, unit_space

CLASSES = tuple("0123456789")


class Digits(Dataset):
    """Handwritten digits of scikit-learn, 8x8 grey, always there; Alpaydin and Kaynak 1998, https://doi.org/10.24432/C50P49.

    1797 images of 17 grey levels, divided by 16 so that inputs are float32 in [0, 1], (n, 1, 8, 8).
    """

    tags = Tags(tasks={"classification"}, reference="https://doi.org/10.24432/C50P49")
    valid: float = param(0.1, "fraction used to choose the best epoch", ge=0, lt=1)
    calibration: float = param(0.1, "fraction used to set thresholds", ge=0, lt=1)
    test: float = param(0.2, "fraction evaluated", gt=0, le=1)
    split_seed: int = param(0, "which of the possible splits", ge=0)

    @model_validator(mode="after")
    def _fractions_fit(self) -> Digits:
        self._fractions()
        return self

    def _fractions(self) -> dict[str, float]:
        return remainder(valid=self.valid, calibration=self.calibration, test=self.test)

    def load(self, context: DataContext) -> Data:
        """Take them from scikit-learn and split them class by class."""
        bunch = load_digits()
        x = (bunch.images / 16.0).astype(np.float32)[:, None]
        y = bunch.target.astype(np.int64)
        ids = np.array([f"digit-{i:04d}" for i in range(len(y))], dtype=np.str_)
        parts = split_indices(ids, self._fractions(), seed=self.split_seed, labels=y)
        splits = {name: Split(x[rows], y[rows], ids[rows]) for name, rows in parts.items()}
        return Data(unit_space(1, 8, 8), Classification(CLASSES), splits)
