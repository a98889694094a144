"""Grad-CAM: where in an image a network sees its answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.api import Classification, Picture, Run, Tags, UserError, param
from advbench_astro.figures.canvas import LARGE, SMALL, USUAL, panels, save, sheet
from advbench_astro.figures.choose import PerturbedFigure, Row, Trained
from advbench_astro.figures.display import visible
from advbench_astro.figures.gallery import Chosen, chosen_samples, ring, said


def grad_cam(
    network: Any, x: Tensor, extras: Mapping[str, Tensor], layer: nn.Module, answer: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Heat maps (n, h, w) in [0, 1] of inputs (n, c, h, w), and which output (n,) they explain.

    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, equations 1 and 2: the maps of ``layer`` weighted by the
    mean gradient of output ``answer`` (n,), the largest unless given, what is negative cut off; scaled to a largest
    value of 1 for each sample, 0 everywhere where nothing speaks for the answer.

    Raises
    ------
    UserError
        If the output does not depend on the layer, or the layer has no maps.
    """
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with torch.enable_grad():
            output = network(x.detach().clone().requires_grad_(True), extras)
    finally:
        handle.remove()
    if not seen or seen[-1].dim() != 4:
        raise UserError("needs a layer with maps (n, channels, height, width)")
    answer = output.detach().argmax(1) if answer is None else answer
    (gradient,) = torch.autograd.grad(output.gather(1, answer[:, None]).sum(), seen[-1], allow_unused=True)
    if gradient is None:
        raise UserError("needs a layer that the network's output depends on")
    maps = (seen[-1] * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).detach().relu()
    large = F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    top = large.flatten(1).amax(1)[:, None, None]
    return torch.where(top > 0, large / top.clamp_min(torch.finfo(large.dtype).tiny), 0.0).clamp(0, 1), answer


def convolution(network: nn.Module, name: str | None = None) -> nn.Module:
    """The last convolution of a network, or the layer of this name.

    Raises
    ------
    UserError
        If there is none.
    """
    layers = dict(network.named_modules())
    if name is not None:
        if name not in layers:
            known = ", ".join(one for one, layer in layers.items() if isinstance(layer, nn.Conv2d))
            raise UserError(f"layer: there is no {name}; convolutions are {known or 'not there either'}")
        return layers[name]
    found = [layer for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    if not found:
        raise UserError("needs a network with a convolution")
    return found[-1]


class GradCam(PerturbedFigure):
    """Grad-CAM of the predicted class on unperturbed and perturbed images; for a regressor, of a large output.

    On the last convolution. Brighter regions speak more for the answer; each map has its own scale.
    """

    tags: ClassVar[Tags] = Tags(reference="https://arxiv.org/abs/1610.02391")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60, "count": 2},)

    count: int = param(4, "samples shown", ge=1, le=12)
    which: str = param(
        "fooled",
        "fooled, correct or all: of which samples the first are shown",
        pattern="^(fooled|correct|all)$",
    )
    layer: str | None = param(None, "name of the layer in the network; the last convolution unless given")
    bands: tuple[str, ...] | None = param(None, "one band, or those for red, green and blue")

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """One picture with a row for each sample."""
        row = self.perturbed_row(trained)
        network, task = run.network(row), run.task(row)
        layer = convolution(network, self.layer)
        found = chosen_samples(run, row, self.count, self.which)
        heat = [grad_cam(network, one, found.extras, layer) for one in (found.x, found.perturbed)]
        path = folder / f"grad-cam-{trained.slug}.png"
        save(self._drawn(found, heat, run, row, trained), path, self.dpi)
        explained = "the predicted class" if isinstance(task, Classification) else "a large output"
        caption = (
            f"Grad-CAM of {trained.words} on {len(found.ids)} of {found.of} samples of {row['dataset']} that"
            f" fit, of"
            f" {row['n']} evaluated: unperturbed image, what speaks for {explained} there, the image under"
            f" {row['perturbation']}, and what speaks for {explained} then. Heat maps are of the last"
            f" convolution, scaled to a"
            f" largest value of 1 each.{trained.inside}"
        )
        return [Picture(path, caption)]

    def _drawn(
        self, found: Chosen, heat: list[tuple[Tensor, Tensor]], run: Run, row: Row, trained: Trained
    ) -> Any:
        space, task = run.space(row), run.task(row)
        n = len(found.ids)
        figure = sheet(0.9 + 2.1 * n)
        axes = panels(figure, n, 4)
        changed = (found.perturbed != found.x).any(1).cpu().numpy()
        for side, x in enumerate((found.x, found.perturbed)):
            images = visible(x, found.x, space, self.bands)
            maps, answers = (one.cpu().numpy() for one in heat[side])
            predictions = (found.clean_prediction, found.perturbed_prediction)[side]
            for index in range(n):
                image, warm = axes[4 * index + 2 * side : 4 * index + 2 * side + 2]
                image.imshow(images[index], interpolation="nearest")
                if side:
                    ring(image, changed[index])
                drawn = warm.imshow(maps[index], cmap="cividis", vmin=0, vmax=1)
                answer = answers[index] if isinstance(task, Classification) else predictions[index]
                nothing = "" if maps[index].any() else " (nothing)"
                image.set_title(str(row["perturbation"]) if side else "unperturbed", fontsize=SMALL)
                warm.set_title(f"speaks for {said(answer, task)}{nothing}", fontsize=SMALL)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
        for axis, name, true in zip(axes[::4], found.ids.tolist(), found.target):
            axis.set_ylabel(f"{name}\ntrue {said(true, task)}", fontsize=SMALL)
        bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.5, aspect=40)
        bar.set_label("Grad-CAM (share of the largest value)", fontsize=USUAL)
        bar.ax.tick_params(labelsize=SMALL)
        title = f"Grad-CAM of {trained.name} on {row['dataset']}: {n} of {found.of} (n = {row['n']})"
        figure.suptitle(title, fontsize=LARGE)
        return figure
