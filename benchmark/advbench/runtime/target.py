"""What an attack sees: the pipeline under the declared knowledge, with counted passes and a budget."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from advbench.components.protocols import Evaluation, LossLike
from advbench.errors import BudgetExhausted, CellTimeout, PluginError
from advbench.runtime import tasks
from advbench.runtime.as_module import AsModule
from advbench.runtime.detection import Guard, as_seen
from advbench.runtime.inside import take
from advbench.runtime.pipeline import Pipeline, with_pixels
from advbench.runtime.rng import SampleRng
from advbench.runtime.threat import ball_norm
from advbench.values import InputSpace, Task


def check_time(deadline: float | None) -> None:
    """Raise CellTimeout once the deadline (monotonic seconds) has passed."""
    if deadline is not None and time.monotonic() > deadline:
        raise CellTimeout("time limit of the cell")


@dataclass
class Meter:
    """Passes per sample of one batch, their budget, and the best point that was seen within it."""

    clean: Tensor  # (b, c, ...)
    y: Tensor
    budget: int | None = None
    minimum_norm: str | None = None  # the norm to make small, for minimum-norm attacks
    deadline: float | None = None
    forward: Tensor = field(init=False)
    backward: Tensor = field(init=False)
    size: Tensor = field(init=False)  # in the attack's own measure, NaN until it tells
    exhausted: Tensor = field(init=False)  # bool: asked for more than its budget, and gets nothing more
    best: Tensor = field(init=False)
    _score: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.forward = torch.zeros(len(self.clean), dtype=torch.int64, device=self.clean.device)
        self.backward = torch.zeros_like(self.forward)
        self.exhausted = torch.zeros_like(self.forward, dtype=torch.bool)
        self.size = self.clean.new_full((len(self.clean),), torch.nan)
        self.best = self.clean.clone() if self.budget else self.clean
        self._score = torch.full(
            (len(self.clean),), -torch.inf, dtype=torch.float64, device=self.clean.device
        )

    def charge(self, rows: Tensor, forward: int, backward: int) -> Tensor:
        """Count passes for the samples ``rows``; returns which of them were still within the budget.

        A sample that once asks for more than it has left gets nothing from then on, so that what it gets
        depends on nothing but itself.

        Raises
        ------
        BudgetExhausted
            If nobody in the whole batch has anything left.
        CellTimeout
            If the deadline has passed.
        """
        check_time(self.deadline)
        ones = torch.ones_like(rows)
        if self.budget:
            asked = torch.zeros_like(self.forward).index_add_(0, rows, ones * (forward + backward))
            self.exhausted |= self.forward + self.backward + asked > self.budget
            if bool(self.exhausted.all()):
                raise BudgetExhausted(f"{self.budget} passes per sample")
        within = ~self.exhausted[rows]
        self.forward.index_add_(0, rows, within * forward)
        self.backward.index_add_(0, rows, within * backward)
        return within

    def grant(self, rows: Tensor, count: int) -> Tensor:
        """Count up to ``count`` forward passes for each of ``rows``, all different; returns how many each got, (b,)."""
        used = self.forward + self.backward
        granted = torch.full_like(rows, count)
        check_time(self.deadline)
        if self.budget:
            granted = (self.budget - used)[rows].clamp(0, count) * ~self.exhausted[rows]
            self.exhausted[rows] |= granted < count
            if bool(self.exhausted.all()) and not bool(granted.any()):
                raise BudgetExhausted(f"{self.budget} passes per sample")
        self.forward.index_add_(0, rows, granted)
        return granted

    def observe(self, rows: Tensor, within: Tensor, x: Tensor, margin: Tensor, wrong: Tensor) -> None:
        """Remember the best point so far of every sample, as long as it has budget."""
        if not self.budget:
            return
        score = -margin.double()
        if self.minimum_norm:
            size = ball_norm(x - self.clean[rows], self.minimum_norm)
            score = torch.where(wrong, -size, -torch.inf)
        score = torch.where(within, score, -torch.inf)
        for start in _distinct(
            rows
        ):  # a sample may stand in several rows: one at a time, or writes would race
            row = rows[start]
            better = start[score[start] > self._score[row]]
            self.best[rows[better]] = x[better]
            self._score[rows[better]] = score[better]


def _distinct(rows: Tensor) -> list[Tensor]:
    """Positions in groups within which every sample occurs once."""
    order = torch.argsort(rows, stable=True)
    ordered = rows[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    if bool(first.all()):
        return [torch.arange(len(rows), device=rows.device)]
    index = torch.arange(len(rows), device=rows.device)
    rank = index - torch.cummax(torch.where(first, index, 0), 0).values
    return [order[rank == k] for k in range(int(rank.max()) + 1)]


@dataclass(frozen=True)
class PipelineTarget:
    """A `Target` over a pipeline; ``rows`` are the samples of the meter's batch that it stands for."""

    pipeline: Pipeline
    extras: Mapping[str, Tensor]
    rng: SampleRng
    meter: Meter
    rows: Tensor
    gradients: bool = True
    aim: Tensor | None = None  # (b,) what `tasks.aims` gives; None: untargeted
    mask: Tensor | None = None  # bool (1, c, ...): what may change
    guard: Guard | None = None  # a detector that the attacker has to pass, too
    scale: Tensor | None = None  # (b,) clean margins, the unit in which its scores are compared with margins
    loss: str | None = None  # what replaces the named loss of an attack

    @property
    def task(self) -> Task:
        """The task."""
        return self.pipeline.task

    @property
    def space(self) -> InputSpace:
        """The input space."""
        return self.pipeline.space

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> PipelineTarget:
        """The same target for some samples."""
        return replace(
            self,
            extras=take(self.extras, index),
            rng=self.rng.take(index),
            rows=self.rows[index],
            aim=None if self.aim is None else self.aim[index],
            scale=None if self.scale is None else self.scale[index],
        )

    def margin(self, output: Tensor, y: Tensor) -> Tensor:
        """Distance from the goal, (b,)."""
        return tasks.goal_margin(output, y, self.task, self.aim)

    def is_adversarial(self, output: Tensor, y: Tensor) -> Tensor:
        """Whether the goal is reached, by more than rounding, (b,)."""
        return tasks.is_adversarial(output, y, self.task, self.aim, self.pipeline.rounding)

    def output(self, x: Tensor) -> Tensor:
        """Outputs (b, k) of inputs (b, c, ...): one forward pass."""
        self._check(x)
        within = self.meter.charge(self.rows, self.cost(x, False), 0)
        if not bool(within.any()):  # whatever comes of these samples, their best point is kept already
            return x.new_zeros((len(x), self.task.outputs))
        output = self._confirmed(x, self._outputs(x))
        self.observe(x, within, output)
        return output

    def _outputs(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.pipeline.map(lambda rows: [self.seen(x[rows], rows, False)], len(x))[0]

    def _confirmed(self, x: Tensor, output: Tensor) -> Tensor:
        """Behind a random defense a success must be one in all of its draws: of those the worst output."""
        draws = self.pipeline.draws
        if draws == 1:
            return output
        y = self.meter.y[self.rows]
        lucky = torch.nonzero(self.is_adversarial(output, y))[:, 0]
        if not len(lucky):
            return output
        some = self.take(lucky)
        passes = (draws - 1) * self.cost(x, False)
        within = self.meter.charge(some.rows, passes, 0)
        more = [output[lucky], *(some._outputs(x[lucky]) for _ in range(draws - 1))]
        worst = some.worst(torch.stack(more))
        output = output.clone()
        output[lucky] = torch.where(within[:, None], worst, output[lucky])
        return output

    def worst(self, outputs: Tensor) -> Tensor:
        """Of several outputs (m, b, k) of each sample the one furthest from the goal, (b, k)."""
        y = self.meter.y[self.rows]
        margins = torch.stack([self.margin(output, y) for output in outputs])
        return outputs[margins.argmax(0), torch.arange(outputs.shape[1], device=outputs.device)]

    def seen(self, x: Tensor, rows: Tensor, differentiable: bool) -> Tensor:
        """Outputs (r, k) of inputs for the samples ``rows`` of this target, as the attacker sees them."""
        extras, rng = take(self.extras, rows), self.rng.take(rows)
        output = self.pipeline.forward(x, extras, rng, differentiable)
        if self.guard is None or self.scale is None:
            return output
        score = self.guard.score(self.pipeline, x, extras, rng, differentiable)
        aim = None if self.aim is None else self.aim[rows]
        y = self.meter.y[self.rows[rows]]
        return as_seen(output, y, self.task, aim, self.guard.excess(score), self.scale[rows])

    def cost(self, x: Tensor, differentiable: bool) -> int:
        """Passes of a network that one evaluation of a sample takes."""
        cost = self.pipeline.passes(x, self.extras, self.rng, differentiable)
        if self.guard is not None:
            cost += self.guard.passes(self.pipeline, x, self.extras, self.rng, differentiable)
        return cost

    def outputs_with_pixels(self, x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
        """Outputs (b, m, k) of m candidates for each input, each of which sets p pixels."""
        self._check(x)
        self._check_pixels(x, positions, values)
        count = positions.shape[1]
        if self.guard is not None or self.pipeline.wrapped:
            return self._outputs_one_by_one(x, positions, values)
        granted = self.meter.grant(self.rows, count)
        if not bool(granted.any()):
            return x.new_zeros((len(x), count, self.task.outputs))
        outputs = self.pipeline.predict_pixels(x, self.extras, self.rng, positions, values)
        if self.meter.budget:
            each = torch.arange(len(x), device=x.device)
            all_rows = self.take(each.repeat_interleave(count))
            y = self.meter.y[all_rows.rows]
            margin = all_rows.margin(outputs.flatten(0, 1), y).view(len(x), count)
            beyond = torch.arange(count, device=x.device) >= granted[:, None]
            nearest = margin.masked_fill(beyond, torch.inf).argmin(1)
            points = with_pixels(x, positions[each, nearest], values[each, nearest])
            self.observe(points, granted > 0, outputs[each, nearest])
        return outputs

    def _outputs_one_by_one(self, x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
        """Candidates (b, m, k) as inputs like any other: each may cost several passes."""
        each = torch.arange(len(x), device=x.device)
        columns = [with_pixels(x, positions[each, i], values[each, i]) for i in range(positions.shape[1])]
        return torch.stack([self.output(points) for points in columns], 1)

    def evaluate(self, x: Tensor, y: Tensor, loss: LossLike = "margin") -> Evaluation:
        """Loss (b,), input gradient and output: one forward and one backward pass for each draw of the defense."""
        self._check(x)
        self.check_gradients()
        draws = self.pipeline.draws
        passes = draws * self.cost(x, True)
        within = self.meter.charge(self.rows, passes, passes)
        loss = self.loss if self.loss is not None and isinstance(loss, str) else loss
        if not bool(within.any()):
            output = x.new_zeros((len(x), self.task.outputs))
            return Evaluation(output[:, 0].clone(), torch.zeros_like(x), output)

        def one(rows: Tensor) -> list[Tensor]:
            with torch.enable_grad():
                point = x[rows].detach().requires_grad_(True)
                outputs = [self.seen(point, rows, True) for _ in range(draws)]
                function = tasks.attack_loss(loss, self.task, None if self.aim is None else self.aim[rows])
                losses = torch.stack([function(output, y[rows]) for output in outputs]).mean(0)
                found = None
                if losses.requires_grad:
                    (found,) = torch.autograd.grad(losses.sum(), point, allow_unused=True)
                # Where nothing connects loss and input it is zero; the row is flagged.
                gradient = torch.zeros_like(point) if found is None else found
            if self.mask is not None:
                gradient = gradient * self.mask
            shown = outputs[0] if draws == 1 else self.take(rows).worst(torch.stack(outputs).detach())
            return [losses.detach(), gradient, shown.detach()]

        evaluation = Evaluation(*self.pipeline.map(one, len(x)))
        self.observe(x, within, evaluation.output)
        return evaluation

    def input_gradient(self, x: Tensor, y: Tensor, loss: LossLike = "margin") -> Tensor:
        """The gradient alone, (b, c, ...)."""
        return self.evaluate(x, y, loss).gradient

    def measure(self, size: Tensor) -> None:
        """Keep the size of each sample's change, (b,), in the attack's own measure."""
        self.meter.size[self.rows] = size.detach().to(self.meter.size)

    def module(self) -> AsModule:
        """This target, which must be of one sample, as a network for other libraries."""
        return AsModule(self)

    def check_gradients(self) -> None:
        """Raises PluginError where the declared knowledge grants no gradients."""
        if not self.gradients:
            raise PluginError("the attack asked for a gradient, which the declared knowledge does not grant")

    def _check(self, x: Tensor) -> None:
        if not len(x):
            raise PluginError("there is no sample left to evaluate; stop when none is active")
        if len(x) != len(self.rows):
            raise PluginError(
                f"{len(x)} inputs for a target of {len(self.rows)} samples; use target.take(index)"
            )

    def _check_pixels(self, x: Tensor, positions: Tensor, values: Tensor) -> None:
        batch, channels, height, width = x.shape
        expected = (batch, *positions.shape[1:3], channels)
        if (
            positions.dim() != 4
            or positions.shape[3] != 2
            or values.shape != expected
            or not positions.numel()
        ):
            raise PluginError(
                f"positions {tuple(positions.shape)} and values {tuple(values.shape)} of pixels for {batch} inputs "
                f"of {channels} channels; expected (b, m, p, 2) and (b, m, p, c)"
            )
        if bool(((positions < 0) | (positions >= positions.new_tensor((height, width)))).any()):
            raise PluginError(f"a pixel lies outside of {height} x {width}")

    def observe(self, x: Tensor, within: Tensor, output: Tensor) -> None:
        """Let the meter remember the best of these points; ``within`` (b,) says who still had budget."""
        if self.meter.budget:
            y = self.meter.y[self.rows]
            self.meter.observe(self.rows, within, x, self.margin(output, y), self.is_adversarial(output, y))
