"""JPEG compression as purification, Dziugaite et al. 2016, https://arxiv.org/abs/1608.00853."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from advbench.api import Defense, InputSpace, Rng, Tags, Task, param
from advbench_defenses.squeezers import not_images


def compress(x: Tensor, lower: Tensor, upper: Tensor, *, quality: int) -> Tensor:
    """Images (b, c, h, w) after a round trip through 8-bit JPEG files by libjpeg, with its usual 4:2:0.

    The levels 0 and 255 are ``lower`` and ``upper``, broadcast against ``x``; what lies beyond is clipped. Three
    channels make an RGB file, any other number one grey file each.
    """
    width = upper - lower
    levels = ((x.detach() - lower) / width * 255).round().clamp(0, 255).byte().cpu()
    colour = x.shape[1] == 3
    pictures = (levels.movedim(1, -1) if colour else levels.flatten(0, 1)).contiguous().numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = np.stack(list(pool.map(lambda picture: _through_a_file(picture, quality), pictures)))
    decoded = torch.from_numpy(found).to(x.device)
    decoded = decoded.movedim(-1, 1) if colour else decoded.view(x.shape)
    return (lower + width * (decoded.to(x.dtype) / 255)).contiguous()


def _through_a_file(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    with Image.open(file, formats=["JPEG"]) as opened:
        return np.array(opened)


class JPEG(Defense):
    """JPEG compression, Dziugaite et al. 2016, https://arxiv.org/abs/1608.00853.

    In 8 bits between the bounds; as RGB for three channels, else channel by channel. The default quality is that of
    Guo et al. 2018, https://arxiv.org/abs/1711.00117. It has no gradient; adaptive attacks take that of the identity
    (Athalye et al. 2018, https://arxiv.org/abs/1802.00420).
    """

    tags: ClassVar[Tags] = Tags(purifies=True, reference="https://arxiv.org/abs/1608.00853")

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({}, {"quality": 10})

    quality: int = param(75, "libjpeg's quality, 1 to 100", unit="JPEG quality", ge=1, le=100)

    def supports(self, space: InputSpace, task: Task) -> str | None:
        """Images alone."""
        return not_images(space, "JPEG")

    def purify(self, x: Tensor, space: InputSpace, rng: Rng) -> Tensor:
        """`compress` between the bounds of the input space."""
        return compress(x, *space.bounds_like(x), quality=self.quality)
