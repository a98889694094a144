"""Random noise of the same budget: what every attack has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from torch import Tensor

from advbench.api import Attack, Budget, Rng, Tags, Target, param
from advbench_attacks.search import Active, Ball, Best, runs, stops, uniform


def random_noise(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    norm: str,
    eps: Tensor,
    draws: int,
    corners: bool = False,
    stop_on_success: bool = True,
) -> Tensor:
    """The best of ``draws`` random points of the ball.

    Parameters
    ----------
    x, y
        Inputs (b, c, ...) in the input space, within its bounds, and their true targets.
    target
        What is attacked. One forward pass per draw and sample.
    rng
        The draws.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    eps
        Radius in units of ``x``, broadcast against it: (1, 1, 1, 1), (1, c, 1, 1) or (b, 1, 1, 1).
    draws
        How many points.
    corners
        linf only: corners of the ball instead of points uniform in it.
    stop_on_success
        Keep the first point that is misclassified. Otherwise, and always for a regressor, the point with the
        smallest margin of all is kept.
    """
    batch = Active.all(x, y, target, norm, eps, eps)
    best = Best.start(x)
    draw = Ball.corner if corners else uniform
    stop = stops(target, stop_on_success)
    for active, point in runs(batch, best, rng, draw, count=draws, stop=stop):
        best.update(active, point, active.target.output(point))
    return best.point


class RandomNoise(Attack):
    """Random noise of the same budget: what every attack has to beat.

    The best of ``draws`` points uniform in the ball, or in linf of its corners. An attack that is no better than this
    finds nothing; a network that fails here needs no attack.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("linf", "l2", "l1"),
        targeted=True,
        audit="noise",
        stochastic=True,
        strength="eps",
        unit="input units",
    )

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {},
        {"distribution": "corners"},
        {"norm": "l2", "eps": 0.5},
        {"norm": "l1", "eps": 10},
    )

    norm: Literal["linf", "l2", "l1"] = param("linf", "norm of the ball")
    eps: Budget = param("8/255", "radius of the ball, one number or one per channel", unit="input units")
    draws: int = param(10, "random points to try", ge=1)
    distribution: Literal["uniform", "corners"] = param(
        "uniform", "points uniform in the ball, or corners of an linf ball"
    )
    stop_on_success: bool = param(
        True, "stop at the first misclassified point instead of the smallest margin"
    )

    @model_validator(mode="after")
    def _corners_are_of_boxes(self) -> RandomNoise:
        if self.distribution == "corners" and self.norm != "linf":
            raise ValueError(f"distribution: an {self.norm} ball has no corners to draw; use norm: linf")
        return self

    def passes(self) -> int:
        """One forward pass per draw."""
        return self.draws

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`random_noise` with these parameters."""
        return random_noise(
            x, y, target, rng, norm=self.norm, eps=self.eps.like(x), draws=self.draws,
            corners=self.distribution == "corners", stop_on_success=self.stop_on_success,
        )  # fmt: skip
