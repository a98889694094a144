"""Arrays out of an npz, one by one."""

import io
from typing import Any

import numpy as np
import pytest

from advbench.evidence.arrays import Arrays, WorstArrays
from advbench.evidence.figures import worst_of

ARRAYS: dict[str, Any] = {
    "number": np.array(3.5),
    "ids": np.array(["a", "bcd", "ä"]),
    "bools": np.array([True, False, True]),
    "none": np.zeros((3, 0), np.float32),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "ints": np.arange(1000).reshape(10, 100),
}


def packed(save: Any, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_array_comes_back_as_numpy_reads_it(save: Any) -> None:
    data = packed(save, **ARRAYS)
    found = Arrays(data)
    with np.load(io.BytesIO(data)) as expected:
        assert list(found) == expected.files
        assert len(found) == len(ARRAYS)
        for name in expected.files:
            ours, theirs = found[name], expected[name]
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_array_equal(ours, theirs)
    assert found["ids"] is found["ids"]
    assert "other" not in found
    with pytest.raises(KeyError):
        found["other"]


def test_what_is_no_npz_or_damaged_is_refused() -> None:
    data = packed(np.savez_compressed, **ARRAYS)
    for broken in (b"", b"x" * 100, data[:-1], data[: len(data) // 2]):
        with pytest.raises(ValueError, match=r"."):
            Arrays(broken)
    place = data.index(b"ints.npy") + 60
    changed = Arrays(data[:place] + bytes(40) + data[place + 40 :])
    with pytest.raises(ValueError, match=r"."):
        changed["ints"]


def test_objects_are_never_unpickled() -> None:
    found = Arrays(packed(np.savez_compressed, bad=np.array([{}], dtype=object)))
    with pytest.raises(ValueError, match="objects"):
        found["bad"]


def test_a_worst_case_is_that_of_all_arrays_at_once() -> None:
    rng = np.random.default_rng(0)
    members = [
        {
            "perturbed_correct": rng.random(50) < 0.5,
            "perturbed_margin": rng.normal(size=50),
            "violation": rng.random(50) < 0.2,
            "forward_passes": rng.integers(9, size=50),
            "backward_passes": rng.integers(9, size=50),
            "l2": rng.random((50, 1)),
            f"only-{index}": np.zeros(50),
        }
        for index in range(3)
    ]
    found, expected = WorstArrays(members), worst_of(members)
    assert set(found) == set(expected)
    assert len(found) == len(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    with pytest.raises(KeyError):
        found["only-1"]
