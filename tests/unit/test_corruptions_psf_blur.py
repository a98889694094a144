from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve as scipy_convolve
from tests.oracle.stand_in import KeyedRng, classes, random_tensor, space_of

from advbench_corruptions.kernels import convolve
from advbench_corruptions.psf_blur import (
    DefocusBlur,
    MoffatBlur,
    MotionBlur,
    disk_kernel,
    moffat_kernel,
    trail_kernels,
)

SHAPE = (2, 30, 23)
SPACE = space_of(SHAPE, -4.0, 50.0)
KERNELS = {
    "disk": disk_kernel(3.3),
    "moffat": moffat_kernel(2.0, 2.5),
    "trail": trail_kernels(7.5, torch.tensor([0.6]))[0, 0],
    "lopsided": random_tensor(9, 9, seed=5).double(),
    "wider than the image": random_tensor(61, 61, seed=6).double(),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_convolution_equals_scipy_borders_included(name):
    kernel = KERNELS[name] / KERNELS[name].sum()
    x = random_tensor(3, *SHAPE, low=-1)
    expected = np.stack(
        [[scipy_convolve(plane, kernel.numpy()) for plane in image] for image in x.double().numpy()]
    )
    assert (convolve(x, kernel) - torch.tensor(expected)).abs().max() < 3e-6
    each = kernel.expand(3, 1, *kernel.shape)
    assert (convolve(x.double(), each) - torch.tensor(expected)).abs().max() < 1e-12


def test_real_galaxies_equal_scipy():
    files = sorted((Path(__file__).parents[3] / "shared/data/galaxy_gz1").rglob("*.jp*g"))[:2]
    if not files:
        pytest.skip("no galaxy_gz1 in ../shared/data")
    images = [np.asarray(Image.open(file).convert("L").crop((150, 150, 250, 250))) / 255 for file in files]
    found = MoffatBlur(fwhm=3.0).corrupt(
        torch.tensor(np.stack(images))[:, None].float(), space_of((1, 100, 100)), KeyedRng(range(2))
    )
    for image, blurred in zip(images, found):
        expected = scipy_convolve(image, moffat_kernel(3.0, 4.765).numpy())
        assert np.abs(blurred[0].numpy() - expected).max() < 2e-6


@pytest.mark.parametrize(("fwhm", "beta"), [(2.0, 2.5), (3.1, 4.765), (5.0, 3.5)])
def test_a_moffat_kernel_is_galsims(fwhm, beta):
    galsim = pytest.importorskip("galsim")
    kernel = moffat_kernel(fwhm, beta).numpy()
    drawn = galsim.Moffat(beta=beta, fwhm=fwhm).drawImage(
        nx=len(kernel), ny=len(kernel), scale=1, method="no_pixel"
    )
    # GalSim sums to 1 over the whole plane, the kernel within its radius; it computes to 1e-5 or so.
    assert np.abs(kernel / kernel.max() - drawn.array / drawn.array.max()).max() < 2e-4
    assert drawn.array.sum() == pytest.approx(1, abs=0.008)


@pytest.mark.parametrize("radius", [2.0, 2.7, 6.0])
def test_a_disk_covers_its_area_and_no_more(radius):
    kernel = disk_kernel(radius)
    reach = len(kernel) // 2
    assert kernel.sum() == pytest.approx(1)
    assert kernel[reach, reach] == pytest.approx(1 / (math.pi * radius**2), rel=0.02)
    place = torch.arange(-reach, reach + 1).double()
    second = (kernel * (place[:, None].square() + place.square())).sum()
    assert second == pytest.approx(radius**2 / 2 + 1 / 6, rel=0.02, abs=0.1)  # a pixel of its own adds 1/6


def test_a_disk_within_a_pixel_is_a_point():
    for radius in (0.01, 0.3, 0.5):
        assert torch.equal(disk_kernel(radius), torch.ones(1, 1).double())


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_a_trail_has_its_length_and_direction(degrees):
    length, angle = 9.0, torch.tensor([math.radians(degrees)])
    kernel = trail_kernels(length, angle)[0, 0]
    reach = len(kernel) // 2
    place = torch.arange(-reach, reach + 1).double()
    up, right = -place[:, None], place
    spread = torch.stack([(kernel * a * b).sum() for a, b in ((right, right), (up, up), (right, up))])
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    expected = length**2 / 12 * torch.tensor([cos * cos, sin * sin, cos * sin]).double()
    assert kernel.sum() == pytest.approx(1)
    assert (
        spread - expected
    ).abs().max() < 0.45  # bilinear spreading adds up to 1/4, the ends of the sum 0.2


@pytest.mark.parametrize("corruption", [DefocusBlur(radius=2.5), MoffatBlur(fwhm=2.0), MotionBlur(length=6)])
def test_flux_and_constants_are_kept(corruption):
    x = torch.zeros(3, 2, 41, 43)
    x[:, :, 20, 21] = 1000.0  # away from the borders
    x[:, 1] += 5 * random_tensor(3, 41, 43)  # everywhere: what leaves is reflected
    found = corruption.corrupt(x, space_of((2, 41, 43), -4.0, 5000.0), KeyedRng(range(3)))
    before, after = x.double().sum((2, 3)), found.double().sum((2, 3))
    assert torch.allclose(after[:, 0], before[:, 0], rtol=1e-6)
    corners = 2e-3 if isinstance(corruption, MotionBlur) else 1e-6
    assert torch.allclose(after[:, 1], before[:, 1], rtol=corners)
    assert found[:, 0].amax((1, 2)).max() < 400
    constant = torch.full((2, *SHAPE), 37.0)
    assert torch.allclose(corruption.corrupt(constant, SPACE, KeyedRng(range(2))), constant, rtol=1e-6)


def test_a_direction_is_drawn_for_each_sample_unless_given():
    x = random_tensor(1, *SHAPE).expand(6, -1, -1, -1)
    drawn = MotionBlur(length=6).corrupt(x, SPACE, KeyedRng(range(6)))
    assert len({tuple(image.flatten().tolist()) for image in drawn}) == 6
    given = MotionBlur(length=6, angle=0).corrupt(x, SPACE, KeyedRng(range(6)))
    assert torch.equal(given, given[:1].expand(6, -1, -1, -1))
    assert (given - x).sum(3).abs().max() < 1e-4  # along the rows only


def test_blurs_need_images():
    for cls in (DefocusBlur, MoffatBlur, MotionBlur):
        assert cls().supports(space_of((5,)), classes(2)) == "a blur needs images (c, h, w)"
