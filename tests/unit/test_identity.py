"""Who a component is: parameters, version and source; canonical JSON and its hash."""

import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from advbench.api import Budget, Corruption, Recipe, Register, UserError, hookimpl, param
from advbench.components import identity
from advbench.components.identity import Spec, canonical, digest, instantiate, source_hash, specify
from advbench.components.loader import Plugins, Source


class Blur(Corruption):
    """Blurs."""

    sigma: float = param(1.0, "width")
    eps: Budget = param("8/255", "budget")
    names: tuple[str, ...] = param((), "names")
    recipe: Recipe = param(Recipe(), "nested")


@pytest.fixture
def plugins() -> Plugins:
    module = ModuleType("mine")

    @hookimpl
    def register_perturbations(register: Register) -> None:
        register("blur", Blur)

    module.register_perturbations = register_perturbations  # type: ignore[attr-defined]
    return Plugins([Source("mine", "mine 1", lambda: module)])


def test_canonical_json() -> None:
    assert canonical({"b": [1, 2.0], "a": "é"}) == '{"a":"é","b":[1,2.0]}'
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical([math.nan])


def test_digest_is_sha256_of_it() -> None:
    # printf '[]' | sha256sum
    assert digest([], 64) == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    assert digest([]) == digest([], 64)[:16]


def test_effective_parameters_name_a_component(plugins: Plugins) -> None:
    plain = specify(plugins, "perturbation", "mine/blur", {})
    assert plain == specify(plugins, "perturbation", "blur", {"sigma": 1, "eps": 8 / 255, "names": []})
    assert plain.id == "mine/blur"
    assert plain.parameters["eps"] == 8 / 255
    assert plain != specify(plugins, "perturbation", "blur", {"sigma": 1.5})


def test_a_spec_survives_json_and_makes_the_component(plugins: Plugins) -> None:
    given = {"sigma": 2, "eps": ["1/255", 0.5], "names": ["a"], "recipe": {"epochs": 3}}
    spec = specify(plugins, "perturbation", "mine/blur", given)
    assert Spec.from_json(spec.json()) == spec
    assert hash(Spec.from_json(spec.json())) == hash(spec)
    made = instantiate(plugins, spec)
    assert isinstance(made, Blur)
    assert made == Blur(sigma=2.0, eps=Budget((1 / 255, 0.5)), names=("a",), recipe=Recipe(epochs=3))
    assert specify(plugins, "perturbation", "mine/blur", spec.parameters) == spec


def test_wrong_parameters_are_named(plugins: Plugins) -> None:
    with pytest.raises(ValidationError, match="sigm"):
        specify(plugins, "perturbation", "mine/blur", {"sigm": 1})
    with pytest.raises(UserError, match=r"mine/blur: recipe\.epochs: .*greater than or equal to 0"):
        instantiate(plugins, Spec("perturbation", "mine/blur", '{"recipe":{"epochs":-1}}', 1))


PARTS = {
    "__init__": "",
    "main": "import os\nfrom {name}.middle import helper\nfrom .beside import other\n\nclass Thing:\n    pass\n",
    "middle": "from {name} import deep\nhelper = 1\n",
    "deep": "value = 1\n",
    "beside": "from . import under\nother = 2\n",
    "under": "value = 2\n",
    "stranger": "value = 3\n",
}


def package(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> type:
    folder = root / name
    folder.mkdir()
    for part, text in PARTS.items():
        (folder / f"{part}.py").write_text(text.format(name=name))
    monkeypatch.syspath_prepend(root)
    __import__(f"{name}.main")
    found: type = sys.modules[f"{name}.main"].Thing
    return found


@pytest.mark.parametrize(
    ("part", "matters"),
    [
        ("main", True),
        ("middle", True),
        ("deep", True),
        ("beside", True),
        ("under", True),
        ("stranger", False),
    ],
)
def test_the_source_of_a_class_and_of_what_it_imports_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, matters: bool
) -> None:
    name = f"sources_of_{part}"
    cls = package(tmp_path, name, monkeypatch)
    before = source_hash(cls)
    assert before
    path = tmp_path / name / f"{part}.py"
    path.write_text(path.read_text() + "# changed\n")
    identity._closure.cache_clear()
    assert (source_hash(cls) != before) == matters


def test_an_installed_class_is_named_by_its_version_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    assert source_hash(package(site, "installed_source", monkeypatch)) == ""


def test_the_source_does_not_depend_on_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        with monkeypatch.context() as patch:
            hashes.add(source_hash(package(tmp_path / place, "moving_source", patch)))
        for name in [name for name in sys.modules if name.startswith("moving_source")]:
            del sys.modules[name]
        identity._closure.cache_clear()
    assert len(hashes) == 1
