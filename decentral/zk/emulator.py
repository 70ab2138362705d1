"""What a circuit computes, without the circuit: the field elements of its outputs, for whole test sets at once.

ezkl turns each number into an integer: an input x at scale s into the nearest integer to 2^s x, halves away from zero.
Weights have the scale of parameters. A product has the sum of both scales; where that exceeds
`rebase` x max(input scale, scale of parameters), it is divided back to there, to the nearest integer, halves away from
zero. The bias of a convolution is an integer of the product's scale and is added before that; that of a linear layer,
or one added to a product of matrices, takes the scale of what it is added to, after it. Sums are taken at the larger
scale. A mean is a sum times 1/n, which is a parameter as any other, unless n is 2^k: then it is the sum at k bits more,
which are divided away after the next operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from decentral.errors import Unproven
from decentral.models.graphs import place_of, trace
from decentral.zk.fixed import Fixed, half_away, joined


@dataclass(frozen=True, slots=True)
class Scales:
    """Of a circuit, in bits: of its parameters, and `rebase` times the larger of theirs and its input's at most."""

    parameters: int = 7
    rebase: int = 1


def quantised(images: Tensor, scale: int) -> Fixed:
    """As ezkl reads an input."""
    return Fixed.of_real(images, scale)


def traced(network: nn.Module, inputs: int = 1) -> fx.GraphModule:
    """Its operators. Raises Untraceable."""
    if isinstance(network, fx.GraphModule):
        return network
    if type(network).__module__.startswith("torch.nn"):
        network = nn.Sequential(network)
    return trace(network, inputs)


class Emulator:
    """One circuit: a network without BatchNorm, in evaluation mode. Batches may be of any size."""

    def __init__(self, network: nn.Module, scales: Scales | None = None, *, inputs: int = 1) -> None:
        """Raises Unproven that names the layer for what it does not know."""
        self._graph, self._scales = traced(network, inputs), scales or Scales()
        self._limit = 0
        for node in self._graph.graph.nodes:
            if node.op not in ("placeholder", "output"):
                self._operator(node)

    @torch.no_grad()
    def __call__(self, *inputs: Fixed) -> tuple[Fixed, ...]:
        """The outputs in order. Raises ValueError for another number of inputs."""
        (output,) = (node for node in self._graph.graph.nodes if node.op == "output")
        known = self.values(*inputs)
        found = fx.node.map_arg(output.args[0], lambda each: known[each])
        outputs = tuple(found) if isinstance(found, tuple | list) else (found,)
        return tuple(map(self._rebased, outputs))

    def bits(self, *inputs: Fixed) -> int:
        """Of the largest number that is met."""
        return max(value.bits() for value in self.values(*inputs).values() if isinstance(value, Fixed))

    @torch.no_grad()
    def values(self, *inputs: Fixed) -> dict[fx.Node, Any]:
        """What every operator gives. Raises ValueError for another number of inputs."""
        places = [node for node in self._graph.graph.nodes if node.op == "placeholder"]
        if len(places) != len(inputs):
            raise ValueError(f"the circuit takes {len(places)} tensors, not {len(inputs)}")
        self._limit = max(self._scales.parameters, *(value.scale for value in inputs)) * self._scales.rebase
        known: dict[fx.Node, Any] = dict(zip(places, inputs, strict=True))
        for node in self._graph.graph.nodes:
            if node.op not in ("placeholder", "output"):
                arguments = fx.node.map_arg(node.args, lambda each: known[each])
                options = fx.node.map_arg(node.kwargs, lambda each: known[each])
                known[node] = self._operator(node)(*arguments, **options)
        return known

    # ---- operators ------------------------------------------------------------------------------------------------

    def _operator(self, node: fx.Node) -> Callable[..., Any]:
        if node.op == "call_module":
            module = self._graph.get_submodule(str(node.target))
            for kind, operator in self._modules().items():
                if isinstance(module, kind):
                    return lambda value: operator(module, value)
        else:
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            if name in ("add", "iadd") and not all(isinstance(each, fx.Node) for each in node.args):
                raise Unproven(f"{place_of(node)}: adds a constant, whose circuit is not known here")
            if (found := self._functions().get(str(name))) is not None:
                return found
        raise Unproven(f"{place_of(node)}: not one of the operators whose circuits are known here")

    def _modules(self) -> dict[type[nn.Module], Callable[[Any, Fixed], Fixed]]:
        return {
            nn.Conv2d: self._whole_convolution,
            nn.Linear: lambda layer, x: self._bias(self._product(layer.weight, x), layer.bias, last=True),
            nn.ReLU: lambda _, x: self._rebased(x.relu()),
            nn.Flatten: lambda layer, x: x.moved(lambda each: each.flatten(layer.start_dim, layer.end_dim)),
            nn.AdaptiveAvgPool2d: lambda layer, x: self._mean(x, layer.output_size),
            nn.MaxPool2d: lambda layer, x: _max_pool(x, layer.kernel_size, layer.stride, layer.padding),
            nn.Identity: lambda _, x: x,
            nn.Dropout: lambda _, x: x,
        }

    def _functions(self) -> dict[str, Callable[..., Any]]:
        return {
            "relu": lambda x, inplace=False: self._rebased(x.relu()),
            "relu_": lambda x: self._rebased(x.relu()),
            "add": lambda x, y: self._rebased(x.plus(y)),
            "iadd": lambda x, y: self._rebased(x.plus(y)),
            "flatten": lambda x, start_dim=0, end_dim=-1: x.moved(lambda each: each.flatten(start_dim, end_dim)),
            "adaptive_avg_pool2d": self._mean,
            "max_pool2d": lambda x, kernel_size, stride=None, padding=0, **_: _max_pool(
                x, kernel_size, stride, padding
            ),
            "cat": lambda parts, dim=0: joined(parts, dim),
            "getitem": lambda x, place: x.moved(lambda each: each[place]),
            "dropout": lambda x, *_, **__: x,
            "clone": lambda x: x,
        }

    def _whole_convolution(self, layer: nn.Conv2d, x: Fixed) -> Fixed:
        if layer.bias is None:
            return self._convolution(layer, x)
        return self._rebased(self._bias(self._convolved(layer, x), layer.bias))

    def _convolution(self, layer: Any, x: Fixed) -> Fixed:
        return self._rebased(self._convolved(layer, x))

    def _convolved(self, layer: Any, x: Fixed) -> Fixed:
        weight = self._parameter(layer.weight)
        options = {"stride": layer.stride, "padding": layer.padding}
        if isinstance(layer, nn.Conv2d):
            options |= {"dilation": layer.dilation, "groups": layer.groups}
        norm = float(weight.abs().sum((1, 2, 3)).max())
        return x.linear(lambda each: functional.conv2d(each, weight, **options), norm, self._scales.parameters)

    def _product(self, weight: Tensor, x: Fixed) -> Fixed:
        whole = self._parameter(weight)
        norm = float(whole.abs().sum(1).max())
        return self._rebased(x.linear(lambda each: each @ whole.T, norm, self._scales.parameters))

    def _bias(self, x: Fixed, bias: Tensor | None, last: bool = False) -> Fixed:
        if bias is None:
            return x
        shape = [-1] if last else [-1, 1, 1]
        return x.plus(Fixed.of_real(bias.detach(), x.scale).moved(lambda each: each.view(shape)))

    def _mean(self, x: Fixed, output_size: int | tuple[int, int] | None) -> Fixed:
        if output_size not in (1, (1, 1)):
            raise Unproven("adaptive_avg_pool2d: only to one pixel")
        count = math.prod(x.shape[2:])
        if count & (count - 1) == 0:  # a power of two is a matter of the scale alone, and divided with what comes next
            return x.linear(lambda each: each.sum((2, 3), keepdim=True), count, count.bit_length() - 1)
        share = float(self._parameter(torch.tensor(1 / count)))
        norm = share * count
        pooled = x.linear(lambda each: each.sum((2, 3), keepdim=True) * share, norm, self._scales.parameters)
        return self._rebased(pooled)

    def _parameter(self, tensor: Tensor) -> Tensor:
        return half_away(tensor.detach().double() * 2.0**self._scales.parameters)

    def _rebased(self, x: Fixed) -> Fixed:
        return x.rescaled(self._limit) if x.scale > self._limit else x


def _max_pool(x: Fixed, kernel: Any, stride: Any = None, padding: Any = 0) -> Fixed:
    size, step = _pair(kernel), _pair(kernel if stride is None else stride)
    if _pair(padding) != (0, 0):
        raise Unproven("max_pool2d: only without padding")
    height, width = ((x.shape[2 + axis] - size[axis]) // step[axis] + 1 for axis in (0, 1))
    found: Fixed | None = None
    for row in range(size[0]):
        for column in range(size[1]):
            rows, columns = (slice(at, None, by) for at, by in ((row, step[0]), (column, step[1])))
            part = Fixed(tuple(each[:, :, rows, columns][:, :, :height, :width] for each in x.digits), x.scale)
            found = part if found is None else found.larger(part)
    assert found is not None
    return found


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def through(
    circuits: Sequence[Emulator], wires: Sequence[Sequence[tuple[int, int]]], images: Fixed
) -> tuple[Fixed, ...]:
    """What the last circuit gives. `wires`: as in a `Chain`, which circuit's which output each takes; none: images."""
    made: list[tuple[Fixed, ...]] = []
    for circuit, taken in zip(circuits, wires, strict=True):
        given = [made[source][output] for source, output in taken] or [images]
        made.append(circuit(*given))
    return made[-1]


def accuracy(outputs: Fixed, labels: Tensor) -> float:
    """The share whose largest output is that of the label."""
    return float((outputs.real().argmax(1) == labels).double().mean())
