"""How much a network can stretch a change of its input, at most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter, Node, Tracer

from advbench.api import InputSpace, Metric, Tags, isolated_rng
from advbench_defenses.layer_constants import (
    FUNCTIONS,
    KEPT,
    MIRRORED,
    SHAPES,
    UnknownLayerError,
    foldable,
    layer_constant,
    normalisation_scale,
    weighted_norm,
)
from advbench_defenses.spectral import matrix_norm


class LipschitzBound(Metric):
    """Upper bound of the Lipschitz constant of a network's outputs, in l2 and in the input space; blank where unknown.

    The product of the constants of its layers along the way, their sum where paths are added, and the root of
    the sum of squares where they are joined (Szegedy et al. 2014, https://arxiv.org/abs/1312.6199, section 4.3).
    A convolution counts with the norm of its linear map at the actual input size, with a batch normalisation that
    follows folded into it; a dense layer with its largest singular value; pooling by how its windows overlap;
    normalisation of the inputs with 1 / std. Norms are found to about 1e-4. The bound is blank if the network
    cannot be traced or has a layer that no constant is known for: attention, layer normalisation, products of
    activations, anything in train mode.
    """

    tags: ClassVar[Tags] = Tags(examines=True, reference="https://arxiv.org/abs/1312.6199")

    def examine(self, network: nn.Module, space: InputSpace) -> float:
        """The bound, or NaN where none is known."""
        factor = 1.0
        if all(hasattr(network, name) for name in ("module", "mean", "std")):
            # The harness puts (x - mean) / std before the model's own module.
            factor = float(1 / torch.as_tensor(network.std).min())
            network = network.module  # type: ignore[assignment]
        try:
            return factor * lipschitz_bound(network, space.shape)
        except UnknownLayerError:
            return math.nan


def lipschitz_bound(module: nn.Module, shape: Sequence[int]) -> float:
    """Upper bound of the l2 Lipschitz constant of a module's output.

    Parameters
    ----------
    module
        Takes inputs (b, *shape) and returns outputs, or features and outputs.
    shape
        Shape of one input.

    Raises
    ------
    UnknownLayerError
        Naming what there is no constant for.
    """
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        raise UnknownLayerError("a hook may change what a layer does")
    if any(part.training for part in module.modules()):
        raise UnknownLayerError("the network is in train mode")
    like = next(module.parameters(), torch.zeros(()))
    try:
        with isolated_rng(0), torch.no_grad():
            probe = torch.randn(1, *shape).to(like)
            walk = _Walk(module, Tracer().trace(module))
            outputs = _last(walk.run(probe.clone())), _last(module(probe))
    except UnknownLayerError:
        raise
    except Exception as error:  # noqa: BLE001 - user code that cannot be traced
        raise UnknownLayerError(f"the network cannot be traced: {error}") from None
    if not torch.allclose(*outputs, rtol=1e-4, atol=1e-6 * float(outputs[1].abs().max())):
        raise UnknownLayerError("the network does more than a trace of it shows, or draws random numbers")
    return walk.result


def _last(output: Any) -> Any:
    """The output, of a network that may return features before it."""
    return output[1] if isinstance(output, tuple) and len(output) == 2 else output


class _Walk(Interpreter):
    """Passes one input through a traced network and notes the constant up to each place."""

    def __init__(self, module: nn.Module, graph: Graph) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self._place = {node: place for place, node in enumerate(graph.nodes)}
        self._bounds: dict[Node, float] = {}
        self.result = math.nan

    def run_node(self, n: Node) -> Any:
        """The value of a node; its constant is noted."""
        value = super().run_node(n)
        self._bounds[n] = self._bound(n, value)
        self._refuse_overwritten(n, value)
        return value

    def _bound(self, node: Node, value: Any) -> float:
        if node.op == "placeholder":
            return 1.0 if self._place[node] == 0 else 0.0
        if node.op == "output":
            self.result = self._of_output(node.args[0])
        name = _name(node)
        asked = node.args[1] if name == "getattr" else name
        if asked in SHAPES or not any(self._bounds[one] for one in node.all_input_nodes):
            return 0.0  # whatever the input is, this stays the same
        if node.op == "call_module":
            return self._of_layer(node, self.fetch_attr(str(node.target)))
        return self.result if node.op == "output" else self._of_function(node, name, value)

    def _of_output(self, output: Any) -> float:
        last = _last(output)
        if not isinstance(last, Node) or not isinstance(self.env[last], Tensor):
            raise UnknownLayerError("the output is neither a tensor nor features and a tensor")
        return self._bounds[last]

    def _of_layer(self, node: Node, layer: nn.Module) -> float:
        source = self._only_source(node)
        scale = normalisation_scale(layer)
        if scale is not None:
            before = self._weighted(source)
            if before is None:
                return self._bounds[source] * float(scale.abs().max())
            source = self._only_source(source)
            return self._bounds[source] * weighted_norm(before, self.env[source].shape, scale)
        if foldable(layer) and self._followed_by_normalisation(node):
            return math.inf  # nobody asks: the normalisation takes both together
        return self._bounds[source] * layer_constant(layer, self.env[source].shape)

    def _weighted(self, node: Node) -> nn.Module | None:
        """The layer of a node that the normalisation of its output can be folded into."""
        layer = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        return layer if layer is not None and foldable(layer) and len(node.users) == 1 else None

    def _followed_by_normalisation(self, node: Node) -> bool:
        users = list(node.users)
        return (
            len(users) == 1
            and users[0].op == "call_module"
            and (normalisation_scale(self.fetch_attr(str(users[0].target))) is not None)
        )

    def _only_source(self, node: Node) -> Node:
        """The first argument, if nothing else depends on the input."""
        source = node.args[0] if node.args else None
        others = [one for one in node.all_input_nodes if one is not source and self._bounds[one]]
        if not isinstance(source, Node) or others or not isinstance(self.env[source], Tensor | tuple):
            raise UnknownLayerError(f"{node.target} of several activations")
        return source

    def _of_function(self, node: Node, name: str, value: Any) -> float:
        if name in ("add", "iadd", "sub", "isub") and not node.kwargs:
            return sum(self._spread(one, value) for one in node.args if isinstance(one, Node))
        if name in ("cat", "concat", "stack"):
            parts: Any = node.args[0]
            return math.hypot(*(self._bounds[one] for one in parts))
        if name in ("mul", "imul") and not node.kwargs:
            source, factor = self._source_and_constant(node.args)
            return self._spread(source, value) * float(factor.abs().max())
        source = self._only_source(node)
        if name in ("truediv", "itruediv", "div") and not node.kwargs:
            _, divisor = self._source_and_constant(node.args)
            return self._spread(source, value) / float(divisor.abs().min())
        return self._bounds[source] * self._constant(node, name, source, value)

    def _constant(self, node: Node, name: str, source: Node, value: Any) -> float:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        given: Any = args[0]
        if name in KEPT and (name != "dropout" or not kwargs.get("training", True)):
            return 1.0
        if name == "getitem" and _is_slice(args[1]):
            return 1.0
        if name in ("mean", "sum", "expand", "repeat") and isinstance(given, Tensor):
            ratio = value.numel() / given.numel()
            return math.sqrt(1 / ratio if name == "sum" else ratio)
        if name == "linear":
            return matrix_norm(kwargs["weight"] if "weight" in kwargs else args[1])
        if name in MIRRORED:
            return layer_constant(MIRRORED[name](*args[1:], **kwargs), given.shape)
        raise UnknownLayerError(f"no constant is known for {name or node.target}")

    def _source_and_constant(self, args: Sequence[Any]) -> tuple[Node, Tensor]:
        """The one factor that depends on the input, and the other."""
        moving = [one for one in args if isinstance(one, Node) and self._bounds[one]]
        still = [one for one in args if one not in moving]
        if len(moving) != 1 or len(still) != 1:
            raise UnknownLayerError("a product of activations")
        constant = self.env[still[0]] if isinstance(still[0], Node) else still[0]
        return moving[0], torch.as_tensor(constant).detach().double()

    def _spread(self, node: Node, result: Tensor) -> float:
        """The constant of a term that is repeated where the result is larger (broadcasting)."""
        value = self.env[node]
        if not self._bounds[node]:
            return 0.0
        return self._bounds[node] * math.sqrt(max(1.0, result.numel() / value.numel()))

    def _refuse_overwritten(self, node: Node, value: Any) -> None:
        """What an operation in place made larger must not be used under its old name afterwards."""
        if not isinstance(value, Tensor):
            return
        for other, earlier in self.env.items():
            if other is node or not isinstance(earlier, Tensor) or not _share_memory(value, earlier):
                continue
            later = any(self._place[user] > self._place[node] for user in other.users)
            if later and self._bounds[node] > self._bounds[other]:
                raise UnknownLayerError(f"{other} is changed in place and used again")


def _name(node: Node) -> str:
    """Name of the function or method that a node calls, empty for others."""
    if node.op == "call_method":
        return str(node.target)
    return FUNCTIONS.get(node.target, "") if node.op == "call_function" else ""


def _share_memory(first: Tensor, second: Tensor) -> bool:
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def _is_slice(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, int | slice) for part in parts)
