"""Every component of this plugin keeps the contract of advbench."""

import pytest

from advbench.testing import BoundCheck, parametrize_checks


@pytest.mark.parametrize("check", parametrize_checks(["example"]))
def test_contract(check: BoundCheck) -> None:
    check()
