"""Grad-CAM: where in an image a network sees its answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.api import Classification, Picture, Run, Tags, UserError, param
from advbench_astro.figures.canvas import LARGE, SMALL, USUAL, panels, save, sheet
from advbench_astro.figures.choose import Row, Trained
from advbench_astro.figures.display import visible
from advbench_astro.figures.gallery import Chosen, SamplesFigure, chosen_samples, ring, said


def grad_cam(
    network: Any,
    x: Tensor,
    extras: Mapping[str, Tensor],
    layer: str | None = None,
    answer: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Heat maps (n, h, w) in [0, 1] of inputs (n, c, h, w), and which output (n,) they explain.

    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, equations 1 and 2: maps weighted by the mean gradient of
    output ``answer`` (n,), the largest unless given, what is negative cut off; scaled to a largest value of 1 for each
    sample, 0 everywhere where nothing speaks for the answer. The maps are those of ``layer``, or of the last
    convolution after what follows it at the same size: normalisation, activation, the sum of a residual block.

    Raises
    ------
    UserError
        If there are no such maps, or the output does not depend on them.
    """
    with torch.enable_grad(), _recorded(network, layer) as seen:
        output = network(x.detach().clone().requires_grad_(True), extras)
    answer = output.detach().argmax(1) if answer is None else answer
    score = output.gather(1, answer[:, None]).sum()
    for maps in reversed(_candidates(seen, layer)):
        (gradient,) = torch.autograd.grad(score, maps, retain_graph=True, allow_unused=True)
        if gradient is not None:
            break
    else:
        raise UserError(f"needs {layer or 'a convolution'} with maps that the output depends on")
    heat = (maps * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).detach().relu()
    large = F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    top = large.flatten(1).amax(1)[:, None, None]
    scaled = torch.where(top > 0, large / top.clamp_min(torch.finfo(large.dtype).tiny), 0.0)
    return scaled.clamp(0, 1), answer


@contextmanager
def _recorded(network: nn.Module, layer: str | None) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Outputs (n, channels, height, width) of the network's modules, or of one of them, in the order of their end."""
    layers = dict(network.named_modules())
    if layer is not None and layer not in layers:
        known = ", ".join(name for name, one in layers.items() if isinstance(one, nn.Conv2d))
        raise UserError(f"layer: there is no {layer}; convolutions are {known or 'not there either'}")
    seen: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            seen.append((module, output))

    watched = list(layers.values()) if layer is None else [layers[layer]]
    handles = [module.register_forward_hook(keep) for module in watched]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _candidates(seen: Sequence[tuple[nn.Module, Tensor]], layer: str | None) -> list[Tensor]:
    """Maps to look at, the last first: those of the last convolution, and what follows it at the same size."""
    if layer is not None:
        return [output for _, output in seen]
    convolutions = [place for place, (module, _) in enumerate(seen) if isinstance(module, nn.Conv2d)]
    if not convolutions:
        return []
    size = seen[convolutions[-1]][1].shape[2:]
    return [output for _, output in seen[convolutions[-1] :] if output.shape[2:] == size]


class GradCam(SamplesFigure):
    """Grad-CAM of the predicted class on unperturbed and perturbed images; for a regressor, of a large output.

    On the maps of the last convolution. Brighter regions speak more for the answer; each map has its own scale.
    """

    tags: ClassVar[Tags] = Tags(reference="https://arxiv.org/abs/1610.02391")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"dpi": 60, "count": 2},)

    layer: str | None = param(
        None, "name of the layer in the network; the last convolution with what follows it unless given"
    )

    def draw_network(self, run: Run, trained: Trained, folder: Path) -> Iterable[Picture]:
        """One picture with a row for each sample."""
        row = self.perturbed_row(trained)
        network, task = run.network(row), run.task(row)
        found = chosen_samples(run, row, self.count, self.which)
        heat = [grad_cam(network, one, found.extras, self.layer) for one in (found.x, found.perturbed)]
        path = folder / f"grad-cam-{trained.slug}.png"
        save(self._drawn(found, heat, run, row, trained), path, self.dpi)
        explained = "the predicted class" if isinstance(task, Classification) else "a large output"
        caption = (
            f"Grad-CAM of {trained.words} on {len(found.ids)} of {found.of} {found.kind} samples of"
            f" {row['dataset']}, of {row['n']} evaluated: unperturbed image, what speaks for {explained} there,"
            f" the image under {row['perturbation']}, and what speaks for {explained} then. Heat maps are of the last"
            f" convolution, scaled to a largest value of 1 each.{trained.inside}"
        )
        return [Picture(path, caption)]

    def _drawn(
        self, found: Chosen, heat: list[tuple[Tensor, Tensor]], run: Run, row: Row, trained: Trained
    ) -> Any:
        space, task = run.space(row), run.task(row)
        n, classes = len(found.ids), isinstance(task, Classification)
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
                words = (
                    f"speaks for {said(answers[index], task)}"
                    if classes
                    else f"predicted {said(predictions[index], task)}"
                )
                nothing = "" if maps[index].any() else " (nothing)"
                image.set_title(str(row["perturbation"]) if side else "unperturbed", fontsize=SMALL)
                warm.set_title(f"{words}{nothing}", fontsize=SMALL)
        for axis in axes:
            axis.set(xticks=[], yticks=[])
        for axis, name, true in zip(axes[::4], found.ids.tolist(), found.target):
            axis.set_ylabel(f"{name}\ntrue {said(true, task)}", fontsize=SMALL)
        bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.015)
        explained = "the class named" if classes else "a large output"
        bar.set_label(f"Grad-CAM: what speaks for {explained} (share of the largest value)", fontsize=USUAL)
        bar.ax.tick_params(labelsize=SMALL)
        title = (
            f"Grad-CAM of {trained.name} on {row['dataset']}: {n} of {found.of} {found.kind} (n = {row['n']})"
        )
        figure.suptitle(title, fontsize=LARGE)
        return figure
