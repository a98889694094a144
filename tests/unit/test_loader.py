"""Plugins are loaded each for itself: a broken one is named and harms no other."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from advbench.api import Corruption, Defense, Register, RunStarted, UserError, hookimpl
from advbench.components.loader import Plugins, Source
from advbench.components.registry import Entry, Registry
from advbench.errors import PluginError, PluginLoadError

GOOD = """
from advbench.api import Corruption, hookimpl

class Blur(Corruption):
    '''Blurs.'''

@hookimpl
def register_perturbations(register):
    register("blur", Blur)
"""


class Blur(Corruption):
    """Blurs the input, Somebody et al. 1999.

    More words.
    """


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ADVBENCH_")]:
        monkeypatch.delenv(name)


def folder(root: Path, **files: str) -> Path:
    """A plugins folder; modules get names that no other test uses."""
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        (root / f"{name}.py").write_text(text)
    return root


def of(namespace: str, hook: Callable[[Register], None] | None = None, **attributes: Any) -> Source:
    """A plugin made of one function that registers perturbations."""
    module = ModuleType(namespace)
    if hook is not None:
        hook.__name__ = "register_perturbations"
        module.register_perturbations = hookimpl(hook)  # type: ignore[attr-defined]
    for name, value in attributes.items():
        setattr(module, name, value)
    return Source(namespace, f"{namespace}-dist 1.0", lambda: module)


def registering(*names: str) -> Callable[[Register], None]:
    def hook(register: Register) -> None:
        for name in names:
            register(name, Blur)

    return hook


def installed(root: Path, distribution: str, *points: str) -> None:
    """The metadata of an installed distribution."""
    info = root / f"{distribution}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("\n".join(["[advbench]", *points, ""]))


def error_of(plugins: Plugins, namespace: str) -> str:
    return plugins.plugin(namespace).error


def test_a_folder_of_plugins(tmp_path: Path) -> None:
    plugins = Plugins.discover([folder(tmp_path / "p", good_one=GOOD, _private="raise SystemError")])
    assert "good-one" in plugins.namespaces
    assert not any("private" in name for name in plugins.namespaces)
    entry = plugins.find("perturbation", "good-one/blur")
    assert entry.load().__name__ == "Blur"
    assert entry.summary() == "Blurs."
    with pytest.raises(UserError, match="there is no such folder"):
        Plugins.discover([tmp_path / "absent"])


def test_a_package_with_modules_of_its_own(tmp_path: Path) -> None:
    package = tmp_path / "p" / "packed_one"
    package.mkdir(parents=True)
    lazy = GOOD.split("@")[0]
    (package / "__init__.py").write_text(
        "from advbench.api import hookimpl\n\n@hookimpl\ndef register_perturbations(register):\n"
        "    register('blur', 'packed_one.blurring:Blur')\n    register('gone', 'packed_one.blurring:Gone')\n"
    )
    (package / "blurring.py").write_text(lazy)
    plugins = Plugins.discover([tmp_path / "p"])
    entry = plugins.find("perturbation", "packed-one/blur")
    assert entry.summary() == "Blurs."
    assert entry.load().__module__ == "packed_one.blurring"
    with pytest.raises(PluginLoadError, match=r"packed-one/gone .*no attribute 'Gone'"):
        plugins.find("perturbation", "packed-one/gone").load()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_library_here", "ModuleNotFoundError: No module named 'no_such_library_here'"),
        ("x = 1\nraise ValueError('two\\nlines')", r"ValueError: two \(broken_{}.py:2\)"),
        ("def f(:\n", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (GOOD.replace("perturbations(", "pertubations("), "unknown hook 'register_pertubations'"),
        (GOOD.replace("(register)", "(register, extra)"), "extra"),
        (GOOD + "\nADVBENCH_API = 99\n", "it asks for plugin API 99, this advbench has 1; upgrade advbench"),
        (GOOD + "\nADVBENCH_API = 'new'\n", "TypeError"),
        (GOOD + "    register('blur', Blur)\n", "perturbation 'blur' is registered twice"),
        (GOOD.replace('"blur"', '"Blur It"'), "'Blur It' is no component name"),
        (GOOD.replace('"blur"', '"a/blur"'), "'a/blur' is no component name"),
        (GOOD.replace("Blur)\n", "'mypkg.blur.Blur')\n"), "is not of the form 'package.module:Class'"),
    ],
)
def test_a_broken_plugin_is_named_and_harms_no_other(
    tmp_path: Path, request: pytest.FixtureRequest, text: str, words: str
) -> None:
    stem = f"broken_{request.node.callspec.indices['text']}"
    plugins = Plugins.discover([folder(tmp_path / "p", **{stem: text, f"{stem}_not": GOOD})])
    namespace = stem.replace("_", "-")
    with pytest.raises(PluginLoadError, match=words.format(stem.split("_")[1])) as caught:
        plugins.find("perturbation", f"{namespace}/blur")
    assert "\n" not in str(caught.value)
    assert f"plugin {namespace!r} ({tmp_path / 'p' / stem}.py) is broken" in str(caught.value)
    assert plugins.find("perturbation", f"{namespace}-not/blur").load()
    assert [plugin.namespace for plugin in plugins.all() if plugin.error] == [namespace]
    with pytest.raises(UserError, match=rf"broken plugins: {namespace}; see `advbench doctor`"):
        plugins.find("perturbation", "nowhere")


def test_two_distributions_of_one_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = folder(tmp_path / "site", plugin_of_two=GOOD)
    installed(site, "first-plugin", "shared = plugin_of_two", "alone = plugin_of_two")
    installed(site, "second.plugin", "shared = plugin_of_two")
    monkeypatch.syspath_prepend(site)
    plugins = Plugins.discover()
    assert {"shared", "alone", "core"} <= set(plugins.namespaces)
    message = error_of(plugins, "shared")
    assert "'shared' is claimed by first-plugin 1.2 and second.plugin 1.2" in message
    assert "uninstall one, or set ADVBENCH_DISABLE_PLUGINS=shared" in message
    with pytest.raises(PluginLoadError, match="claimed by"):
        plugins.find("perturbation", "shared/blur")
    assert plugins.find("perturbation", "alone/blur").distribution == "first-plugin 1.2"
    monkeypatch.setenv("ADVBENCH_DISABLE_PLUGINS", "shared")
    assert "shared" not in Plugins.discover().namespaces


def test_the_same_distribution_seen_twice_is_no_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, spelling in (("old", "my_plugin"), ("new", "My-Plugin")):
        site = folder(tmp_path / name, plugin_seen_twice=GOOD)
        installed(site, spelling, "twice = plugin_seen_twice")
        monkeypatch.syspath_prepend(site)
    assert error_of(Plugins.discover(), "twice") == ""


def test_the_environment_selects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = folder(tmp_path / "a", chosen_one=GOOD), folder(tmp_path / "b", chosen_two=GOOD)
    monkeypatch.setenv("ADVBENCH_PLUGINS_DIR", f"{one}{os.pathsep}{two}")
    assert {"chosen-one", "chosen-two", "attacks"} <= set(Plugins.discover().namespaces)
    assert "chosen-one" in Plugins.discover([]).namespaces
    monkeypatch.setenv("ADVBENCH_DISABLE_PLUGINS", "chosen-one, attacks")
    assert not {"chosen-one", "attacks"} & set(Plugins.discover().namespaces)
    monkeypatch.setenv("ADVBENCH_PLUGINS", " chosen-two,chosen-one ")
    # The engines of the core are not a matter of choice: without them nothing runs.
    assert Plugins.discover().namespaces == ["chosen-two", "core"]


def test_short_names() -> None:
    plugins = Plugins([of("one", registering("blur", "noise")), of("two", registering("noise", "rain"))])
    assert plugins.find("perturbation", "blur").id == "one/blur"
    assert plugins.find("perturbation", "two/noise").id == "two/noise"
    with pytest.raises(UserError, match="perturbation 'noise' is ambiguous: one/noise, two/noise"):
        plugins.find("perturbation", "noise")


@pytest.mark.parametrize(
    ("kind", "reference", "words"),
    [
        ("perturbation", "blurr", r"unknown perturbation 'blurr' \(did you mean 'blur'\?\)"),
        ("perturbation", "one/blurr", r"unknown perturbation 'one/blurr' \(did you mean 'one/blur'\?\)"),
        ("perturbation", "on/blur", r"did you mean 'one/blur'\?"),
        ("model", "blur", r"unknown model 'blur' \('blur' is a perturbation\)"),
        ("perturbation", "xyzzy", r"unknown perturbation 'xyzzy'; `advbench list perturbations` shows"),
    ],
)
def test_what_is_not_there_is_an_error_with_a_hint(kind: str, reference: str, words: str) -> None:
    plugins = Plugins([of("one", registering("blur")), of("two", registering("rain"))])
    with pytest.raises(UserError, match=words):
        plugins.find(kind, reference)


def test_a_full_id_loads_only_its_own_plugin() -> None:
    def explode() -> ModuleType:
        raise AssertionError("loaded without need")

    plugins = Plugins([of("one", registering("blur")), Source("zwei", "zwei 1", explode)])
    assert plugins.find("perturbation", "one/blur").id == "one/blur"
    assert list(plugins._loaded) == ["one"]


@pytest.mark.parametrize("target", [Defense, int, "pathlib:Path", "math:pi"])
def test_a_component_must_be_a_class_of_its_kind(target: Any) -> None:
    entry = Entry("perturbation", "one/blur", target, "one 1")
    with pytest.raises(PluginLoadError, match=r"one/blur \(one 1\): .* is not a perturbation class"):
        entry.load()


@pytest.mark.parametrize("target", ["no_such_module_here:Blur", "math:Blur"])
def test_a_component_that_cannot_be_imported_is_named(target: str) -> None:
    with pytest.raises(PluginLoadError, match=r"one/blur \(one 1\) cannot be imported: .*Error"):
        Entry("perturbation", "one/blur", target, "one 1").load()
    assert Entry("perturbation", "one/blur", target, "one 1").summary() == ""


def test_the_registry_is_sorted() -> None:
    entries = [Entry(kind, f"{space}/x", Blur, "d") for kind in ("model", "defense") for space in ("b", "a")]
    assert [(entry.kind, entry.id) for entry in Registry(entries)] == [
        ("defense", "a/x"), ("defense", "b/x"), ("model", "a/x"), ("model", "b/x"),
    ]  # fmt: skip
    assert entries[0].summary() == "Blurs the input, Somebody et al. 1999."
    assert (entries[0].namespace, entries[0].name) == ("b", "x")


def test_names_are_checked_when_they_are_registered() -> None:
    register = Register("perturbation", "one", "one 1")
    for name in ("", "A", "a b", "a/b", "-a", "a_b", 3):
        with pytest.raises(PluginError, match="is no component name"):
            register(name, Blur)  # type: ignore[arg-type]
    register("3d-blur", "some.module:Blur")
    assert [entry.id for entry in register.entries] == ["one/3d-blur"]


def test_an_observer_that_raises_is_reported_and_stops_nobody() -> None:
    seen: list[RunStarted] = []

    @hookimpl
    def run_started(event: RunStarted) -> None:
        seen.append(event)
        if len(seen) == 1:
            raise KeyError("first")

    plugins = Plugins([of(name, run_started=run_started) for name in ("one", "two", "unused")])
    plugins.plugin("one"), plugins.plugin("two")
    complaints = plugins.notify("run_started", RunStarted("suite", "out", 3))
    assert len(complaints) == 1
    assert complaints[0].startswith("plugin one: run_started: KeyError: 'first'")
    assert seen == [RunStarted("suite", "out", 3)] * 2
    assert plugins.notify("run_finished", None) == []
