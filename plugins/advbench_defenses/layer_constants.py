"""Lipschitz constants (l2) of the layers and functions that networks are made of, in eval mode."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench_defenses.spectral import average_norm, convolution_norm, matrix_norm


class UnknownLayerError(Exception):
    """There is no constant for a part of the network."""


SHAPES = frozenset({"size", "dim", "numel", "shape", "ndim", "dtype", "device"})
"""Methods and attributes that tell the shape of a tensor and nothing of its values."""

KEPT = frozenset(
    {
        "abs",
        "chunk",
        "clamp",
        "contiguous",
        "double",
        "dropout",
        "flatten",
        "float",
        "neg",
        "permute",
        "relu",
        "relu_",
        "reshape",
        "softplus",
        "split",
        "squeeze",
        "tanh",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
    }
)
"""Functions and methods that move values or bring them closer together."""

MIRRORED: dict[str, Callable[..., nn.Module]] = {
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "avg_pool1d": nn.AvgPool1d,
    "avg_pool2d": nn.AvgPool2d,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "leaky_relu": nn.LeakyReLU,
    "max_pool1d": nn.MaxPool1d,
    "max_pool2d": nn.MaxPool2d,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}
"""Functions and the layers that take the same arguments."""

_OTHERS = (
    "add",
    "cat",
    "concat",
    "div",
    "getattr",
    "getitem",
    "iadd",
    "imul",
    "isub",
    "itruediv",
    "linear",
    "mean",
    "mul",
    "stack",
    "sub",
    "sum",
    "truediv",
)
FUNCTIONS: dict[Any, str] = {
    getattr(space, name): name
    for name in (*KEPT, *MIRRORED, *_OTHERS)
    for space in (torch, F, operator)
    if hasattr(space, name)
} | {getattr: "getattr"}
"""Names of the functions that a traced network calls; nothing is known of the others."""

_SLOPES: dict[type[nn.Module], float] = {
    nn.CELU: 1.0,
    nn.GELU: 1.1290,  # at the square root of 2, both forms
    nn.Hardswish: 1.5,
    nn.Mish: 1.0885,
    nn.SELU: 1.0507009873554805 * 1.6732632423543772,
    nn.SiLU: 1.0999,
    nn.Sigmoid: 0.25,
    nn.Softmax: 0.5,  # variance of a unit vector under the probabilities: a quarter of its range squared
} | dict.fromkeys(
    (
        nn.AlphaDropout,
        nn.Dropout,
        nn.Dropout1d,
        nn.Dropout2d,
        nn.Dropout3d,
        nn.Flatten,
        nn.Hardtanh,
        nn.Identity,
        nn.LogSigmoid,
        nn.ReLU,
        nn.ReLU6,
        nn.Softplus,
        nn.Tanh,
        nn.Unflatten,
        nn.ZeroPad2d,
    ),
    1.0,
)
_NORMALISATION = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MEAN_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


def normalisation_scale(layer: nn.Module) -> Tensor | None:
    """What batch normalisation multiplies each channel by, (c,) float64; None for other layers.

    Raises
    ------
    UnknownLayerError
        If it takes its statistics from the batch.
    """
    if type(layer) not in _NORMALISATION:
        return None
    if layer.running_var is None:
        raise UnknownLayerError("batch normalisation takes its statistics from the batch")
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    return scale if layer.weight is None else scale * layer.weight.detach().double()


def foldable(layer: nn.Module) -> bool:
    """Whether a normalisation of its output channels can be folded into the layer."""
    return type(layer) in (nn.Linear, *_CONVOLUTIONS)


def weighted_norm(layer: Any, shape: Sequence[int], scale: Tensor | None = None) -> float:
    """Norm of a convolution or dense layer for inputs of ``shape`` (1, c, ...), its outputs times ``scale``."""
    if not bool(torch.isfinite(layer.weight).all()):
        raise UnknownLayerError("weights are not finite")
    if type(layer) is nn.Linear:
        weight = layer.weight.detach().double()
        return matrix_norm(weight if scale is None else scale[:, None] * weight)
    return convolution_norm(layer, shape, scale)


def layer_constant(layer: nn.Module, shape: Sequence[int]) -> float:
    """Constant of a layer alone, for inputs of ``shape`` (1, c, ...).

    Raises
    ------
    UnknownLayerError
        If there is none, or none is known.
    """
    kind = type(layer)
    if kind is nn.Linear or kind in _CONVOLUTIONS or kind in _TRANSPOSED:
        return weighted_norm(layer, shape)
    if kind in _SLOPES:
        return _SLOPES[kind]
    if isinstance(layer, nn.LeakyReLU):
        return max(1.0, abs(layer.negative_slope))
    if isinstance(layer, nn.PReLU):
        return max(1.0, float(layer.weight.detach().abs().max()))
    if isinstance(layer, nn.ELU):
        return max(1.0, abs(layer.alpha))
    if kind in (*_MAX_POOLS, *_MEAN_POOLS, *_ADAPTIVE):
        return _pooling(layer, shape[2:])
    raise UnknownLayerError(f"no constant is known for {kind.__name__}")


def _pooling(layer: Any, sides: Sequence[int]) -> float:
    if type(layer) in _ADAPTIVE:
        sizes = _each(layer.output_size, sides)
        wanted = [(side if size is None else size,) for size, side in zip(sizes, sides, strict=True)]
        return average_norm(F.adaptive_avg_pool1d, sides, wanted)
    windows = [_each(value, sides) for value in (layer.kernel_size, layer.stride, layer.padding)]
    if type(layer) in _MEAN_POOLS:
        if getattr(layer, "divisor_override", None) is not None:
            raise UnknownLayerError("average pooling with a divisor of its own")
        settings = [(*one, layer.ceil_mode, layer.count_include_pad) for one in zip(*windows, strict=True)]
        return average_norm(F.avg_pool1d, sides, settings)
    if layer.return_indices:
        raise UnknownLayerError("max-pooling that returns indices")
    dilations = _each(layer.dilation, sides)
    # The largest of a window moves no more than one of its values, so a value counts once for each window it is in.
    axes = zip(windows[0], windows[1], dilations, strict=True)
    return math.sqrt(math.prod(math.ceil(size * math.gcd(step, gap) / step) for size, step, gap in axes))


def _each(value: Any, sides: Sequence[int]) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,) * len(sides)
