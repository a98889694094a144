"""What holds for every corruption: severities, borders of the data, samples by themselves."""

from __future__ import annotations

import functools
import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from tests.oracle.stand_in import classes, random_tensor, space_of

from advbench.components.loader import Plugins
from advbench.runtime.rng import SampleRng
from advbench.testing.stage import a_stage, craft_clean, global_state

DATA = Path(__file__).parents[3] / "shared" / "data"

CORRUPTIONS = {
    entry.name: entry.load()
    for entry in Plugins.discover().registry()
    if entry.kind == "perturbation" and entry.namespace == "corruptions"
}

IDENTITY = {
    "gaussian-noise": {"sigma": 0}, "speckle-noise": {"sigma": 0}, "impulse-noise": {"fraction": 0},
    "gaussian-blur": {"sigma": 0}, "defocus-blur": {"radius": 0}, "motion-blur": {"length": 0},
    "moffat-blur": {"fwhm": 0}, "quantisation": {"step": 0}, "pixelate": {"size": 1}, "resample": {"scale": 1},
    "rotation": {"angle": 0}, "translation": {"distance": 0}, "subpixel-shift": {"distance": 0},
    "elastic": {"amplitude": 0}, "brightness": {"offset": 0}, "contrast": {"factor": 1},
    "saturation": {"factor": 1}, "gamma": {"gamma": 1}, "bad-pixels": {"fraction": 0},
    "bad-columns": {"fraction": 0}, "occlusion": {"fraction": 0},
}  # fmt: skip
NO_IDENTITY = {"poisson-noise", "jpeg", "bit-depth"}


def corrupted(corruption, x, space, names=None):
    names = [f"sample{i}" for i in range(len(x))] if names is None else names
    return corruption.corrupt(x, space, SampleRng(0, "test", names, x.device))


def scene(count, channels, height, width):
    """Blobs on a noisy background, in [0.05, 0.95]."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    centre = random_tensor(count, channels, 2, 1, 1, seed=1, low=-0.3, high=0.3)
    distance = (row - centre[:, :, 0]).square() + 2 * (column - centre[:, :, 1]).square()
    texture = 0.1 * random_tensor(count, channels, height, width, seed=2)
    return 0.05 + 0.8 * torch.exp(-6 * distance) + texture


@functools.cache
def galaxies():
    files = sorted((DATA / "galaxy_gz1").rglob("*.jp*g"))[:160:20]
    if not files:
        pytest.skip("no galaxy_gz1 in ../shared/data")
    images = [
        np.asarray(Image.open(file).convert("RGB").crop((147, 147, 275, 275)).resize((64, 64)))
        for file in files
    ]
    return torch.tensor(np.stack(images)).permute(0, 3, 1, 2).contiguous() / 255


@functools.cache
def digits():
    files = sorted((DATA / "mnist").glob("t10k-images*.gz"))
    if not files:
        pytest.skip("no mnist in ../shared/data")
    raw = np.frombuffer(gzip.decompress(files[0].read_bytes()), dtype=np.uint8, offset=16)
    return torch.tensor(raw.reshape(-1, 1, 28, 28)[:16].copy()) / 255


IMAGES = {"synthetic": lambda: scene(8, 3, 48, 48), "galaxies": galaxies, "digits": digits}


def psnr(x, found):
    """Mean over the samples, in dB of the unit range."""
    return float(-10 * torch.log10((x - found).square().mean((1, 2, 3))).mean())


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_leaves_less_of_the_image(name, images):
    x = IMAGES[images]()
    space = space_of(tuple(x.shape[1:]))
    levels = [CORRUPTIONS[name](severity=level) for level in range(1, 6)]
    if name == "saturation" and x.shape[1] == 1:
        assert levels[0].supports(space, classes(2)) == "one channel has no saturation"
        return
    fidelity = [psnr(x, corrupted(level, x, space).clamp(0, 1)) for level in levels]
    assert all(mild > severe for mild, severe in itertools.pairwise(fidelity))
    assert fidelity[0] > fidelity[4] + 3


@pytest.mark.parametrize("side", [28, 29, 33, 48])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_differ_on_small_images(name, side):
    """Rounded to whole pixels, columns or levels they are still five."""
    x, space = scene(4, 3, side, side), space_of((3, side, side))
    found = [corrupted(CORRUPTIONS[name](severity=level), x, space).clamp(0, 1) for level in range(1, 6)]
    for mild, severe in itertools.pairwise(found):
        assert (mild != severe).flatten(1).any(1).all()  # in every sample


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_severity_is_short_for_physical_parameters(name):
    cls = CORRUPTIONS[name]
    strength = cls.tags.strength
    for level in range(1, 6):
        meant = {parameter: values[level - 1] for parameter, values in cls.severities.items()}
        graded, plain = cls(severity=level), cls(**meant)
        assert graded.strength() == plain.strength()
        assert graded.model_dump(exclude={"severity"}) == plain.model_dump(exclude={"severity"})
        assert cls(**graded.model_dump(mode="json")) == graded
    with pytest.raises(ValidationError, match=f"severity 5 stands for .*{strength}.*not both"):
        cls(severity=5, **{strength: cls.severities[strength][0]})
    for wrong in (0, 6, True, "3", 2.0, 1.5):
        with pytest.raises(ValidationError, match="severity"):
            cls(severity=wrong)
    assert strength in cls.model_fields["severity"].description


def test_every_corruption_has_an_identity_or_says_why_not():
    assert set(IDENTITY) | NO_IDENTITY == set(CORRUPTIONS)  # photons, quality and bits have no end


@pytest.mark.parametrize("name", IDENTITY)
def test_strength_zero_changes_nothing(name):
    x = scene(3, 3, 17, 20) * 54 - 4
    found = corrupted(CORRUPTIONS[name](**IDENTITY[name]), x, space_of((3, 17, 20), -4.0, 50.0))
    assert torch.equal(found, x)
    assert found.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("shape", [(1, 65, 6), (3, 16, 16), (5, 24, 11), (1, 28, 28)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_sample_is_by_itself_bit_by_bit(name, shape):
    space = space_of(shape, -4.0, 50.0)
    for corruption in (CORRUPTIONS[name](), CORRUPTIONS[name](severity=4)):
        if corruption.supports(space, classes(2)) is not None:
            continue
        x = scene(64, *shape) * 54 - 4
        whole = corrupted(corruption, x, space)
        order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
        for rows in (order, order[:7], order[20:27], order[:1], order[40:41]):
            some = corrupted(corruption, x[rows], space, [f"sample{row}" for row in rows])
            assert torch.equal(some, whole[rows]), len(rows)


NO_HALF = {"defocus-blur", "moffat-blur", "motion-blur"}
"""torch has no Fourier transform of float16 on a CPU, and says so."""


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_other_precisions_keep_their_dtype_and_the_values(name):
    x, space, corruption = scene(3, 3, 20, 20), space_of((3, 20, 20)), CORRUPTIONS[name](severity=3)
    expected = corrupted(corruption, x, space)
    for dtype, error in ((torch.float64, 1e-4), (torch.float16, 1e-2)):
        if dtype == torch.float16 and name in NO_HALF:
            with pytest.raises(RuntimeError, match="Half"):
                corrupted(corruption, x.to(dtype), space)
            continue
        found = corrupted(corruption, x.to(dtype), space)
        assert found.dtype == dtype
        # Rounding can move a value to the next level, or a photon more or less.
        assert ((found - expected).abs() <= error).double().mean() > 0.99


@settings(max_examples=4, deadline=None, database=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_bounds_and_bands(name, data):
    """Finite, in bounds once clipped, and the same change in units of any range."""
    channels = data.draw(st.sampled_from([2, 3, 5]))
    lower = data.draw(st.lists(st.floats(-4, 40, width=32), min_size=channels, max_size=channels))
    width = data.draw(st.lists(st.floats(0.125, 10, width=32), min_size=channels, max_size=channels))
    shape = (channels, 16, 12)
    upper = [low + size for low, size in zip(lower, width)]
    space, unit = space_of(shape, lower, upper), space_of(shape)
    low, high = space.bounds_like(torch.zeros(1, *shape))
    stage = a_stage(space, classes(3), x=low + scene(4, *shape) * (high - low))
    corruption = CORRUPTIONS[name](severity=data.draw(st.integers(1, 5)))
    before, state = stage.samples.x.clone(), global_state()
    found = craft_clean(stage, corruption, name).x
    assert torch.equal(stage.samples.x, before)
    assert global_state() == state
    assert ((found >= low) & (found <= high)).all()
    rng = stage.samples.rng(0, name)
    here = corruption.corrupt(before, space, rng)
    there = corruption.corrupt((before - low) / (high - low), unit, stage.samples.rng(0, name))
    difference = ((here - low) / (high - low) - there).abs()
    # Rounding can move a value to the next level, or a photon more or less.
    assert (difference <= 2e-4).float().mean() > 0.97
