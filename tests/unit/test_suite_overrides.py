"""``--set key=value`` changes a document before it is validated."""

from __future__ import annotations

from typing import Any

import pytest

from advbench.suite.document import Document
from advbench.suite.overrides import with_overrides
from advbench.suite.yaml_marks import parse_document

TEXT = """\
name: demo
datasets:
  - {use: toy/blobs, name: y10, params: {depth: y10}}
  - {use: toy/blobs, name: y1.0, limit: 5}
models: [toy/net, deep]
defenses: [none, [toy/blur, {use: toy/shrink}], toy/blur]
seeds: [0]
"""


def changed(*texts: str, limit: int | None = None) -> Document:
    return with_overrides(parse_document(TEXT, "f"), texts, limit)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("seeds=[0, 1]", ("seeds",), [0, 1]),
        ("seeds.0=3", ("seeds", 0), 3),
        ("description=a = b", ("description",), "a = b"),
        ("name=", ("name",), None),
        ("datasets.0.limit=100", ("datasets", 0, "limit"), 100),
        ("datasets.y10.params.depth=y1", ("datasets", 0, "params", "depth"), "y1"),
        ("datasets.y10.params.eps=8/255", ("datasets", 0, "params", "eps"), 8 / 255),
        ("datasets.y1.0.limit=7", ("datasets", 1, "limit"), 7),
        ("datasets.y1.0.params.a.b=no", ("datasets", 1, "params"), {"a": {"b": "no"}}),
        ("models.net=toy/other", ("models", 0), "toy/other"),
        ("models.toy/net.params.width=4", ("models", 0), {"use": "toy/net", "params": {"width": 4}}),
        (
            "models.deep.params.recipe.epochs=3",
            ("models", 1),
            {"use": "deep", "params": {"recipe": {"epochs": 3}}},
        ),
        ("defenses.blur.name=b", ("defenses", 2), {"use": "toy/blur", "name": "b"}),
        (
            "defenses.1.shrink.params={bits: 3}",
            ("defenses", 1, 1),
            {"use": "toy/shrink", "params": {"bits": 3}},
        ),
        ("defenses.1.0.params.a=1", ("defenses", 1, 0), {"use": "toy/blur", "params": {"a": 1}}),
        ("sedes=[1]", ("sedes",), [1]),
    ],
)
def test_one_value_is_set_and_shown_at_the_command_line(text: str, path: tuple[Any, ...], value: Any) -> None:
    document = changed(text)
    assert document.problems == []
    assert document.at(path) == value
    shown = [where for where, place in document.places.items() if place.file == f"--set {text}"]
    assert shown
    assert all(where[: len(path)] == path for where in shown)


def test_the_original_is_left_alone_and_the_rest_keeps_its_place() -> None:
    document = parse_document(TEXT, "f")
    after = with_overrides(document, ["models.*.use=x", "datasets.0.params={}"])
    assert document == parse_document(TEXT, "f")
    assert after.place(("datasets", 0, "name")).line == 3
    assert after.place(("datasets", 0, "params", "depth")).file == "--set datasets.0.params={}"


def test_a_star_means_every_entry_and_leaves_out_none() -> None:
    document = changed("datasets.*.use=own/arrays", "models.*.params.width=4")
    assert [entry["use"] for entry in document.at(("datasets",))] == ["own/arrays", "own/arrays"]
    assert [entry["params"]["width"] for entry in document.at(("models",))] == [4, 4]
    after = with_overrides(parse_document("defenses: [none, a]", "f"), ["defenses.*.params.x=1"])
    assert after.value == {"defenses": ["none", {"use": "a", "params": {"x": 1}}]}


def test_entries_do_not_share_what_a_star_sets() -> None:
    document = changed("datasets.*.params={a: {}}", "datasets.0.params.a.b=1")
    assert document.at(("datasets", 1, "params")) == {"a": {}}


def test_the_limit_is_an_override_of_all_data_sets() -> None:
    document = changed("datasets.0.limit=3", limit=9)
    assert [entry["limit"] for entry in document.at(("datasets",))] == [9, 9]
    assert document.place(("datasets", 1, "limit")).file == "--limit 9"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds", "expected key=value, where key is a dotted path such as datasets.0.limit"),
        ("=3", "expected key=value, where key is a dotted path such as datasets.0.limit"),
        ("datasets..limit=3", "expected key=value, where key is a dotted path such as datasets.0.limit"),
        ("seeds=[0,", "a value is missing"),
        ("seeds={a: 1, a: 2}", "the key 'a' is given twice (first in line 1)"),
        ("budget=1/0", "1/0 is not a finite number"),
        ("datasets.y11.limit=3", "datasets has no entry 'y11' (did you mean 'y10'?)"),
        ("datasets.2.limit=3", "datasets has no entry '2' (known: y1.0, y10)"),
        ("datasets.blobs.limit=3", "'blobs' is the name of datasets[0] and datasets[1]; use an index or *"),
        (
            "datasets.toy/blobs.limit=3",
            "'toy/blobs' is the name of datasets[0] and datasets[1]; use an index or *",
        ),
        ("defenses.1.params.a=3", "defenses[1] has no entry 'params' (known: blur, shrink)"),
        ("seeds.4=3", "seeds has no entry '4' (the last is 0)"),
        ("name.a=3", "name is 'demo'; there is no 'a' in it"),
        ("seeds.0.a=3", "seeds[0] is 0; there is no 'a' in it"),
    ],
)
def test_what_cannot_be_set_is_a_mistake_of_the_command_line(text: str, message: str) -> None:
    document = changed(text, "seeds=[5]")
    assert [str(problem) for problem in document.problems] == [f"--set {text}: {message}"]
    assert document.at(("seeds",)) == [5]
