"""The contract kit: small named checks for components of every kind.

For a whole plugin, in its own tests::

    import pytest
    from advbench.testing import parametrize_checks

    @pytest.mark.parametrize("check", parametrize_checks(["example"]))
    def test_contract(check):
        check()

or one component, as a list of results::

    run_checks(Plugins.discover(), plugins.find("perturbation", "attacks/pgd"))
"""

from __future__ import annotations

from typing import Any

from advbench.testing.check import BoundCheck, Broken, Check, CheckResult, Skip
from advbench.testing.selection import checks_for, run_checks

__all__ = [
    "BoundCheck",
    "Broken",
    "Check",
    "CheckResult",
    "Skip",
    "checks_for",
    "parametrize_checks",
    "run_checks",
]


def __getattr__(name: str) -> Any:
    if name == "parametrize_checks":  # it alone needs pytest
        from advbench.testing.parametrize import parametrize_checks

        return parametrize_checks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
