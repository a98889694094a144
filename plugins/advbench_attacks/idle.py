"""Parameters that have no effect beside others are an error: whoever gives one expects something of it."""

from __future__ import annotations

from advbench.api import Attack


def refuse_idle(attack: Attack, why: str, *names: str, off: object = None) -> None:
    """Refuse every one of ``names`` that differs from its default (and from ``off``, which asks for nothing).

    Defaults pass whoever gave them: a record holds all parameters, and an attack is made from it again.

    Raises
    ------
    ValueError
        It names the parameters and says ``why`` they have no effect.
    """
    fields = type(attack).model_fields
    idle = [name for name in names if getattr(attack, name) not in (fields[name].default, off)]
    if idle:
        raise ValueError(f"{', '.join(idle)}: no effect {why}")
