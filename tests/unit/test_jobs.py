"""Job files hold everything that a worker needs, in the order of the suite."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from advbench.components.identity import Spec
from advbench.runtime.jobs import Execution, Job
from advbench.suite.grid import Cell
from advbench.suite.model import DatasetItem, DefenseItem, Item, PerturbationItem, Surrogate

SKY = DatasetItem("sky", Spec("dataset", "mine/sky", '{"depth":"y10"}', 2, "ab12"), 100, None, "test")
FAINT = DatasetItem(
    "faint", Spec("dataset", "mine/sky", '{"depth":"y1"}', 2, "ab12"), None, "sky", "calibration"
)
NET = Item("net", Spec("model", "mine/net", "{}", 1))
ROUND = Spec("defense", "mine/round", '{"step":0.5}', 1)


def cell(perturbation: PerturbationItem, **changes: object) -> Cell:
    parts = {"dataset": FAINT, "source": SKY, "model": NET, "defense": DefenseItem("a + b", (ROUND, ROUND))}
    options = {
        "perturbation": perturbation,
        "knowledge": "adaptive",
        "seed": 3,
        "budget": 10,
        "skip": "why not",
    }
    return Cell(**{**parts, **options, **changes})  # type: ignore[arg-type]


CELLS = {
    "zz": cell(PerturbationItem("none", None), budget=None, skip="", defense=DefenseItem("none", ())),
    "aa": cell(PerturbationItem("step(1/2)", Spec("perturbation", "mine/step", '{"eps":[0.5,1.0]}', 7))),
    "tt": cell(
        PerturbationItem(
            "after noise",
            Spec("perturbation", "mine/step", "{}", 7),
            (Spec("perturbation", "mine/noise", "{}", 1),),
            (Surrogate("other", NET.spec), Surrogate("net", NET.spec, 4)),
        )
    ),
    "mm": cell(PerturbationItem("é", Spec("perturbation", "mine/step", "{}", 7)), dataset=SKY),
}
FULL = Execution(
    store="store", run_dir="out", data_dirs=("a", "b"), plugins_dirs=("p",), download=True, device="cuda:1",
    batch=7, cell_seconds=1.5, keep_inputs=3, training_threads=2, threads=4,
)  # fmt: skip


@pytest.mark.parametrize("execution", [Execution("store", "out"), FULL])
def test_a_job_survives_its_file(tmp_path: Path, execution: Execution) -> None:
    job = Job("net-sky-0", CELLS, execution)
    path = job.write(tmp_path / "jobs" / "one.json")
    back = Job.read(path)
    assert back == job
    assert list(back.cells) == ["zz", "aa", "tt", "mm"]
    assert back.cells["aa"].source_spec == SKY.spec


def test_every_setting_was_tried() -> None:
    plain = Execution("", "")
    assert all(getattr(FULL, field.name) != getattr(plain, field.name) for field in fields(Execution))


def test_a_job_file_is_plain_json(tmp_path: Path) -> None:
    value = json.loads(Job("j", CELLS, FULL).write(tmp_path / "j.json").read_text(encoding="utf-8"))
    assert set(value) == {"name", "cells", "execution"}


def test_finished_cells_can_be_taken_out() -> None:
    job = Job("j", CELLS, FULL)
    rest = job.without({"aa", "not there"})
    assert list(rest.cells) == ["zz", "tt", "mm"]
    assert (rest.name, rest.execution) == (job.name, job.execution)
    assert list(job.cells) == ["zz", "aa", "tt", "mm"]


def test_a_file_of_another_version_is_an_error(tmp_path: Path) -> None:
    path = Job("j", CELLS, FULL).write(tmp_path / "j.json")
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(value | {"execution": {**value["execution"], "colour": "red"}}))
    with pytest.raises(TypeError, match="colour"):
        Job.read(path)
