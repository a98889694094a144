"""Fractions of splits."""

from __future__ import annotations

from collections.abc import Mapping


def with_train(held_out: Mapping[str, float]) -> dict[str, float]:
    """Fractions of all splits: ``train``, which takes what is left, and those held out.

    Raises
    ------
    ValueError
        If nothing is left.
    """
    train = 1 - sum(held_out.values())
    if train <= 0:
        raise ValueError(f"{' + '.join(held_out)} must be below 1: the rest is for training")
    return {"train": train, **held_out}
