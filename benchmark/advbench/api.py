"""The import of plugin authors: base classes, value objects and tools.

``from advbench.api import Attack, Budget, Tags, hookimpl, param`` imports no torch. The tools for tensors
(`project`, `random_in_ball`, ...) import it when they are first asked for, so that a plugin's entry
module stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from advbench.components.base import (
    Attack,
    Component,
    Corruption,
    Dataset,
    Defense,
    Engine,
    Figure,
    Metric,
    Model,
    Perturbation,
    Use,
    param,
)
from advbench.components.hookspecs import API_VERSION, CellFinished, RunFinished, RunStarted, hookimpl
from advbench.components.protocols import (
    Batch,
    Certificate,
    DataContext,
    Evaluation,
    Picture,
    Prediction,
    Progress,
    Rng,
    Run,
    Shown,
    Target,
    Training,
)
from advbench.components.recipe import Recipe
from advbench.components.registry import Register
from advbench.components.tags import Tags
from advbench.errors import AdvbenchError, DataError, PluginError, Stop, UserError
from advbench.values import (
    Budget,
    Classification,
    Constraint,
    Data,
    InputSpace,
    PhysicalLink,
    Regression,
    Split,
    Task,
)

if TYPE_CHECKING:
    from advbench.runtime.rng import isolated_rng
    from advbench.runtime.splits import sample_order, split_indices
    from advbench.runtime.threat import ball_norm, clip, linf_box, project, random_in_ball, steepest_step

_LAZY = {
    "ball_norm": "advbench.runtime.threat",
    "clip": "advbench.runtime.threat",
    "isolated_rng": "advbench.runtime.rng",
    "linf_box": "advbench.runtime.threat",
    "project": "advbench.runtime.threat",
    "random_in_ball": "advbench.runtime.threat",
    "steepest_step": "advbench.runtime.threat",
    "sample_order": "advbench.runtime.splits",
    "split_indices": "advbench.runtime.splits",
}

__all__ = [
    "API_VERSION",
    "AdvbenchError",
    "Attack",
    "Batch",
    "Budget",
    "CellFinished",
    "Certificate",
    "Classification",
    "Component",
    "Constraint",
    "Corruption",
    "Data",
    "DataContext",
    "DataError",
    "Dataset",
    "Defense",
    "Engine",
    "Evaluation",
    "Figure",
    "InputSpace",
    "Metric",
    "Model",
    "Perturbation",
    "PhysicalLink",
    "Picture",
    "PluginError",
    "Prediction",
    "Progress",
    "Recipe",
    "Register",
    "Regression",
    "Rng",
    "Run",
    "RunFinished",
    "RunStarted",
    "Shown",
    "Split",
    "Stop",
    "Tags",
    "Target",
    "Task",
    "Training",
    "Use",
    "UserError",
    "ball_norm",
    "clip",
    "hookimpl",
    "isolated_rng",
    "linf_box",
    "param",
    "project",
    "random_in_ball",
    "sample_order",
    "split_indices",
    "steepest_step",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
