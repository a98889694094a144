"""The documentation does what it says: its files are those of the example plugin, its commands print what is shown."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from advbench import api
from advbench.cli.main import COMMANDS
from advbench.components import base, hookspecs
from advbench.components.loader import Plugins
from advbench.suite import reader
from advbench.suite.entries import DEFENSE_KEYS, PERTURBATION_KEYS
from advbench.suite.reader import read_suite

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLE = ROOT / "tests" / "example_plugin"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
TUTORIALS = ["write-a-plugin.md", "bring-your-own.md", "suites.md", "figures.md", "evidence.md"]

DEFAULTS = {
    "datasets": "datasets: [vision/digits]\n",
    "models": "models: [vision/small-cnn]\n",
    "perturbations": "perturbations: [none]\n",
}


class Block(NamedTuple):
    """A fenced block; ``use`` and ``name`` come from a comment before it: ``<!-- file: NAME -->``."""

    use: str
    name: str
    language: str
    text: str


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(name: str) -> list[Block]:
    pattern = r"^(?:<!-- (\w+)(?:: (\S+))? -->\n)?```(\w*)\n(.*?)^```$"
    return [Block(*match) for match in re.findall(pattern, page(name), re.MULTILINE | re.DOTALL)]


def rows(name: str, first_cell: str) -> list[list[str]]:
    """Cells of the table whose header begins with ``first_cell``."""
    table = re.search(rf"^\| {first_cell} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page(name), re.MULTILINE)
    assert table, f"{name} has no table that begins with {first_cell!r}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# --- every page ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page(name))
    assert [link for link in links if not (DOCS / link).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_options_and_commands_exist(name: str) -> None:
    known = {"--help"}
    for command in COMMANDS:
        for parameter in importlib.import_module(f"advbench.cli.{command}").command.params:
            known |= set(parameter.opts)
    spoken = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page(name)))
    assert spoken - known == set()
    named = re.findall(r"(?:`|^\$ )advbench ([a-z]+)", page(name), re.MULTILINE)
    assert set(named) <= set(COMMANDS)


# --- write a plugin -----------------------------------------------------------------------------------------------


def test_the_tutorial_shows_the_files_of_the_example_plugin() -> None:
    shown = {block.name: block.text for block in blocks("write-a-plugin.md") if block.use == "file"}
    patterns = ("pyproject.toml", "suite.yaml", "advbench_example/*.py", "tests/test_contract.py")
    files = {str(path.relative_to(EXAMPLE)) for pattern in patterns for path in EXAMPLE.glob(pattern)}
    assert files <= set(shown)
    for name in files:
        assert shown[name] == (EXAMPLE / name).read_text(encoding="utf-8"), name


def test_every_key_of_a_suite_is_explained() -> None:
    said = set(re.findall(r"^\| `(\w+)` \|", page("suites.md"), re.MULTILINE))
    assert said == {*reader._TOP, *reader._DATASET_KEYS, *PERTURBATION_KEYS, *DEFENSE_KEYS}


# --- pages that are played through --------------------------------------------------------------------------------


@dataclass
class Player:
    """Plays a page in a folder: writes its files, runs its code and its commands."""

    folder: Path

    def play(self, block: Block) -> None:
        if block.use == "file":
            path = self.folder / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.use == "run":
            self._ok([sys.executable, "-c", block.text])
        elif block.language == "console":
            for command, shown in self.commands(block.text):
                self._compare(command, shown)
        elif block.language == "yaml":
            self._validate(block.text)

    @staticmethod
    def commands(text: str) -> Iterator[tuple[str, str]]:
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield command, shown

    def _compare(self, command: str, shown: str) -> None:
        if command == "pip install -e .":
            self._install()
            return
        program, *arguments = shlex.split(command)
        module = {"advbench": ["advbench"], "pytest": ["pytest", "-p", "no:cacheprovider"]}[program]
        done = self._run([sys.executable, "-m", *module, *arguments])
        printed = done.stdout + (done.stderr if done.returncode else "")
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        same = doctest.OutputChecker().check_output(self._rounded(shown), self._rounded(printed), flags)
        if not same:
            pytest.fail(f"$ {command}\n--- shown\n{shown}\n--- printed\n{printed}\n{done.stderr}")

    @staticmethod
    def _rounded(text: str) -> str:
        """Measured numbers differ in the last digits from one machine to the next: any number fits any other."""
        return re.sub(r"\d+\.\d+", "#", text)

    def _install(self) -> None:
        """Leave what ``pip install -e .`` would: the metadata of the distribution."""
        info = self.folder / "site" / "advbench_example-1.0.0.dist-info"
        info.mkdir(parents=True)
        text = (self.folder / "pyproject.toml").read_text(encoding="utf-8")
        points = re.search(r"\[project.entry-points.advbench\]\n(.*?)\n\n", text, re.DOTALL)
        assert points
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: advbench-example\nVersion: 1.0.0\n")
        (info / "entry_points.txt").write_text("[advbench]\n" + points[1].replace('"', ""))

    def _validate(self, text: str) -> None:
        """A suite, or a part of one, is read without a complaint."""
        defaults = {"version": "version: 1\n", **DEFAULTS}
        rest = "".join(lines for key, lines in defaults.items() if not re.search(rf"^{key}:", text, re.M))
        path = self.folder / "part.yaml"
        path.write_text(text + rest, encoding="utf-8")
        read_suite(path, Plugins.discover())

    def _ok(self, command: list[str]) -> None:
        done = self._run(command)
        assert done.returncode == 0, done.stderr

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.folder / "site"), str(self.folder)])
        names = {"ADVBENCH_CACHE": str(self.folder / "cache"), "PYTHONPATH": path, "COLUMNS": "110"}
        environment = {**os.environ, **names, "OMP_WAIT_POLICY": "PASSIVE"}
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=self.folder,
            env=environment,
        )


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", TUTORIALS)
def test_the_page_can_be_played_through(name: str, tmp_path: Path) -> None:
    player = Player(tmp_path)
    for block in blocks(name):
        player.play(block)


def test_every_block_of_a_tutorial_is_played() -> None:
    for name in TUTORIALS:
        idle = [b for b in blocks(name) if not b.use and b.language not in ("console", "yaml")]
        assert idle == []


def test_a_page_that_shows_something_else_is_noticed(tmp_path: Path) -> None:
    player = Player(tmp_path)
    player.play(Block("", "", "console", "$ advbench --version\nadvbench, version ...\n"))
    with pytest.raises(pytest.fail.Exception, match="--- printed\nadvbench, version"):
        player.play(Block("", "", "console", "$ advbench --version\nadvbench, release ...\n"))


# --- hooks --------------------------------------------------------------------------------------------------------


def specified() -> dict[str, Any]:
    """The hooks of the core, by name."""
    found = inspect.getmembers(hookspecs, inspect.isfunction)
    return {name: function for name, function in found if hasattr(function, "advbench_spec")}


def test_every_hook_is_documented_with_its_arguments() -> None:
    listed = [code(row[0])[0] for row in rows("hooks.md", "hook")]
    second = page("hooks.md").split("## Watching a run")[1]
    listed += re.findall(r"^\| `(\w+\(\w+\))` \|", second, re.MULTILINE)
    signatures = {f"{name}({', '.join(inspect.signature(f).parameters)})" for name, f in specified().items()}
    assert len(signatures) == 10
    assert set(listed) == signatures


def test_every_kind_of_component_is_documented_with_methods_that_exist() -> None:
    table = {code(row[0])[0]: row for row in rows("hooks.md", "hook")}
    assert {f"register_{kind}s(register)" for kind in base.KINDS} == set(table)
    for row in table.values():
        classes = [getattr(api, name) for name in code(row[2])]
        for method in code(row[3]):
            assert any(hasattr(cls, method) for cls in classes), method


def test_every_field_of_an_event_is_documented() -> None:
    second = page("hooks.md").split("## Watching a run")[1]
    for hook, event in (
        ("run_started", api.RunStarted),
        ("cell_finished", api.CellFinished),
        ("run_finished", api.RunFinished),
    ):
        line = re.search(rf"^\| `{hook}\(event\)` \|[^|]*\|([^|]*)\|", second, re.MULTILINE)
        assert line
        assert code(line[1]) == [field.name for field in fields(event)]


def test_the_example_of_an_observer_works(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("hooks.md") if block.language == "python"]
    names: dict[str, Any] = {}
    exec(block.text, names)
    names["run_finished"](api.RunFinished("tiny", str(tmp_path), "", {"ok": 3, "failed": 1}))
    assert (tmp_path / "summary.txt").read_text() == "tiny: 1 failed, 3 ok\n"


def test_every_name_of_the_api_is_documented() -> None:
    listed = [name for row in rows("hooks.md", "names") for name in code(row[0])]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(api.__all__)


def test_names_that_import_torch_are_marked() -> None:
    marked = {name for row in rows("hooks.md", "names") for name in re.findall(r"`(\w+)`\*", row[0])}
    assert marked == set(api._LAZY)


def test_every_environment_variable_is_documented() -> None:
    sources = [
        path.read_text(encoding="utf-8")
        for room in ("benchmark", "plugins")
        for path in (ROOT / room).rglob("*.py")
    ]
    used = {name for text in sources for name in re.findall(r"\bADVBENCH_[A-Z_]+\b", text)}
    listed = [code(row[0])[0] for row in rows("hooks.md", "variable")]
    assert set(listed) | {"ADVBENCH_API"} == used
    assert "`ADVBENCH_API = n`" in page("hooks.md")
