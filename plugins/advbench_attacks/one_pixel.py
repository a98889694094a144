"""One-pixel attack, Su et al. 2019, https://arxiv.org/abs/1710.08864."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor

from advbench.api import (
    Attack,
    Budget,
    Classification,
    Constraint,
    InputSpace,
    Rng,
    Tags,
    Target,
    Task,
    param,
)
from advbench_attacks.evolution import Repair, children, survivors
from advbench_attacks.idle import refuse_idle
from advbench_attacks.odds import goal_classes
from advbench_attacks.pixels import Palette, Places, Values, put, unmasked


@dataclass(frozen=True)
class Strategy:
    """How populations start, vary and stop."""

    factor: float = 0.5
    start: Literal["normal", "uniform"] = "normal"
    centre: float = 128 / 255
    spread: float = 127 / 255
    repair: Repair = "clip"
    values: Values = "data"
    stop: Literal["flip", "probability"] = "flip"
    p_goal: float = 0.9
    p_true: float = 0.05
    give_up_after: int | None = None


PRESETS = {
    "su": Strategy(),
    "deep-adversaries": Strategy(
        centre=0.5,
        spread=0.5,
        repair="resample",
        values="unit",
        stop="probability",
        p_goal=0.5,
        give_up_after=80,
    ),
}
GIVE_UP_BELOW = 0.4
"""Probability of the goal below which a search with ``give_up_after`` ends."""


def one_pixel(
    x: Tensor,
    y: Tensor,
    target: Target,
    rng: Rng,
    *,
    pixels: int = 1,
    population: int = 400,
    generations: int = 100,
    strategy: Strategy = PRESETS["su"],
    enough: float | None = None,
) -> Tensor:
    """Differential evolution of places and values of ``pixels`` pixels; the best candidate of each sample.

    A child takes its parent's place if it costs less. The cost orders candidates as Su et al. do, by the
    probability of the true class or of the wanted one, but in log-odds, which do not saturate; for a
    regressor it is the margin. The first population is judged as well.

    Parameters
    ----------
    x, y
        Inputs (b, c, h, w) in the input space, within its bounds, and their true targets.
    target
        What is attacked. A classified sample leaves when the best candidate's success is confirmed by a pass of
        its own; one that resists, and every sample of a regressor, costs ``population * (generations + 1)``
        forward passes.
    rng
        Draws of the first population and of the parents.
    pixels
        Pixels that a candidate changes, each at a place of its own.
    population, generations
        Candidates of a sample, and how often each of them has a child.
    strategy
        Start, mutation and values of the candidates, and when to give up.
    enough
        Search on until the goal has this probability (the true class 1 minus it); until the prediction changes
        if None.
    """
    search = Search.start(x, y, target, strategy.values)
    rows = torch.arange(len(x), device=x.device)
    best, least = x.clone(), x.new_full((len(x),), math.inf)
    genes = _first(x, rng, population, pixels, strategy)
    cost, found = search.judge(genes, pixels)
    for generation in range(generations + 1):
        if generation:
            born = children(genes, rng, factor=strategy.factor, repair=strategy.repair)
            born_cost, found = search.judge(born, pixels)
            genes, cost = survivors(genes, cost, born, born_cost)
        closer = torch.nonzero(found.margin < least[rows])[:, 0]
        best[rows[closer]], least[rows[closer]] = found.point[closer], found.margin[closer]
        if generation == generations or not isinstance(target.task, Classification):
            continue
        probability = torch.sigmoid(-cost.amin(1))
        ready = found.success if enough is None else probability > enough
        done = search.confirmed(best[rows], ready)
        if strategy.give_up_after is not None and generation >= strategy.give_up_after:
            done |= probability < GIVE_UP_BELOW
        if bool(done.any()):
            keep = torch.nonzero(~done)[:, 0]
            if not len(keep):
                break
            search, rng, rows = search.take(keep), rng.take(keep), rows[keep]
            genes, cost = genes[keep], cost[keep]
    return best


def _first(x: Tensor, rng: Rng, population: int, pixels: int, strategy: Strategy) -> Tensor:
    """Genes (b, n, p * (2 + c)) of the first population: uniform places, values as the strategy says."""
    channels = x.shape[1]
    places = rng.uniform(population, pixels, 2)
    if strategy.start == "uniform":
        values = rng.uniform(population, pixels, channels)
    else:
        normal = rng.normal(population, pixels, channels)
        values = (strategy.centre + strategy.spread * normal).clamp(0.0, 1.0)
    return torch.cat([places, values], 3).flatten(2).to(x)


class Found(NamedTuple):
    """The candidate of each sample that is nearest to its goal."""

    point: Tensor  # (b, c, h, w)
    margin: Tensor  # (b,)
    success: Tensor  # (b,) bool


@dataclass(frozen=True)
class Search:
    """The samples that are still attacked."""

    x: Tensor
    y: Tensor
    target: Target
    goal: Tensor | None  # bool (b, k): classes that would be a success; None for a regressor
    places: Places
    palette: Palette

    @classmethod
    def start(cls, x: Tensor, y: Tensor, target: Target, values: Values) -> Search:
        """All samples."""
        places, palette = Places.of(x, target.mask), Palette.of(x, target, values)
        return cls(x, y, target, goal_classes(target, y), places, palette)

    def take(self, index: Tensor) -> Search:
        """Some of them."""
        goal = None if self.goal is None else self.goal[index]
        return replace(self, x=self.x[index], y=self.y[index], target=self.target.take(index), goal=goal)

    def judge(self, genes: Tensor, pixels: int) -> tuple[Tensor, Found]:
        """Costs (b, n) of candidates (b, n, d), and the nearest of them."""
        batch, count = genes.shape[:2]
        parts = genes.view(batch, count, pixels, -1)
        positions = self.places.at(parts[..., :2])
        values = unmasked(self.x, positions, self.palette.values(parts[..., 2:]), self.target.mask)
        outputs = self.target.outputs_with_pixels(self.x, positions, values)
        each = torch.arange(batch, device=genes.device)
        owner = each.repeat_interleave(count)
        margin = self.target.take(owner).margin(outputs.flatten(0, 1), self.y[owner])
        margin = _let_the_judge_decide(margin).view(batch, count).to(genes)
        nearest = margin.argmin(1)
        point = put(self.x, positions[each, nearest], values[each, nearest])
        success = self.target.is_adversarial(outputs[each, nearest], self.y)
        cost = margin if self.goal is None else _log_odds_against(outputs, self.goal[:, None])
        return cost, Found(point, margin[each, nearest], success)

    def confirmed(self, point: Tensor, ready: Tensor) -> Tensor:
        """Which of the samples ``ready`` (b,) are adversarial at ``point`` by a pass of their own, bool (b,)."""
        done = torch.zeros_like(ready)
        some = torch.nonzero(ready)[:, 0]
        if len(some):
            target = self.target.take(some)
            done[some] = target.is_adversarial(target.output(point[some]), self.y[some])
        return done


def _log_odds_against(outputs: Tensor, goal: Tensor) -> Tensor:
    """log((1 - p) / p) of the probability of the goal's classes (..., k), shaped (...)."""
    toward = outputs.masked_fill(~goal, -math.inf).logsumexp(-1)
    against = outputs.masked_fill(goal, -math.inf).logsumexp(-1)
    return _let_the_judge_decide(against - toward)


def _let_the_judge_decide(value: Tensor) -> Tensor:
    return value.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


class OnePixel(Attack):
    """Few-pixel attack by differential evolution, Su et al. 2019, https://arxiv.org/abs/1710.08864.

    rand/1 with factor 0.5 and no crossover on places and values of ``pixels`` pixels. Preset ``su``: places
    uniform, values normal about the middle of the data's range (N(128, 127) of 0 to 255), what leaves the range is
    clipped (the paper does not say). Images leave once their prediction changes; the paper's own rule, to go on
    until the wanted class has 90 % or the true one less than 5 %, is ``preset: custom, stop: probability``. Preset
    ``deep-adversaries``: Ciprijanovic et al. 2022, https://arxiv.org/abs/2112.14299: values N(.5, .5) in [0, 1]
    whatever the data's range (but brought into its bounds), genes that leave it are drawn anew, success at 50 % for
    the wanted class or less than 5 % for the true one, given up after 80 generations where the goal has less than
    40 %. A place is the pixel that the gene falls into, so that all pixels are equally likely.
    """

    tags: ClassVar[Tags] = Tags(
        norms=("pixels",),
        targeted=True,
        stochastic=True,
        strength="pixels",
        unit="pixel",
        reference="https://arxiv.org/abs/1710.08864",
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"pixels": 3, "population": 40, "generations": 5},
        {"preset": "deep-adversaries", "pixels": 2, "population": 40, "generations": 5},
    )

    preset: Literal["su", "deep-adversaries", "custom"] = param(
        "su", "whose strategy; custom takes the parameters below, su's where they are not given"
    )
    pixels: int = param(1, "pixels that change, in all channels", unit="pixel", ge=1)
    population: int = param(400, "candidates of a sample", ge=4)
    generations: int = param(100, "how often every candidate has a child", ge=0)
    factor: float | None = param(None, "weight of the difference of two parents (custom)", gt=0, le=2)
    start: Literal["normal", "uniform"] | None = param(None, "values of the first population (custom)")
    repair: Repair | None = param(None, "a gene out of its range is clipped or resampled (custom)")
    values: Values | None = param(
        None, "values of a pixel: range of the data, unit range, or even in physical units from 0 (custom)"
    )
    stop: Literal["flip", "probability"] | None = param(
        None, "an image leaves when its prediction changes, or by p_goal and p_true (custom)"
    )
    p_goal: float | None = param(None, "probability of the wanted class that is enough (custom)", gt=0, lt=1)
    p_true: float | None = param(
        None, "probability of the true class that is little enough (custom)", gt=0, lt=1
    )
    give_up_after: int | None = param(
        None, "generations after which a sample with less than 40 % for its goal is given up (custom)", ge=0
    )

    @model_validator(mode="after")
    def _presets_are_fixed(self) -> OnePixel:
        given = [name for name in _own_fields() if getattr(self, name) is not None]
        if given and self.preset != "custom":
            raise ValueError(f"{', '.join(given)}: preset {self.preset} decides; choose preset: custom")
        return self

    @model_validator(mode="after")
    def _probabilities_stop_a_search(self) -> OnePixel:
        if self.stop != "probability":
            refuse_idle(self, "unless stop is probability", "p_goal", "p_true")
        elif self.goal == "untargeted":
            refuse_idle(self, "without a wanted class; p_true decides", "p_goal")
        else:
            refuse_idle(self, "where a class is wanted; p_goal decides", "p_true")
        return self

    @property
    def strategy(self) -> Strategy:
        """The preset's, or su's with the given parameters."""
        given = {name: getattr(self, name) for name in _own_fields() if getattr(self, name) is not None}
        return replace(PRESETS.get(self.preset, PRESETS["su"]), **given)

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images with enough pixels, and values that the data can have."""
        if len(space.shape) != 3:
            return f"needs images (c, h, w), not inputs of shape {space.shape}"
        box = space.shape[1:] if self.mask is None or self.mask.box is None else self.mask.box[2:]
        if math.prod(box) < self.pixels:
            return f"pixels: {self.pixels} of {math.prod(box)} that may change"
        strategy = self.strategy
        if strategy.values == "unit" and (max(space.lower) >= 1 or min(space.upper) <= 0):
            return "values: unit lies outside of the bounds of the data"
        if strategy.values == "physical" and space.link is None:
            return "values: physical needs data with a link to physical units"
        if strategy.stop == "probability" and not isinstance(task, Classification):
            return "stop: probability needs classes"
        return super().supports(space, task)

    def constraint(self) -> Constraint:
        """So many pixels."""
        return Constraint("pixels", Budget.of(self.pixels))

    def passes(self) -> int:
        """One for each candidate, and at most one for each generation to confirm."""
        return (self.population + 1) * (self.generations + 1)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """`one_pixel` with these parameters."""
        strategy = self.strategy
        enough = 1 - strategy.p_true if self.goal == "untargeted" else strategy.p_goal
        return one_pixel(
            x,
            y,
            target,
            rng,
            pixels=self.pixels,
            population=self.population,
            generations=self.generations,
            strategy=strategy,
            enough=enough if strategy.stop == "probability" else None,
        )


def _own_fields() -> list[str]:
    """Parameters that a preset decides."""
    return [field.name for field in fields(Strategy) if field.name in OnePixel.model_fields]
