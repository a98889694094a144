"""Perturb and verify: what a plugin returns is checked, clipped and projected before anybody sees it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from advbench.components.base import Attack, Corruption
from advbench.components.identity import Spec, canonical
from advbench.errors import BudgetExhausted, PluginError
from advbench.runtime import tasks
from advbench.runtime.cell import Case, Crafted, Gradients, Samples, clean_output, clean_scores, predict
from advbench.runtime.detection import Guard
from advbench.runtime.inside import take
from advbench.runtime.network import Untouched
from advbench.runtime.rng import isolated_rng, seed_of
from advbench.runtime.target import Meter, PipelineTarget, check_time
from advbench.runtime.threat import column
from advbench.runtime.verify import verify
from advbench.values import Classification


def craft(case: Case) -> Crafted:
    """Perturb and verify.

    Raises
    ------
    PluginError
        If the plugin breaks its contract.
    CellTimeout
        If the time limit passes.
    """
    samples = case.samples
    count = torch.zeros(len(samples), dtype=torch.int64, device=samples.x.device)
    crafted = Crafted(samples.x.clone(), torch.zeros_like(count, dtype=torch.bool), count, count.clone())
    deadline = time.monotonic() + case.limits.seconds if case.limits.seconds else None
    for step in case.steps:
        # What the steps before made of the samples.
        shifted = samples if step is case.steps[0] else replace(samples, x=crafted.x.clone())
        if isinstance(step.perturbation, Attack):
            here = case if shifted is samples else replace(case, samples=shifted, memo={})
            crafted = _attack(here, step.perturbation, step.spec, crafted, deadline)
        elif isinstance(step.perturbation, Corruption):
            for rows in torch.split(torch.arange(len(samples), device=samples.x.device), case.limits.batch):
                check_time(deadline)
                _corrupt(case, step.perturbation, step.spec, shifted.take(rows), rows, crafted)
        else:
            raise PluginError(f"{step.spec.id} is neither an attack nor a corruption")
    return crafted


def adaptation(case: Case) -> str:
    """How the attack was adapted to the defense, JSON; empty where it was not."""
    if case.attack is None or case.knowledge != "adaptive":
        return ""
    found: dict[str, Any] = {}
    through = [type(one).__name__ for one in case.crafting.defenses]
    if through:
        found["through"] = through
    if case.crafting.draws > 1:
        found["draws"] = case.crafting.draws
    if case.loss is not None:
        found["loss"] = case.loss
    if case.guard is not None:
        found["past"] = type(case.guard.detector).__name__
    return canonical(found) if found else ""


def _corrupt(
    case: Case, corruption: Corruption, spec: Spec, batch: Samples, rows: Tensor, crafted: Crafted
) -> None:
    original = batch.x.clone()
    with isolated_rng(seed_of(case.seed, spec.id)):
        candidate = corruption.corrupt(batch.x, case.judged.space, batch.rng(case.seed, spec.id))
    _keep(case, spec, candidate, batch, original, rows, crafted)


def _attack(case: Case, attack: Attack, spec: Spec, crafted: Crafted, deadline: float | None) -> Crafted:
    samples = case.samples
    output = clean_output(case, case.crafting)
    draws = samples.rng(case.seed, f"goal of {spec.id}")
    task = case.judged.task
    aim = tasks.aims(attack.goal, output, samples.y, task, lambda high: draws.integers(high))
    size = samples.x.new_full((len(samples),), torch.nan) if attack.tags.size else None
    crafted = replace(crafted, aim=aim, size=size)
    if case.knowledge == "adaptive" and attack.tags.needs_gradient:
        crafted = replace(crafted, gradients=_gradients(case))
    delta = None
    if attack.tags.universal:
        delta, spent = _learn(case, attack, spec, deadline)
        crafted.forward[:], crafted.backward[:] = (-(-total // len(samples)) for total in spent)
    for rows in torch.split(_attacked(case, attack, output, aim), case.limits.batch):
        check_time(deadline)
        if not len(rows):  # nobody to attack: everyone is wrong already, or of the goal's class
            break
        batch = samples.take(rows)
        original, guard = batch.x.clone(), Untouched(case.crafting.network)
        if delta is None:
            target = _target(case, attack, batch, output[rows], None if aim is None else aim[rows], deadline)
            candidate = _perturbed(case, attack, spec, batch, target)
            crafted.forward[rows], crafted.backward[rows] = target.meter.forward, target.meter.backward
            if size is not None:
                size[rows] = target.meter.size
        else:
            candidate = batch.x + delta
        complaint = guard.complaint()
        if complaint:
            raise PluginError(f"{spec.id} {complaint}")
        _keep(case, spec, candidate, batch, original, rows, crafted, attack)
    return crafted


def _attacked(case: Case, attack: Attack, output: Tensor, aim: Tensor | None) -> Tensor:
    """Rows to attack.

    A classification attack leaves what is wrong already and what has the goal's class. A network other than the
    judged one, and one perturbation for all inputs, say nothing of what is wrong already. A sample that is none of the
    classes is never attacked.
    """
    rows = tasks.known(case.samples.y, case.judged.task)
    if isinstance(case.judged.task, Classification):
        if case.knowledge != "transfer" and not attack.tags.universal:
            rows = ~tasks.is_wrong(output, case.samples.y, case.judged.task)
            guard = _guard(case)
            if guard is not None:
                rows = rows & (clean_scores(case) <= guard.threshold)
        if aim is not None:
            rows = rows & (aim != case.samples.y)
    return torch.nonzero(rows)[:, 0]


def _guard(case: Case) -> Guard | None:
    """The detector, if the attacker has to pass it."""
    return case.guard if case.knowledge in ("adaptive", "blackbox") else None


GRADIENTS = 64
"""Samples of which gradients are looked at."""


def _gradients(case: Case) -> Gradients:
    """Of the margin, 0 or NaN where that of a detector's score is; looked at once for all cells that share both."""
    pipeline, samples = case.crafting, case.samples
    parts = (*pipeline.defenses, case.guard)
    key = ("gradients", id(pipeline.network), *map(repr, parts), id(samples.x), case.seed)
    if key not in case.memo:
        rows = torch.nonzero(tasks.known(samples.y, case.judged.task))[:GRADIENTS, 0]
        some = samples.take(rows)
        found = []
        for turn in ("gradient", "gradient again"):
            meter, draws = Meter(some.x, some.y), some.rng(case.seed, turn)
            target = PipelineTarget(
                pipeline, some.extras, draws, meter, torch.arange(len(rows), device=rows.device)
            )
            with isolated_rng(seed_of(case.seed, turn)):
                found.append(target.input_gradient(some.x, some.y).double().flatten(1))
        norm = samples.x.new_full((len(samples),), torch.nan, dtype=torch.float64)
        agreement = norm.clone()
        norm[rows] = torch.where(found[0].isfinite().all(1), found[0].norm(dim=1), torch.nan)
        if case.guard is not None:
            slope = _slope(case, case.guard, some)
            norm[rows] = torch.where(slope.isnan(), torch.nan, torch.where(slope == 0, 0.0, norm[rows]))
        agreement[rows] = torch.nn.functional.cosine_similarity(found[0], found[1], dim=1, eps=0.0)
        owners = (pipeline.network, samples.x)
        case.memo[key] = (owners, Gradients(norm, agreement))
    gradients: Gradients = case.memo[key][1]
    return gradients


def _slope(case: Case, guard: Guard, some: Samples) -> Tensor:
    """Norms (b,) of the gradients of a detector's score, NaN where one is not finite."""
    pipeline, rng = case.crafting, some.rng(case.seed, "gradient of the score")

    def one(rows: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            point = some.x[rows].detach().requires_grad_(True)
            extras = take(some.extras, rows)
            score = guard.score(pipeline, point, extras, rng.take(rows), differentiable=True)
            found = None
            if score.requires_grad:
                (found,) = torch.autograd.grad(score.sum(), point, allow_unused=True)
        flat = torch.zeros_like(point).flatten(1) if found is None else found.flatten(1)
        size = flat.double().norm(dim=1)
        return [torch.where(flat.isfinite().all(1), size, torch.nan)]

    with isolated_rng(seed_of(case.seed, "gradient of the score")):
        return pipeline.map(one, len(some))[0]


def _target(
    case: Case, attack: Attack, batch: Samples, output: Tensor, aim: Tensor | None, deadline: float | None
) -> PipelineTarget:
    space, pipeline = case.judged.space, case.crafting
    guard = _guard(case)
    scale = None
    if guard is not None:
        scale = tasks.goal_margin(output, batch.y, case.judged.task, aim).abs()
        scale = torch.maximum(scale, tasks.ROUNDING * output.abs().amax(1).clamp_min(1e-30))
    return PipelineTarget(
        pipeline,
        batch.extras,
        batch.rng(case.seed, "defense under attack"),
        _meter(case, attack, batch, deadline),
        torch.arange(len(batch), device=batch.x.device),
        case.knowledge != "blackbox",
        aim,
        None if attack.mask is None else attack.mask.like(batch.x, space),
        guard,
        scale,
        case.loss if case.knowledge == "adaptive" else None,
    )


def _perturbed(case: Case, attack: Attack, spec: Spec, batch: Samples, target: PipelineTarget) -> Any:
    """What the attack returns, or the best point that was seen where it overran its budget of passes."""
    meter = target.meter
    with isolated_rng(seed_of(case.seed, spec.id)):
        try:
            candidate = attack.perturb(batch.x, batch.y, target, batch.rng(case.seed, spec.id))
        except BudgetExhausted:
            return meter.best
    if meter.budget and isinstance(candidate, Tensor) and candidate.shape == batch.x.shape:
        spent = meter.exhausted | (meter.forward + meter.backward >= meter.budget)
        return torch.where(column(spent, batch.x), meter.best, candidate.to(batch.x))
    return candidate


def _learn(case: Case, attack: Attack, spec: Spec, deadline: float | None) -> tuple[Tensor, tuple[int, int]]:
    """One perturbation for all inputs, learned on samples that are not evaluated, and the passes that it took."""
    if case.learning is None or not len(case.learning):
        raise PluginError(f"{spec.id} learns from a split 'calibration', 'valid' or 'train'; there is none")
    learning = case.learning
    output = predict(case.crafting, learning, case.seed)
    right = torch.nonzero(~tasks.is_wrong(output, learning.y, case.crafting.task))[:, 0]
    if not len(right):
        raise PluginError(f"{spec.id} has nothing to learn from: no sample is predicted correctly")
    batch = learning.take(right)
    draws = batch.rng(case.seed, f"goal of {spec.id}")
    aim = tasks.aims(
        attack.goal, output[right], batch.y, case.crafting.task, lambda high: draws.integers(high)
    )
    # A budget of passes is one for each evaluated sample; learning is counted, not limited.
    target = _target(replace(case, budget=None), attack, batch, output[right], aim, deadline)
    guard = Untouched(case.crafting.network)
    with isolated_rng(seed_of(case.seed, spec.id)):
        delta = attack.universal(batch.x, batch.y, target, batch.rng(case.seed, spec.id))
    if not isinstance(delta, Tensor) or delta.shape != (1, *batch.x.shape[1:]):
        raise PluginError(f"{spec.id}: universal() must return a tensor (1, c, ...), shaped like one input")
    complaint = guard.complaint()
    if complaint:
        raise PluginError(f"{spec.id} {complaint}")
    return delta.detach(), (int(target.meter.forward.sum()), int(target.meter.backward.sum()))


def _keep(
    case: Case, spec: Spec, candidate: Any, batch: Samples, original: Tensor, rows: Tensor,
    crafted: Crafted, attack: Attack | None = None,
) -> None:  # fmt: skip
    """Verify what a plugin returned for the samples ``rows`` and keep it."""
    if not torch.equal(batch.x, original):
        raise PluginError(f"{spec.id} changed its inputs in place")
    space = case.judged.space
    ball = attack.constraint() if attack is not None else None
    mask = attack.mask.like(original, space) if attack is not None and attack.mask is not None else None
    verified = verify(candidate, original, space, ball, spec.id, mask)
    crafted.x[rows] = verified.x
    crafted.violation[rows] |= verified.violation


def _meter(case: Case, attack: Attack, batch: Samples, deadline: float | None) -> Meter:
    return Meter(batch.x, batch.y, case.budget, attack.norm_made_small(), deadline)
