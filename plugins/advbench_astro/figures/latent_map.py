"""Latent space in two dimensions: t-SNE and principal components side by side."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from advbench.api import Picture, Run, Tags, UserError, param
from advbench_astro.figures.canvas import LARGE, USUAL, panels, save, sheet
from advbench_astro.figures.choose import PairFigure, Trained
from advbench_astro.figures.domains import described, embedded_domains, key, scatter


def principal_components(
    points: NDArray[Any], count: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places (m, count) of points (m, d) along their principal components, and each one's share of the variance.

    Each axis points to where its largest value is positive.
    """
    centred = np.asarray(points, dtype=np.float64) - np.mean(points, axis=0, dtype=np.float64)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    places = left[:, :count] * size[:count]
    largest = places[np.abs(places).argmax(0), np.arange(places.shape[1])]
    total = max(float((size**2).sum()), np.finfo(np.float64).tiny)
    return places * np.where(largest < 0, -1.0, 1.0), size[:count] ** 2 / total


def tsne(points: NDArray[Any], perplexity: float, seed: int) -> NDArray[np.float64]:
    """Places (m, 2) of points (m, d); van der Maaten and Hinton 2008, begun at the principal components."""
    method = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed)
    return np.asarray(method.fit_transform(np.asarray(points, dtype=np.float64)))


class LatentMap(PairFigure):
    """t-SNE and principal components of latent space, side by side: domains by marker, classes by colour.

    Domains are unperturbed samples, those of another data set (the same objects where it has them) and perturbed ones.

    t-SNE keeps neighbours, not distances or sizes of clusters; principal components keep the large distances.
    """

    tags: ClassVar[Tags] = Tags(reference="https://www.jmlr.org/papers/v9/vandermaaten08a.html")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60, "perplexity": 5.0},)

    samples: int = param(150, "samples of each data set, at most", ge=4)
    perplexity: float = param(30.0, "how many neighbours t-SNE looks at; at most a third of the points", gt=1)
    seed: int = param(0, "seed of t-SNE", ge=0)

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """One picture with both maps."""
        domains = embedded_domains(self, run, trained, self.samples)
        stacked = domains.stacked
        if len(stacked) < 6 or stacked.shape[1] < 2:
            raise UserError("needs at least six points and two features")
        perplexity = min(self.perplexity, len(stacked) / 3)
        linear, share = principal_components(stacked)
        maps = [tsne(stacked, perplexity, self.seed), linear]
        figure = sheet(5.0)
        axes = panels(figure, 1, 2)
        points = [described(places, domains) for places in maps]
        for one, some in zip(axes, points):
            scatter(one, some)
        axes[0].set_title(f"t-SNE, perplexity {perplexity:.3g}", fontsize=USUAL)
        axes[0].set(xticks=[], yticks=[], xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
        axes[1].set_aspect("equal", adjustable="datalim")
        axes[1].set_title("principal components", fontsize=USUAL)
        axes[1].set_xlabel(f"component 1 (latent units), {share[0]:.0%} of the variance", fontsize=USUAL)
        axes[1].set_ylabel(f"component 2 (latent units), {share[1]:.0%}", fontsize=USUAL)
        key(figure, points[1])
        figure.suptitle(f"Latent space of {trained.name}, {domains.n}", fontsize=LARGE)
        path = save(figure, folder / f"latent-map-{trained.slug}.png", self.dpi)
        caption = (
            f"Latent space of {trained.words}: {domains.words}. Marker says which, colour the true {points[0].meaning}."
            " Left t-SNE, which keeps neighbours but no distances, right the first two principal components,"
            f" with {share.sum():.0%} of the variance.{trained.inside}"
        )
        return [Picture(path, caption)]
