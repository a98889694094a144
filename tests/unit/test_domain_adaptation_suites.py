"""Suites that adapt: where the key belongs, one clear message where it does not, and the cells that come of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from training_kit import PLUGINS

from advbench.api import Classification, DataError, Regression
from advbench.errors import SuiteError
from advbench.runtime.bench import _refuse_other_task
from advbench.suite.grid import as_json, expand, from_json
from advbench.suite.reader import read_suite

SUITE = """\
version: 1
datasets:
  - {name: deep, use: toys/blobs}
  - {name: faint, use: toys/blobs, params: {shift: 1.0}, train_on: deep}
models: [toys/net]
defenses:
"""
CLASSES, REDSHIFT = Classification(("a", "b")), Regression(("z",), 0.05)
DETECTORS = "  - [defenses/entropy, defenses/max-softmax]\n"
ENSEMBLES = "  - [defenses/ensemble, {name: more, use: defenses/ensemble, params: {size: 3}}]\n"


def read(folder: Path, defenses: str):
    path = folder / "suite.yaml"
    path.write_text(SUITE + defenses)
    return read_suite(path, PLUGINS, (), None)


def mistakes(folder: Path, defenses: str) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        read(folder, defenses)
    return [str(problem).removeprefix(f"{folder / 'suite.yaml'}:") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("defenses", "message"),
    [
        (
            "  - {use: defenses/domain-adaptation, adapt_to: fain}\n",
            "7:49: defenses[0].adapt_to: there is no data set 'fain' in this suite (did you mean 'faint'?)",
        ),
        (
            "  - {use: defenses/max-softmax, adapt_to: faint}\n",
            "7:43: defenses[0].adapt_to: max-softmax does not adapt to another data set; leave it out",
        ),
        (
            "  - defenses/domain-adaptation\n",
            "7:5: defenses[0]: domain-adaptation adapts the network to another data set; say which by"
            " `adapt_to: LABEL` (known: deep, faint)",
        ),
        (
            "  - {use: defenses/domain-adaptation, adapt_to: 3}\n",
            "7:49: defenses[0].adapt_to: must be text, got 3; quote it",
        ),
        (
            "  - - {use: defenses/domain-adaptation, adapt_to: faint}\n"
            "    - {use: defenses/entropy, adapt_to: faint}\n",
            "8:41: defenses[0][1].adapt_to: is given twice in one composition; keep one of the two",
        ),
    ],
)
def test_one_message_for_each_mistake(tmp_path, defenses, message):
    assert mistakes(tmp_path, defenses) == [message]


@pytest.mark.parametrize(
    ("adapts", "target", "message"),
    [
        ("labelled", CLASSES, None),
        (
            "labelled",
            Classification(("a", "b", "c")),
            "near has the classes a, b, c and far has the classes a, b",
        ),
        ("unlabelled", Classification(("a", "b", "c")), None),
        ("unlabelled", REDSHIFT, "near has the targets z and far has the classes a, b"),
    ],
)
def test_labels_must_mean_the_same_and_tasks_be_of_a_kind(adapts, target, message):
    cell = SimpleNamespace(target=SimpleNamespace(label="near"), source=SimpleNamespace(label="far"))
    if message is None:
        _refuse_other_task(cell, CLASSES, target, adapts)
        return
    with pytest.raises(DataError, match=f"a network cannot be adapted to near: {message}"):
        _refuse_other_task(cell, CLASSES, target, adapts)


def test_transfer_learning_may_adapt_and_need_not(tmp_path):
    suite = read(
        tmp_path,
        "  - {name: alone, use: defenses/transfer-learning}\n"
        "  - {name: few, use: defenses/transfer-learning, params: {shots: 5}, adapt_to: faint}\n",
    )
    assert [item.adapt_to for item in suite.defenses] == [None, "faint"]


def test_cells_know_their_target(tmp_path):
    suite = read(
        tmp_path,
        "  - none\n"
        "  - - {name: mmd, use: defenses/domain-adaptation, adapt_to: faint}\n"
        "    - defenses/entropy\n"
        "  - {name: back, use: defenses/domain-adaptation, adapt_to: deep}\n",
    )
    cells = expand(suite, PLUGINS).cells
    targets = {(cell.dataset.label, cell.defense.label): cell.target for cell in cells}
    assert targets["deep", "none"] is None
    assert targets["deep", "mmd + entropy"] == targets["faint", "mmd + entropy"] == suite.datasets[1]
    skipped = {cell.defense.label: cell.skip for cell in cells if cell.skip}
    assert skipped == {"back": "back adapts to deep, which the network is trained on"}
    assert [from_json(as_json(cell)) for cell in cells] == list(cells)


@pytest.mark.parametrize(
    ("defenses", "reason"),
    [
        (DETECTORS, "defenses/entropy and defenses/max-softmax both reject inputs; there is one threshold"),
        (ENSEMBLES, "defenses/ensemble and defenses/ensemble both ask for several networks"),
        (
            "  - [{use: defenses/domain-adaptation, adapt_to: faint}, defenses/distillation]\n",
            "defenses/domain-adaptation and defenses/distillation both replace the training",
        ),
    ],
)
def test_what_does_not_go_together_is_a_skipped_row(tmp_path, defenses, reason):
    cells = expand(read(tmp_path, "  - none\n" + defenses), PLUGINS).cells
    assert len(cells) == 4
    assert [cell.skip for cell in cells if cell.defense.label != "none"] == [reason] * 2
    assert [cell.skip for cell in cells if cell.defense.label == "none"] == [""] * 2
