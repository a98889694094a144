"""The files around the code say the same as the code."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml

import advbench
from advbench.cli.main import COMMANDS
from advbench.components.loader import Plugins
from advbench.evidence.columns import COLUMNS, Column
from advbench.suite.reader import read_suite

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/advbench_*/__init__.py"))
INSTALL = 'pip install -c constraints.txt -e ".[all]" && '


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads(text("pyproject.toml"))


def shell_commands(name: str) -> list[str]:
    """Lines of the ``sh`` blocks of a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text(name), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def pins() -> list[tuple[str, str, str]]:
    """Name, version and marker of every line of constraints.txt."""
    lines = [line for line in text("constraints.txt").splitlines() if line and not line.startswith("#")]
    matches = [re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9a-z.]*)(?:; (.*))?", line) for line in lines]
    assert all(matches), "every line is NAME==VERSION, perhaps with a marker; no local versions, no addresses"
    return [(normal(match[1]), match[2], match[3] or "") for match in matches if match]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(pyproject: dict[str, Any]) -> set[str]:
    project = pyproject["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    lines = [*project["dependencies"], *extras, *pyproject["build-system"]["requires"]]
    return {normal(re.split(r"[\[<>=; ]", line)[0]) for line in lines}


# --- results/README.md --------------------------------------------------------------------------------------------


def table(columns: list[Column]) -> str:
    rows = "\n".join(f"| `{column.name}` | {column.help} |" for column in columns)
    return f"| column | meaning |\n|---|---|\n{rows}"


@pytest.mark.parametrize("group", dict.fromkeys(column.group for column in COLUMNS))
def test_results_readme_explains_every_column_of_a_group(group: str) -> None:
    section = re.search(
        rf"^### {group}\n(.*?)(?=^### |\Z)", text("results/README.md"), re.MULTILINE | re.DOTALL
    )
    assert section, f"results/README.md has no section {group}"
    found = "\n".join(line for line in section[1].splitlines() if line.startswith("|"))
    assert found == table([column for column in COLUMNS if column.group == group])


def test_results_readme_has_the_groups_in_their_order_and_no_other() -> None:
    headings = re.findall(r"^### (.*)$", text("results/README.md"), re.MULTILINE)
    assert headings == [group for group, _ in groupby(COLUMNS, key=lambda column: column.group)]


# --- README.md, suites/README.md ----------------------------------------------------------------------------------


def test_readme_commands_are_one_line_each_and_ci_runs_the_one_that_tests() -> None:
    first, second = shell_commands("README.md")
    assert first == INSTALL + "advbench run suites/lsst.yaml"
    assert second.startswith(INSTALL)
    assert f"bash -c '{second}' </dev/null" in text(".ci/run").splitlines()


def test_readme_lists_every_command() -> None:
    rows = re.findall(r"^\| (`advbench .*?) \|", text("README.md"), re.MULTILINE)
    listed = re.findall(r"`advbench (\w+)[^`]*`", " ".join(rows))
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.torch
def test_the_suite_in_the_readme_has_no_mistake(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    assert [item.spec.id for item in read_suite(tmp_path / "mine.yaml", Plugins.discover()).datasets] == [
        "own/arrays"
    ]


@pytest.mark.parametrize("page", ["README.md", "suites/README.md", "results/README.md"])
def test_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", text(page))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_suites_readme_has_one_line_for_every_suite() -> None:
    listed = re.findall(r"^\* \[`(.+?)`\]\(\1\): .+\.$", text("suites/README.md"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in ROOT.glob("suites/*.yaml"))


# --- packaging ----------------------------------------------------------------------------------------------------


def test_every_plugin_is_in_the_wheel_and_has_an_entry_point(pyproject: dict[str, Any]) -> None:
    wheel = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(wheel) == sorted(["benchmark/advbench", *(f"plugins/{name}" for name in PLUGINS)])
    points = pyproject["project"]["entry-points"]["advbench"]
    assert points == {
        "core": "advbench.engines",
        **{name.removeprefix("advbench_"): name for name in PLUGINS},
    }


def test_every_plugin_is_typed_and_its_imports_are_watched(pyproject: dict[str, Any]) -> None:
    assert sorted(pyproject["tool"]["mypy"]["packages"]) == sorted(["advbench", *PLUGINS])
    layers = pyproject["tool"]["importlinter"]
    contracts = {contract["name"]: contract for contract in layers["contracts"]}
    assert sorted(layers["root_packages"]) == sorted(["advbench", *PLUGINS])
    assert sorted(contracts["the core knows no plugin"]["forbidden_modules"]) == PLUGINS
    assert sorted(contracts["plugins do not know each other"]["modules"]) == PLUGINS
    assert sorted(contracts["plugins use the api alone"]["source_modules"]) == PLUGINS


def test_the_version_stands_in_one_place(pyproject: dict[str, Any]) -> None:
    assert "version" not in pyproject["project"]
    assert pyproject["project"]["dynamic"] == ["version"]
    assert f'__version__ = "{advbench.__version__}"\n' in text(pyproject["tool"]["hatch"]["version"]["path"])
    assert metadata.version("advbench") == advbench.__version__
    assert re.search(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)[1] == advbench.__version__  # type: ignore[index]


def test_constraints_pin_torch_and_every_requirement(pyproject: dict[str, Any]) -> None:
    pinned = {name for name, _, _ in pins()}
    assert ("torch", "2.13.0", "") in pins()
    assert requirements(pyproject) - pinned - {"advbench"} == set()
    assert pinned & {"requests", "urllib3", "idna", "chardet", "certifi"} == set()


def test_constraints_pin_each_name_once_for_a_version_of_python() -> None:
    markers: dict[str, list[str]] = {}
    for name, _, marker in pins():
        markers.setdefault(name, []).append(marker)
    both = ['python_version < "3.11"', 'python_version >= "3.11"']
    assert {name: found for name, found in markers.items() if sorted(found) not in ([""], both)} == {}


def test_the_workflow_runs_every_tox_environment() -> None:
    listed = re.search(r"^env_list = (.*)$", text("tox.ini"), re.MULTILINE)
    assert listed
    expanded = listed[1].replace("py{310,312,313}-core", "py310-core, py312-core, py313-core")
    matrix = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["tox"]["strategy"]["matrix"]
    assert sorted([*matrix["env"], *(one["env"] for one in matrix["include"])]) == sorted(
        expanded.split(", ")
    )


# --- imports ------------------------------------------------------------------------------------------------------


def imports_torch(name: str) -> bool:
    """Rooms that compute; the serial engine does so in its own process."""
    return name.startswith(("advbench.runtime.", "advbench.testing.")) or name == "advbench.engines.serial"


def test_rooms_that_do_not_compute_do_without_torch() -> None:
    package = Path(advbench.__file__).parent
    files = [path.relative_to(package.parent) for path in sorted(package.rglob("[a-z]*.py"))]
    names = [".".join(path.with_suffix("").parts) for path in files]
    light = [name for name in names if not imports_torch(name)]
    code = "import sys\nfor name in sys.argv[1:]: __import__(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *light], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
