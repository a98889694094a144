"""Says in plain words what the YAML parser found wrong."""

from __future__ import annotations

import yaml

_WORDS = (
    (("'\\t'", "cannot start any token"), "a tab cannot stand here; use spaces"),
    (
        ("mapping values are not allowed",),
        "a ':' cannot stand here; check the indentation, or quote text that holds ': '",
    ),
    (("could not find expected ':'",), "a ':' is missing; expected `key: value`"),
    (("expected <block end>",), "the indentation does not fit the lines above, or a '-' or ':' is missing"),
    (("sequence entries are not allowed",), "a '-' cannot stand here; a list begins on a line of its own"),
    (("expected ',' or",), "a bracket is not closed, or a ',' is missing"),
    (("expected the node content",), "a value is missing"),
    (("found unexpected end of stream",), "a quote is not closed"),
    (("found unexpected document separator",), "a quote is not closed"),
    (("second occurrence",), "this anchor (&name) is defined twice"),
    (
        ("but found another document",),
        "a suite is one YAML document; remove the '---' or '...' before this line",
    ),
    (("expected '<document start>'",), "there is text after the end of the value; check the indentation"),
)


def in_plain_words(error: yaml.MarkedYAMLError) -> str:
    """One line for the user; where nothing better is known, the parser's own words."""
    problem, context = error.problem or "", error.context or ""
    if "undefined alias" in problem or "scanning an alias" in context:
        return 'a * begins an alias, and there is no such anchor; to match by a pattern, quote it: "*"'
    message = next((words for needles, words in _WORDS if all(needle in problem for needle in needles)), None)
    if message is None and "cannot start any token" in problem:
        message = f"text that begins with {problem.split()[2]} must be quoted"
    message = message or f"no valid YAML: {problem or context}"
    opened = error.context_mark
    if "not closed" in message and opened is not None:
        message += f" (opened in line {opened.line + 1})"
    return message
