"""Photo-z networks: the published sizes, the head, the reddening, and none of the known mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from advbench.api import Classification, InputSpace, PluginError, Regression, UserError
from advbench_astro.photoz.cnn import PhotozCNN
from advbench_astro.photoz.inception import Inception, PhotozInception
from advbench_astro.photoz.layers import bin_centres, halve, neighbour_mean
from advbench_astro.photoz.network import PhotozModel, PhotozModule

UGRIZ = InputSpace((5, 64, 64), (-1.0,) * 5, (7.0,) * 5, tuple("ugriz"))
SMALL = InputSpace((5, 16, 16), (-1.0,) * 5, (7.0,) * 5, tuple("ugriz"))
REDSHIFT = Regression(("z",), tolerance=0.05, relative=True)


def built(model: PhotozModel, space: InputSpace = SMALL) -> PhotozModule:
    torch.manual_seed(0)
    module = model.build(space, REDSHIFT)
    assert isinstance(module, PhotozModule)
    return module


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_inception_has_the_published_size() -> None:
    module = built(PhotozInception(head="bins"), UGRIZ)
    assert count(module) == 27_596_372
    assert count(module.dense) == 25_812_076
    assert count(module.dense) / count(module) == pytest.approx(0.935, abs=5e-4)
    assert module.dense.hidden[0].in_features == 22_273
    channels = [part.out_channels for part in module.blocks if isinstance(part, Inception)]
    assert channels == [240, 340, 476, 476, 348]
    assert [part.five is None for part in module.blocks if isinstance(part, Inception)] == [False] * 4 + [
        True
    ]


@pytest.mark.parametrize(("ebv", "features"), [(False, 12_800), (True, 12_801)])
def test_the_cnn_has_the_published_flat_size(ebv: bool, features: int) -> None:
    assert built(PhotozCNN(ebv=ebv), UGRIZ).dense.hidden[0].in_features == features


def test_the_stride_one_pool_keeps_a_constant_image_to_its_edges() -> None:
    image = torch.full((2, 3, 7, 9), 4.5)
    assert torch.equal(neighbour_mean(image), image)


def test_the_stride_one_pool_is_the_mean_of_what_there_is() -> None:
    x = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.empty_like(x)
    for row in range(6):
        for column in range(5):
            expected[..., row, column] = x[..., row : row + 2, column : column + 2].mean((-2, -1))
    torch.testing.assert_close(neighbour_mean(x), expected)


def test_an_odd_edge_is_averaged_over_what_there_is() -> None:
    assert torch.equal(halve()(torch.full((1, 1, 19, 19), 2.0)), torch.full((1, 1, 10, 10), 2.0))


@pytest.mark.parametrize("model", [PhotozInception(width=0.1), PhotozCNN(width=0.1, ebv=True)])
def test_outputs_can_be_negative(model: PhotozModel) -> None:
    for head in ("regression", "bins"):
        module = built(model.model_copy(update={"head": head, "bins": 30}))
        with torch.no_grad():
            scores = torch.cat(
                [module.scores(sign * torch.randn(16, 5, 16, 16), ebv=torch.zeros(16, 1)) for sign in (1, 30)]
            )
            module.dense.last.bias -= 10
            lowered = module.scores(torch.randn(16, 5, 16, 16), ebv=torch.zeros(16, 1))
        assert scores.shape[1] == (1 if head == "regression" else 30)
        assert (lowered < 0).any()
        assert not (scores == 0).any()  # no rectifier has cut them


def test_bins_decode_to_their_centres() -> None:
    centres = bin_centres(180, (0.0, 0.4))
    assert centres[0] == pytest.approx(0.4 / 360)
    np.testing.assert_allclose(np.diff(centres), 0.4 / 180, rtol=1e-4)
    module = built(PhotozCNN(width=0.1, head="bins", z_range=(0.2, 1.0), bins=4))
    with torch.no_grad():
        module.dense.last.weight.zero_()
        for wanted, centre in enumerate((0.3, 0.5, 0.7, 0.9)):
            module.dense.last.bias.copy_(1000.0 * functional.one_hot(torch.tensor(wanted), 4))
            features, z = module(torch.zeros(3, 5, 16, 16))
            torch.testing.assert_close(z, torch.full((3, 1), centre))
    assert features.shape == (3, 102)


def test_the_loss_of_bins_is_the_cross_entropy_of_the_right_one() -> None:
    model = PhotozCNN(width=0.1, head="bins", z_range=(0.0, 1.0), bins=10, ebv=True)
    module = built(model)
    x, extras = torch.randn(6, 5, 16, 16), {"ebv": torch.rand(6, 1)}
    y = torch.tensor([[0.0], [0.0], [0.05], [0.449], [0.999], [1.0]])
    expected = functional.cross_entropy(module.scores(x, **extras), torch.tensor([0, 0, 0, 4, 9, 9]))
    found = model.loss(module, x, y, extras)
    assert found is not None
    torch.testing.assert_close(found, expected)
    assert PhotozCNN().loss(module, x, y, extras) is None
    y[[1, 4]] = torch.tensor([[1.7], [-0.1]])
    with pytest.raises(
        UserError, match=r"2 of 6 targets lie outside the bins, one at 1\.7: `z_range: \[0, 1\]`"
    ):
        model.loss(module, x, y, extras)
    with pytest.raises(PluginError, match="expected a PhotozModule"):
        model.loss(torch.nn.Identity(), x, y, extras)


def test_the_reddening_is_used_or_ignored() -> None:
    x = torch.randn(4, 5, 16, 16)
    with_it, without = built(PhotozCNN(width=0.1, ebv=True)), built(PhotozCNN(width=0.1))

    def predicted(module: PhotozModule, ebv: float) -> Tensor:
        return module(x, ebv=torch.full((4, 1), ebv), other=torch.zeros(4, 2))[1]

    assert not torch.equal(predicted(with_it, 0.0), predicted(with_it, 0.3))
    assert torch.equal(predicted(without, 0.0), predicted(without, 0.3))
    assert torch.equal(without(x)[1], predicted(without, 0.0))
    with pytest.raises(TypeError, match="ebv: false"):
        with_it(x)


@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_prelu_begins_as_asked(slope: float) -> None:
    slopes = [
        p.weight
        for p in built(PhotozInception(width=0.1, slope=slope)).modules()
        if isinstance(p, torch.nn.PReLU)
    ]
    assert len(slopes) == 1 + 4 * 6 + 4
    assert all(bool((weight == slope).all()) for weight in slopes)
    assert PhotozInception().slope == 0.0


def test_what_does_not_fit_is_refused_beforehand() -> None:
    model = PhotozInception()
    assert model.supports(UGRIZ, REDSHIFT) is None
    assert "not classes" in str(model.supports(UGRIZ, Classification(("a", "b"))))
    tiny = InputSpace((5, 4, 64), (-1.0,) * 5, (7.0,) * 5, tuple("ugriz"))
    assert "at least 8x8" in str(model.supports(tiny, REDSHIFT))
    assert "not inputs of shape (6,)" in str(
        model.supports(InputSpace((6,), (0,) * 6, (1,) * 6, tuple("abcdef")), REDSHIFT)
    )
    two = Regression(("z", "mass"), tolerance=0.1)
    assert "one target" in str(PhotozCNN(head="bins").supports(UGRIZ, two))
    assert PhotozCNN(width=0.1).build(SMALL, two)(torch.zeros(1, 5, 16, 16))[1].shape == (1, 2)
    with pytest.raises(ValidationError, match="must rise"):
        PhotozCNN(z_range=(0.4, 0.4))
