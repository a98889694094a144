"""Third-party plugins, sound and broken: each broken one is one clear line, and everything else works."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "example_plugin"

ATTACK = """\
from advbench.api import Attack, hookimpl

class Step(Attack):
    \"\"\"A step.\"\"\"

@hookimpl
def register_perturbations(register):
    register("step", Step)
"""

BROKEN = {
    "raises": "import numpy\n\nraise RuntimeError('no telescope found')\n",
    "quits": "import sys\n\nsys.exit(3)\n",
    "newer": "ADVBENCH_API = 99\n" + ATTACK,
    "misspelt": "from advbench.api import hookimpl\n\n@hookimpl\ndef register_attacks(register):\n    pass\n",
    "twice": ATTACK + "    register('step', Step)\n",
    "badname": ATTACK.replace('"step"', '"My Step"'),
}
"""Modules of plugins that cannot be used, by namespace."""

LINES = {
    "raises": "plugin 'raises' (advbench-raises 1.0) is broken: RuntimeError: no telescope found (raises_plugin.py:3)",
    "newer": "plugin 'newer' (advbench-newer 1.0) is broken: it asks for plugin API 99, this advbench has 1; "
    "upgrade advbench",
    "quits": "plugin 'quits' (advbench-quits 1.0) is broken: SystemExit: 3 (quits_plugin.py:3)",
    "misspelt": "unknown hook 'register_attacks'",
    "twice": "plugin 'twice' (advbench-twice 1.0) is broken: perturbation 'step' is registered twice",
    "badname": "plugin 'badname' (advbench-badname 1.0) is broken: 'My Step' is no component name",
}
"""What is said of each."""

SUITE = """\
version: 1
name: small
datasets: [{use: example/rings, params: {samples: 120}, limit: 12}]
models: [{use: example/tiny-net, params: {recipe: {epochs: 2}}}]
defenses: [none, example/smoothing]
perturbations: [none, {use: example/momentum, params: {eps: 0.2, steps: 3}}, corruptions/gaussian-noise]
"""


def install(site: Path, distribution: str, namespace: str, module: str, source: str | None = None) -> None:
    """A distribution as pip leaves it: metadata with an entry point, and a module unless it lies elsewhere."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[advbench]\n{namespace} = {module}\n")
    if source is not None:
        (site / f"{module}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for the Python path in which the example plugin is installed."""
    folder = tmp_path / "site"
    install(folder, "advbench-example", "example", "advbench_example")
    return folder


@pytest.fixture
def broken_site(site: Path) -> Path:
    for namespace, source in BROKEN.items():
        install(site, f"advbench-{namespace}", namespace, f"{namespace}_plugin", source)
    install(site, "advbench-first", "rival", "first_plugin", ATTACK)
    install(site, "advbench-second", "rival", "second_plugin", ATTACK)
    return site


def advbench(
    site: Path, *arguments: object, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(EXAMPLE)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", **variables}
    command = [sys.executable, "-m", "advbench", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=cwd
    )


def test_the_example_plugin_is_listed_beside_the_others(site: Path) -> None:
    done = advbench(site, "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "broken" not in done.stdout
    ids = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    expected = {"example/momentum", "example/rings", "example/tiny-net", "example/smoothing", "attacks/pgd"}
    assert expected <= ids


def test_every_broken_plugin_is_one_clear_line_and_the_others_work(broken_site: Path) -> None:
    done = advbench(broken_site, "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Traceback" not in done.stdout
    working, _, broken = done.stdout.partition("broken plugins\n")
    for name in ("attacks/fgsm", "example/momentum", "example/rings", "vision/digits"):
        assert f"  {name} " in working
    lines = broken.splitlines()
    assert len(lines) == len(BROKEN) + 1
    for namespace, words in LINES.items():
        assert sum(words in line for line in lines) == 1, (namespace, lines)
    rivals = [line for line in lines if "'rival'" in line]
    assert len(rivals) == 1
    assert "claimed by advbench-first 1.0 and advbench-second 1.0" in rivals[0]


@pytest.mark.torch
def test_a_suite_without_them_runs(broken_site: Path, tmp_path: Path) -> None:
    suite = tmp_path / "small.yaml"
    suite.write_text(SUITE)
    done = advbench(broken_site, "run", suite, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "leaderboard.csv").read_text().splitlines()))
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["perturbation_id"] for row in rows} == {
        "none",
        "example/momentum",
        "corruptions/gaussian-noise",
    }
    assert {json.loads(row["plugin_versions"])["example"] for row in rows} == {"advbench-example 1.0"}


@pytest.mark.torch
@pytest.mark.parametrize("namespace", ["raises", "newer", "rival"])
def test_a_suite_that_uses_one_says_so_in_one_line_with_its_place(
    broken_site: Path, tmp_path: Path, namespace: str
) -> None:
    suite = tmp_path / "small.yaml"
    suite.write_text(SUITE.replace("example/momentum", f"{namespace}/step"))
    done = advbench(broken_site, "run", suite, "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{suite}:6:" in line
    assert f"'{namespace}'" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.torch
def test_a_component_whose_module_fails_harms_only_itself(site: Path, tmp_path: Path) -> None:
    lazy = ATTACK.replace('"step", Step)', '"step", Step)\n    register("late", "late_module:Late")')
    install(site, "advbench-lazy", "lazy", "lazy_plugin", lazy)
    (site / "late_module.py").write_text('class Late:\n    """Late."""\n\nraise OSError("no licence")\n')
    done = advbench(site, "list", "perturbations")
    assert "lazy/step" in done.stdout
    assert "lazy/late" in done.stdout
    suite = tmp_path / "small.yaml"
    suite.write_text(SUITE.replace("example/momentum", "lazy/late"))
    done = advbench(site, "validate", suite)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "lazy/late (advbench-lazy 1.0) cannot be imported: OSError: no licence (late_module.py:4)" in line


def test_plugins_can_be_switched_off(broken_site: Path) -> None:
    names = ",".join([*BROKEN, "rival"])
    done = advbench(broken_site, "list", ADVBENCH_DISABLE_PLUGINS=names)
    assert "broken" not in done.stdout
    done = advbench(broken_site, "list", ADVBENCH_PLUGINS="example")
    ids = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {name.split("/")[0] for name in ids} == {"example", "core"}


def test_doctor_says_what_is_broken(broken_site: Path, tmp_path: Path) -> None:
    done = advbench(broken_site, "doctor", "--cache", tmp_path)
    assert done.returncode == 1
    assert LINES["newer"] in done.stdout


@pytest.mark.torch
def test_the_suite_of_the_example_plugin_is_valid(site: Path) -> None:
    done = advbench(site, "validate", EXAMPLE / "suite.yaml")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.torch
def test_the_example_plugin_passes_its_own_tests(site: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(site), str(EXAMPLE)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
