"""A faster copy of a network for the passes of an attack; the original decides in the end.

Batch normalisation is folded into the convolution before it, activations come after the pooling that follows them,
and the weights are laid out channels last.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval

from advbench.runtime.network import Network, freeze
from advbench.runtime.rng import isolated_rng

PROBES = 8
CLOSE = 1e-5
"""Largest difference of the outputs on the probes, as a share of the largest output."""
SAME_SIGNS = 0.999
"""Least share of equal gradient signs; an entry that rounding brings across 0 says nothing of the direction."""


def quick(network: Network, shape: tuple[int, ...]) -> Network:
    """The copy, or the network itself where it cannot be traced or the copy differs.

    What is returned depends on the network alone, never on a clock: results must not depend on the machine's mood.

    Parameters
    ----------
    network
        A frozen network for inputs (b, *shape).
    shape
        Shape of one input.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return network
    found = copy.copy(network)
    found._modules = {**network._modules, "module": _rewritten(network.module)}
    found.plain = bool((network.mean == 0).all() & (network.std == 1).all())
    found = freeze(found).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found if _agree(network, found, shape) else network


def lowered(network: Network, precision: torch.dtype | None) -> Network:
    """The network with convolutions and products in a lower precision; None leaves it as it is."""
    if precision is None:
        return network
    found = copy.copy(network)
    found.low = precision
    return found


def _rewritten(module: nn.Module) -> nn.Module:
    """A copy in which there is less to compute."""
    own = copy.deepcopy(module)
    try:
        with isolated_rng(0):
            graph = Tracer().trace(own)
    except Exception:  # noqa: BLE001 - user code that cannot be traced runs as it is
        return own
    _fold(own, graph)
    _pool_first(own, graph)
    return GraphModule(own, graph)


def _fold(own: nn.Module, graph: Graph) -> None:
    """Every batch normalisation that follows a convolution becomes part of it."""
    parts = dict(own.named_modules())
    for node in list(graph.nodes):
        source, norm = _input(node), parts.get(str(node.target))
        if not isinstance(norm, nn.BatchNorm2d) or source is None or source.op != "call_module":
            continue
        convolution = parts.get(str(source.target))
        shared = len(source.users) > 1 or sum(other.target == source.target for other in graph.nodes) > 1
        if isinstance(convolution, nn.Conv2d) and not shared and norm.running_mean is not None:
            parts[str(source.target)] = fuse_conv_bn_eval(convolution, norm)
            own.set_submodule(str(source.target), parts[str(source.target)])
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _pool_first(own: nn.Module, graph: Graph) -> None:
    """Max pooling comes before a ReLU, which has fewer values then; as it is monotone, nothing else changes."""
    parts = dict(own.named_modules())
    for pool in list(graph.nodes):
        relu = _input(pool)
        before = None if relu is None else _input(relu)
        if relu is None or before is None or len(relu.users) > 1 or len(before.users) > 1:
            continue
        if not _pools(pool, parts) or not _activates(relu, parts):
            continue
        pool.replace_input_with(relu, before)
        pool.replace_all_uses_with(relu)
        relu.replace_input_with(before, pool)
        pool.append(relu)


def _input(node: Node) -> Node | None:
    """What a step of the graph is applied to."""
    source = node.args[0] if node.args else None
    return source if isinstance(source, Node) else None


def _pools(node: Node, parts: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        layer = parts.get(str(node.target))
        return isinstance(layer, nn.MaxPool2d) and not layer.return_indices
    return node.target is F.max_pool2d and not node.kwargs.get("return_indices")


def _activates(node: Node, parts: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(parts.get(str(node.target)), nn.ReLU)
    return node.target in (torch.relu, F.relu, "relu")


def _agree(network: Network, other: Network, shape: tuple[int, ...]) -> bool:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn((PROBES, *shape), generator=generator).to(network.mean)
    probes = network.mean + network.std * draws
    try:
        (output, gradient), (again, slope) = (_pass(one, probes) for one in (network, other))
    except (TypeError, RuntimeError):  # it takes extra inputs: there is nothing to compare with
        return False
    scale = float(output.abs().amax())
    signs = float((gradient.sign() == slope.sign()).double().mean())
    return bool((output - again).abs().amax() <= CLOSE * scale) and signs >= SAME_SIGNS


def _pass(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        point = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        point = point.detach().requires_grad_(True)
        output = network(point)
        (gradient,) = torch.autograd.grad(output.square().sum(), point)
    return output.detach(), gradient
