"""A library on the other side of a bridge: whether it is installed, its classes and their parameters."""

from __future__ import annotations

import difflib
import importlib
import inspect
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Library:
    """Where the classes of a library are, and how it is installed.

    Parameters
    ----------
    module
        Module with the classes, ``art.attacks.evasion`` say.
    distribution
        Name of its distribution.
    install
        Command that installs it.
    base
        The class that the others are subclasses of, as ``module:Class``.
    hidden
        Parameters that the bridge itself gives.
    without
        Classes that are not offered.
    """

    module: str
    distribution: str
    install: str
    base: str
    hidden: Collection[str] = ()
    without: Collection[str] = ()

    @property
    def name(self) -> str:
        """Name that users know it by."""
        return self.module.split(".")[0]

    def absence(self) -> str | None:
        """Why it cannot be used, with the command that helps, or None."""
        try:
            metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return f"{self.name} is not installed: {self.install}"
        return None

    def files(self) -> Sequence[Path]:
        """The file that names its version: another version may give other numbers."""
        found = [path for path in metadata.files(self.distribution) or () if path.name == "METADATA"]
        return [Path(str(path.locate())) for path in found]

    def load(self, module: str = "") -> ModuleType:
        """The module with the classes, or another one of the library."""
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # what an old library does on import is between it and its authors
            return importlib.import_module(module or self.module)

    def find(self, name: str, what: str) -> type:
        """The class of this name.

        Raises
        ------
        ValueError
            If there is none; ``what`` is the parameter that asked for it.
        """
        known = self._classes()
        if name not in known:
            raise ValueError(
                f"{what}: {self.name} has no {name!r}{_suggestion(name, known)}; it has {', '.join(sorted(known))}"
            )
        return known[name]

    def _classes(self) -> Mapping[str, type]:
        room, _, base_name = self.base.partition(":")
        base = getattr(self.load(room), base_name)
        return {
            name: value
            for name, value in vars(self.load()).items()
            if inspect.isclass(value)
            and issubclass(value, base)
            and value is not base
            and not inspect.isabstract(value)
            and name not in self.without
        }

    def parameters(self, cls: type) -> list[str]:
        """Names that the constructor takes from the user."""
        return [name for name in inspect.signature(cls).parameters if name not in self.hidden]

    def check(self, cls: type, params: Mapping[str, Any]) -> None:
        """Raise ValueError if the constructor does not know one of these parameters, or needs another."""
        known = self.parameters(cls)
        for name in params:
            if name not in known:
                raise ValueError(
                    f"params: {self.name}'s {cls.__name__} has no parameter {name!r}{_suggestion(name, known)};"
                    f" it has {', '.join(known) or 'none'}"
                )
        signature = inspect.signature(cls).parameters
        missing = [name for name in known if signature[name].default is inspect.Parameter.empty]
        for name in missing:
            if name not in params and signature[name].kind is not inspect.Parameter.VAR_KEYWORD:
                raise ValueError(f"params: {self.name}'s {cls.__name__} needs {name!r}")


def _suggestion(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
