"""What the harness hands to plugins: the target, random draws, the training kit, the data context.

These are protocols; :mod:`advbench.runtime` implements them. Tensors are float32 on the device of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from advbench.values import Data, InputSpace, Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from advbench.components.base import Use
    from advbench.components.recipe import Recipe


class Evaluation(NamedTuple):
    """One evaluation of the target with its input gradient; first axis = samples of the batch."""

    loss: Tensor  # (b,) what the attack maximises
    gradient: Tensor  # (b, c, h, w) of `loss` with respect to the inputs
    output: Tensor  # (b, k) logits, or predictions (b, t) of a regressor


class Rng(Protocol):
    """Random draws per sample: row i depends on the seed, the purpose and sample i, and on nothing else."""

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform draws in ``[low, high)``, shape (b, *shape), float32."""

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws, shape (b, *shape), float32."""

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in ``[0, high)``, shape (b, *shape), int64."""

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson draws with the given rates (b, ...) >= 0, float32."""

    def take(self, index: Tensor) -> Rng:
        """The same streams for the samples ``index`` (int64 or bool, of this batch)."""


class Target(Protocol):
    """The network, or the whole defended pipeline, as an attack may see it under the declared knowledge.

    Every method takes inputs (b, c, h, w) with one row for each sample of this target, counts passes per
    sample, and refuses what the threat model does not grant. Evaluation is in eval mode, in chunks of one
    fixed size, so a row does not depend on its companions.
    """

    @property
    def task(self) -> Task:
        """The task."""

    @property
    def space(self) -> InputSpace:
        """The input space."""

    def __len__(self) -> int:
        """Number of samples b."""

    def output(self, x: Tensor) -> Tensor:
        """Logits (b, k), or predictions (b, t) of a regressor. One forward pass per sample.

        Behind a random defense one draw is shown; where it reaches the goal, the output of the draw that is furthest
        from it, so that `is_adversarial` means success in every draw.
        """

    def outputs_with_pixels(self, x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
        """Outputs (b, m, k) of m candidates for each input, each of which sets p pixels; m forward passes per sample.

        Row and column of the pixels are ``positions`` (b, m, p, 2) int64, their new values ``values``
        (b, m, p, c); of two at the same place the later one stays. The images are never all in memory, and where
        the network is a chain of small windows only what a pixel reaches is computed. An output may then differ
        from that of `output` by rounding (1e-5 of the largest), so confirm by `output` what decides.
        """

    @property
    def mask(self) -> Tensor | None:
        """Bool (1, c, h, w), True where values may change; None if all may."""

    def margin(self, output: Tensor, y: Tensor) -> Tensor:
        """Distance from the goal, (b,), negative beyond it.

        Untargeted: logit of ``y`` minus the best other logit, or tolerance minus error. Aiming at a class: best
        other logit minus that class's. Aiming up or down: tolerance minus the signed error.
        """

    def is_adversarial(self, output: Tensor, y: Tensor) -> Tensor:
        """Whether the goal is reached, bool (b,), by more than the rounding of a forward pass.

        The harness judges with other companions in the batch and the network as it was handed over; a margin
        within 1e-5 of the largest output would not survive that.
        """

    def evaluate(self, x: Tensor, y: Tensor, loss: LossLike = "margin") -> Evaluation:
        """Loss, its input gradient and the output: one forward and one backward pass per sample.

        Attacks maximise the loss. ``"margin"``: minus `margin`; ``"ce"``: cross-entropy in its log-odds form,
        ``logsumexp`` of the other logits minus that of ``y``, which has the gradient direction of cross-entropy and
        does not saturate; ``"dlr"``: margin over the spread of the largest logits (Croce and Hein 2020; the margin
        where there are too few classes for it); or a function of (output, y) that returns (b,). Named losses speak of
        the goal; for a regressor ``"ce"`` is the squared error of an untargeted attack, and else all are the margin.
        The gradient is zero outside `mask` and may be overwritten.
        """

    def input_gradient(self, x: Tensor, y: Tensor, loss: LossLike = "margin") -> Tensor:
        """The gradient alone, (b, c, h, w)."""

    def module(self) -> nn.Module:
        """A target of one sample as a differentiable network for other libraries: inputs (m, c, h, w) to (m, k).

        Each row is that sample's and costs a forward pass, and a backward pass whenever it is differentiated. It has
        no parameters of the network, stays in eval mode, and refuses what the threat model does not grant.
        """

    def measure(self, size: Tensor) -> None:
        """Tell how large the change of each sample is, (b,), in the attack's own measure (``tags.size``)."""

    def take(self, index: Tensor) -> Target:
        """The same target for the samples ``index`` (int64, may repeat; or bool). Counts go to the same samples."""


LossLike = str | Callable[..., Any]


class Progress(Protocol):
    """A bar, or nothing."""

    def advance(self, steps: int = 1) -> None:
        """Say that this many more steps are done."""


class DataContext(Protocol):
    """Where a data set finds its files and keeps what it makes."""

    @property
    def source(self) -> Data | None:
        """The data set that the network is trained on, where the suite declares a shift (``train_on``)."""

    @property
    def download(self) -> bool:
        """Whether the user allowed downloads."""

    def find(self, *names: str, hint: str = "") -> Path:
        """First existing file or folder of these relative names in the data folders.

        Raises
        ------
        DataError
            Naming what was looked for and where; ``hint`` says where to get it.
        """

    def artifact(self, name: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """A folder kept by content: ``make`` fills it once; ``key`` and the component's version name it."""

    def progress(self, label: str, total: int) -> AbstractContextManager[Progress]:
        """A progress bar for slow work."""


class Training(Protocol):
    """What a training-time defense gets: everything to train a network as usual, or in its own way."""

    @property
    def data(self) -> Data:
        """The training data set."""

    @property
    def recipe(self) -> Recipe:
        """The model's recipe."""

    @property
    def target_data(self) -> Data | None:
        """The data set that the suite names by ``adapt_to``, in the input space of `data`, or None.

        Its targets are withheld, -1 or NaN, unless ``tags.adapts`` is ``"labelled"``.
        """

    @property
    def data_dirs(self) -> Sequence[Path]:
        """The data folders, for the files that `Component.files` names."""

    @property
    def device(self) -> torch.device:
        """Where to train."""

    @property
    def seed(self) -> int:
        """The seed of the cell."""

    def build(self) -> nn.Module:
        """A freshly initialised network (seeded) with its normalisation inside."""

    def undefended(self) -> nn.Module:
        """The same model trained without this defense (from the store, or trained now). In eval mode, frozen."""

    def fit(
        self,
        module: nn.Module,
        *,
        loss: StepLoss | None = None,
        validation: StepLoss | None = None,
        purpose: str = "fit",
        recipe: Recipe | None = None,
        data: Data | None = None,
    ) -> nn.Module:
        """Train ``module`` by the recipe and return it with its best weights, in eval mode.

        ``loss(module, batch)`` replaces `loss`, ``recipe`` the model's, and ``data`` the data set, of which the splits
        ``train`` and ``valid`` are used; then no batch has an ``other``. The loss returns a scalar, or a mapping of
        scalars of which ``"loss"`` is minimised and all are kept in the history of the training. The best weights have
        the lowest plain loss on the validation split, or the lowest ``validation(module, batch)``, in eval mode and
        without gradients. A training on perturbed samples needs it: of its epochs the one that is best on clean samples
        may be the least robust.
        """

    def loss(self, module: nn.Module, batch: Batch, output: Tensor | None = None) -> Tensor:
        """What a training without a defense minimises, a scalar: the model's own loss, else that of its recipe.

        ``output`` (b, k) is that of ``module`` for the batch, where it is at hand.
        """

    def target(self, module: nn.Module, batch: Batch) -> Target:
        """``module`` as an attack inside the training loop sees it: in the mode that it is in, not in eval mode."""

    def perturb(self, use: Use, module: nn.Module, batch: Batch) -> Tensor:
        """Inputs (b, c, h, w) of a batch under a registered corruption, or under an attack on ``module``.

        Everybody is attacked, also who is misclassified. ``module`` is in eval mode meanwhile; its mode, its
        parameters and their gradients are left as they were. The result is verified as in an evaluation.
        """


class Batch(NamedTuple):
    """One training batch on the device."""

    x: Tensor  # (b, c, h, w)
    y: Tensor  # (b,) or (b, t)
    extras: Mapping[str, Tensor]  # each (b, k)
    rng: Rng
    progress: float = 0.0  # share of the training that is done
    other: Batch | None = None  # as many samples of `Training.target_data`, where there is one
    rows: Tensor | None = None  # (b,) int64, the places of the samples in their split


StepLoss = Callable[..., Any]


class Prediction(Protocol):
    """What a defense has inside: the network behind the defenses that follow, for one chunk of b samples.

    Inputs have b rows, or m * b with the m of a sample beside each other (``x.repeat_interleave(m, 0)``).
    """

    @property
    def task(self) -> Task:
        """The task."""

    @property
    def members(self) -> Sequence[Prediction]:
        """The same with each of the independently trained networks (`Defense.networks`)."""

    @property
    def learned(self) -> Mapping[str, Tensor]:
        """What `Defense.learn` returned."""

    def output(self, x: Tensor) -> Tensor:
        """Logits or predictions (rows, k)."""

    def features(self, x: Tensor) -> Tensor:
        """Features (rows, d) of the network.

        Raises
        ------
        PluginError
            If it returns none.
        """

    def output_with_dropout(self, x: Tensor) -> Tensor:
        """Outputs (rows, k) with the network's dropout layers on, drawn for each row; nothing else is in train mode.

        Raises
        ------
        PluginError
            If it has no dropout layer.
        """


class Shown(NamedTuple):
    """Samples that a figure shows; first axis = samples, in the order of the data set."""

    x: Tensor  # (n, c, ...)
    y: Tensor  # (n,) or (n, t)
    extras: Mapping[str, Tensor]
    ids: NDArray[np.str_]


class Run(Protocol):
    """A finished run as a figure sees it. A row is one of `rows`, an entry for each column by its name."""

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The rows of the leaderboard."""

    def outcomes(self, row: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
        """What became of each sample: ``id``, ``target``, ``clean_prediction``, ``perturbed_prediction`` and more."""

    def history(self, row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """One entry for each epoch of the training of the row's network; none if its weights came from a file."""

    def space(self, row: Mapping[str, Any]) -> InputSpace:
        """The input space of the row's data set."""

    def task(self, row: Mapping[str, Any]) -> Task:
        """The task of the row's data set."""

    def samples(self, row: Mapping[str, Any], count: int | None = None) -> Shown:
        """The first samples that the row evaluates, all unless ``count`` is given; unperturbed, on the device."""

    def perturbed(self, row: Mapping[str, Any], count: int | None = None) -> Tensor:
        """The same samples as the row's perturbation leaves them: kept by the run, or made again."""

    def network(self, row: Mapping[str, Any]) -> nn.Module:
        """The row's network, in eval mode and frozen; a call with inputs and extras returns outputs (b, k).

        ``network.features(x, extras)`` returns features (b, d), None if it has none, and outputs. The parts of a
        defense that stand around the network are left out.
        """


class Picture(NamedTuple):
    """A file that a figure wrote, and what it shows, for those who cannot see it too."""

    path: Path
    caption: str


class Certificate(NamedTuple):
    """Predictions that hold within a radius."""

    prediction: Tensor  # (b,) int64, -1 where it abstains
    radius: Tensor  # (b,) l2, in the units of the inputs; 0 where it abstains
