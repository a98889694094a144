"""State dicts from files: safetensors, or what ``torch.save`` wrote, loaded without running code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from advbench.api import UserError

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
PARALLEL = "module."
COUNTER = "num_batches_tracked"
SHOWN = 4  # keys named in a message


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU; it may be nested under one of `NESTED`.

    Raises
    ------
    UserError
        If the file cannot be read safely or holds no state dict.
    """
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error})") from None
    if path.suffix not in TORCH_SUFFIXES:
        raise UserError(f"{path}: weights are .safetensors or one of {', '.join(TORCH_SUFFIXES)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises almost anything on a damaged file
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: is damaged, or cannot be loaded without running code from it ({first}); "
            "write it again with torch.save(model.state_dict(), path)"
        ) from None
    return _state_in(content, path)


def fit_names(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], prefix: str, path: Path
) -> dict[str, Tensor]:
    """``state`` with the names of ``expected``: ``prefix`` taken off, and ``module.`` where all have it.

    With a prefix, entries without it (a loss, another head) are left out.

    Raises
    ------
    UserError
        If names are missing or unexpected, or a shape differs; the first few are named.
    """
    renamed = _without(state, prefix) if prefix else dict(state)
    if not renamed:
        raise UserError(
            f"{path}: no weight starts with the prefix {prefix!r}; there are {_some(sorted(state))}"
        )
    wrapped = all(name.startswith(PARALLEL) for name in renamed)
    if wrapped and not all(name.startswith(PARALLEL) for name in expected):
        renamed = _without(renamed, PARALLEL)
    for name in expected:
        if name.endswith(COUNTER):  # written by torch only since 0.4.1, and used by no network in eval mode
            renamed.setdefault(name, expected[name])
    missing = [name for name in expected if name not in renamed]
    unexpected = [name for name in renamed if name not in expected]
    if missing or unexpected:
        lacks = f"; missing: {_some(missing)}" if missing else ""
        has = f"; unexpected: {_some(unexpected)}" if unexpected else ""
        raise UserError(f"{path}: the weights do not fit the network{lacks}{has}")
    for name, value in renamed.items():
        if value.shape != expected[name].shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(value.shape)}, the network needs {tuple(expected[name].shape)}"
            )
    return renamed


def _state_in(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    if _is_state(content):
        return dict(content)
    for name in NESTED:
        if _is_state(content.get(name)):
            return dict(content[name])
    raise UserError(
        f"{path}: no state dict in it, nor under {', '.join(NESTED)}; there are {_some(list(content))}"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(entry, Tensor) for entry in value.values())
    )


def _without(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _some(names: Sequence[Any]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more
