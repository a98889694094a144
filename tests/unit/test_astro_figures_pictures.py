"""Figures of a run that is made by hand: what they show, what they say, and what they refuse."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.colors import to_hex
from PIL import Image
from torch import Tensor, nn

from advbench.api import Classification, InputSpace, Regression, Shown, Task, UserError
from advbench.evidence.figures import figures
from advbench_astro.figures import robustness_curves
from advbench_astro.figures.canvas import WIDTH, sheet
from advbench_astro.figures.choose import Trained
from advbench_astro.figures.church_window import ChurchWindow
from advbench_astro.figures.confusion import Confusion
from advbench_astro.figures.domains import GREY, described, embedded_domains, key, scatter
from advbench_astro.figures.gallery import Panels
from advbench_astro.figures.grad_cam import GradCam
from advbench_astro.figures.latent_distances import LatentDistances
from advbench_astro.figures.latent_map import LatentMap
from advbench_astro.figures.manifold import Isomap
from advbench_astro.figures.redshift_scatter import RedshiftScatter
from advbench_astro.figures.robustness_curves import RobustnessCurves
from advbench_astro.figures.source_target import SourceTarget
from advbench_astro.figures.training_curves import TrainingCurves

N = 30
DPI = 100
PATCHES = (-1.0, 0.0, 1.0)
"""Brightness of the middle of an image of each class, and the value to predict."""


class Net(nn.Module):
    """A convolution and a linear head whose class is that of the brightness of the middle."""

    def __init__(self, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2, outputs)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            self.conv.weight[0, 0, 1, 1] = self.conv.weight[1, 1, 1, 1] = scale
            centres = torch.tensor(PATCHES) if outputs == 3 else torch.ones(1)
            self.linear.weight.copy_(torch.stack([8 * centres / scale, torch.zeros(outputs)], 1))
            self.linear.bias.copy_(-4 * centres**2 if outputs == 3 else torch.zeros(1))
            if outputs == 1:
                self.linear.weight.copy_(torch.tensor([[1 / scale, 0.0]]))
        self.eval().requires_grad_(False)

    def features(self, x: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """Mean brightness of the middle in both bands."""
        found = self.conv(x)[:, :, 4:8, 4:8].mean((2, 3))
        return found, self.linear(found)

    def forward(self, x: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        return self.features(x, extras)[1]


@dataclass
class HandMade:
    """A run of one classifier or regressor, or of several, on two data sets."""

    kind: Task
    nets: dict[str, nn.Module]
    rows: list[dict[str, Any]] = field(default_factory=list)
    inputs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # clean and perturbed by cell
    y: Any = None

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = np.array([f"g{i:03d}" for i in range(N)])
        classes = torch.arange(N) % 3
        middle = torch.tensor(PATCHES)[classes]
        x = 0.3 * torch.randn(N, 2, 12, 12, generator=generator)
        x[:, 0, 4:8, 4:8] += middle[:, None, None]
        other = x + 0.2 * torch.randn(N, 2, 12, 12, generator=generator)
        self.y = classes if isinstance(self.kind, Classification) else middle[:, None]
        for name in self.nets:
            for dataset, clean in (("deep", x), ("shallow", other)):
                self.add(name, dataset, "none", clean, clean, knowledge="none")
                for eps in (0.2, 0.5, 0.8):
                    moved = clean.clone()
                    moved[:, 0] += eps * torch.where(middle[:, None, None] > 0, -1.0, 1.0)
                    self.add(name, dataset, f"push(eps={eps})", clean, moved, strength=eps, norm="linf")
                    if dataset == "deep":
                        weak = clean + 0.5 * (moved - clean)
                        self.add(name, dataset, f"half(eps={eps})", clean, weak, strength=eps, norm="linf")
                quality = clean * 0.9
                self.add(name, dataset, "jpeg(quality=90)", clean, quality, strength=90, knowledge="none")
                self.add(name, dataset, "jpeg(quality=10)", clean, clean * 0.2, strength=10, knowledge="none")

    def add(self, name: str, dataset: str, label: str, clean: Tensor, moved: Tensor, **columns: Any) -> None:
        cell = f"{name}-{dataset}-{label}"
        self.inputs[cell] = clean, moved
        row = {
            "cell_id": cell, "kind": "cell", "status": "ok", "dataset": dataset, "dataset_id": "astro/x",
            "trained_on": "deep", "adapted_to": "", "model": name, "model_id": "astro/m", "defense": "none",
            "defense_id": "none", "perturbation": label, "perturbation_id": "attacks/x", "norm": None,
            "strength": None, "strength_unit": "flux", "knowledge": "adaptive", "seed": 0,
        }  # fmt: skip
        row |= columns
        row |= figures(self.outcomes(row), self.kind, attack=row["knowledge"] != "none")
        self.rows.append(row)

    def outcomes(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        clean, moved = self.inputs[row["cell_id"]]
        net, before = self.nets[row["model"]], {}
        for side, x in (("clean", clean), ("perturbed", moved)):
            output = net(x, {})
            if isinstance(self.kind, Classification):
                prediction = output.argmax(1)
                right = prediction == self.y
            else:
                prediction = output
                right = ((output - self.y).abs() <= self.kind.tolerance)[:, 0]
            before |= {f"{side}_prediction": prediction.numpy(), f"{side}_correct": right.numpy()}
        delta = (moved - clean).flatten(1)
        zero = np.zeros(N)
        return before | {
            "id": self.ids, "target": self.y.numpy(), "clean_margin": 1 + np.arange(N), "perturbed_margin": zero,
            "linf": delta.abs().amax(1).numpy(), "l2": delta.norm(dim=1).numpy(),
            "l0": (delta != 0).sum(1).numpy(), "violation": zero > 0, "forward_passes": zero, "backward_passes": zero,
        }  # fmt: skip

    def history(self, row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return [
            {"epoch": e, "train_loss": 1 / e, "valid_loss": 1 / e + (e == 4), "valid_metric": 0.5, "mmd": 0.1}
            for e in range(1, 5)
        ]

    def task(self, row: Mapping[str, Any]) -> Task:
        return self.kind

    def space(self, row: Mapping[str, Any]) -> InputSpace:
        return InputSpace((2, 12, 12), (-4.0, -4.0), (4.0, 4.0), ("a", "b"), unit="flux")

    def samples(self, row: Mapping[str, Any], count: int | None = None) -> Shown:
        rows = slice(None, count)
        return Shown(self.inputs[row["cell_id"]][0][rows], self.y[rows], {}, self.ids[rows])

    def perturbed(self, row: Mapping[str, Any], count: int | None = None) -> Tensor:
        return self.inputs[row["cell_id"]][1][:count]

    def network(self, row: Mapping[str, Any]) -> nn.Module:
        return self.nets[row["model"]]


def classifier(**nets: float) -> Any:
    """Networks by their names, each with the scale of its latent space."""
    scales = nets or {"net": 1.0}
    task = Classification(("spiral", "elliptical", "merger"))
    return HandMade(task, {name: Net(3, scale) for name, scale in scales.items()})


def regressor() -> Any:
    return HandMade(Regression(("z",), tolerance=0.3), {"net": Net(1)})


def width(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.size[0]


FIGURES = {
    "church-window": ChurchWindow(dpi=DPI, count=2),
    "isomap": Isomap(dpi=DPI, frames=2),
    "latent-map": LatentMap(dpi=DPI, perplexity=5),
    "grad-cam": GradCam(dpi=DPI, count=2),
    "latent-distances": LatentDistances(dpi=DPI),
    "robustness": RobustnessCurves(dpi=DPI, perturbation="jpeg"),
    "panels": Panels(dpi=DPI, count=2),
    "confusion": Confusion(dpi=DPI, dataset="deep"),
    "training-curves": TrainingCurves(dpi=DPI),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_run_gives_the_same_bytes_800_pixels_wide(name: str, tmp_path: Path) -> None:
    run, found = classifier(), []
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), dict(rcParams))  # noqa: NPY002
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        found.append([(path.read_bytes(), path, words) for path, words in FIGURES[name].draw(run, folder)])
    assert [one[0] for one in found[0]] == [one[0] for one in found[1]]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert dict(rcParams) == before[2]
    for _, path, words in found[0]:
        assert words.endswith(".")
        assert "30" in words or name == "training-curves"
        if path.suffix == ".png":
            assert width(path) == WIDTH * DPI


def test_marks_of_a_church_window_are_what_the_network_predicts(tmp_path: Path) -> None:
    ((_, words),) = ChurchWindow(dpi=40, sample="g002", perturbation="push(eps=0.8)").draw(
        classifier(), tmp_path
    )
    assert "The first sample, g002, is merger, perturbed elliptical, and in shallow merger" in words
    with pytest.raises(UserError, match="needs sample g999 of deep that is in shallow too"):
        ChurchWindow(sample="g999").draw(classifier(), tmp_path)


def test_latent_distances_by_hand_and_whatever_the_scale_of_latent_space(tmp_path: Path) -> None:
    run = classifier(net=1.0, large=50.0)
    LatentDistances(dpi=40, perturbation="push(eps=0.5)").draw(run, tmp_path)
    with (tmp_path / "latent-distances.csv").open() as handle:
        lines = {(line["network"], line["between"]): line for line in csv.DictReader(handle)}
    row = next(r for r in run.rows if r["cell_id"] == "net-deep-push(eps=0.5)")
    outcomes = run.outcomes(row)
    right, fooled = outcomes["clean_correct"], outcomes["clean_correct"] & ~outcomes["perturbed_correct"]
    net = lines["net", "push(eps=0.5), all"]
    assert (int(net["n"]), int(net["n_fooled"]), int(net["n_looked_at"])) == (right.sum(), fooled.sum(), 30)
    assert int(net["n_not_fooled"]) == right.sum() - fooled.sum() > 0
    # Every middle moves by 0.5 in the one band that changes.
    assert float(net["mean"]) == pytest.approx(0.5, rel=1e-4)
    assert float(net["standard_error"]) == pytest.approx(0, abs=1e-6)
    moved = (
        (run.samples(row).x - run.inputs["net-shallow-none"][0])[:, :, 4:8, 4:8]
        .mean((2, 3))
        .norm(dim=1)[right]
    )
    assert float(lines["net", "shallow"]["mean"]) == pytest.approx(float(moved.mean()), rel=1e-4)
    assert float(lines["net", "shallow"]["sd"]) == pytest.approx(float(moved.std()), rel=1e-4)
    for between in ("shallow", "push(eps=0.5), all", "push(eps=0.5), fooled"):
        one, other = lines["net", between], lines["large", between]
        assert float(other["mean"]) == pytest.approx(50 * float(one["mean"]), rel=1e-4)
        for column in ("normalised_mean", "normalised_sd", "ratio_to_other_data_set"):
            assert float(other[column]) == pytest.approx(float(one[column]), rel=1e-4, abs=1e-6)


def test_latent_distances_of_all_networks_are_under_one_perturbation(tmp_path: Path) -> None:
    def between(run: HandMade, **params: Any) -> tuple[set[str], str]:
        folder = tmp_path / "latent"
        folder.mkdir(exist_ok=True)
        pictures = LatentDistances(dpi=40, **params).draw(run, folder)
        assert {path.name for path, _ in pictures} == {path.name for path in folder.iterdir()}
        with (folder / "latent-distances.csv").open() as handle:
            return {f"{line['network']} {line['between']}" for line in csv.DictReader(handle)}, pictures[0][1]

    run = classifier(net=1.0, large=50.0)
    for row in run.rows:  # a one-pixel attack that only one network has been shown
        if row["cell_id"] == "net-deep-push(eps=0.8)":
            row |= {"perturbation": "one-pixel", "norm": "pixels"}
    lines, words = between(run)
    (label,) = {line.split(" ")[1].rstrip(",") for line in lines if "fooled" in line}
    assert label != "one-pixel"
    assert lines == {f"{net} {label}, {which}" for net in ("net", "large") for which in ("all", "fooled")} | {
        "net shallow", "large shallow"
    }  # fmt: skip
    assert "Not shown" not in words
    lines, words = between(run, perturbation="one-pixel")
    assert {line.split(" ")[0] for line in lines} == {"net"}
    assert words.endswith("rows with one-pixel on deep and shallow: large seed 0.")


def test_latent_distances_of_two_seeds_with_different_best_attacks(tmp_path: Path) -> None:
    run = classifier(net=1.0)
    again = [{**row, "seed": 1} for row in run.rows]
    for rows, failing in ((run.rows, "push"), (again, "half")):
        for row in rows:
            row["n_success"] = int(not row["perturbation"].startswith(failing))
    run.rows += again
    ((_, words), _) = LatentDistances(dpi=40).draw(run, tmp_path)
    assert "net seed 0 to half(eps=0.2), all" in words
    assert "net seed 1 to half(eps=0.2), all" in words
    run.rows = [row for row in run.rows if row["perturbation"] == "none"]
    with pytest.raises(UserError, match="needs a row of net with a perturbation"):
        LatentDistances().draw(run, tmp_path)


def test_latent_distances_tell_networks_of_one_name_apart(tmp_path: Path) -> None:
    run = classifier(net=1.0)
    run.rows += [{**row, "trained_on": "shallow", "adapted_to": "deep"} for row in run.rows]
    ((_, words), _) = LatentDistances(dpi=40).draw(run, tmp_path)
    assert "net, trained on deep seed 0 to shallow: " in words
    assert "net, trained on shallow, adapted to deep seed 0 to shallow: " in words


def test_robustness_curves_have_a_picture_for_each_data_set_and_unit(tmp_path: Path) -> None:
    pictures = RobustnessCurves(dpi=40).draw(classifier(), tmp_path)
    assert sorted(path.stem for path, _ in pictures) == [
        f"robustness-{dataset}-{axis}"
        for dataset in ("deep", "shallow")
        for axis in ("jpeg-flux", "linf-budget-flux")
    ]
    words = next(words for path, words in pictures if path.stem == "robustness-deep-linf-budget-flux")
    assert "net under push: 1 at 0.2 and" in words
    with pytest.raises(UserError, match="at least 9 strengths"):
        RobustnessCurves(least=9).draw(classifier(), tmp_path)


def test_no_curve_of_a_regressor_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(robustness_curves, "save", lambda figure, path, dpi: seen.append(figure) or path)
    run = HandMade(Regression(("z",), tolerance=0.3), {"good": Net(1), "bad": Net(1), "fair": Net(1)})
    for row in run.rows:
        times = {"good": 1, "bad": 40, "fair": 2}[row["model"]]
        row |= {
            column: times * (0.01 + row[column]) for column in ("perturbed", "perturbed_lo", "perturbed_hi")
        }
    RobustnessCurves(dataset="deep", perturbation="jpeg").draw(run, tmp_path)
    every = [axes for axes in seen[0].axes if axes.get_visible()]
    assert len(every) == 3
    for axes in every:
        bottom, top = axes.get_ylim()
        assert bottom == 0
        assert top > max(row["perturbed_hi"] for row in run.rows if row["perturbation"].startswith("jpeg"))
    seen[0].canvas.draw()
    boxes = [axes.xaxis.label.get_window_extent() for axes in every]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert not any(box.overlaps(seen[0].legends[0].get_window_extent()) for box in boxes)


def test_the_worst_case_is_that_of_the_leaderboard_and_audits_are_left_out(tmp_path: Path) -> None:
    def words(run: HandMade, **params: Any) -> str:
        pictures = RobustnessCurves(dpi=40, dataset="deep", **params).draw(run, tmp_path)
        return next(words for path, words in pictures if path.stem == "robustness-deep-linf-budget-flux")

    run = classifier()
    before = words(run)
    assert "dashed: the worst of these curves" in before
    attacks = [row for row in run.rows if row["dataset"] == "deep" and row["perturbation"].startswith("push")]
    run.rows += [{**row, "kind": "audit", "perturbed": 0.0} for row in attacks]
    assert words(run) == before
    worst = {"kind": "worst-case", "perturbation": "worst of 2", "perturbed": 0.25}
    run.rows += [{**row, **worst, "cell_id": f"worst-{i}"} for i, row in enumerate(attacks)]
    assert "dashed: the worst of all attacks for each sample" in words(run)
    assert "net in the worst case per sample: 0.25 at 0.2 and 0.25 at 0.8" in words(run)
    assert "dashed" not in words(run, perturbation="push")
    run.rows += [{**row, **worst, "cell_id": f"goal-{i}"} for i, row in enumerate(attacks)]  # of another goal
    assert words(run) == before


def test_redshifts_are_those_of_a_regressor(tmp_path: Path) -> None:
    run = regressor()
    ((path, words),) = RedshiftScatter(dpi=DPI, perturbation="push").draw(run, tmp_path)
    row = next(r for r in run.rows if r["cell_id"] == "net-deep-push(eps=0.5)")
    assert width(path) == 800
    assert "on deep (n = 30)" in words
    assert f"eta {100 * row['eta_clean']:.3g} %" in words
    assert "|predicted - true| = 0.3" in words
    with pytest.raises(UserError, match="needs a regressor"):
        RedshiftScatter().draw(classifier(), tmp_path)
    with pytest.raises(UserError, match="needs a classifier"):
        Confusion().draw(run, tmp_path)
    for figure in (Panels(dpi=30, count=1), GradCam(dpi=30, count=1), LatentMap(dpi=30, perplexity=5)):
        assert figure.draw(run, tmp_path)[0].path.is_file()


@pytest.mark.parametrize("figure", [LatentMap(dpi=40, perplexity=5), Isomap(dpi=40, frames=2)])
def test_maps_of_latent_space_need_no_pairs(figure: Any, tmp_path: Path) -> None:
    def words(run: HandMade) -> str:
        pictures = figure.draw(run, tmp_path)
        assert all(path.is_file() for path, _ in pictures)
        return str(pictures[0][1])

    assert "30 samples of deep, the same in shallow, and the first under push" in words(classifier())
    run = classifier()
    shown = run.samples
    run.samples = lambda row, count=None: (  # other objects, of which six are of no class
        shown(row, count)
        if row["dataset"] == "deep"
        else shown(row, count)._replace(
            ids=np.char.add("other-", shown(row, count).ids), y=torch.where(torch.arange(N) < 24, run.y, -1)
        )
    )
    said = words(run)
    assert "30 of shallow (none of them the same objects), and the first under" in said
    assert "unknown, of no class of the task, are 6 of shallow" in said
    run = classifier()
    run.rows = [row for row in run.rows if row["dataset"] == "deep"]
    assert "30 samples of deep, and the same under push" in words(run)
    run.rows = [row for row in run.rows if row["perturbation"] == "none"]
    assert ": 30 samples of deep" in words(run)
    regressed = regressor()
    regressed.rows = [row for row in regressed.rows if row["dataset"] == "deep"]
    assert "colour the true z." in words(regressed)


def test_what_a_map_of_latent_space_shows() -> None:
    run = regressor()
    run.kind = Regression(("distance",), tolerance=0.3, unit="Mpc")
    run.rows = [row for row in run.rows if row["dataset"] == "deep"]
    found = embedded_domains(LatentMap(), run, Trained(run.rows, "net"), 10)
    points = described(found.stacked, found)
    assert found.n == "n = 10 in each domain"
    assert points.meaning == "distance (Mpc)"
    assert points.value.tolist() == [*PATCHES] * 3 + [-1.0] + [*PATCHES] * 3 + [-1.0]
    assert points.markers == ("o", "^")
    run = classifier()
    run.y = torch.where(torch.arange(N) < 24, run.y, -1)
    found = embedded_domains(LatentMap(), run, Trained(run.rows, "net"), 10)
    assert [(one.y < 0).sum() for one in found.each] == [2, 2, 2]
    picture = sheet(3)
    points = described(found.stacked[:, :2], found)
    scatter(picture.add_subplot(), points)
    key(picture, points)
    assert "unknown" in [text.get_text() for text in picture.legends[0].get_texts()]
    drawn = picture.axes[0].collections[0]
    drawn.update_scalarmappable()
    colours = {to_hex(colour) for colour in drawn.get_facecolors()}
    assert colours == {"#ffa600", "#bc5090", "#003f5c", GREY}


def test_a_map_of_what_was_asked_for_and_is_not_there_is_refused(tmp_path: Path) -> None:
    run = classifier()
    with pytest.raises(UserError, match="on data set middling"):
        LatentMap(other="middling").draw(run, tmp_path)
    with pytest.raises(UserError, match="with perturbation fgsm"):
        LatentMap(perturbation="fgsm").draw(run, tmp_path)
    with pytest.raises(UserError, match="with a perturbation"):
        LatentMap(knowledge="oblivious").draw(run, tmp_path)


def test_the_source_target_matrix(tmp_path: Path) -> None:
    ((_, words),) = SourceTarget(dpi=40).draw(classifier(), tmp_path)
    assert "net trained on deep: 1 on deep; net trained on deep: " in words
    run = classifier()
    run.rows = [row for row in run.rows if row["dataset"] == "deep"]
    with pytest.raises(UserError, match="on two data sets"):
        SourceTarget().draw(run, tmp_path)


def test_a_film_turns_once(tmp_path: Path) -> None:
    pictures = Isomap(dpi=40, frames=5, frame_ms=80).draw(classifier(), tmp_path)
    with Image.open(pictures[1].path) as film:
        assert film.n_frames == 5
        assert film.info["duration"] == 80
        frames = set()
        for place in range(5):
            film.seek(place)
            frames.add(film.convert("RGB").tobytes())
    assert len(frames) == 5


def test_each_network_has_its_picture_and_can_be_chosen(tmp_path: Path) -> None:
    run = classifier(one=1.0, two=3.0)
    assert [path.name for path, _ in TrainingCurves(dpi=30).draw(run, tmp_path)] == [
        "training-curves-one-none.png", "training-curves-two-none.png"
    ]  # fmt: skip
    assert len(TrainingCurves(dpi=30, model="tw*").draw(run, tmp_path)) == 1
    with pytest.raises(UserError, match="needs a finished row of model three"):
        TrainingCurves(model="three").draw(run, tmp_path)
    with pytest.raises(UserError, match="with perturbation fgsm"):
        Panels(perturbation="fgsm").draw(run, tmp_path)
