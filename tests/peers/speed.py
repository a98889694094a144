"""Wall time of ours against the other libraries: ``python -m tests.peers.speed [--quick] [--only WORD]``.

In one process and one run, alternating, medians of the repetitions. Beside every time stand the passes that were
spent, success, norm and peak memory, and the *floor*: as many passes of the plain network in a bare loop.
Writes ``results/reference/peers.csv``, ``results/reference/peers.png`` and ``docs/peers.md``.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import pandas as pd
import torch
import torch.nn.functional as F
from tests.peers.measure import Counted, peak_memory, synchronise
from tests.peers.ours import Prepared, craft_ours, our_attack
from tests.peers.page import write_page
from tests.peers.peers import craft, peers_of
from tests.peers.scenes import Scene
from tests.peers.trials import Trial, networks, trials
from torch import Tensor

from advbench.runtime.threat import ball_norm

ROOT = Path(__file__).parents[2]
LOOP = 20
"""Passes of the bare loop, at most; its time is scaled to those of the task."""


@dataclass(frozen=True)
class Facts:
    """What somebody spends and gets; passes per sample."""

    forward: float
    backward: float
    success: float
    median_norm: float
    peak_mib: float


@dataclass(frozen=True)
class Costs:
    """Seconds of one pass of all samples through the plain network."""

    forward: float
    both: float

    def of(self, forward: float, backward: float) -> float:
        """Seconds of so many passes."""
        return self.forward * forward + (self.both - self.forward) * backward


def compare(scene: Scene, prepared: Prepared, trial: Trial, repetitions: int) -> list[dict[str, object]]:
    """Everybody on one attack: one row each."""
    scene = replace(scene, x=scene.x[: trial.samples], y=scene.y[: trial.samples])
    runs = contestants(scene, prepared, trial)
    if not runs:
        return []
    facts = {}
    for who in runs:
        try:
            facts[who] = examine(scene, prepared, trial, who)
        except Exception as error:  # pyautoattack with three classes, say: the others go on
            if who.startswith("ours"):
                raise
            click.echo(f"{who} cannot: {type(error).__name__}: {error}")
    timed = {who: functools.partial(_timed, runs[who]) for who in facts}
    loop = min(trial.nominal, LOOP)
    timed["floor"] = lambda: _timed(lambda: bare(scene, loop, trial.gradients)) / loop
    timed["forward"] = lambda: _timed(lambda: bare(scene, loop, False)) / loop
    seconds: Mapping[str, list[float]] = {who: [] for who in timed}
    for _ in range(repetitions):
        for who, run in timed.items():
            seconds[who].append(run())
    taken = {who: statistics.median(values) for who, values in seconds.items()}
    costs = Costs(taken["forward"], taken["floor"])
    return [
        {
            "network": scene.name, "trained": scene.trained, **asdict(trial.task), "samples": trial.samples,
            "who": who, "seconds": taken[who],
            "over_floor": taken[who] / (taken["floor"] * trial.nominal),
            "over_own_passes": taken[who] / costs.of(found.forward, found.backward),
            **asdict(found), "preparation": prepared.seconds, "repetitions": repetitions,
            "threads": torch.get_num_threads(),
        }
        for who, found in facts.items()
    ]  # fmt: skip


def contestants(scene: Scene, prepared: Prepared, trial: Trial) -> dict[str, Callable[[], object]]:
    """Who can do it, and how."""
    theirs = {
        library: functools.partial(craft, library, trial.task, scene.network, scene.x, scene.y)
        for library in peers_of(trial.task)
    }
    ours = {
        name: functools.partial(craft_ours, prepared, scene, attack)
        for name, attack in our_attack(trial.task).items()
    }
    return {**theirs, **ours}


def bare(scene: Scene, passes: int, gradients: bool) -> None:
    """The plain network so many times, and nothing else."""
    network = scene.network
    for _ in range(passes):
        if gradients:
            point = scene.x.detach().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(network(point), scene.y), point)
        else:
            with torch.no_grad():
                network(scene.x)


def examine(scene: Scene, prepared: Prepared, trial: Trial, who: str) -> Facts:
    """A run that is not timed and warms up as well; what comes out is judged by a fresh pass."""
    stage = scene.stage()
    with peak_memory() as peak:
        if who.startswith("ours"):
            point, forward, backward = craft_ours(prepared, scene, our_attack(trial.task)[who])
        else:
            counted = Counted(scene.network)
            point = craft(who, trial.task, counted, scene.x, scene.y)
            forward, backward = counted.forwards / len(scene.x), counted.backwards / len(scene.x)
    wrong = stage.output(point).argmax(1) != scene.y
    size = ball_norm(point.double() - scene.x.double(), trial.task.norm)
    return Facts(
        forward,
        backward,
        float(wrong.double().mean()),
        _median(torch.where(wrong, size, torch.inf)),
        peak.mib,
    )


def _median(size: Tensor) -> float:
    return float(size.median())


def _timed(run: Callable[[], object]) -> float:
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one network, few samples, one repetition")
    parser.add_argument("--only", default="", help="attacks or networks with this word in their names")
    parser.add_argument("--repetitions", type=int, default=5, help="runs of which the median counts")
    parser.add_argument("--out", type=Path, default=ROOT, help="folder that gets results/reference and docs")
    options = parser.parse_args(arguments)
    rows = []
    made = networks(options.quick)
    only = options.only
    for make in [made[name] for name in made if only and (only in name or name in only)] or made.values():
        scene = make()
        prepared = Prepared.of(scene)
        for trial in trials(scene, options.quick):
            name = f"{trial.task.attack}-{trial.task.norm} on {scene.name}"
            if only in name:
                click.echo(name)
                rows += compare(scene, prepared, trial, 1 if options.quick else options.repetitions)
                write_page(pd.DataFrame(rows), options.out)  # each time: the next one may take long


if __name__ == "__main__":
    main()
