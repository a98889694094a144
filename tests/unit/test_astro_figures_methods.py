"""What figures compute before they draw it: against closed forms, other implementations, and their promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.datasets import make_swiss_roll
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from advbench.api import Classification, InputSpace, Regression, UserError
from advbench_astro.figures.canvas import colours
from advbench_astro.figures.choose import Trained, fits, in_turns, slug
from advbench_astro.figures.church_window import GRID, church_window, classes_at_marks
from advbench_astro.figures.confusion import _drawn as drawn_confusion
from advbench_astro.figures.confusion import confusion
from advbench_astro.figures.curves import Curve, without_strength, worst_case
from advbench_astro.figures.display import colour_bands, visible, visible_change
from advbench_astro.figures.domains import chosen
from advbench_astro.figures.grad_cam import grad_cam
from advbench_astro.figures.latent import Head, align, embed, linear_head
from advbench_astro.figures.latent_distances import distances, latent_scale, summary
from advbench_astro.figures.latent_map import principal_components, tsne
from advbench_astro.figures.manifold import isomap
from advbench_astro.figures.redshift_scatter import outlier_lines
from advbench_astro.figures.training_curves import _drawn as drawn_training
from advbench_astro.figures.training_curves import panels_of
from advbench_astro.stretch import ArcsinhStretch

# --- church windows -----------------------------------------------------------------------------------------------


def is_convex(region: np.ndarray) -> bool:
    """Whether the points of a bool grid are all points of it within their convex hull."""
    points = np.argwhere(region).astype(float)
    if len(points) < 3 or np.linalg.matrix_rank(points - points[0]) < 2:
        return True
    every = np.argwhere(np.ones_like(region)).astype(float)
    hull = ConvexHull(points).equations
    inside = (every @ hull[:, :2].T + hull[:, 2] <= 1e-9).all(1)
    return int(inside.sum()) == len(points)


class Counted:
    """A head that counts its calls."""

    def __init__(self, head: Any) -> None:
        self.head, self.shapes = head, []

    def __call__(self, points: Tensor) -> Tensor:
        self.shapes.append(tuple(points.shape))
        return self.head(points)


def random_head(classes: int = 4, features: int = 16, seed: int = 0) -> Head:
    generator = torch.Generator().manual_seed(seed)
    weight, bias = (
        torch.randn(classes, features, generator=generator),
        torch.randn(classes, generator=generator),
    )
    return Head(weight.double(), bias.double())


@pytest.mark.parametrize("seed", range(5))
def test_regions_of_a_church_window_are_convex_and_its_head_is_called_once(seed: int) -> None:
    head = Counted(random_head(seed=seed))
    points = torch.randn(3, 16, generator=torch.Generator().manual_seed(100 + seed))
    classes = church_window(head, *points)
    assert head.shapes == [(221 * 221, 16)]
    assert classes.shape == (221, 221)
    assert all(is_convex(classes == one) for one in range(4))
    assert classes_at_marks(classes) == tuple(head(points.double()).argmax(1).tolist())


def test_the_check_of_convexity_finds_a_hole() -> None:
    head = random_head(2, 2)
    bent = church_window(
        lambda p: torch.stack([p.norm(dim=1), torch.full((len(p),), 0.7)], 1), *torch.eye(3)[:, :2]
    )
    assert len(np.unique(bent)) == 2
    assert not is_convex(bent == 0)
    assert is_convex(church_window(head, *torch.eye(3)[:, :2]) == 0)


def test_a_church_window_has_the_perturbed_along_x_and_the_other_along_y() -> None:
    # Logits are twice the features: class 0 where x - y is positive.
    head = Head(2 * torch.eye(2).double(), torch.zeros(2).double())
    origin = torch.tensor([1.0, 1.25])
    classes = church_window(
        head, origin, origin + torch.tensor([1.0, 0.0]), origin + torch.tensor([0.0, 1.0])
    )
    x, y = np.meshgrid(GRID, GRID)
    away = np.abs(x - y - 0.25) > 1e-9
    assert ((classes == 0) == (x - y > 0.25))[away].all()
    assert classes_at_marks(classes) == (1, 0, 1)


def test_the_head_is_the_last_linear_layer_that_makes_the_outputs() -> None:
    torch.manual_seed(0)
    body, decoy, head = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)
    x = torch.randn(7, 5)
    features = body(x).detach()
    found = linear_head(nn.ModuleList([body, head, decoy]), features, head(features).detach())
    assert torch.equal(found.weight, head.weight.double())
    with pytest.raises(UserError, match="last linear layer"):
        linear_head(nn.ModuleList([body, head]), features, head(features).detach().tanh())


def test_features_are_needed_and_chunks_do_not_show() -> None:
    class Plain:
        def features(self, x: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor]:
            return (x.flatten(1) if "f" in extras else None), x.flatten(1)[:, :2]

    x = torch.randn(300, 1, 2, 2)
    features, outputs = embed(Plain(), x, {"f": torch.zeros(300, 1)})
    assert torch.equal(features, x.flatten(1))
    assert torch.equal(outputs, x.flatten(1)[:, :2])
    with pytest.raises(UserError, match="returns outputs alone"):
        embed(Plain(), x, {})


def test_the_same_objects_are_found_in_two_data_sets() -> None:
    rows, places = align(np.array(["c", "a", "x", "b"]), np.array(["a", "b", "c"]))
    assert rows.tolist() == [0, 1, 3]
    assert places.tolist() == [2, 0, 1]


# --- maps ---------------------------------------------------------------------------------------------------------


def test_isomap_unrolls_a_swiss_roll_and_leaves_global_randomness_alone() -> None:
    points, along = make_swiss_roll(600, random_state=1)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the point of the test
    places, used = isomap(points, 2, 5)
    again, _ = isomap(points, 2, 5)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert abs(spearmanr(places[:, 0], along).statistic) > 0.95
    assert used == 5
    assert np.array_equal(places, again)


def test_isomap_connects_what_lies_apart_and_takes_equal_points() -> None:
    generator = np.random.default_rng(0)
    apart = np.concatenate([generator.normal(size=(12, 3)), generator.normal(size=(12, 3)) + 50])
    places, used = isomap(np.concatenate([apart, apart[:4]]), 3, 2)
    assert used > 2
    assert places.shape == (28, 3)
    assert np.isfinite(places).all()
    assert np.allclose(places[24:], places[:4])
    with pytest.raises(UserError, match="at least 5 points"):
        isomap(apart[:4], 3, 5)


def test_principal_components_are_those_of_scikit_learn() -> None:
    points = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 7)
    places, share = principal_components(points)
    reference = PCA(2, svd_solver="full").fit(points)
    assert np.allclose(np.abs(places), np.abs(reference.transform(points)))
    assert np.allclose(share, reference.explained_variance_ratio_)
    assert (places[np.abs(places).argmax(0), [0, 1]] > 0).all()
    assert np.isfinite(principal_components(np.zeros((5, 3)))[0]).all()


def test_tsne_keeps_clusters_and_repeats_itself() -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(40, 5)) + np.repeat([[0.0], [30.0]], 20, axis=0)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    places = tsne(points, 8, 3)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert np.array_equal(places, tsne(points, 8, 3))
    centres = places[:20].mean(0), places[20:].mean(0)
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * max(places[:20].std(), places[20:].std())


def test_samples_of_no_class_are_shown_by_their_share_wherever_they_are() -> None:
    last = np.arange(20) >= 15
    assert chosen(last, 8).tolist() == [0, 1, 2, 3, 4, 5, 15, 16]
    assert chosen(last, 20).tolist() == chosen(last, 99).tolist() == list(range(20))
    assert chosen(np.arange(20) == 19, 4).tolist() == [0, 1, 2, 19]
    assert chosen(last[::-1], 4).tolist() == [0, 5, 6, 7]
    assert chosen(last & False, 3).tolist() == [0, 1, 2]


def test_the_same_objects_are_preferred_where_there_are_enough() -> None:
    none = np.zeros(9, dtype=bool)
    assert chosen(none, 3, np.array([8, 5, 2, 0])).tolist() == [2, 5, 8]
    assert chosen(none, 3, np.array([8, 5])).tolist() == [0, 1, 2]
    assert chosen(none, 3, np.array([], dtype=np.int64)).tolist() == [0, 1, 2]
    assert chosen(np.arange(9) == 8, 3, np.array([7, 6, 5])).tolist() == [6, 7, 8]


# --- distances ----------------------------------------------------------------------------------------------------


def test_the_scale_is_the_root_mean_square_distance_between_two_samples() -> None:
    features = np.random.default_rng(0).normal(size=(30, 7)) * 3
    assert latent_scale(features) == pytest.approx(np.sqrt((pdist(features) ** 2).mean()))
    assert np.isnan(latent_scale(features[:1]))


def test_distances_and_their_errors_by_hand() -> None:
    found = summary(distances(np.zeros((3, 2)), np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 3.0]])))
    assert found.mean == pytest.approx(3)
    assert found.sd == pytest.approx(2)
    assert found.se == pytest.approx(2 / np.sqrt(3))
    assert found.n == 3
    assert summary(np.zeros(0)).n == 0


@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_normalised_distances_do_not_depend_on_the_scale_of_latent_space(factor: float) -> None:
    generator = np.random.default_rng(0)
    clean, moved = generator.normal(size=(20, 5)), generator.normal(size=(20, 5))
    rotation = np.linalg.qr(generator.normal(size=(5, 5)))[0]
    other, shifted = (factor * (one @ rotation + 3) for one in (clean, moved))
    normalised = distances(clean, moved) / latent_scale(clean)
    assert np.allclose(distances(other, shifted) / latent_scale(other), normalised)
    assert np.allclose(distances(other, shifted), factor * distances(clean, moved))


# --- Grad-CAM -----------------------------------------------------------------------------------------------------


class Looks(nn.Module):
    """Finds bright squares: class 1 is their brightness, class 0 the background's absence of it."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(2) if norm else nn.Identity()
        self.relu, self.pool = nn.ReLU(inplace=True), nn.AvgPool2d(2)
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.first.weight[0], self.first.weight[1] = 1 / 9, -1 / 9
            self.head.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, extras: Mapping[str, Tensor] | None = None) -> Tensor:
        return self.head(self.pool(self.relu(self.bn(self.first(x)))).mean((2, 3)))


def planted() -> Tensor:
    x = 0.05 * torch.rand(3, 1, 24, 20, generator=torch.Generator().manual_seed(0))
    x[0, :, 4:10, 3:9] = 1
    x[1, :, 14:20, 11:17] = 1
    return x


@pytest.mark.parametrize("norm", [False, True])
def test_grad_cam_finds_a_planted_square(norm: bool) -> None:
    x, network = planted(), Looks(norm)
    heat, answer = grad_cam(network, x, {})
    assert heat.shape == (3, 24, 20)
    assert float(heat.min()) >= 0
    assert heat.flatten(1).amax(1).tolist() == [1, 1, 1]
    assert answer.tolist() == [1, 1, 1]
    for index, (top, left) in enumerate([(4, 3), (14, 11)]):
        row, column = divmod(int(heat[index].argmax()), 20)
        assert top <= row < top + 6
        assert left <= column < left + 6
        inside = heat[index, top : top + 6, left : left + 6]
        assert inside.mean() > 10 * (heat[index].sum() - inside.sum()) / (24 * 20 - 36)
    assert torch.equal(x, planted())
    assert not network.first._forward_hooks


def test_grad_cam_of_a_sample_depends_on_no_other() -> None:
    x, network = planted(), Looks()
    heat, _ = grad_cam(network, x, {})
    assert torch.allclose(grad_cam(network, x[1:2], {})[0][0], heat[1], atol=1e-6)


def test_grad_cam_is_nothing_where_nothing_speaks_for_the_answer() -> None:
    heat, _ = grad_cam(Looks(), planted(), {}, answer=torch.zeros(3, dtype=torch.int64))
    assert not heat.any()


def test_grad_cam_of_a_named_layer_and_of_none() -> None:
    heat, _ = grad_cam(Looks(), planted(), {}, "pool")
    assert heat.shape == (3, 24, 20)
    with pytest.raises(UserError, match="there is no second; convolutions are first"):
        grad_cam(Looks(), planted(), {}, "second")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(480, 2))
    flat.forward = lambda x, extras: flat[1](flat[0](x))  # type: ignore[method-assign,misc,assignment]
    with pytest.raises(UserError, match="needs a convolution"):
        grad_cam(flat, planted(), {})


# --- images -------------------------------------------------------------------------------------------------------


def space(names: tuple[str, ...], link: Any = None) -> InputSpace:
    count = len(names)
    return InputSpace((count, 8, 8), (-2.0,) * count, (6.0,) * count, names, link=link)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("gri", [2, 1, 0]),
        ("ugriz", [3, 2, 1]),
        (("red", "green", "blue"), [0, 1, 2]),
        ("rgb", [0, 1, 2]),
        ("a", [0] * 3),
    ],
)
def test_red_is_the_longest_wavelength(names: Any, expected: list[int]) -> None:
    assert colour_bands(space(tuple(names))) == expected


def test_bands_that_are_asked_for() -> None:
    assert colour_bands(space(("u", "g", "r", "i", "z")), ["z", "r", "u"]) == [4, 2, 0]
    assert colour_bands(space(("u", "g")), ["g"]) == [1, 1, 1]
    with pytest.raises(UserError, match="one or three of u, g, not y"):
        colour_bands(space(("u", "g")), ["y"])


def test_inputs_without_a_link_are_shown_between_their_bounds() -> None:
    x = torch.linspace(-2, 6, 64).view(1, 1, 8, 8)
    assert np.allclose(visible(x, x, space(("a",)))[0, ..., 0].ravel(), np.linspace(0, 1, 64), atol=1e-6)


def test_fluxes_are_stretched_for_each_sample_alone_and_stay_in_range() -> None:
    stretch = ArcsinhStretch(-1.0, 50.0)
    flux = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 40 - 1
    x, box = stretch.from_physical(flux), stretch.space((3, 8, 8), ("g", "r", "i"))
    shown = visible(x, x, box)
    assert shown.shape == (4, 8, 8, 3)
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert np.array_equal(visible(x[2:3], x[2:3], box)[0], shown[2])
    grey = stretch.from_physical(flux.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert np.ptp(visible(grey, grey, box), axis=3).max() < 1e-5
    assert np.isfinite(visible(torch.full_like(x, torch.nan), x, box)).all()
    assert not visible(torch.full_like(x, 0.5), torch.full_like(x, 0.5), box).any()


def test_a_change_is_grey_where_there_is_none() -> None:
    x = torch.zeros(2, 3, 8, 8)
    after = x.clone()
    after[0, 1, 2, 3] = 0.25
    after[0, 1, 4, 4] = -0.125
    shown, largest = visible_change(x, after, space(("red", "green", "blue")))
    assert largest.tolist() == [0.25, 0]
    assert shown[0, 2, 3].tolist() == [0.5, 1, 0.5]
    assert shown[0, 4, 4].tolist() == [0.5, 0.25, 0.5]
    assert (shown[1] == 0.5).all()


# --- rows ---------------------------------------------------------------------------------------------------------


def curve(strength: list[float], value: list[float]) -> Curve:
    array = np.array(value)
    return Curve("one", np.array(strength), array, array, array, True)


def test_the_worst_case_is_a_monotone_envelope() -> None:
    curves = [curve([1, 2, 4], [0.9, 0.3, 0.5]), curve([1, 3, 4], [0.7, 0.6, 0.2])]
    strength, worst = worst_case(curves, higher_is_better=True)
    assert strength.tolist() == [1, 2, 3, 4]
    assert worst.tolist() == [0.7, 0.3, 0.3, 0.2]
    assert worst_case(curves, higher_is_better=False)[1].tolist() == [0.9, 0.9, 0.9, 0.9]
    assert worst_case(curves, True, lower_is_stronger=True)[1].tolist() == [0.2, 0.2, 0.2, 0.2]
    rising = [curve([10, 50, 90], [0.2, 0.6, 0.5])]
    assert worst_case(rising, True, lower_is_stronger=True)[1].tolist() == [0.2, 0.5, 0.5]


@pytest.mark.parametrize(
    ("label", "strength", "family"),
    [
        ("pgd(eps=0.1)", 0.1, "pgd"),
        ("pgd(eps=8/255)", 8 / 255, "pgd"),
        ("pgd(eps=0.1, steps=10)", 0.1, "pgd(steps=10)"),
        ("pgd(steps=10, eps=0.1)", 0.1, "pgd(steps=10)"),
        ("pgd", 0.1, "pgd"),
        ("noise(severity=3)", 0.08, "noise"),
        ("push(eps=[0.1, 0.2], steps=3)", 0.2, "push"),
    ],
)
def test_a_family_is_the_label_without_its_strength(label: str, strength: float, family: str) -> None:
    assert without_strength({"perturbation": label, "strength": strength}) == family


def test_confusion_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    target, predicted = generator.integers(4, size=80), generator.integers(4, size=80)
    assert np.array_equal(
        confusion(target, predicted, 4), confusion_matrix(target, predicted, labels=range(4))
    )
    unknown = confusion(np.array([0, -1, 1, -1]), np.array([0, 1, 1, 0]), 2)
    assert unknown.tolist() == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(("classes", "rows"), [(3, 1), (10, 2)])
def test_confusion_matrices_of_many_classes_are_below_each_other(classes: int, rows: int) -> None:
    names = tuple(f"class {i}" for i in range(classes))
    first_column = np.eye(classes, dtype=np.int64)[np.zeros(classes, dtype=np.int64)]
    counts = np.arange(1, classes + 1)[:, None]
    tables = [np.eye(classes, dtype=np.int64) * counts, first_column * counts]
    row = {"model": "net", "defense": "none", "dataset": "deep", "perturbation": "pgd", "n": 9}
    figure = drawn_confusion(tables, Classification(names), row, Trained([row], "net"))
    first, second = figure.axes[:2]
    assert first.get_subplotspec().get_gridspec().nrows == rows
    shown = [text.get_text() for text in second.texts]
    assert shown[::classes] == [f"{n}\n100 %" for n in range(1, classes + 1)]
    assert shown.count("0\n0 %") == classes * (classes - 1)
    assert [text.get_text() for text in first.get_xticklabels()] == list(names)
    assert first.get_yticklabels()[2].get_text().replace("\n", " ") == "class 2 (n = 3)"


@pytest.mark.parametrize("relative", [False, True])
def test_outlier_lines_are_the_criterion_of_the_task(relative: bool) -> None:
    task = Regression(("z",), tolerance=0.05, relative=relative)
    true = np.linspace(0, 0.4, 9)
    for edge in outlier_lines(true, task):
        assert np.allclose(np.abs(edge - true) / (1 + true * relative), 0.05)


def test_what_belongs_into_the_panels_of_a_training() -> None:
    history = [
        {"purpose": "fit", "epoch": 1, "train_loss": 1.0, "valid_loss": 2.0, "valid_metric": 0.3, "mmd": 0.1},
        {
            "purpose": "fit",
            "epoch": 2,
            "train_loss": 1.0,
            "valid_loss": 2.0,
            "valid_metric": 0.3,
            "domain_accuracy": 0.5,
            "reversal": 0.2,
        },
    ]
    assert panels_of(history) == {
        "loss": ["train_loss", "valid_loss"],
        "rates": ["valid_metric", "domain_accuracy"],
        "terms": ["mmd"],
        "factors": ["reversal"],
    }
    figure = drawn_training(
        history, Trained([{"model": "net", "defense": "dann"}], "net"), "accuracy", "loss"
    )
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "loss", "share of samples", "term of the loss", "factor of the reversed gradient"
    ]  # fmt: skip
    assert [len(axes.get_legend().get_texts()) for axes in figure.axes] == [2, 2, 1, 1]
    assert "terms" not in panels_of(history[:1][:0])


def test_choices() -> None:
    row = {"perturbation": "pgd(eps=0.1)", "perturbation_id": "attacks/pgd"}
    assert all(
        fits(row, "perturbation", one) for one in (None, "pgd", "pgd(eps=0.1)", "attacks/*", "attacks/pgd")
    )
    assert not fits(row, "perturbation", "fgsm")
    assert in_turns(np.array([0, 0, 0, 1, 2, 1])).tolist() == [0, 3, 4, 1, 5, 2]
    assert slug("Conv Net", "a/b", "") == "conv-net-a-b"
    assert colours(["merger", "spiral"]) == ["#003f5c", "#ffa600"]
    assert len(set(colours([str(i) for i in range(12)]))) == 12
