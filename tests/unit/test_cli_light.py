"""Commands that compute nothing: what they say, what they import, and how they refuse mistakes."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import click
import pytest
from boards import cell, classified, write_run

import advbench
from advbench.api import Budget, Component, Recipe, param
from advbench.cli.main import COMMANDS, invoke
from advbench.cli.parameters import parameters
from advbench.cli.plan import _precision
from advbench.cli.run import find_engine
from advbench.cli.selection import parse_only
from advbench.components.loader import Plugins
from advbench.errors import UserError

PLUGIN = '''
"""Components that need nothing but the api."""

from advbench.api import Attack, Budget, Dataset, Model, Recipe, Tags, hookimpl, param


class Dots(Dataset):
    """Dots on a line."""

    n: int = param(10, "samples", ge=1)


class Net(Model):
    """A network."""

    recipe: Recipe = param(Recipe(epochs=3), "how it is trained")


class Push(Attack):
    """Pushes once; Nobody 2020, https://example.org/push.

    More about it.
    """

    tags = Tags(norms=("linf",), needs_gradient=True, strength="eps", unit="counts", reference="https://example.org/push")
    eps: Budget = param("8/255", "radius of the ball", unit="counts")

    def passes(self):
        return 2


@hookimpl
def register_datasets(register):
    register("dots", Dots)


@hookimpl
def register_models(register):
    register("net", Net)


@hookimpl
def register_perturbations(register):
    register("push", Push)
'''

SUITE = """\
version: 1
name: light
datasets: [{use: featherweight/dots, limit: 5}]
models: [featherweight/net]
perturbations: [none, {use: featherweight/push, sweep: {eps: [1/255, 2/255]}}]
knowledge: [adaptive, blackbox]
exclude: [{perturbation: none, reason: not today}]
"""

HEAVY = ("torch", "numpy", "pandas", "scipy", "rich", "matplotlib", "sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("light")
    (found / "plugins").mkdir()
    (found / "plugins" / "featherweight.py").write_text(PLUGIN)
    (found / "broken").mkdir()
    (found / "broken" / "shaky.py").write_text("raise RuntimeError('no luck today')\n")
    (found / "suite.yaml").write_text(SUITE)
    return found


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("ADVBENCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ADVBENCH_CACHE", str(tmp_path / "cache"))


def imported(*arguments: object) -> list[str]:
    """Modules that a command imports, by a fresh interpreter."""
    code = (
        "import sys, json\n"
        "from advbench.cli.main import invoke\n"
        "code = invoke(sys.argv[1:])\n"
        "print('\\n' + json.dumps([code, sorted(sys.modules)]))"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stdout + done.stderr
    return list(modules)


# --- what is imported ---------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    modules = imported("--help")
    assert not set(modules) & {*HEAVY, "pydantic", "yaml", "pluggy"}


def test_list_imports_nothing_heavy_and_no_component() -> None:
    modules = imported("list")
    assert not set(modules) & {*HEAVY, "yaml"}
    assert "advbench.engines" in modules
    assert "advbench.engines.serial" not in modules


def test_validate_imports_only_what_the_suite_names(folder: Path) -> None:
    modules = imported("validate", folder / "suite.yaml", "--plugins-dir", folder / "plugins")
    assert not set(modules) & set(HEAVY)
    assert "featherweight" in modules
    assert [name for name in modules if name.startswith("advbench_")] == []


def test_plan_imports_only_what_the_suite_names_and_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    modules = imported("plan", folder / "suite.yaml", "--plugins-dir", folder / "plugins", "--out", out)
    assert "torch" not in modules
    assert [name for name in modules if name.startswith("advbench_")] == []
    assert not out.exists()


def test_info_imports_only_its_component(folder: Path) -> None:
    modules = imported("info", "featherweight/push", "--plugins-dir", folder / "plugins")
    assert not set(modules) & set(HEAVY)
    assert [name for name in modules if name.startswith("advbench_")] == []


def test_commands_that_look_at_results_import_no_torch(tmp_path: Path) -> None:
    rows = [cell(classified([1, 1, 1, 0], after), defense=name) for name, after in
            (("none", [0, 0, 1, 0]), ("round", [1, 0, 1, 0]))]  # fmt: skip
    run = write_run(tmp_path / "run", rows)
    for command in (
        ["compare", run, run],
        ["rank", run],
        ["export", run, "--format", "latex"],
        ["merge", run, run, "--out", tmp_path / "all"],
    ):
        modules = imported(*command)
        assert not set(modules) & ({*HEAVY} - {"numpy"}), command
        assert [name for name in modules if name.startswith("advbench_")] == []


def test_every_command_is_there_under_its_name_with_its_summary() -> None:
    for name, summary in COMMANDS.items():
        command: click.Command = importlib.import_module(f"advbench.cli.{name}").command
        assert (command.name, command.help) == (name, summary)


# --- what is said -------------------------------------------------------------------------------------------------


def test_help_has_examples_and_every_environment_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    sources = Path(advbench.__file__).parent.rglob("*.py")
    read = {name for path in sources for name in re.findall(r'"(ADVBENCH_[A-Z_]+)"', path.read_text())}
    variables = read - {"ADVBENCH_API", "ADVBENCH_WORKER_INDEX"}  # not for users
    assert len(variables) > 3
    assert [name for name in variables if name not in text] == []
    assert "advbench run suites/lsst.yaml" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out == f"advbench, version {advbench.__version__}\n"


def test_list_shows_ids_and_summaries_and_what_is_broken(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--plugins-dir", str(folder / "plugins"), "--plugins-dir", str(folder / "broken")]
    assert invoke(["list", "perturbation", *chosen]) == 0
    lines = capsys.readouterr().out.splitlines()
    mine = next(line for line in lines if "featherweight/" in line)
    assert mine.split(maxsplit=1) == [
        "featherweight/push",
        "Pushes once; Nobody 2020, https://example.org/push.",
    ]
    assert not any("featherweight/net" in line for line in lines)
    assert any("'shaky'" in line and "no luck today" in line for line in lines)


def test_list_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--plugins-dir", str(folder / "plugins"), "--plugins-dir", str(folder / "broken")]
    assert invoke(["list", "--json", *chosen]) == 0
    found = json.loads(capsys.readouterr().out)
    mine = {one["id"]: one["kind"] for one in found["components"] if one["id"].startswith("featherweight/")}
    assert mine == {
        "featherweight/dots": "dataset",
        "featherweight/net": "model",
        "featherweight/push": "perturbation",
    }
    assert [one["namespace"] for one in found["broken"]] == ["shaky"]


def test_info_shows_parameters_tags_and_reference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["info", "push", "--plugins-dir", str(folder / "plugins")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("featherweight/push  attack, version 1, from ")
    assert "More about it." in text
    row = next(line for line in text.splitlines() if line.startswith("  eps"))
    assert re.split(r"  +", row.strip()) == [
        "eps",
        "number or one per channel",
        "8/255",
        "radius of the ball [counts]",
    ]
    assert "  needs_gradient  yes" in text
    assert "reference  https://example.org/push" in text
    assert "stochastic" not in text


def test_info_shows_the_defaults_that_a_model_gives_its_recipe(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["info", "featherweight/net", "--plugins-dir", str(folder / "plugins")]) == 0
    rows = {
        line.split()[0]: line.split()
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("  recipe")
    }
    assert rows["recipe.epochs"][1:5] == ["integer", ">=", "0", "3"]
    assert set(rows) == {"recipe", *(f"recipe.{name}" for name in Recipe.model_fields)}


class Everything(Component):
    """Parameters of every sort."""

    must: int = param(..., "must be given", ge=1, lt=9)
    choice: Literal["a", "b"] | None = param(None, "a choice")
    many: tuple[float, ...] = param((1.0, 2.5), "numbers", min_length=1)
    pair: tuple[int, str] = param((1, "x"), "a pair")
    flag: bool = param(True, "a flag")
    eps: Budget | None = param(None, "a budget", unit="mag")
    name: str = param("", "some text")


def test_types_limits_and_defaults_in_words() -> None:
    found = {one.name: (one.type, one.default, one.unit) for one in parameters(Everything)}
    assert found == {
        "must": ("integer >= 1, < 9", "required", ""),
        "choice": ("a | b | null", "null", ""),
        "many": ("list of number at least 1 long", "[1.0,2.5]", ""),
        "pair": ("[integer, text]", '[1,"x"]', ""),
        "flag": ("true | false", "true", ""),
        "eps": ("number or one per channel | null", "null", "mag"),
        "name": ("text", '""', ""),
    }


def test_validate_counts_the_cells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = folder / "suite.yaml"
    assert invoke(["validate", str(suite), "--plugins-dir", str(folder / "plugins")]) == 0
    assert capsys.readouterr().out == f"{suite}: ok: 5 cells\n"


def test_validate_reports_all_mistakes_of_all_suites(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(SUITE.replace("models:", "modles:").replace("limit: 5", "limit: 0"))
    missing, good = tmp_path / "missing.yaml", folder / "suite.yaml"
    arguments = ["validate", str(bad), str(good), str(missing), "--plugins-dir", str(folder / "plugins")]
    assert invoke(arguments) == 2
    output = capsys.readouterr()
    assert output.out == f"{good}: ok: 5 cells\n"
    errors = output.err.splitlines()
    assert len(errors) == 4
    assert all(line.startswith(f"error: {bad}:") for line in errors[:3])
    assert f"{bad}:4:1" in output.err
    assert errors[3].startswith(f"error: {missing}")


def test_plan_shows_axes_rows_reasons_and_passes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        str(folder / "suite.yaml"),
        "--plugins-dir",
        str(folder / "plugins"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert invoke(["plan", *arguments]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "perturbation 3 none, push(eps=0.00392157), push(eps=0.00784314)",
        "rows 5 5 cells",
        "to compute 2",
        "cached 0",
        "skipped 3",
        "2 x needs gradients, which a black box does not grant",
        "1 x not today",
        "networks 1 1 to train",
        "train net on dots, seed 0",
        "passes at most 20 forward and backward passes of single samples by attacks",
    ):
        assert line in lines
    assert lines[-1].startswith("never loaded: dots;")


def test_plan_tells_what_so_many_samples_can_tell(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--plugins-dir", str(folder / "plugins"), "--out", str(tmp_path / "out"), "--limit", "100"]
    assert invoke(["plan", str(folder / "suite.yaml"), *arguments]) == 0
    words = " ".join(capsys.readouterr().out.split())
    # Wilson: half widths of 50 and of 90 of 100; McNemar's p is 0.031 if 6 change one way, 0.06 if 5 do
    assert "100 samples (dots): an accuracy of 50 % is known to 9.6 points either way" in words
    assert "one of 90 % to 6 (95 %)" in words
    assert "told apart from 6 points on, at best" in words
    assert (
        "at best from about 8.8 with a power of 80 %, if they differ in 10 % of the samples (before" in words
    )
    for limit in ("1", "5"):
        assert invoke(["plan", str(folder / "suite.yaml"), *arguments[:-1], limit]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert "(dots): too few to tell any two rows apart; it takes 6" in words
        assert "points on" not in words


def test_plan_does_not_speak_of_the_accuracy_of_a_regressor() -> None:
    words = " ".join(_precision({"sky": 200, "stars": 200, "z": 200}, {"z"}))
    assert "200 samples (sky, stars): an accuracy of 50 %" in words
    # Wilson of 20 of 200: 6.56 to 14.94 %
    assert "200 samples (z): a share of outliers (eta) of 50 % is known to 6.9 points" in words
    assert "one of 10 % to 4.2 (95 %)" in words


def test_plan_as_json_and_only(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        str(folder / "suite.yaml"),
        "--plugins-dir",
        str(folder / "plugins"),
        "--out",
        str(tmp_path / "out"),
    ]
    chosen = ["--only", "knowledge=adaptive,perturbation=push(eps=0.003*", "--only", "perturbation=none"]
    assert invoke(["plan", "--json", *arguments, *chosen]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = [(row["perturbation"], row["status"], row["reason"], row["cell_id"]) for row in found["rows"]]
    assert rows == [("none", "skipped", "not today", None), ("push(eps=0.00392157)", "planned", "", None)]
    assert found["unknown_data"] == ["dots"]
    assert found["networks"] == [{"label": "net on dots, seed 0", "status": "train"}]


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu", "x"], "no such command 'rnu' (did you mean 'run'?)"),
        (["run"], "Missing argument 'SUITE'"),
        (["plan", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["list", "modles"], "there is no kind 'modles' (did you mean 'models'?)"),
        (
            ["info", "featherwait/push"],
            "there is no component 'featherwait/push' (did you mean 'featherweight/push'?)",
        ),
        (
            ["info", "featherweight/psh"],
            "there is no component 'featherweight/psh' (did you mean 'featherweight/push'?)",
        ),
        (["check", "psuh"], "there is no component 'psuh' (did you mean 'push'?)"),
        (["run", "SUITE", "--only", "model=nat"], "fits no model of this suite (did you mean 'net'?)"),
        (["run", "SUITE", "--only", "modle=net"], "there is no axis 'modle' (did you mean 'model'?)"),
        (["run", "SUITE", "--device", "tpu"], "'tpu' is none of auto, cpu, cuda, cuda:N"),
        (["run", "SUITE", "--engine", "core/dusk"], "unknown engine 'core/dusk'"),
        (["run", "SUITE", "--set", "sedes=[1]"], "unknown key 'sedes' (did you mean 'seeds'?)"),
        (["run", "SUITE", "--data", "/not/there"], "'/not/there' does not exist"),
        (["run", "SUITE", "--out", "/dev/null/x"], "--out /dev/null/x: the folder cannot be made"),
        (["run", "SUITE", "--cell-timeout", "0"], "0.0 is not in the range x>0"),
        (["run", "SUITE", "--limit", "0"], "0 is not in the range x>=1"),
    ],
)
def test_mistakes_are_told_in_a_line_and_exit_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    given = [str(folder / "suite.yaml") if word == "SUITE" else word for word in arguments]
    plugins = ["--plugins-dir", str(folder / "plugins")] if given[0] in COMMANDS else []
    assert invoke([*given, *plugins]) == 2
    output = capsys.readouterr()
    assert words in output.err
    assert "Traceback" not in output.err
    assert output.out == ""


def test_a_broken_plugin_is_told_in_a_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--plugins-dir", str(folder / "broken")]
    assert invoke(["info", "shaky/thing", *chosen]) == 2
    assert "no luck today" in capsys.readouterr().err
    suite = tmp_path / "shaky.yaml"
    suite.write_text(SUITE.replace("featherweight/net", "shaky/net"))
    assert invoke(["run", str(suite), *chosen, "--plugins-dir", str(folder / "plugins")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "suite.yaml" not in errors[0]
    assert "shaky.yaml:4:" in errors[0]
    assert "no luck today" in errors[0]


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def discover(folders: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Plugins, "discover", discover)
    with pytest.raises(ZeroDivisionError):
        invoke(["list"])


# --- --only, --engine, --check ------------------------------------------------------------------------------------


def test_only_keeps_commas_inside_parentheses() -> None:
    assert parse_only("model=net, perturbation=pgd(eps=0.1,steps=3)") == {
        "model": "net",
        "perturbation": "pgd(eps=0.1,steps=3)",
    }


@pytest.mark.parametrize("text", ["model", "model=", "=net", "model=a,model=b", "speed=1"])
def test_only_refuses(text: str) -> None:
    with pytest.raises(UserError, match="--only"):
        parse_only(text)


def test_several_workers_mean_processes() -> None:
    plugins = Plugins.discover()
    assert find_engine(plugins, None, 1) == "core/serial"
    assert find_engine(plugins, None, 2) == "core/process"
    assert find_engine(plugins, "process", 1) == "core/process"


def test_the_engines_cannot_be_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVBENCH_PLUGINS", "featherweight")
    assert Plugins.discover([folder / "plugins"]).namespaces == ["core", "featherweight"]
    monkeypatch.setenv("ADVBENCH_PLUGINS", "")
    monkeypatch.setenv("ADVBENCH_DISABLE_PLUGINS", "core")
    assert "core" in Plugins.discover().namespaces


@pytest.mark.parametrize(("status", "code"), [("passed", 0), ("skipped", 0), ("failed", 1)])
def test_check_shows_what_did_not_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: str, code: int
) -> None:
    results = [SimpleNamespace(name="first", status="passed", message="")]
    results += [SimpleNamespace(name="second", status=status, message="because")]
    kit = SimpleNamespace(run_checks=lambda plugins, entry, data_dirs: results)
    monkeypatch.setitem(sys.modules, "advbench.testing", kit)  # type: ignore[arg-type]
    assert invoke(["check", "featherweight/push", "--plugins-dir", str(folder / "plugins")]) == code
    lines = capsys.readouterr().out.splitlines()
    told = {"passed": "2 passed", "skipped": "1 passed, 1 skipped", "failed": "1 passed, 1 failed"}[status]
    assert lines[0] == f"featherweight/push (perturbation): {told}"
    assert [line.split() for line in lines[1:]] == (
        [] if status == "passed" else [[status, "second:", "because"]]
    )
