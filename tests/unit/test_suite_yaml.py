"""YAML as a suite reads it: scalars, places of values and keys, and syntax errors in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from advbench.errors import SuiteError
from advbench.suite.document import path_text
from advbench.suite.scalars import plain_scalar
from advbench.suite.yaml_marks import MAX_DEPTH, parse_document, read_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        *(
            (word, word)
            for word in ("no", "yes", "on", "off", "y", "tRUE", "1_000", "0b1", "12:30:45", "2024-01-01")
        ),
        *(
            (word, word)
            for word in (".", "-", "1e", "8/", "/8", "1/2/3", "1.2.3", "astro/convnet", "8/255px")
        ),
        ("+7", 7),
        ("-0", 0),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("9223372036854775807", 2**63 - 1),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e-3", 1e-3),
        ("-1.5E+3", -1500.0),
        ("8/255", 8 / 255),
        ("-1 / 3", -1 / 3),
        ("1.5/255", 1.5 / 255),
    ],
)
def test_plain_scalars_follow_yaml_1_2_and_fractions_are_numbers(text: str, value: object) -> None:
    read = plain_scalar(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text", [".inf", "-.Inf", ".nan", "1e999", "1/0", "1e308/1e-308", "9223372036854775808", "9" * 5000]
)
def test_numbers_that_a_suite_cannot_hold_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"finite number|64 bits"):
        plain_scalar(text)


def test_quoted_scalars_stay_text() -> None:
    assert parse_document("[\"8/255\", '1', \"true\", 'null', ~]", "f").value == [
        "8/255",
        "1",
        "true",
        "null",
        None,
    ]


def test_values_and_keys_know_their_places() -> None:
    text = "models:\n  - astro/convnet\n  - use: x\n    params: {width: 8,\n      depth: y}\nempty:\n"
    document = parse_document(text, "f.yaml")
    assert document.value == {
        "models": ["astro/convnet", {"use": "x", "params": {"width": 8, "depth": "y"}}],
        "empty": None,
    }
    places = {path_text(path): (place.line, place.column) for path, place in document.places.items()}
    assert places["models[0]"] == (2, 5)
    assert places["models[1].params"] == (4, 13)
    assert places["models[1].params.width"] == (4, 21)
    assert places["models[1].params.depth"] == (5, 14)
    keys = {path_text(path): (place.line, place.column) for path, place in document.keys.items()}
    assert keys["models"] == (1, 1)
    assert keys["models[1].params"] == (4, 5)
    assert keys["models[1].params.depth"] == (5, 7)
    assert document.place(("models", 1, "sweep", "x")) == document.place(("models", 1))


def test_an_alias_gives_values_of_their_own() -> None:
    document = parse_document("a: &x {k: [1]}\nb: *x\n", "f")
    assert document.value["a"] == document.value["b"] == {"k": [1]}
    assert document.value["a"]["k"] is not document.value["b"]["k"]
    assert document.place(("b", "k", 0)) == document.place(("a", "k", 0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", "3:1: the key 'a' is given twice (first in line 1)"),
        ("p:\n  a: 1\n  'a': 3", "3:3: p: the key 'a' is given twice (first in line 2)"),
        ("a: 1\n<<: {b: 1}", "2:1: merge keys (<<) are not part of YAML 1.2; write the keys out"),
        ("a: {[1]: 2}", "1:5: a: a key must be text"),
        ("a:\n  - 1/0", "2:5: a[0]: 1/0 is not a finite number"),
        ('a: "\\uD800"', "1:4: a: an escape that is half of a character (a surrogate)"),
    ],
)
def test_lesser_mistakes_are_kept_and_the_reading_goes_on(text: str, expected: str) -> None:
    document = parse_document(f"{text}\nlast: 1", "f")
    assert [str(problem) for problem in document.problems] == [f"f:{expected}"]
    assert document.value["last"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n\t- b", "2:1: a tab cannot stand here; use spaces"),
        ("a:\tb", "1:3: a tab cannot stand here; use spaces"),
        ("a: b: c", "1:5: a ':' cannot stand here; check the indentation, or quote text that holds ': '"),
        (
            "a:\n    b: 1\n  c: 2",
            "3:3: the indentation does not fit the lines above, or a '-' or ':' is missing",
        ),
        ("a: 1\nb: [1, 2\n", "3:1: a bracket is not closed, or a ',' is missing (opened in line 2)"),
        ("a: 'x", "1:6: a quote is not closed (opened in line 1)"),
        ("a: 1\n---\nb: 2", "2:1: a suite is one YAML document; remove the '---' or '...' before this line"),
        (
            "a: *x",
            '1:4: a * begins an alias, and there is no such anchor; to match by a pattern, quote it: "*"',
        ),
        (
            "a: *",
            '1:5: a * begins an alias, and there is no such anchor; to match by a pattern, quote it: "*"',
        ),
        ("a: &x 1\nb: &x 2", "2:4: this anchor (&name) is defined twice"),
        ("a: &x [*x]", "1:4: an alias that stands inside its own anchor"),
        ("a: !!python/name:os.system x", "1:4: tags are not used in suites: remove !!python/name:os.system"),
        ("a: !!str 3", "1:4: tags are not used in suites: remove !!str"),
        ("a: @x", "1:4: text that begins with '@' must be quoted"),
        ("a: - b", "1:4: a '-' cannot stand here; a list begins on a line of its own"),
        ("{a: 1} b", "1:8: there is text after the end of the value; check the indentation"),
        ("a:\n  \x00", "2:3: the character U+0000 cannot stand in YAML"),
        ('a: "\\UFFFFFFFF"', "1:7: this escape in quoted text is no character"),
        ("[" * 1000, f"1:{MAX_DEPTH + 2}: nested deeper than {MAX_DEPTH} levels"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg")
            ),
            "1:26: more than 100000 values, with aliases written out",
        ),
    ],
)
def test_syntax_errors_are_one_clear_line(text: str, expected: str) -> None:
    with pytest.raises(SuiteError) as caught:
        parse_document(text, "f")
    assert str(caught.value) == f"f:{expected}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"

    def complaint() -> str:
        with pytest.raises(SuiteError) as caught:
            read_document(path)
        return str(caught.value)

    assert complaint() == f"{path}: there is no such file"
    path.write_bytes("a: 1\nb: é".encode("latin-1"))
    assert complaint() == f"{path}:2:4: is not UTF-8 text; save it with that encoding"
    path.write_text("a: 1", encoding="utf-16")
    assert complaint() == f"{path}:1:1: is not UTF-8 text; save it with that encoding"
    path.unlink()
    path.mkdir()
    assert complaint().startswith(f"{path}: cannot be read: ")


def test_a_byte_order_mark_and_windows_lines_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: [x,\r\n  y]\r\n")
    document = read_document(path)
    assert document.value == {"a": 1, "b": ["x", "y"]}
    assert (document.place(("b", 1)).line, document.place(("b", 1)).column) == (3, 3)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~"])
def test_an_empty_text_is_none(text: str) -> None:
    document = parse_document(text, "f")
    assert document.value is None
    assert document.place(()).line >= 1
