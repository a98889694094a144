"""Factories that a suite names by import path, such as ``"mypkg.nets:build"``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advbench.api import UserError

PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
INSTALLED = frozenset({"site-packages", "dist-packages"})


def call(factory: str, kwargs: Mapping[str, Any]) -> Any:
    """What the factory returns. The current folder can be imported from, as with ``python -m``.

    Raises
    ------
    UserError
        If it cannot be imported, cannot be called, or does not take these arguments. What it raises itself
        is passed on.
    """
    with _current_folder_importable():
        function = _import(factory)
        try:
            inspect.signature(function).bind(**kwargs)
        except TypeError as error:
            raise UserError(f"factory {factory!r} cannot be called with {_shown(kwargs)}: {error}") from None
        except ValueError:  # a builtin without a signature
            pass
        return function(**kwargs)


def sources(factory: str) -> list[Path]:
    """Python files of the factory's module, or of its whole package; none once it is installed.

    Nothing is imported.
    """
    top = factory.partition(":")[0].split(".")[0]
    with _current_folder_importable():
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        files = [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []
    else:
        files = sorted(
            path for folder in spec.submodule_search_locations for path in Path(folder).rglob("*.py")
        )
    return [path for path in files if not INSTALLED & set(path.resolve().parts)]


def _import(factory: str) -> Callable[..., Any]:
    module_name, _, attributes = factory.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserError(f"factory {factory!r} cannot be imported: {type(error).__name__}: {error}") from error
    for name in attributes.split("."):
        if not hasattr(found, name):
            raise UserError(f"factory {factory!r}: {found.__name__} has no {name!r}")
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"factory {factory!r} is a {type(found).__name__}, not a class or a function")
    return found  # type: ignore[no-any-return]


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    here = os.getcwd()
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _shown(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items()) or "no arguments"
