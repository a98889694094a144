"""The same attack in each library, as ``function(network, x, y) -> perturbed inputs`` on a whole batch in [0, 1].

Lengths and steps are given once for all of them. Imports happen when a function is called: any library may be missing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

DISTRIBUTIONS = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "art": "adversarial-robustness-toolbox",
    "adv_lib": "adv-lib",
    "pyautoattack": "pyautoattack",
}


def installed(library: str) -> bool:
    """Whether the library is there."""
    try:
        metadata.version(DISTRIBUTIONS[library])
    except metadata.PackageNotFoundError:
        return False
    return True


def load(module: str) -> ModuleType:
    """A module of a library, its warnings to its own authors left out."""
    with warnings.catch_warnings(), _stand_ins():
        warnings.simplefilter("ignore")
        return import_module(module)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """adv-lib imports torchvision for a distance and visdom for plots; its attacks use neither."""
    names = ("torchvision", "torchvision.models", "visdom")
    added = {name: MagicMock(__spec__=None) for name in names if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


@dataclass(frozen=True)
class Task:
    """What is asked of everybody: an attack, its norm, budget, step and number of steps.

    ``steps`` are gradient steps, generations for one-pixel, or queries for Square.
    """

    attack: str
    norm: str = "linf"
    eps: float = 0.0
    alpha: float = 0.0
    steps: int = 1


def torchattacks(task: Task, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """torchattacks."""
    library = load("torchattacks")
    norm = {"linf": "Linf", "l2": "L2"}.get(task.norm)
    made: dict[tuple[str, str], Callable[[], Any]] = {
        ("fgsm", "linf"): lambda: library.FGSM(network, task.eps),
        ("pgd", "linf"): lambda: library.PGD(network, task.eps, task.alpha, task.steps, random_start=False),
        ("pgd", "l2"): lambda: library.PGDL2(network, task.eps, task.alpha, task.steps, random_start=False),
        ("one-pixel", "pixels"): lambda: library.OnePixel(network, 1, task.steps, 400, 400),
        ("square", task.norm): lambda: library.Square(network, norm, task.eps, task.steps),
        ("apgd", task.norm): lambda: library.APGD(network, norm, task.eps, task.steps),
    }
    result: Tensor = made[task.attack, task.norm]()(x, y)
    return result


def foolbox(task: Task, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Foolbox."""
    attacks = load("foolbox.attacks")
    steps = {"abs_stepsize": task.alpha, "steps": task.steps, "random_start": False}
    made: dict[tuple[str, str], Callable[[], Any]] = {
        ("fgsm", "linf"): lambda: attacks.LinfFastGradientAttack(),
        ("pgd", "linf"): lambda: attacks.LinfPGD(**steps),
        ("pgd", "l2"): lambda: attacks.L2PGD(**steps),
        ("ddn", "l2"): lambda: attacks.DDNAttack(steps=task.steps),
        ("fmn", "linf"): lambda: attacks.LInfFMNAttack(steps=task.steps),
        ("fmn", "l2"): lambda: attacks.L2FMNAttack(steps=task.steps),
        ("fmn", "l1"): lambda: attacks.L1FMNAttack(steps=task.steps),
        ("fmn", "l0"): lambda: attacks.L0FMNAttack(steps=task.steps),
    }
    attack = made[task.attack, task.norm]()
    library = load("foolbox")
    model = library.PyTorchModel(network, bounds=(0, 1), device=x.device)
    size = task.eps or None
    result: Tensor = attack(model, x, library.criteria.Misclassification(y), epsilons=size)[0]
    return result


def art(task: Task, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The Adversarial Robustness Toolbox."""
    attacks, estimators = load("art.attacks.evasion"), load("art.estimators.classification")
    with torch.no_grad():
        classes = network(x[:1]).shape[1]
    classifier = estimators.PyTorchClassifier(
        network, nn.CrossEntropyLoss(), tuple(x.shape[1:]), classes, clip_values=(0.0, 1.0),
        device_type="cpu" if x.device.type == "cpu" else "gpu",
    )  # fmt: skip
    norm = {"linf": np.inf, "l2": 2}.get(task.norm)
    batch, quiet = {"batch_size": len(x)}, {"verbose": False}
    budget = {"norm": norm, "eps": task.eps, **batch}
    made: Mapping[str, Callable[[], Any]] = {
        "fgsm": lambda: attacks.FastGradientMethod(classifier, **budget),
        "pgd": lambda: attacks.ProjectedGradientDescent(
            classifier, eps_step=task.alpha, max_iter=task.steps, **budget, **quiet
        ),
        "one-pixel": lambda: attacks.PixelAttack(classifier, th=1, es=1, max_iter=task.steps, **quiet),
        "square": lambda: attacks.SquareAttack(classifier, max_iter=task.steps, **budget, **quiet),
        "apgd": lambda: attacks.AutoProjectedGradientDescent(
            classifier, eps_step=2 * task.eps, max_iter=task.steps, nb_random_init=1, **budget, **quiet
        ),
    }
    found = made[task.attack]().generate(x.cpu().numpy(), np.eye(classes, dtype=np.float32)[y.cpu().numpy()])
    return torch.from_numpy(np.asarray(found)).to(x)


def adv_lib(task: Task, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """adv-lib, without the rounding to 256 levels that its DDN does by default."""
    attacks = load("adv_lib.attacks")
    order = {"linf": float("inf"), "l2": 2, "l1": 1, "l0": 0}[task.norm]
    made: Mapping[str, Callable[[], Any]] = {
        "pgd": lambda: attacks.pgd_linf(
            network, x, y, task.eps, steps=task.steps, random_init=False, absolute_step_size=task.alpha
        ),
        "ddn": lambda: attacks.ddn(network, x, y, steps=task.steps, levels=None),
        "fmn": lambda: attacks.fmn(network, x, y, norm=order, steps=task.steps),
        "apgd": lambda: attacks.apgd(network, x, y, task.eps, norm=order, n_iter=task.steps),
    }
    result: Tensor = made[task.attack]()
    return result


def pyautoattack(task: Task, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The official AutoAttack."""
    library = load("pyautoattack")
    norm = {"linf": "Linf", "l2": "L2"}[task.norm]
    attack = library.AutoAttack(network, norm=norm, eps=task.eps, device=x.device)
    points: Tensor = attack.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return points


PEERS: Mapping[str, Callable[[Task, nn.Module, Tensor, Tensor], Tensor]] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "art": art,
    "adv_lib": adv_lib,
    "pyautoattack": pyautoattack,
}

OFFERS: Mapping[str, tuple[str, ...]] = {
    "torchattacks": (
        "fgsm-linf", "pgd-linf", "pgd-l2", "apgd-linf", "apgd-l2", "square-linf", "square-l2", "one-pixel-pixels",
    ),
    "foolbox": ("fgsm-linf", "pgd-linf", "pgd-l2", "ddn-l2", "fmn-linf", "fmn-l2", "fmn-l1", "fmn-l0"),
    "art": (
        "fgsm-linf", "pgd-linf", "pgd-l2", "apgd-linf", "apgd-l2", "square-linf", "square-l2", "one-pixel-pixels",
    ),
    "adv_lib": ("pgd-linf", "apgd-linf", "apgd-l2", "ddn-l2", "fmn-linf", "fmn-l2", "fmn-l1", "fmn-l0"),
    "pyautoattack": ("auto-linf", "auto-l2"),
}  # fmt: skip
"""What is compared, as attack-norm."""


def peers_of(task: Task) -> list[str]:
    """The installed libraries that have this attack."""
    name = f"{task.attack}-{task.norm}"
    return [library for library, offers in OFFERS.items() if name in offers and installed(library)]


def craft(library: str, task: Task, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Perturbed inputs (b, c, h, w) of a library."""
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        return PEERS[library](task, network, x.clone(), y.clone()).detach().to(x)
