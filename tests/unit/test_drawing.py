"""Figures of a run: what they are given, what is kept of them, and what becomes of one that fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from advbench.api import Figure, Picture, Register, Run, UserError, hookimpl, param
from advbench.components.loader import Plugins, Source
from advbench.engines.session import Options, Session
from advbench.suite.grid import expand
from advbench.suite.reader import read_suite
from advbench.testing.toybox import advbench_toys

SUITE = """
version: 1
name: drawn
datasets:
  - advbench-toys/blobs
  - {name: shifted, use: advbench-toys/blobs, params: {shift: 0.5}, train_on: blobs}
models: [advbench-toys/small]
perturbations: [none, advbench-toys/step]
figures: [mine/looks, mine/refuses, mine/breaks]
"""
SEEN: list[str] = []


class Looks(Figure):
    """Compares what the run gives with what its records say."""

    def draw(self, run: Run, folder: Path) -> Sequence[Picture]:
        """Looks at every row."""
        SEEN.append("looks")
        for row in run.rows:
            outcomes, shown = run.outcomes(row), run.samples(row)
            assert shown.ids.tolist() == outcomes["id"].tolist()
            assert run.space(row).shape == (2, 6, 6)
            assert run.task(row).outputs == 3
            network, perturbed = run.network(row), run.perturbed(row)
            features, output = network.features(perturbed, shown.extras)
            assert features.shape == (len(shown.x), 16)
            assert output.argmax(1).tolist() == outcomes["perturbed_prediction"].tolist()
            assert network(shown.x, shown.extras).argmax(1).tolist() == outcomes["clean_prediction"].tolist()
            assert torch.equal(run.perturbed(row, 3), perturbed[:3])
            size = (perturbed - shown.x).abs().flatten(1).amax(1)
            assert np.allclose(size, outcomes["linf"], atol=1e-6)
            assert [epoch["epoch"] for epoch in run.history(row)] == [1, 2, 3, 4]
        (folder / "seen.txt").write_text(str(len(run.rows)))
        return [Picture(folder / "seen.txt", "the number of rows")]


class Says(Figure):
    """Writes a word, always in a file of the same name."""

    word: str = param("yes", "the word")

    def draw(self, run: Run, folder: Path) -> Sequence[Picture]:
        """One file."""
        (folder / "word.txt").write_text(self.word)
        return [Picture(folder / "word.txt", self.word)]


class Refuses(Figure):
    """Needs something else."""

    def draw(self, run: Run, folder: Path) -> Sequence[Picture]:
        """Nothing."""
        raise UserError("needs rows of a regressor")


class Breaks(Figure):
    """Is wrong."""

    def draw(self, run: Run, folder: Path) -> Sequence[Picture]:
        """A half of what it is about."""
        (folder / "half.csv").write_text("1")
        raise ZeroDivisionError("one over zero")


def session(tmp_path: Path, suite: str = SUITE) -> Session:
    module = ModuleType("mine")

    def register_figures(register: Register) -> None:
        register("looks", Looks)
        register("refuses", Refuses)
        register("breaks", Breaks)
        register("says", Says)

    module.register_figures = hookimpl(register_figures)  # type: ignore[attr-defined]
    toybox = Path(advbench_toys.__file__).parent
    installed = Plugins.discover([toybox])._sources.values()
    plugins = Plugins([*installed, Source("mine", "mine 1", lambda: module)])
    (tmp_path / "drawn.yaml").write_text(suite)
    grid = expand(read_suite(tmp_path / "drawn.yaml", plugins), plugins)
    options = Options(tmp_path / "store", tmp_path / "run", plugins_dirs=(toybox,), device="cpu")
    return Session(grid, options, plugins, lambda event: None)


def test_a_figure_sees_what_the_run_saw_and_a_broken_one_is_one_line(tmp_path: Path) -> None:
    SEEN.clear()
    result = session(tmp_path).run([])
    assert result.exit_code == 0
    refuses, breaks = result.problems
    assert refuses == "figure mine/refuses: needs rows of a regressor"
    assert breaks.startswith("figure mine/breaks: ZeroDivisionError: one over zero (test_drawing.py:")
    (entry,) = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert entry["figure"] == "mine/looks"
    assert entry["pictures"] == [{"path": "figures/mine-looks/seen.txt", "caption": "the number of rows"}]
    assert (tmp_path / "run" / "figures" / "mine-looks" / "seen.txt").read_text() == "4"


def test_a_figure_that_refuses_leaves_no_folder(tmp_path: Path) -> None:
    session(tmp_path).run([])
    folder = tmp_path / "run" / "figures"
    assert [path.name for path in folder.iterdir()] == ["mine-looks"]
    kept = folder / "mine-breaks" / "of-an-earlier-run.png"
    (folder / "mine-refuses").mkdir()
    kept.parent.mkdir()
    kept.write_text("seen")
    session(tmp_path).run([])
    assert sorted(path.name for path in folder.iterdir()) == ["mine-breaks", "mine-looks"]
    assert kept.read_text() == "seen"
    alone = SUITE.replace("mine/looks, mine/refuses, mine/breaks", "mine/refuses")
    other = tmp_path / "other"
    other.mkdir()
    session(other, alone).run([])
    assert (other / "run" / "leaderboard.csv").is_file()
    assert not (other / "run" / "figures").exists()


def test_what_is_drawn_is_drawn_once(tmp_path: Path) -> None:
    SEEN.clear()
    session(tmp_path).run([])
    session(tmp_path).run([])
    assert SEEN == ["looks"]
    (tmp_path / "run" / "figures" / "mine-looks" / "seen.txt").unlink()
    session(tmp_path).run([])
    assert SEEN == ["looks", "looks"]


def test_a_figure_that_is_asked_for_twice_has_two_folders(tmp_path: Path) -> None:
    asked = SUITE.replace(
        "mine/looks, mine/refuses, mine/breaks", "mine/says, {use: mine/says, params: {word: no}}"
    )
    assert session(tmp_path, asked).run([]).problems == ()
    entries = json.loads((tmp_path / "run" / "figures.json").read_text())
    pictures = [picture for entry in entries for picture in entry["pictures"]]
    assert [picture["caption"] for picture in pictures] == ["yes", "no"]
    assert [(tmp_path / "run" / picture["path"]).read_text() for picture in pictures] == ["yes", "no"]


def test_the_history_of_a_training_is_kept_beside_the_leaderboard(tmp_path: Path) -> None:
    result = session(tmp_path).run([])
    (weights,) = {row["weights"] for row in result.rows}
    path = tmp_path / "run" / "trainings" / f"{weights}.json"
    epochs = json.loads(path.read_text())
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4]
    assert epochs[0]["train_loss"] > epochs[-1]["train_loss"] > 0
    path.unlink()
    session(tmp_path).run([])  # nothing is trained again
    assert json.loads(path.read_text()) == epochs


@pytest.mark.parametrize("count", [0, 5])
def test_kept_inputs_are_those_that_are_shown(tmp_path: Path, count: int) -> None:
    from dataclasses import replace

    one = session(tmp_path)
    one.options = replace(one.options, keep_inputs=count)
    result = one.run([])
    assert len(result.problems) == 2  # Looks has no complaint
