"""What each operator does to the axes of its tensors: one table, one small rule an operator.

A rule takes the operator's own arguments with every tensor replaced by its axes, joins what must be permuted alike
and returns the axes of the result, such that permuting the inputs and parameters permutes the result. An operator
without a rule is pinned whole by `tracing`, so a missing rule costs freedom and never correctness. To support another
operator, write its rule and enter it in FUNCTIONS or MODULES.
"""

# ruff: noqa: PLR0917 - a rule has the signature of its operator

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from decentral.models.axes import Axis, AxisSystem, Run, expand


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor as a rule sees it: its axes, and the node of the graph that computes it ("" for a parameter's own)."""

    axes: tuple[Axis, ...]
    node: str = ""


@dataclass(frozen=True)
class Call:
    """One operator of a traced network: its surroundings, and the shape of its result."""

    system: AxisSystem
    shape: tuple[int, ...]
    parameter: Callable[[Tensor], Value]
    """The axes of a tensor that belongs to the network; raises Untraceable for one that it does not know."""
    reads: list[str] = field(default_factory=list)
    """Nodes whose activations a layer with weights reads: where a group's units are compared."""

    def fixed(self, start: int = 0) -> tuple[Axis, ...]:
        """The result's axes from `start` on, as axes that keep their order."""
        return tuple(self.system.fixed(size) for size in self.shape[start:])

    def pin(self, axes: Iterable[Axis]) -> None:
        for axis in axes:
            self.system.pin(axis)

    def own(self, tensor: Tensor | None) -> Value | None:
        return None if tensor is None else self.parameter(tensor)


Rule = Callable[..., Value]


def linear(call: Call, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """y = x Wᵀ + b, on the last axis."""
    call.reads.append(x.node)
    call.system.join(weight.axes[1], x.axes[-1])
    _per_entry(call, weight.axes[0], bias)
    return Value((*x.axes[:-1], weight.axes[0]))


def convolution(
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
    *,
    spatial: int,
) -> Value:
    """Dense: outputs are new units. Depthwise: outputs follow their inputs. Other groups stay in place."""
    system, channel = call.system, len(x.axes) - spatial - 1
    inputs, outputs = x.axes[channel], weight.axes[0]
    call.pin((*x.axes[channel + 1 :], *weight.axes[2:]))
    if groups == 1:
        call.reads.append(x.node)
        system.join(weight.axes[1], inputs)
    elif groups == system.size(inputs):
        system.join(outputs, expand(inputs, system.size(outputs) // groups))
    else:
        call.pin((inputs, outputs, weight.axes[1]))
    _per_entry(call, outputs, bias)
    return Value((*x.axes[:channel], outputs, *call.fixed(channel + 1)))


def batch_norm(
    call: Call,
    x: Value,
    mean: Value | None = None,
    variance: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    *_: object,
    **__: object,
) -> Value:
    """Every channel by itself: affine parameters and running statistics follow axis 1."""
    _per_entry(call, x.axes[1], mean, variance, weight, bias)
    return x


def group_norm(
    call: Call, x: Value, groups: int, weight: Value | None = None, bias: Value | None = None, eps: float = 0.0
) -> Value:
    """One group normalises over all channels alike; several groups keep their channels in place."""
    _per_entry(call, x.axes[1], weight, bias)
    if groups > 1:
        call.system.pin(x.axes[1])
    return x


def layer_norm(
    call: Call,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 0.0,
) -> Value:
    """Statistics over the last axes are the same in any order; the affine parameters follow those axes."""
    for parameter in (weight, bias):
        if parameter is not None:
            for own, other in zip(parameter.axes, x.axes[-len(shape) :], strict=True):
                call.system.join(own, other)
    return x


def prelu(call: Call, x: Value, weight: Value) -> Value:
    """One slope for all channels, or one a channel."""
    if call.system.size(weight.axes[0]) > 1:
        call.system.join(weight.axes[0], x.axes[1])
    return x


def elementwise(call: Call, *operands: object, **options: object) -> Value:
    """Entry by entry with broadcasting (also softmax and the like, which treat every entry of an axis alike)."""
    values = [operand for operand in (*operands, *options.values()) if isinstance(operand, Value)]
    axes: list[Axis] = []
    for place in range(len(call.shape), 0, -1):
        wide = [value.axes[-place] for value in values if place <= len(value.axes)]
        wide = [axis for axis in wide if call.system.size(axis) > 1]
        for axis in wide[1:]:
            call.system.join(wide[0], axis)
        axes.append(wide[0] if wide else call.system.fixed(1))
    return Value(tuple(axes))


def pooling(call: Call, x: Value, *_: object, spatial: int, **__: object) -> Value:
    """Every channel by itself; pixels keep their order."""
    call.pin(x.axes[-spatial:])
    return Value((*x.axes[:-spatial], *call.fixed(len(call.shape) - spatial)))


def regroup(call: Call, x: Value, *arguments: object, **_: object) -> Value:
    """reshape, view, flatten, squeeze: entries keep their order, so axes are merged and parted at common products."""
    if any(isinstance(argument, torch.dtype) for argument in arguments):
        call.pin(x.axes)
        return Value(call.fixed())
    axes: list[Axis] = []
    before = [axis for axis in x.axes if call.system.size(axis) != 1]
    after = [size for size in call.shape if size != 1]
    while before or after:
        merged, parted = [before.pop(0)], [after.pop(0)]
        while (have := math.prod(map(call.system.size, merged))) != (want := math.prod(parted)):
            if have < want:
                merged.append(before.pop(0))
            else:
                parted.append(after.pop(0))
        axes += _reshaped(call, merged, parted)
    wide = iter(axes)
    return Value(tuple(call.system.fixed(1) if size == 1 else next(wide) for size in call.shape))


def reduction(
    call: Call, x: Value, dim: int | Sequence[int] | None = None, keepdim: bool = False, **_: object
) -> Value:
    """mean, sum, variance: the same in any order of the entries, so the axes that remain are as they were."""
    rank = len(x.axes)
    given = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {place % rank for place in given}
    kept = [call.system.fixed(1) if place in gone else axis for place, axis in enumerate(x.axes)]
    return Value(tuple(axis for place, axis in enumerate(kept) if keepdim or place not in gone))


def concatenation(call: Call, values: Sequence[Value], dim: int = 0) -> Value:
    """Along one axis the inputs' units stand one after the other; all other axes agree."""
    along = dim % len(call.shape)
    axes: list[Axis] = []
    for place in range(len(call.shape)):
        parts = [value.axes[place] for value in values]
        if place == along:
            axes.append(sum(parts, ()))
        else:
            for part in parts[1:]:
                call.system.join(parts[0], part)
            axes.append(parts[0])
    return Value(tuple(axes))


def permutation(call: Call, x: Value, *dims: Any) -> Value:
    """Axes change places whole."""
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    return Value(tuple(x.axes[place] for place in order))


def transposition(call: Call, x: Value, first: int, second: int) -> Value:
    """Two axes change places."""
    axes = list(x.axes)
    axes[first], axes[second] = axes[second], axes[first]
    return Value(tuple(axes))


def _per_entry(call: Call, axis: Axis, *parameters: Value | None) -> None:
    """Vectors with one entry for every entry of an axis."""
    for parameter in parameters:
        if parameter is not None:
            call.system.join(parameter.axes[0], axis)


def _reshaped(call: Call, merged: list[Axis], parted: list[int]) -> list[Axis]:
    """Some axes in a row that become some others with as many entries."""
    system = call.system
    outer, inner = merged[0], math.prod(map(system.size, merged[1:]))
    if all(map(system.is_fixed, merged[1:])):
        # What follows the first axis keeps its order: a unit owns `inner` consecutive entries.
        whole, tail = expand(system.resolve(outer), inner), math.prod(parted[1:])
        if all(run.repeat % tail == 0 for run in whole):
            return [tuple(Run(run.atom, run.repeat // tail) for run in whole), *map(system.fixed, parted[1:])]
    call.pin(merged)
    return [system.fixed(size) for size in parted]


def _same_for_module(call: Call, module: nn.Module, *inputs: Value) -> Value:
    return elementwise(call, *inputs)


def _linear_module(call: Call, module: nn.Linear, x: Value) -> Value:
    return linear(call, x, call.parameter(module.weight), call.own(module.bias))


def _convolution_module(call: Call, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Value) -> Value:
    weight, bias = call.parameter(module.weight), call.own(module.bias)
    return convolution(call, x, weight, bias, groups=module.groups, spatial=len(module.kernel_size))


def _batch_norm_module(call: Call, module: nn.BatchNorm2d, x: Value) -> Value:
    return batch_norm(call, x, *map(call.own, (module.running_mean, module.running_var, module.weight, module.bias)))


def _group_norm_module(call: Call, module: nn.GroupNorm, x: Value) -> Value:
    return group_norm(call, x, module.num_groups, call.own(module.weight), call.own(module.bias))


def _layer_norm_module(call: Call, module: nn.LayerNorm, x: Value) -> Value:
    return layer_norm(call, x, module.normalized_shape, call.own(module.weight), call.own(module.bias))


def _prelu_module(call: Call, module: nn.PReLU, x: Value) -> Value:
    return prelu(call, x, call.parameter(module.weight))


def _regroup_module(call: Call, module: nn.Module, x: Value) -> Value:
    return regroup(call, x)


def _pooling_module(call: Call, module: nn.Module, x: Value, *, spatial: int) -> Value:
    return pooling(call, x, spatial=spatial)


METADATA: frozenset[object] = frozenset(
    {getattr, "size", "dim", "ndimension", "numel", "is_floating_point", "get_device"}
)
"""Operators that read what no permutation changes."""

FUNCTIONS: dict[object, Rule] = {
    F.linear: linear,
    F.batch_norm: batch_norm,
    F.group_norm: group_norm,
    F.layer_norm: layer_norm,
    F.prelu: prelu,
    **{conv: partial(convolution, spatial=n) for n, conv in enumerate((F.conv1d, F.conv2d, F.conv3d), start=1)},
    **{pool: partial(pooling, spatial=1) for pool in (F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d)},
    **{pool: partial(pooling, spatial=2) for pool in (F.max_pool2d, F.avg_pool2d)},
    **{pool: partial(pooling, spatial=2) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)},
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze), regroup),
    **dict.fromkeys(("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten"), regroup),
    **dict.fromkeys((torch.mean, torch.sum, "mean", "sum", torch.amax, torch.amin, "amax", "amin"), reduction),
    **dict.fromkeys((torch.cat, torch.concat), concatenation),
    **dict.fromkeys((torch.permute, "permute"), permutation),
    **dict.fromkeys((torch.transpose, "transpose"), transposition),
    **dict.fromkeys(
        (operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow), elementwise
    ),
    **dict.fromkeys((operator.iadd, operator.isub, operator.imul, operator.itruediv), elementwise),
    **dict.fromkeys((torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, torch.pow), elementwise),
    **dict.fromkeys(
        (torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.sqrt, torch.abs, torch.clamp), elementwise
    ),
    **dict.fromkeys((F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.gelu, F.silu, F.mish, F.softplus), elementwise),
    **dict.fromkeys((F.sigmoid, F.tanh, F.hardtanh, F.hardswish, F.hardsigmoid, F.logsigmoid), elementwise),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), elementwise),
    **dict.fromkeys((F.softmax, F.log_softmax, torch.softmax, torch.log_softmax), elementwise),
    **dict.fromkeys(("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "neg", "pow"), elementwise),
    **dict.fromkeys(("relu", "relu_", "sigmoid", "tanh", "exp", "sqrt", "abs", "clamp", "clamp_"), elementwise),
    **dict.fromkeys(("softmax", "log_softmax"), elementwise),
    **dict.fromkeys(("contiguous", "clone", "detach", "float", "half", "bfloat16", "double", "to"), elementwise),
}
"""Rules of functions, and of tensor methods by their name: `rule(call, *arguments of the operator)`."""

MODULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear_module,
    nn.GroupNorm: _group_norm_module,
    nn.LayerNorm: _layer_norm_module,
    nn.PReLU: _prelu_module,
    nn.Flatten: _regroup_module,
    nn.Unflatten: _regroup_module,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution_module),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _batch_norm_module),
    **dict.fromkeys((nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d), partial(_pooling_module, spatial=1)),
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d), partial(_pooling_module, spatial=2)),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), partial(_pooling_module, spatial=2)),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _same_for_module),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish), _same_for_module),
    **dict.fromkeys((nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid), _same_for_module),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax, nn.LogSigmoid), _same_for_module),
}
"""Rules of torch's own modules, by their exact class: `rule(call, module, *arguments of forward)`."""
