"""Base classes of components. A component is a frozen set of validated parameters plus its algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from advbench.components.tags import Tags
from advbench.values import Budget, Classification, Constraint, Data, InputSpace, Mask, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from advbench.components.protocols import (
        Certificate,
        DataContext,
        Picture,
        Prediction,
        Rng,
        Run,
        Target,
        Training,
    )

Goal = (
    Literal["untargeted", "random", "next", "runner-up", "least-likely", "up", "down"]
    | Annotated[int, Strict(), Ge(0)]
)

KINDS = ("model", "dataset", "perturbation", "defense", "metric", "engine", "figure")


def param(default: Any, help: str, *, unit: str = "", **constraints: Any) -> Any:
    """A parameter: its default (``...`` if it must be given), one line of help, its unit and its limits.

    ``constraints`` are pydantic's: ``gt``, ``ge``, ``lt``, ``le``, ``min_length``, ``max_length``.
    """
    return Field(
        default, description=help, json_schema_extra={"unit": unit}, validate_default=True, **constraints
    )


class Use(BaseModel):
    """A registered perturbation with parameters, as a parameter of another component."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: str
    params: Mapping[str, Any] = Field(default_factory=dict)


class Component(BaseModel):
    """Parameters are annotated fields; ``tags`` and ``version`` belong to the class.

    ``version`` is bumped whenever the numbers that the component produces may change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    kind: ClassVar[str] = ""
    tags: ClassVar[Tags] = Tags()
    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Parameters that the contract kit tries it with; small sizes keep the kit fast."""

    @model_validator(mode="before")
    @classmethod
    def _nested_parameters_extend_their_default(cls, values: Any) -> Any:
        """``params: {recipe: {epochs: 3}}`` changes one entry of the default recipe, not all the others."""
        if not isinstance(values, Mapping):
            return values
        merged = dict(values)
        for name, value in values.items():
            field = cls.model_fields.get(name)
            if field is None or not isinstance(value, Mapping) or isinstance(field.default, Use):
                continue  # parameters of one perturbation are none of another
            if isinstance(field.default, BaseModel):
                merged[name] = {**field.default.model_dump(), **value}
        return merged

    @field_validator("*", mode="before")
    @classmethod
    def _truth_values_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic alone would take true for the number 1, and the text "no" for false."""
        wanted = cls.model_fields[info.field_name].annotation if info.field_name else None
        if isinstance(value, bool) and wanted in (int, float, Budget):
            raise ValueError(f"expected a number, got {str(value).lower()}")
        if wanted is bool and not isinstance(value, bool):
            raise ValueError(f"expected true or false, got {value!r}")
        return value

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Reason why this component does not fit the data, or None. Asked before any work is done."""
        return None

    def files(self, data_dirs: Sequence[Path]) -> Sequence[Path]:
        """Files whose content decides the numbers (weights, data); they enter the identity by content."""
        return ()


class Dataset(Component):
    """Named samples with a task, an input space and splits."""

    kind: ClassVar[str] = "dataset"
    reproducible: ClassVar[bool] = True
    """Whether parameters, version and ``files`` decide the content. If not, the data are loaded to name them."""

    def load(self, context: DataContext) -> Data:
        """The data. Called once per worker; memory-map what is large.

        ``context.source`` is the data set that the network was trained on, where the suite declares a
        shift: take the stretch or normalisation from it, never from this data set's own statistics.
        """
        raise NotImplementedError


class Model(Component):
    """An architecture plus its training recipe or its weights.

    Subclasses that are trained declare a field ``recipe: Recipe``.
    """

    kind: ClassVar[str] = "model"

    def build(self, space: InputSpace, task: Task) -> nn.Module:
        """The network, freshly initialised from torch's global generator (the harness seeds it).

        It returns logits (b, K), or (features, logits), or predictions (b, t) of a regressor, for inputs
        (b, c, h, w) that are already normalised (see `normalisation`), and takes ``extras`` as keyword
        arguments if the data have extra scalar inputs.
        """
        raise NotImplementedError

    def normalisation(self) -> tuple[Sequence[float], Sequence[float]] | str:
        """``(mean, std)`` per channel, ``"train"`` (those of the source training split) or ``"none"``."""
        return "train"

    def loss(self, module: nn.Module, x: Tensor, y: Tensor, extras: Mapping[str, Tensor]) -> Tensor | None:
        """Mean loss (scalar) that training minimises; None leaves it to the recipe: cross-entropy, or squared error.

        ``module`` is what `build` returned, ``x`` (b, c, h, w) normalised inputs, ``y`` (b,) classes or (b, t) targets.
        """
        return None

    def pretrained(self, data_dirs: Sequence[Path]) -> Mapping[str, Tensor] | None:
        """State dict for `build`'s network if this model comes with weights, else None (it is trained)."""
        return None


class Perturbation(Component):
    """Changes inputs. Subclass `Attack` or `Corruption`."""

    kind: ClassVar[str] = "perturbation"

    def strength(self) -> float | None:
        """The number that says how strong this perturbation is (the parameter that ``tags.strength`` names)."""
        value = getattr(self, self.tags.strength, None) if self.tags.strength else None
        if isinstance(value, Budget):
            return value.values[0] if len(value.values) == 1 else None
        return float(value) if isinstance(value, (int, float)) else None

    def strength_unit(self) -> str:
        """Unit of `strength`: the one that the tags name, unless a parameter changes it."""
        return self.tags.unit


class Attack(Perturbation):
    """A perturbation that uses the network.

    A field ``eps`` makes it a fixed-budget attack; its norm is the field ``norm`` or the only one of
    ``tags.norms``. The harness clips to the bounds, measures, projects what exceeds the budget (and counts
    it as a violation), and judges by a fresh forward pass: returning a point proves nothing.

    Goal and mask are part of the threat model, so the harness deals with them: `Target.margin`,
    `Target.is_adversarial` and the named losses of `Target.evaluate` speak of the goal, gradients are zero
    where the mask forbids a change, and what changed there nevertheless is a violation.
    """

    goal: Goal = param(
        "untargeted",
        "what counts as success: any error, a class (its index, or chosen for each sample), or for a regressor"
        " an error up or down",
    )
    mask: Mask | None = param(None, "what may change; everything unless given")

    @model_validator(mode="after")
    def _goal_is_supported(self) -> Self:
        if self.goal != "untargeted" and not self.tags.targeted:
            raise ValueError(f"goal: {self.goal!r} is not supported; this attack is untargeted")
        return self

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Budgets and mask must fit the channels, and the goal the task; extend it by ``super().supports``."""
        channels = space.shape[0]
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Budget) and len(value.values) not in (1, channels):
                return f"{name} has {len(value.values)} entries for {channels} channels"
        problem = self.mask.problem(space) if self.mask is not None else None
        return problem or _unfit_goal(self.goal, task)

    def perturb(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """Perturbed inputs, same shape as ``x`` (b, c, h, w); all samples are correct to begin with.

        ``y`` is (b,) int64 classes or (b, t) regression targets.
        """
        raise NotImplementedError

    def universal(self, x: Tensor, y: Tensor, target: Target, rng: Rng) -> Tensor:
        """One change (1, c, h, w) for all inputs (``tags.universal``), in place of `perturb`.

        Learned on inputs (b, c, h, w) that are not evaluated: up to 500 of the calibration split, or of the
        validation or training split where there is none.
        """
        raise NotImplementedError

    def passes(self) -> int | None:
        """Most passes (forward plus backward) per sample that it spends, if it can say; only plans use it."""
        return None

    def constraint(self) -> Constraint | None:
        """The ball that the result promises to stay in, or None (minimum-norm, spatial)."""
        eps = getattr(self, "eps", None)
        if not isinstance(eps, Budget):
            return None
        norms = list(self.tags.norms)
        norm = getattr(self, "norm", norms[0] if len(norms) == 1 else None)
        if norm is None:
            raise TypeError(
                f"{type(self).__name__}: a field `norm` or exactly one norm in its tags must name the norm"
            )
        return Constraint(norm, eps)

    def norm_made_small(self) -> str | None:
        """The norm of which a minimum-norm attack looks for the least, None for any other attack."""
        if not self.tags.minimum_norm:
            return None
        return str(getattr(self, "norm", next(iter(self.tags.norms), "l2")))


def _unfit_goal(goal: str | int, task: Task) -> str | None:
    if goal == "untargeted":
        return None
    signed = goal in ("up", "down")
    if isinstance(task, Classification) == signed:
        return f"goal: {goal} is for {'regression' if signed else 'classification'}"
    if isinstance(goal, int) and isinstance(task, Classification) and goal >= len(task.classes):
        return f"goal: there is no class {goal}; the data have {len(task.classes)}"
    return None


class Corruption(Perturbation):
    """A perturbation that does not look at the network."""

    def corrupt(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Corrupted inputs, same shape as ``x`` (b, c, h, w), in the input space; the harness clips to its bounds."""
        raise NotImplementedError


class Defense(Component):
    """Changes the training, the inference, or both; may also detect. Tags say which methods it has.

    Several defenses follow each other in a list, the outermost first. Each also declares how an attacker who knows
    it would attack: what stands in for parts without a gradient (`surrogate`, `surrogate_predict`,
    `surrogate_score`), over how many `draws` to average, which loss to use and which attacks to add.
    """

    kind: ClassVar[str] = "defense"

    @property
    def draws(self) -> int:
        """Draws that an adaptive attack averages over at each step, if ``tags.stochastic``."""
        return 16

    @property
    def adaptive_loss(self) -> str | None:
        """Loss that replaces the named one of an adaptive attack (``"margin"``), or None, which leaves it."""
        return None

    def adaptive_attacks(self) -> Sequence[Use]:
        """Attacks that are added to the grid of a suite that has an attack, because this defense needs them."""
        return ()

    def uses(self) -> Sequence[Use]:
        """Perturbations that `train` uses; what they are decides the network."""
        return ()

    def train(self, training: Training) -> nn.Module:
        """The trained network (``tags.trains``)."""
        raise NotImplementedError

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Inputs as the network shall see them (``tags.purifies``), same shape as ``x`` (b, c, h, w)."""
        raise NotImplementedError

    def surrogate(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """Differentiable stand-in for `purify` that adaptive attacks go through.

        Only its gradient is used: forward values are always those of `purify` (backward pass differentiable
        approximation, Athalye et al. 2018, https://arxiv.org/abs/1802.00420), and ``rng`` draws what it drew for
        those. The default, the identity, suits a `purify` that stays close to its input.
        """
        return x

    @property
    def networks(self) -> int:
        """Independently trained networks that `predict` wants, ``inside.members``; the first has the cell's seed."""
        return 1

    def predict(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Outputs (b, k) made from those of the pipeline inside (``tags.wraps``); logits for classes."""
        raise NotImplementedError

    def surrogate_predict(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Differentiable stand-in for `predict`: adaptive attacks take values and gradients from it."""
        return self.predict(x, inside, space, rng)

    def learn(self, x: Tensor, y: Tensor, inside: Prediction, space: InputSpace) -> Mapping[str, Tensor]:
        """What `predict` and `score` find in ``inside.learned`` (``tags.learns``).

        ``x`` (n, c, h, w) and ``y`` (n,) are up to 2,000 clean samples of the split that the network was trained on;
        ``inside`` takes any number of rows here.
        """
        raise NotImplementedError

    def score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Detector score (b,), higher is more suspicious (``tags.detects``)."""
        raise NotImplementedError

    def surrogate_score(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Tensor:
        """Differentiable stand-in for `score`: adaptive attacks take values and gradients from it."""
        return self.score(x, inside, space, rng)

    def threshold(self, scores: Any) -> float:
        """Score above which an input is rejected, from the scores (n,) of the clean calibration split."""
        raise NotImplementedError

    @property
    def confidence(self) -> float:
        """Probability that a certificate holds (``tags.certifies``)."""
        raise NotImplementedError

    def certify(self, x: Tensor, inside: Prediction, space: InputSpace, rng: Rng) -> Certificate:
        """Predictions of inputs (b, c, h, w), each with the l2 radius within which it cannot change."""
        raise NotImplementedError


class Metric(Component):
    """A number computed from the per-sample outcomes of a cell, or of its network (``tags.examines``)."""

    kind: ClassVar[str] = "metric"

    def measure(self, target: Any, clean: Any, perturbed: Any) -> float:
        """The number, from NumPy arrays: targets (n, ...), clean and perturbed predictions (n, ...)."""
        raise NotImplementedError

    def examine(self, network: nn.Module, space: InputSpace) -> float:
        """The number, of a frozen network that takes inputs (b, c, h, w) of this space; NaN where there is none."""
        raise NotImplementedError


class Engine(Component):
    """Starts workers on job files."""

    kind: ClassVar[str] = "engine"

    def run(
        self, jobs: Sequence[Path], emit: Callable[[dict[str, Any]], None], stop: Callable[[], bool]
    ) -> None:
        """Run every job file and hand on each worker's events with ``emit``; start nothing once ``stop()`` is true."""
        raise NotImplementedError


class Figure(Component):
    """Pictures of a finished run."""

    kind: ClassVar[str] = "figure"

    def draw(self, run: Run, folder: Path) -> Sequence[Picture]:
        """Draw into ``folder``, which is the figure's own and exists; return what was written.

        Raises
        ------
        UserError
            If the run has nothing that the figure could show; the message says what it needs.
        """
        raise NotImplementedError
