"""Checks of models: the network they build, before any training."""

from __future__ import annotations

import torch
from torch import Tensor

from advbench.components.base import Component, Model
from advbench.components.recipe import Recipe
from advbench.runtime import tasks
from advbench.runtime.network import Network
from advbench.runtime.rng import isolated_rng
from advbench.testing.check import Broken, CheckFunction, Skip, Subject, require
from advbench.testing.spaces import REGRESSION, classes, space_of
from advbench.values import Classification, InputSpace, Task, task_name

SPACES = (
    space_of(1, 8, 8),
    space_of(1, 28, 28),
    space_of(3, 32, 32),
    space_of(5, 24, 30),
    space_of(3, 100, 100),
    space_of(6),
)
TASKS: tuple[Task, ...] = (classes(10), classes(3), classes(2), REGRESSION)
BATCH = 4


def checks(cls: type[Component]) -> list[CheckFunction]:
    """For models."""
    return [
        builds_what_it_supports,
        returns_logits,
        evaluation_is_deterministic,
        gradient_reaches_the_input,
        seed_decides_the_weights,
        can_be_prepared,
        parameter_count,
    ]


def _supported(model: Model) -> list[tuple[InputSpace, Task]]:
    fits = [task for task in TASKS if task_name(task) in model.tags.tasks]
    pairs = [(space, task) for space in SPACES for task in fits if model.supports(space, task) is None]
    if not pairs:
        raise Skip(f"supports none of the spaces that were tried: {model.supports(SPACES[1], TASKS[0])}")
    return pairs


def _build(model: Model, space: InputSpace, task: Task, seed: int = 0) -> Network:
    with isolated_rng(seed):
        module = model.build(space, task)
    require(
        isinstance(module, torch.nn.Module), f"build returned {type(module).__name__}, not a torch module"
    )
    return Network(module, space, task, type(model).__name__)


def _inputs(space: InputSpace, count: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand((count, *space.shape), generator=generator)


def _network(subject: Subject) -> tuple[Network, Tensor]:
    space, task = _supported(subject.as_a(Model))[0]
    return _build(subject.as_a(Model), space, task).eval(), _inputs(space)


def builds_what_it_supports(subject: Subject) -> str:
    """For inputs and tasks that `supports` accepts the network is built and returns the right shape."""
    model = subject.as_a(Model)
    pairs = _supported(model)
    # Every space once and every task once: big networks take long to build.
    pairs = [pair for i, pair in enumerate(pairs) if _is_new(pair, pairs[:i])]
    for space, task in pairs:
        try:
            with torch.no_grad():
                _build(model, space, task).eval()(_inputs(space, 2))
        except Exception as error:
            what = f"inputs {space.shape} and {task.outputs} outputs"
            raise Broken(f"supports() accepts {what}, but the network fails: {error}") from error
    return f"{len(pairs)} combinations"


def _is_new(pair: tuple[InputSpace, Task], seen: list[tuple[InputSpace, Task]]) -> bool:
    return pair[0] not in [space for space, _ in seen] or pair[1] not in [task for _, task in seen]


def returns_logits(subject: Subject) -> None:
    """A classifier returns logits, never probabilities; all values are finite."""
    model = subject.as_a(Model)
    for space, task in _supported(model):
        with torch.no_grad():
            output = _build(model, space, task).eval()(_inputs(space))
        require(bool(torch.isfinite(output).all()), "the output is not finite")
        require(not tasks.looks_like_probabilities(output, task), "returns probabilities; return logits")
        if isinstance(task, Classification):
            return


def evaluation_is_deterministic(subject: Subject) -> None:
    """In eval mode a sample's output is the same each time and whatever its companions are."""
    network, x = _network(subject)
    with torch.no_grad():
        first, second, turned, alone = (
            network(rows) for rows in (x, x, x.flip(0), x[:1].expand_as(x).clone())
        )
    require(torch.equal(first, second), "two evaluations of the same inputs differ")
    independent = torch.equal(first, turned.flip(0)) and torch.equal(first[0], alone[0])
    require(independent, "the output for a sample depends on the other samples")


def gradient_reaches_the_input(subject: Subject) -> None:
    """The gradient of the output with respect to the input is finite and not zero."""
    network, x = _network(subject)
    point = x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(point).square().sum(), point)
    require(bool(torch.isfinite(gradient).all()), "the input gradient is not finite")
    require(bool(gradient.any()), "the input gradient is zero")


def seed_decides_the_weights(subject: Subject) -> None:
    """The same seed gives the same weights, another one others."""
    model = subject.as_a(Model)
    space, task = _supported(model)[0]
    first, second, third = (_build(model, space, task, seed).state_dict() for seed in (0, 0, 1))
    require(
        all(torch.equal(first[name], second[name]) for name in first), "the same seed gives other weights"
    )
    trained = model.pretrained(subject.data_dirs) is None and any(True for _ in first)
    if trained:
        same = all(torch.equal(first[name], third[name]) for name in first)
        require(not same, "the seed does not change the weights; initialise from torch's global generator")


def can_be_prepared(subject: Subject) -> None:
    """It comes with weights that fit, or with a recipe; its normalisation fits the channels."""
    model = subject.as_a(Model)
    space, task = _supported(model)[0]
    weights = model.pretrained(subject.data_dirs)
    if weights is None:
        require(
            isinstance(getattr(model, "recipe", None), Recipe),
            "has neither weights nor a field `recipe: Recipe`",
        )
    else:
        _build(model, space, task).module.load_state_dict(dict(weights))
    how = model.normalisation()
    if isinstance(how, str):
        require(how in ("train", "none"), f"normalisation {how!r} is neither 'train', 'none' nor (mean, std)")
    else:
        _build(model, space, task).normalise_by(*how)


def parameter_count(subject: Subject) -> str:
    """It has parameters, and says how many."""
    model = subject.as_a(Model)
    space, task = _supported(model)[0]
    count = sum(parameter.numel() for parameter in _build(model, space, task).parameters())
    require(count > 0, "has no parameters")
    return f"{count:,} parameters for {task.outputs} outputs from {space.shape}"
