"""Parameters that have no effect beside others are refused; what a record holds never is."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from advbench.components.loader import Plugins

ATTACKS = {
    entry.name: entry.load()
    for entry in Plugins.discover().registry()
    if entry.kind == "perturbation" and entry.namespace == "attacks"
}

IDLE = [
    ("pgd", {"norm": "linf"}, {"density": 0.05}),
    ("pgd", {"norm": "l2"}, {"density": 0.05}),
    ("auto", {"norm": "l1"}, {"queries": 10}),
    ("ddn", {}, {"init_norm": 0.5}),
    ("ddn", {"scale_free": False}, {"sides": 3}),
    ("ddn", {"goal": "next"}, {"sides": 3}),
    ("ddn", {"levels": 256}, {"line_search": 8}),
    ("fmn", {"scale_free": False}, {"sides": 3}),
    ("fmn", {"goal": 2}, {"sides": 3}),
    ("bisection", {"attack": "fgsm", "norm": "linf"}, {"steps": 3}),
    ("bisection", {"attack": "fgsm", "norm": "linf"}, {"random_start": True}),
    ("one-pixel", {"preset": "custom"}, {"p_goal": 0.5}),
    ("one-pixel", {"preset": "custom", "stop": "flip"}, {"p_true": 0.1}),
    ("one-pixel", {"preset": "custom", "stop": "probability"}, {"p_goal": 0.5}),
    ("one-pixel", {"preset": "custom", "stop": "probability", "goal": "next"}, {"p_true": 0.1}),
    ("rotation-translation", {"angles": 1}, {"max_angle": 20}),
    ("rotation-translation", {"shifts": 1}, {"max_shift": 2}),
    ("rotation-translation", {"padding": "replicate"}, {"fill": 0.5}),
    ("simba", {"basis": "pixel"}, {"low": 0.5}),
    ("stadv", {"optimiser": "lbfgs"}, {"learning_rate": 0.01}),
]
EFFECTIVE = [
    ("pgd", {"norm": "l1", "density": 0.05}),
    ("auto", {"norm": "l2", "queries": 10}),
    ("ddn", {"scale_free": False, "init_norm": 0.5, "levels": 256, "line_search": 0}),
    ("ddn", {"goal": "untargeted", "sides": 3, "line_search": 8}),
    ("fmn", {"sides": 3}),
    ("bisection", {"attack": "apgd", "steps": 3, "random_start": True}),
    ("one-pixel", {"preset": "custom", "stop": "probability", "p_true": 0.1}),
    ("one-pixel", {"preset": "custom", "stop": "probability", "p_goal": 0.5, "goal": 1}),
    ("one-pixel", {"preset": "deep-adversaries", "goal": "next"}),
    ("rotation-translation", {"angles": 1, "max_angle": 0, "max_shift": 2}),
    ("rotation-translation", {"shifts": 1, "max_shift": 0, "fill": 0.5}),
    ("simba", {"basis": "dct", "low": 0.5}),
    ("stadv", {"optimiser": "adam", "learning_rate": 0.01}),
]


@pytest.mark.parametrize(("name", "beside", "idle"), IDLE)
def test_what_has_no_effect_is_refused_by_name(name, beside, idle):
    with pytest.raises(ValidationError, match=f"{next(iter(idle))}: no effect"):
        ATTACKS[name](**beside, **idle)
    self_made = ATTACKS[name](**beside)
    assert ATTACKS[name](**self_made.model_dump(mode="json")) == self_made


@pytest.mark.parametrize(("name", "parameters"), EFFECTIVE)
def test_what_has_an_effect_is_taken(name, parameters):
    attack = ATTACKS[name](**parameters)
    assert ATTACKS[name](**attack.model_dump(mode="json")) == attack
