"""A sample of mock galaxies: what it shows, how it is observed, and where its stamps are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advbench.api import DataContext
from advbench_astro.factory import Exposures, Galaxies, Maker, fill, sample_name
from advbench_astro.scene import USUAL, Scene
from advbench_astro.survey import LSST, YEAR_10, Exposure, View

FLUX = "flux.npy"


@dataclass(frozen=True)
class Sample:
    """``count`` galaxies of a scene, seen in one exposure; noise belongs to their names, which start with ``prefix``.

    What equals the default enters neither the names of artifacts nor the noise, so that a sample stays what it was
    when a new knob is added.
    """

    count: int
    seed: int
    scene: Scene = USUAL
    view: View = LSST
    exposure: Exposure = YEAR_10
    prefix: str = "g"

    def names(self) -> NDArray[np.str_]:
        """Names of the galaxies (count,)."""
        return np.array([sample_name(row, self.prefix) for row in range(self.count)], dtype=np.str_)

    def flux(self, context: DataContext) -> NDArray[np.float32]:
        """Stamps (count, filters, side, side) in e-/s, memory-mapped: from the store, or made now."""
        shown = {
            "n": self.count,
            "seed": self.seed,
            **_changed(self.scene, USUAL),
            **_changed(self.view, LSST),
        }
        sky = _changed(replace(self.exposure, fraction=1.0), YEAR_10)
        different = {name: value for name, value in {**shown, **sky}.items() if name not in ("n", "seed")}
        variant = f":{json.dumps(different, sort_keys=True)}" if different else ""

        def make(folder: Path) -> None:
            noiseless = context.artifact(
                "galaxies",
                shown,
                lambda place: self._fill(
                    context, place, "galaxies", Galaxies(self.seed, self.scene, self.view)
                ),
            )
            maker = Exposures(noiseless / FLUX, self.exposure, self.seed, self.view, self.prefix, variant)
            self._fill(context, folder, f"{self.exposure.depth} exposures", maker)

        named = {**shown, "depth": self.exposure.depth, **sky}
        if self.prefix != "g":
            named["prefix"] = self.prefix
        path = context.artifact("exposures", named, make) / FLUX
        stamps: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return stamps

    def facts(self) -> Mapping[str, tuple[float, ...]]:
        """The observing conditions, as `InputSpace.facts`."""
        return self.exposure.conditions(self.view).facts()

    def _fill(self, context: DataContext, folder: Path, label: str, maker: Maker) -> None:
        with context.progress(label, self.count) as bar:
            fill(folder / FLUX, self.count, maker, bar.advance)


def _changed(value: Any, usual: Any) -> dict[str, Any]:
    """Fields that are not as usual."""
    before = asdict(usual)
    return {name: entry for name, entry in asdict(value).items() if entry != before[name]}
