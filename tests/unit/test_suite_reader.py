"""Suites from text to full specs, and every mistake at its line and column."""

from __future__ import annotations

import itertools
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advbench.api import (
    Attack,
    Budget,
    Component,
    Corruption,
    Dataset,
    Defense,
    Figure,
    Metric,
    Model,
    Recipe,
    Register,
    hookimpl,
    param,
)
from advbench.components.loader import Plugins, Source
from advbench.errors import Problem, SuiteError
from advbench.suite.model import DatasetItem, Exclusion, Suite
from advbench.suite.reader import read_suite


class Blobs(Dataset):
    """Blobs."""

    depth: Literal["y1", "y10"] = param("y10", "survey depth")
    size: int = param(8, "pixels", ge=1)


class Net(Model):
    """A network."""

    width: int = param(8, "channels", ge=1, le=64)
    bands: tuple[float, ...] | None = param(None, "weight per band")
    recipe: Recipe = param(Recipe(), "training")


class Push(Attack):
    """An attack."""

    norm: Literal["linf", "l2"] = param("linf", "norm")
    eps: Budget = param(..., "radius of the ball")
    steps: int = param(10, "iterations", ge=1)


class Grain(Corruption):
    """A corruption whose validation is broken for one value."""

    sigma: float = param(0.1, "standard deviation", ge=0, le=1)
    style: str = param("fine", "kind of grain")

    def model_post_init(self, context: Any) -> None:
        if self.style == "crash":
            raise KeyError(self.style)


class Blur(Defense):
    """A defense."""

    width: int = param(3, "pixels", ge=1)


class Score(Metric):
    """A metric."""

    weight: float = param(1.0, "weight")


class Chart(Figure):
    """A figure."""


TOYS: dict[str, dict[str, str | type[Component]]] = {
    "dataset": {"blobs": Blobs},
    "model": {"net": Net, "twin": Net, "hollow": "no_such_module:Net"},
    "perturbation": {"push": Push, "grain": Grain},
    "defense": {"blur": Blur, "shrink": Blur},
    "metric": {"score": Score},
    "figure": {"chart": Chart},
}


def toy_module(toys: dict[str, dict[str, str | type[Component]]]) -> types.ModuleType:
    """A plugin module with one registration hook for each kind of component."""

    def hook(kind: str) -> Callable[[Register], None]:
        def implementation(register: Register) -> None:
            for name, target in toys[kind].items():
                register(name, target)

        implementation.__name__ = f"register_{kind}s"
        return hookimpl(implementation)

    module = types.ModuleType("toy")
    for kind in toys:
        setattr(module, f"register_{kind}s", hook(kind))
    return module


def raises() -> types.ModuleType:
    raise ImportError("libscience.so is missing")


def plugins() -> Plugins:
    other: dict[str, dict[str, str | type[Component]]] = {"model": {"twin": Net}}
    return Plugins(
        [
            Source("toy", "toys 1.0", lambda: toy_module(TOYS)),
            Source("more", "more-toys 1.0", lambda: toy_module(other)),
            Source("broken", "broken 1.0", raises),
        ]
    )


SMALL = "version: 1\ndatasets: [toy/blobs]\nmodels: [toy/net]\n"


class Reader:
    """Reads suites written in the text of a test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "demo.yaml"
        self.plugins = plugins()

    def __call__(self, text: str | bytes, *overrides: str, limit: int | None = None) -> Suite:
        self.path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_suite(self.path, self.plugins, overrides, limit)

    def mistakes(self, text: str, *overrides: str, limit: int | None = None) -> list[str]:
        """All mistakes, less the name of the file."""
        with pytest.raises(SuiteError) as caught:
            self(text, *overrides, limit=limit)
        return [str(problem).removeprefix(f"{self.path}:") for problem in caught.value.problems]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("suites"))


FULL = """\
version: 1
name: full-1.0
description: "All that a suite can say"
seeds: [0, 7]
datasets:
  - {use: toy/blobs, name: y10, limit: 50}
  - {use: blobs, name: y1, params: {depth: y1}, train_on: y10, split: valid}
models:
  - net
  - {use: toy/net, name: wide net, params: {width: 64, recipe: {epochs: 3}, bands: [1, 1/2]}}
defenses:
  - none
  - blur
  - [{use: toy/blur, name: b2, params: {width: 2}}, {use: shrink, sweep: {width: [1, 5]}}]
perturbations:
  - none
  - {use: toy/push, params: {steps: 40}, sweep: {eps: [1/255, 8/255, [0.1, 0.2]], norm: [linf, l2]}}
  - {use: grain, sweep: {sigma: [0, 1e-3, 0.1]}}
knowledge: [blackbox, oblivious]
exclude:
  - {model: wide*, perturbation: toy/push, seed: 7}
  - {defense: blur, knowledge: adaptive, reason: too slow}
metrics: [toy/score]
figures: [chart]
budget: 100
"""


def test_a_full_suite_is_written_out(read: Reader) -> None:
    suite = read(FULL)
    assert (suite.name, suite.description, suite.seeds, suite.budget) == (
        "full-1.0",
        "All that a suite can say",
        (0, 7),
        100,
    )
    assert suite.file == str(read.path)
    y10, y1 = suite.datasets
    assert (y10.label, y10.limit, y10.train_on, y10.split) == ("y10", 50, None, "test")
    assert (y1.label, y1.limit, y1.train_on, y1.split) == ("y1", None, "y10", "valid")
    assert (y1.spec.id, y1.spec.parameters) == ("toy/blobs", {"depth": "y1", "size": 8})
    assert [item.label for item in suite.models] == ["net", "wide net"]
    wide = suite.models[1].spec
    assert wide is not None
    assert (wide.parameters["width"], wide.parameters["bands"]) == (64, [1.0, 0.5])
    assert wide.parameters["recipe"] == Recipe(epochs=3).model_dump(mode="json")
    assert [item.label for item in suite.defenses] == [
        "none",
        "blur",
        "b2 + shrink(width=1)",
        "b2 + shrink(width=5)",
    ]
    assert [len(item.specs) for item in suite.defenses] == [0, 1, 2, 2]
    assert [spec.parameters["width"] for spec in suite.defenses[3].specs] == [2, 5]
    assert suite.knowledge == ("blackbox", "oblivious")
    assert suite.exclude == (
        Exclusion(
            {"model": "wide*", "perturbation": "toy/push", "seed": "7"},
            "excluded by the suite: model=wide*, perturbation=toy/push, seed=7",
        ),
        Exclusion({"defense": "blur", "knowledge": "adaptive"}, "too slow"),
    )
    assert [spec.id for spec in (*suite.metrics, *suite.figures)] == ["toy/score", "toy/chart"]


def test_a_sweep_is_the_product_with_short_labels(read: Reader) -> None:
    suite = read(FULL)
    labels = [item.label for item in suite.perturbations]
    eps = ["0.00392157", "0.0313725", "0.1:0.2"]
    pushes = [f"push(eps={radius},norm={norm})" for radius, norm in itertools.product(eps, ["linf", "l2"])]
    assert labels == ["none", *pushes, "grain(sigma=0)", "grain(sigma=0.001)", "grain(sigma=0.1)"]
    assert suite.perturbations[0].spec is None
    specs = [item.spec.parameters for item in suite.perturbations[1:7] if item.spec]
    assert [spec["eps"] for spec in specs] == [1 / 255, 1 / 255, 8 / 255, 8 / 255, [0.1, 0.2], [0.1, 0.2]]
    assert {spec["steps"] for spec in specs} == {40}


def test_values_that_agree_in_six_digits_get_all_their_digits(read: Reader) -> None:
    suite = read(SMALL + "perturbations: [{use: toy/grain, name: g, sweep: {sigma: [0.1, 0.10000001]}}]")
    assert [item.label for item in suite.perturbations] == ["g(sigma=0.1)", "g(sigma=0.10000001)"]


def test_what_is_left_out_has_its_default(read: Reader) -> None:
    suite = read(SMALL)
    spec = suite.datasets[0].spec
    assert suite.datasets == (DatasetItem("blobs", spec, None, None, "test"),)
    assert (suite.name, suite.description, suite.seeds, suite.knowledge) == ("demo", "", (0,), ("adaptive",))
    assert [(item.label, item.specs) for item in suite.defenses] == [("none", ())]
    assert [(item.label, item.spec) for item in suite.perturbations] == [("none", None)]
    assert (suite.exclude, suite.metrics, suite.figures, suite.budget) == ((), (), (), None)


TOGETHER = """
  - {then: [grain, {use: grain, name: fine, sweep: {sigma: [0.2, 0.3]}}, {use: push, params: {eps: 1}}]}
  - {name: both, then: [grain, grain], transfer_from: []}
  - {use: push, params: {eps: 1}, transfer_from: [net, {use: net, seed: 4}, {use: toy/net, params: {width: 9}}]}
"""


def test_compositions_and_transfer(read: Reader) -> None:
    suite = read(SMALL + f"perturbations:{TOGETHER}".replace(", transfer_from: []", ""))
    labels = [item.label for item in suite.perturbations]
    assert labels == [
        "grain then fine(sigma=0.2) then push",
        "grain then fine(sigma=0.3) then push",
        "both",
        "push",
    ]
    first = suite.perturbations[0]
    assert [spec.id for spec in first.specs] == ["toy/grain", "toy/grain", "toy/push"]
    assert first.before[1].parameters["sigma"] == 0.2
    surrogates = suite.perturbations[-1].transfer_from
    assert [(one.label, one.seed) for one in surrogates] == [("net", None), ("net", 4), ("net", None)]
    assert surrogates[0].spec == suite.models[0].spec
    assert surrogates[2].spec.parameters["width"] == 9


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        SMALL,
        SMALL + "perturbations: [{use: grain, sweep: {style: [a b, 'x/y', '']}}]",
        SMALL + f"perturbations:{TOGETHER}".replace(", transfer_from: []", ""),
    ],
)
@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
def test_a_resolved_suite_reads_as_itself(read: Reader, text: str, write: Callable[[Any], str]) -> None:
    suite = read(text)
    assert read(write(suite.resolved())) == suite


def test_overrides_and_limit(read: Reader) -> None:
    suite = read(SMALL, "models.net.params.width=9", "seeds=[3]", "datasets.0.name=b", limit=12)
    assert suite.models[0].spec is not None
    assert suite.models[0].spec.parameters["width"] == 9
    assert suite.seeds == (3,)
    assert [(item.label, item.limit) for item in suite.datasets] == [("b", 12)]


def test_only_the_plugins_that_full_ids_name_are_loaded(read: Reader) -> None:
    loaded: list[str] = []

    def source(namespace: str) -> Source:
        return Source(namespace, namespace, lambda: loaded.append(namespace) or toy_module(TOYS))  # type: ignore[func-returns-value]

    read_suite(_written(read, SMALL), Plugins([source("toy"), source("idle")]))
    assert loaded == ["toy"]


def _written(read: Reader, text: str) -> Path:
    read.path.write_text(text)
    return read.path


TOP = "version: 1\ndatasets: [toy/blobs]\n"
MISTAKES = {
    "empty": ("# nothing\n", ["1:1: the suite is empty; it begins with `version: 1`"]),
    "list": ("- a\n", ["1:1: a suite is a mapping of keys, got a list"]),
    "text": ("hello\n", ["1:1: a suite is a mapping of keys, got 'hello'"]),
    "syntax": ("version: 1\n\tname: x", ["2:1: a tab cannot stand here; use spaces"]),
    "missing keys": (
        "name: x\n",
        [
            "1:1: the key 'version' is missing; write `version: 1`",
            "1:1: the key 'datasets' is missing; it lists datasets",
            "1:1: the key 'models' is missing; it lists models",
        ],
    ),
    "top level": (
        "version: 2\nname: a b\ndescription: 5\nseedz: [1]\ndatasets: toy/blobs\nmodels: []\nbudget: 0\n",
        [
            "1:10: version: must be 1, the version that this advbench reads, got 2",
            "2:7: name: 'a b' cannot be the name of a suite: it may hold letters A-Z and a-z, digits, '.', '_' and '-'",
            "3:14: description: must be text, got 5; quote it",
            "4:1: unknown key 'seedz' (did you mean 'seeds'?)",
            "5:11: datasets: must be a list of datasets, e.g. [dataset-id], got 'toy/blobs'",
            "6:9: models: is empty; it must hold models, e.g. [model-id]",
            "7:9: budget: must be an integer >= 1, got 0",
        ],
    ),
    "version": (
        "version: true\n" + SMALL[11:],
        ["1:10: version: must be 1, the version that this advbench reads, got true"],
    ),
    "twice": (SMALL + "models: [toy/twin]\n", ["4:1: the key 'models' is given twice (first in line 3)"]),
    "seeds": (
        SMALL + "seeds: [0, -1, x, 1.5, true,\n  0]\n",
        [
            "4:12: seeds[1]: must be an integer >= 0, got -1",
            "4:16: seeds[2]: must be an integer >= 0, got 'x'",
            "4:19: seeds[3]: must be an integer >= 0, got 1.5",
            "4:24: seeds[4]: must be an integer >= 0, got true",
            "5:3: seeds[5]: the seed 0 is listed twice",
        ],
    ),
    "sequences": (
        SMALL + "perturbations:\n  - {then: [{use: push, params: {eps: 1}}, grain]}\n  - {then: 3}\n"
        "  - {then: [grain, none], sweep: {}}\n  - {use: push, params: {eps: 1}, transfer_from: [nett]}\n"
        "  - {use: grain, transfer_from: [net]}\n"
        "  - {then: [grain, {use: push, params: {eps: 1}, transfer_from: [net]}]}\n",
        [
            "5:5: perturbations[0]: the attack toy/push must come last",
            "6:12: perturbations[1].then: *",
            "7:20: perturbations[2].then[1]: 'none' cannot be part of a composition*",
            "7:27: perturbations[2]: unknown key 'sweep'*",
            "8:51: perturbations[3].transfer_from[0]: *'nett'*",
            "9:33: perturbations[4].transfer_from: `transfer_from` is for attacks*",
            "10:50: perturbations[5].then[1]: unknown key 'transfer_from'*",
        ],
    ),
    "knowledge": (
        SMALL + "knowledge: [transfer, none, adaptiv, 3, adaptive, adaptive]\n",
        [
            "4:13: knowledge[0]: 'transfer' is not listed: give a perturbation the key `transfer_from: [MODEL]`",
            "4:23: knowledge[1]: 'none' is not listed: natural rows are added by themselves",
            "4:29: knowledge[2]: unknown knowledge 'adaptiv' (did you mean 'adaptive'?)",
            "4:38: knowledge[3]: unknown knowledge 3 (known: blackbox, oblivious, adaptive)",
            "4:51: knowledge[5]: 'adaptive' is listed twice",
        ],
    ),
    "entries": (
        TOP + "models:\n  - {use: toy/net, plugn: 3, parms: {}}\n  - {nam: x}\n  - 7\n  -\n  - {use: [a]}\n",
        [
            "4:20: models[0]: unknown key 'plugn' (known: name, params, sweep, use)",
            "4:30: models[0]: unknown key 'parms' (did you mean 'params'?)",
            "5:5: models[1]: the key 'use' is missing; it names the model",
            "5:6: models[1]: unknown key 'nam' (did you mean 'name'?)",
            "6:5: models[2]: must be the id of a model or a mapping with `use`, got 7",
            "7:4: models[3]: must be the id of a model or a mapping with `use`, got nothing "
            "(write `none` for the undisturbed case)",
            "8:11: models[4].use: must be text, got a list",
        ],
    ),
    "ids": (
        TOP + "models: [toy/nett, twin, toy/blobs,\n  {use: broken/x}, toy/hollow, none]\n",
        [
            "3:10: models[0]: unknown model 'toy/nett' (did you mean 'toy/net'?); "
            "`advbench list models` shows what there is",
            "3:20: models[1]: model 'twin' is ambiguous: more/twin, toy/twin "
            "(broken plugins: broken; see `advbench doctor`)",
            "3:26: models[2]: unknown model 'toy/blobs' ('toy/blobs' is a dataset); "
            "`advbench list models` shows what there is",
            "4:9: models[3]: broken/x: plugin 'broken' (broken 1.0) is broken: "
            "ImportError: libscience.so is missing (*)",
            "4:20: models[4]: toy/hollow (toys 1.0) cannot be imported: "
            "ModuleNotFoundError: No module named 'no_such_module'*",
            "4:32: models[5]: unknown model 'none'* `advbench list models` shows what there is*",
        ],
    ),
    "parameters": (
        TOP + "models:\n  - use: toy/net\n    params: {widht: 3, bands: [1, x],\n"
        "      recipe: {epochs: -1, optimizer: adm, lrr: 1}}\n  - {use: toy/net, name: b, params: {width: wide}}\n"
        "  - {use: toy/net, name: c, params: {width: 100, recipe: 3, bands: 1/0}}\n"
        "  - {use: toy/net, name: d, params: [1]}\n"
        "  - {use: toy/net, name: e, params: {width: 2.5, bands: x}}\nperturbations: [toy/push]\n",
        [
            "5:14: models[0].params: unknown parameter 'widht' (did you mean 'width'?)",
            "5:35: models[0].params.bands[1]: must be a number, got 'x'",
            "6:24: models[0].params.recipe.epochs: must be greater than or equal to 0, got -1",
            "6:39: models[0].params.recipe.optimizer: must be 'adam' or 'sgd' (did you mean 'adam'?), got 'adm'",
            "6:44: models[0].params.recipe: unknown parameter 'lrr' (did you mean 'lr'?)",
            "7:45: models[1].params.width: must be an integer, got 'wide'",
            "8:45: models[2].params.width: must be less than or equal to 64, got 100",
            "8:58: models[2].params.recipe: must be a mapping, got 3",
            "8:68: models[2].params.bands: 1/0 is not a finite number",
            "9:37: models[3].params: must be a mapping of keys and values, got a list",
            "10:45: models[4].params.width: must be an integer, got 2.5",
            "10:57: models[4].params.bands: must be a list, got 'x'",
            "11:17: perturbations[0].params: the parameter 'eps' must be given (radius of the ball)",
        ],
    ),
    "sweeps": (
        SMALL + "perturbations:\n  - use: toy/push\n    params: {steps: 4}\n    sweep:\n"
        "      eps: [8/255, -1, far]\n      steps: [1]\n"
        "      norm: []\n  - {use: toy/grain, sweep: {sigma: [0.1,\n     2, 0.1], stile: [a]}}\n"
        "  - {use: toy/push, sweep: {eps: 3}}\n"
        "  - {use: toy/push, name: p, sweep: [eps]}\n  - {use: grain, name: z, sweep: {style: [a b, a_b, crash]}}\n",
        [
            "8:20: perturbations[0].sweep.eps[1]: a budget is one number >= 0 or a list with one per channel, got -1",
            "8:24: perturbations[0].sweep.eps[2]: expected a number or a fraction such as 8/255, got 'far'",
            "9:7: perturbations[0].sweep: 'steps' is also given in `params`; keep one of the two",
            "10:13: perturbations[0].sweep.norm: is empty; it must hold values",
            "12:6: perturbations[1].sweep.sigma[1]: must be less than or equal to 1, got 2",
            "12:9: perturbations[1].sweep.sigma[2]: the value 0.1 is listed twice",
            "12:15: perturbations[1].sweep: unknown parameter 'stile' (did you mean 'style'?)",
            "13:34: perturbations[2].sweep.eps: must be a list of values, got 3",
            "14:5: perturbations[3].params: the parameter 'eps' must be given (radius of the ball)",
            "14:37: perturbations[3].sweep: must be a mapping of keys and values, got a list",
            "15:5: perturbations[4]: toy/grain cannot take these parameters: KeyError: 'crash' (*)",
            "15:5: perturbations[4]: the label 'z(style=a_b)' already belongs to another value of the sweep; "
            "write it as an entry with a `name`",
        ],
    ),
    "too many": (
        SMALL
        + "defenses:\n"
        + "  - {use: toy/blur, sweep: {width: ["
        + ", ".join(map(str, range(1, 1002)))
        + "]}}\n"
        "  - [" + ", ".join(["{use: toy/blur, sweep: {width: [1, 2, 3, 4]}}"] * 5) + "]\n",
        [
            "5:28: defenses[0].sweep: has 1001 combinations; at most 1000 are allowed",
            "6:5: defenses[1]: has 1024 combinations; at most 1000 are allowed",
        ],
    ),
    "labels": (
        TOP
        + "models: [toy/net, {use: more/twin, name: net}, {use: toy/net, name: a/b}, {use: toy/net, name: 5}]\n"
        "perturbations: [none, none, {use: grain, name: none}, {use: grain, name: a + b}]\n",
        [
            "3:19: models[1]: the label 'net' already belongs to models[0]; give one of them another `name`",
            "3:69: models[2].name: 'a/b' is no name: it may hold letters, digits, single spaces, "
            ". , : ; = ( ) < > % ~ @ + - _, but no ' + ' of its own",
            "3:96: models[3].name: must be text, got 5; quote it",
            "4:23: perturbations[1]: the label 'none' already belongs to perturbations[0]; remove one",
            "4:48: perturbations[2].name: the name 'none' means that there is nothing; give another `name`",
            "4:74: perturbations[3].name: 'a + b' is no name: *",
        ],
    ),
    "compositions": (
        SMALL + "defenses:\n  - []\n  - [toy/blur, none]\n  - [[toy/blur]]\n"
        "  - [toy/blurr, {use: shrink, params: {width: 0}}]\n",
        [
            "5:5: defenses[0]: is empty; it must hold defenses",
            "6:16: defenses[1][1]: 'none' cannot be part of a composition; leave it out",
            "7:6: defenses[2][0]: must be the id of a defense or a mapping with `use`, got a list",
            "8:6: defenses[3][0]: unknown defense 'toy/blurr' (did you mean 'toy/blur'?)*",
            "8:47: defenses[3][1].params.width: must be greater than or equal to 1, got 0",
        ],
    ),
    "datasets": (
        "version: 1\nmodels: [toy/net]\ndatasets:\n  - {use: toy/blobs, name: a, limit: 0, split: 3}\n"
        "  - {use: toy/blobs, name: b, train_on: a, limit: 1e3}\n  - {use: toy/blobs, name: c, train_on: b}\n"
        "  - {use: toy/blobs, name: d, train_on: d}\n  - {use: toy/blobs, name: e, train_on: aa}\n"
        "  - {use: toy/blobs, name: f, train_on: 3}\n",
        [
            "4:38: datasets[0].limit: must be an integer >= 1, got 0",
            "4:48: datasets[0].split: must be text, got 3; quote it",
            "5:51: datasets[1].limit: must be an integer >= 1, got 1000.0",
            "6:41: datasets[2].train_on: 'b' is itself trained on another data set; name one that is not",
            "7:41: datasets[3].train_on: names the data set itself; leave it out, or name another one*",
            "8:41: datasets[4].train_on: there is no data set 'aa' in this suite (did you mean 'a'?)",
            "9:41: datasets[5].train_on: must be text, got 3; quote it",
        ],
    ),
    "exclusions": (
        SMALL
        + "defenses: [none, [toy/blur, shrink]]\nexclude:\n  - {model: nett, modle: net}\n  - {seed: 3, reason: ''}\n"
        "  - {reason: x}\n  - net\n  - {defense: blur, model: 'toy/*', knowledge: none, seed: '0', dataset: '[ab]*'}\n"
        "  - {knowledge: oblivious, perturbation: [none]}\n",
        [
            "6:13: exclude[0].model: 'nett' fits no model of this suite (did you mean 'net'?)",
            "6:19: exclude[0]: unknown key 'modle' (did you mean 'model'?)",
            "7:12: exclude[1].seed: '3' fits no seed of this suite (known: 0)",
            "7:23: exclude[1].reason: must be text, got ''",
            "8:5: exclude[2]: says nothing; name at least one of "
            "dataset, model, defense, perturbation, knowledge, seed",
            "9:5: exclude[3]: must be a mapping of keys and values, got 'net'",
            "11:17: exclude[5].knowledge: 'oblivious' fits no knowledge of this suite (known: adaptive, none*",
            "11:42: exclude[5].perturbation: must be text, got a list",
        ],
    ),
    "metrics": (
        SMALL
        + "metrics: [toy/score, {use: score, name: s}, {use: score, params: {weight: 2}}]\nfigures: {a: b}\n",
        [
            "4:22: metrics[1]: the metric 'toy/score' is listed twice",
            "4:35: metrics[1]: unknown key 'name' (known: params, use)",
            "5:10: figures: must be a list of ids of figures, got a mapping",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_all_mistakes_of_a_suite_are_reported_at_once(read: Reader, text: str, expected: list[str]) -> None:
    found = read.mistakes(text)
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected):
        # A star stands for what another version of Python or another entry may word differently.
        pieces = pattern.split("*")
        assert line.startswith(pieces[0]), (line, pattern)
        assert "*" in pattern or line == pattern
        assert "\n" not in line


def test_exclusions_are_not_checked_against_an_axis_that_could_not_be_read(read: Reader) -> None:
    found = read.mistakes(TOP + "models: [{name: x}]\nexclude: [{model: x, dataset: y}]\n")
    assert [line.split(": ")[1] for line in found] == ["models[0]", "exclude[0].dataset"]


def test_mistakes_of_overrides_stand_at_the_command_line(read: Reader) -> None:
    found = read.mistakes(
        SMALL + "budget: x", "models.net.params.width=0", "seedz=[1]", "datasets.x.limit=3", limit=0
    )
    assert found == [
        "4:9: budget: must be an integer >= 1, got 'x'",
        "--set datasets.x.limit=3: datasets has no entry 'x' (known: blobs)",
        "--set seedz=[1]: unknown key 'seedz' (did you mean 'seeds'?)",
        "--set models.net.params.width=0: models[0].params.width: must be greater than or equal to 1, got 0",
        "--limit 0: datasets[0].limit: must be an integer >= 1, got 0",
    ]


def test_the_name_of_the_file_must_serve_as_a_name(read: Reader, tmp_path: Path) -> None:
    path = tmp_path / "my suite.yaml"
    path.write_text(SMALL)
    with pytest.raises(
        SuiteError, match="name: 'my suite', the name of the file, cannot be the name of a suite"
    ):
        read_suite(path, read.plugins)
    assert read_suite(path, read.plugins, ["name=mine"]).name == "mine"


PIECES = st.sampled_from(
    [
        *"[]{}:,-*&!|>'\"#%@`\t\n ",
        "\n  - ",
        "none",
        "~",
        "1/0",
        "8/255",
        "toy/net",
        "use: ",
        "params: ",
        "sweep: ",
        "\\uD800",
        "<<",
    ]
)
WORDS = st.sampled_from(
    [
        "none",
        "toy/net",
        "toy/blobs",
        "net",
        "toy/push",
        "toy/blur",
        "*",
        "a",
        "crash",
        "name",
        "broken/x",
        "width",
        "eps",
        "sigma",
    ]
)
KEYS = st.sampled_from(
    [
        "use",
        "name",
        "params",
        "sweep",
        "limit",
        "train_on",
        "split",
        "model",
        "width",
        "eps",
        "style",
        "recipe",
        "reason",
        "seed",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
TOP_KEYS = st.sampled_from(
    [
        "version",
        "name",
        "seeds",
        "datasets",
        "models",
        "defenses",
        "perturbations",
        "knowledge",
        "exclude",
        "metrics",
    ]
)
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def attempt(read: Reader, text: str | bytes, *overrides: str) -> None:
    """Whatever comes out is an error with mistakes, or a suite that reads as itself."""
    suite: Suite | None
    problems: tuple[Problem, ...] = ()
    try:
        suite = read(text, *overrides)
    except SuiteError as error:
        suite, problems = None, error.problems
    assert problems if suite is None else read(json.dumps(suite.resolved())) == suite


@FUZZ
@given(text=st.text() | st.binary())
def test_any_text_is_a_suite_or_a_suite_error(read: Reader, text: str | bytes) -> None:
    attempt(read, text.encode(errors="surrogatepass") if isinstance(text, str) else text)


@FUZZ
@given(start=st.integers(0, len(FULL)), length=st.integers(0, 30), pieces=st.lists(PIECES, max_size=6))
def test_a_damaged_suite_is_a_suite_or_a_suite_error(
    read: Reader, start: int, length: int, pieces: list[str]
) -> None:
    attempt(read, FULL[:start] + "".join(pieces) + FULL[start + length :])


@FUZZ
@given(changes=st.dictionaries(TOP_KEYS, VALUES | st.lists(VALUES), min_size=1, max_size=3))
def test_any_values_are_a_suite_or_a_suite_error(read: Reader, changes: dict[str, Any]) -> None:
    attempt(read, json.dumps({**yaml.safe_load(SMALL), **changes}))


@FUZZ
@given(key=st.lists(KEYS | TOP_KEYS | st.sampled_from(["0", "1", "*", "y10"]), max_size=4), value=VALUES)
def test_any_override_is_a_suite_or_a_suite_error(read: Reader, key: list[str], value: Any) -> None:
    attempt(read, FULL, f"{'.'.join(key)}={json.dumps(value)}")
