"""Preprocessors of the Adversarial Robustness Toolbox as purifying defenses."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor
from typing_extensions import Self

from advbench.api import Defense, InputSpace, Rng, Tags, Task, param
from advbench_bridges.art import INSTALL
from advbench_bridges.library import Library

LIBRARY = Library(
    module="art.defences.preprocessor",
    distribution="adversarial-robustness-toolbox",
    install=INSTALL,
    base="art.defences.preprocessor.preprocessor:Preprocessor",
    hidden=("clip_values", "channels_first", "apply_fit", "apply_predict", "verbose"),
)


class ArtPreprocessor(Defense):
    """A preprocessor of the Adversarial Robustness Toolbox, before the network sees the input.

    Attacks that know of it take its gradient for that of the identity.
    """

    tags: ClassVar[Tags] = Tags(purifies=True, reference="https://arxiv.org/abs/1807.01069")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"preprocessor": "FeatureSqueezing", "params": {"bit_depth": 4}},
        {"preprocessor": "JpegCompression", "params": {"quality": 75}},
        {"preprocessor": "SpatialSmoothing", "params": {"window_size": 2}},
    )

    preprocessor: Literal["FeatureSqueezing", "JpegCompression", "SpatialSmoothing"] = param(
        "FeatureSqueezing", "class of art.defences.preprocessor"
    )
    params: dict[str, Any] = param({}, "its own parameters")

    @model_validator(mode="after")
    def _art_knows_it(self) -> Self:
        if LIBRARY.absence() is None:
            LIBRARY.check(LIBRARY.find(self.preprocessor, "preprocessor"), self.params)
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """ART must be installed; compression and smoothing need images, compression those with 1 or 3 channels."""
        if reason := LIBRARY.absence():
            return reason
        if self.preprocessor != "FeatureSqueezing" and len(space.shape) != 3:
            return f"{self.preprocessor} needs images (c, h, w)"
        if self.preprocessor == "JpegCompression" and space.shape[0] not in (1, 3):
            return f"ART compresses images of 1 or 3 channels; the data have {space.shape[0]}"
        return None

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """What names the version of ART."""
        return LIBRARY.files() if LIBRARY.absence() is None else ()

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Inputs between 0 and 1 through ART, and back."""
        lower, upper = space.bounds_like(x)
        unit = ((x - lower) / (upper - lower)).clamp(0, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, _ = self._build()(unit.cpu().numpy())
        return lower + torch.from_numpy(np.asarray(found)).to(x) * (upper - lower)

    def _build(self) -> Any:
        cls = LIBRARY.find(self.preprocessor, "preprocessor")
        given = {"clip_values": (0.0, 1.0), "channels_first": True}
        own = {name: value for name, value in given.items() if name in inspect.signature(cls).parameters}
        return cls(**own, **self.params)
