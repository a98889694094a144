"""Networks that are a chain of small windows and then dense layers, read from their structure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node, Tracer

from advbench.runtime.rng import isolated_rng

Pair = tuple[int, int]
"""One number for rows, one for columns."""

POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign,
    nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
)  # fmt: skip
IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
"""What does nothing in eval mode."""
FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    torch.relu: nn.ReLU, F.relu: nn.ReLU, "relu": nn.ReLU, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU,
    F.gelu: nn.GELU, F.silu: nn.SiLU, torch.tanh: nn.Tanh, F.tanh: nn.Tanh, "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    F.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d, F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    torch.flatten: nn.Flatten, "flatten": nn.Flatten,
}  # fmt: skip
"""Functions and methods that a module stands for, with the same arguments after the first."""

MOVED = 16
"""What gathering one number costs, in multiplications of a convolution; decides whether a chain pays."""


@dataclass(frozen=True)
class Window:
    """A layer each of whose outputs looks at a small window of the map before it."""

    apply: Callable[[Tensor], Tensor]  # on maps (n, c, h, w) that are padded already
    reach: Pair
    stride: Pair
    padding: Pair
    fill: float = 0.0  # what the padding holds
    channels: int = 0  # of its output; 0: as before
    work: int = 0  # multiplications for each output position

    def pad(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) with their padding."""
        rows, columns = self.padding
        if not rows and not columns:
            return maps
        return F.pad(maps, (columns, columns, rows, rows), value=self.fill)

    def outputs(self, size: Pair) -> Pair:
        """Size of the map that it makes of one of this size."""
        return _pair((n + 2 * p - k) // s + 1 for n, p, k, s in self._axes(size))

    def touched(self, changed: Pair, size: Pair) -> Pair:
        """Most outputs that a changed patch of this size reaches, in a map of ``size`` before it."""
        most = ((n + k - 2) // s + 1 for n, _, k, s in self._axes(changed))
        return _pair(min(a, b) for a, b in zip(most, self.outputs(size)))

    def looks_at(self, outputs: Pair) -> Pair:
        """Size of the padded patch that a patch of outputs is computed from."""
        return _pair(s * (n - 1) + k for n, _, k, s in self._axes(outputs))

    def _axes(self, size: Pair) -> zip[tuple[int, int, int, int]]:
        return zip(size, self.padding, self.reach, self.stride)


Step = Window | nn.Module
"""A window, or a module that works on every value alone (batch normalisation too: in eval mode it does)."""


@dataclass(frozen=True)
class Chain:
    """Windows and pointwise layers, then ``linears`` with nothing between them, then layers on vectors."""

    body: tuple[Step, ...]
    linears: tuple[nn.Linear, ...]
    head: tuple[nn.Module, ...]
    size: Pair
    channels: int

    def pays(self, pixels: int) -> bool:
        """Whether recomputing the patches of so many changed pixels is at most half the work of a full pass.

        Decided by counting, never by a clock: results must not depend on the machine's mood.
        """
        size, patch, channels = self.size, (1, 1), self.channels
        full = partial = 0
        for step in self.body:
            if not isinstance(step, Window):
                continue
            patch, before, size = step.touched(patch, size), size, step.outputs(size)
            full += math.prod(size) * step.work + math.prod(before) * channels
            seen = math.prod(step.looks_at(patch)) * channels
            partial += pixels * (math.prod(patch) * step.work + MOVED * seen)
            channels = step.channels or channels
        dense = sum(layer.in_features * layer.out_features for layer in self.linears)
        return 2 * (partial + dense) <= full + dense


def chain_of(module: nn.Module, shape: tuple[int, ...]) -> Chain | None:
    """The chain that a frozen network for inputs (b, *shape) is, or None if it is none.

    What cannot be traced, branches, shares maps between layers or has a layer that is not known to be one of small
    windows or pointwise is none. Of ``(features, output)`` the second counts.
    """
    layers = _layers(module) if len(shape) == 3 and not _watched(module) else None
    if layers is None:
        return None
    ends = [place for place, layer in enumerate(layers) if isinstance(layer, nn.Flatten)]
    if len(ends) != 1 or (layers[ends[0]].start_dim, layers[ends[0]].end_dim) != (1, -1):
        return None
    body = _body(layers[: ends[0]], (shape[1], shape[2]))
    dense = layers[ends[0] + 1 :]
    first = next((i for i, layer in enumerate(dense) if type(layer) is not nn.Linear), len(dense))
    linears = [layer for layer in dense[:first] if isinstance(layer, nn.Linear)]
    known = all(type(layer) in (nn.Linear, nn.BatchNorm1d, *POINTWISE) for layer in dense[first:])
    if body is None or not linears or not known or not all(map(_fixed, dense)):
        return None
    return Chain(tuple(body), tuple(linears), tuple(dense[first:]), (shape[1], shape[2]), shape[0])


def _watched(module: nn.Module) -> bool:
    """Whether hooks do more than the layers say, or a layer is not in eval mode."""
    return any(part.training or part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def _fixed(layer: nn.Module) -> bool:
    """Not a batch normalisation that would use the statistics of the batch."""
    return not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) or layer.running_mean is not None


def _layers(module: nn.Module) -> list[Any] | None:
    """The layers between input and output as modules, or None if the path branches or one is not known."""
    try:
        with isolated_rng(0):
            graph = Tracer().trace(module)
    except Exception:  # noqa: BLE001 - user code that cannot be traced is evaluated in full
        return None
    parts = dict(module.named_modules())
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    node = result[1] if isinstance(result, tuple) and len(result) == 2 else result
    layers: list[nn.Module] = []
    while isinstance(node, Node) and node.op != "placeholder":
        layer = _layer(node, parts)
        source = node.args[0] if node.args else None
        if layer is None:
            return None
        if type(layer) not in IDLE:
            layers.append(layer)
        node = source
    first = next(iter(graph.nodes))
    return layers[::-1] if node is first else None


def _layer(node: Node, parts: dict[str, nn.Module]) -> nn.Module | None:
    """The module that a node of the graph stands for."""
    arguments = node.args[1:]
    if node.target in ("view", "reshape") and len(arguments) == 2 and arguments[1] == -1:
        return nn.Flatten() if _is_count(arguments[0], node.args[0]) else None
    if node.all_input_nodes != list(node.args[:1]):
        return None
    if node.op == "call_module":
        return parts[str(node.target)] if len(node.args) == 1 else None
    if node.target is F.dropout:
        return nn.Identity() if node.kwargs.get("training") is False else None
    if node.target not in FUNCTIONS:
        return None
    if FUNCTIONS[node.target] is nn.Flatten:  # the module starts at 1 unless told, the function at 0
        start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
        known = len(node.args) < 3 and set(node.kwargs) <= {"start_dim"}
        return nn.Flatten(start) if known and isinstance(start, int) else None
    try:
        return FUNCTIONS[node.target](*arguments, **node.kwargs)
    except TypeError:
        return None


def _is_count(value: Any, source: Any) -> bool:
    """Whether it is ``source.size(0)`` or ``source.shape[0]``, the number of samples."""
    if not isinstance(value, Node):
        return False
    if value.target == "size":
        return value.args[1:] == (0,)
    shape = value.args[0] if value.args else None
    return value.args[1:] == (0,) and isinstance(shape, Node) and shape.args == (source, "shape")


def _body(layers: Sequence[nn.Module], size: Pair) -> list[Step] | None:
    steps: list[Step] = []
    for layer in layers:
        if type(layer) in (nn.BatchNorm2d, *POINTWISE):
            if not _fixed(layer):
                return None
            steps.append(layer)
            continue
        window = _window(layer, size)
        if window is None or min(window.outputs(size)) < 1:
            return None
        size = window.outputs(size)
        steps.append(window)
    return steps


def _window(layer: nn.Module, size: Pair) -> Window | None:
    """The layer as a window over maps of this size, or None."""
    if type(layer) is nn.Conv2d:
        return _convolution(layer)
    if type(layer) is nn.AdaptiveAvgPool2d:
        wanted = [n if k is None else k for n, k in zip(size, _both(layer.output_size))]
        if any(n % k for n, k in zip(size, wanted)):
            return None
        reach = _pair(n // k for n, k in zip(size, wanted))
        return Window(lambda maps: F.avg_pool2d(maps, reach), reach, reach, (0, 0))
    if type(layer) is not nn.MaxPool2d and type(layer) is not nn.AvgPool2d:
        return None
    if layer.ceil_mode:
        return None
    reach, padding = _both(layer.kernel_size), _both(layer.padding)
    stride = _both(layer.kernel_size if layer.stride is None else layer.stride)
    if isinstance(layer, nn.MaxPool2d):
        if layer.return_indices or _both(layer.dilation) != (1, 1):
            return None
        return Window(lambda maps: F.max_pool2d(maps, reach, stride), reach, stride, padding, -math.inf)
    if layer.divisor_override is not None or (padding != (0, 0) and not layer.count_include_pad):
        return None
    return Window(lambda maps: F.avg_pool2d(maps, reach, stride), reach, stride, padding)


def _convolution(layer: nn.Conv2d) -> Window | None:
    kernel, stride, dilation = _both(layer.kernel_size), _both(layer.stride), _both(layer.dilation)
    reach = _pair(d * (k - 1) + 1 for d, k in zip(dilation, kernel))
    padding = layer.padding
    if layer.padding_mode != "zeros" or (padding == "same" and any(k % 2 == 0 for k in reach)):
        return None
    if isinstance(padding, str):
        padding = _pair(k // 2 if padding == "same" else 0 for k in reach)

    def apply(maps: Tensor) -> Tensor:
        return F.conv2d(maps, layer.weight, layer.bias, stride, 0, dilation, layer.groups)

    work = math.prod(kernel) * layer.in_channels * layer.out_channels // layer.groups
    return Window(apply, reach, stride, _both(padding), 0.0, layer.out_channels, work)


def _both(value: Any) -> Pair:
    return (value, value) if not isinstance(value, Sequence) else (value[0], value[1])


def _pair(values: Any) -> Pair:
    rows, columns = values
    return rows, columns
