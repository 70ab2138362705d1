"""What each operator does to the axes of its tensors: one table, one small rule an operator.

A rule takes the operator's own arguments with every tensor replaced by its axes, joins what must be permuted alike
and returns the axes of the result, such that permuting the inputs and parameters permutes the result. An operator
without a rule is pinned whole by `tracing`, so a missing rule costs freedom and never correctness. To support another
operator, write its rule and enter it in FUNCTIONS or MODULES.
"""

# ruff: noqa: PLR0917 - a rule has the signature of its operator

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from decentral.models import attention, moves
from decentral.models.axes import Axis
from decentral.models.calls import Call, Rule, Value


def linear(call: Call, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """y = x Wᵀ + b, on the last axis."""
    call.reads.append(x.node)
    call.system.join(weight.axes[1], x.axes[-1])
    call.per_entry(weight.axes[0], bias)
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
    """Dense: outputs are new units. Depthwise: they follow their inputs. Other groups move whole, with their inputs."""
    system, channel = call.system, len(x.axes) - spatial - 1
    inputs, outputs = x.axes[channel], weight.axes[0]
    call.pin((*x.axes[channel + 1 :], *weight.axes[2:]))
    if groups == 1:
        call.reads.append(x.node)
        system.join(weight.axes[1], inputs)
    elif groups == inputs.size:
        repeated = system.merge([inputs, system.fixed(outputs.size // groups)])
        assert repeated is not None
        system.join(outputs, repeated)
    elif weight.axes[1].is_parted:
        call.reads.append(x.node)
        system.join(weight.axes[1].flat(), inputs)
        system.join(system.outer(inputs.rows(groups)), system.outer(outputs.rows(groups)))
    else:
        call.pin((inputs, outputs, weight.axes[1]))
    call.per_entry(outputs, bias)
    return Value((*x.axes[:channel], outputs, *call.fixed(channel + 1)))


def transposed_convolution(
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: object = 1,
    padding: object = 0,
    output_padding: object = 0,
    groups: int = 1,
    dilation: object = 1,
    *,
    spatial: int,
) -> Value:
    """Its weight has the inputs first. Outputs of several groups move whole, with the inputs that they come from."""
    system, channel = call.system, len(x.axes) - spatial - 1
    inputs, outputs = x.axes[channel], weight.axes[1]
    call.pin((*x.axes[channel + 1 :], *weight.axes[2:]))
    call.reads.append(x.node)
    system.join(weight.axes[0], inputs)
    if groups > 1 and outputs.is_parted:
        outputs = outputs.flat()
        system.join(system.outer(inputs.rows(groups)), system.outer(outputs.rows(groups)))
    elif groups == inputs.size and outputs.size == 1:
        outputs = inputs
    elif groups > 1:
        call.pin((inputs, outputs))
        outputs = system.fixed(groups * outputs.size)
    call.per_entry(outputs, bias)
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
    call.per_entry(x.axes[1], mean, variance, weight, bias)
    return x


def group_norm(
    call: Call, x: Value, groups: int, weight: Value | None = None, bias: Value | None = None, eps: float = 0.0
) -> Value:
    """Every group normalises over its channels alike: groups move whole, channels within their group."""
    call.per_entry(x.axes[1], weight, bias)
    call.system.outer(x.axes[1].rows(groups))
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


def gated(call: Call, x: Value, dim: int = -1) -> Value:
    """glu: the first half of an axis times a function of the second."""
    place = dim % len(x.axes)
    half = x.axes[place].size // 2
    one, other = (call.system.select(x.axes, place, part) for part in (slice(half), slice(half, None)))
    return elementwise(call, Value(tuple(one)), Value(tuple(other)))


def prelu(call: Call, x: Value, weight: Value) -> Value:
    """One slope for all channels, or one a channel."""
    if weight.axes[0].size > 1:
        call.system.join(weight.axes[0], x.axes[1])
    return x


def elementwise(call: Call, *operands: object, **options: object) -> Value:
    """Entry by entry with broadcasting."""
    values = [operand for operand in (*operands, *options.values()) if isinstance(operand, Value)]
    axes: list[Axis] = []
    for place in range(len(call.shape), 0, -1):
        wide = [value.axes[-place] for value in values if place <= len(value.axes)]
        # Parted axes first, so that all that share their arrays come from the same operand.
        wide = sorted((axis for axis in wide if axis.size > 1), key=lambda axis: not axis.is_parted)
        for axis in wide[1:]:
            call.system.join(wide[0], axis)
        axes.append(wide[0] if wide else call.system.fixed(1))
    return Value(tuple(axes))


def along(call: Call, x: Value, *arguments: Any, dim: int | Sequence[int] | None = None, **_: object) -> Value | None:
    """softmax, normalize: all entries along some axes are used alike, wherever they are."""
    given = dim if dim is not None else next((a for a in arguments if isinstance(a, int)), None)
    places = range(len(x.axes)) if given is None else [given] if isinstance(given, int) else given
    for place in places:
        call.system.contract(x.axes[place])
    return x


def normalize(call: Call, x: Value, p: float = 2.0, dim: int = 1, *_: object, **__: object) -> Value | None:
    """Each entry divided by a norm along an axis."""
    return along(call, x, dim=dim)


def pooling(call: Call, x: Value, *_: object, spatial: int, **__: object) -> Value:
    """Every channel by itself; pixels keep their order."""
    call.pin(x.axes[-spatial:])
    return Value((*x.axes[:-spatial], *call.fixed(len(call.shape) - spatial)))


def interpolation(call: Call, x: Value, *_: object, **__: object) -> Value:
    """Every channel by itself; pixels keep their order."""
    return pooling(call, x, spatial=len(x.axes) - 2)


def reduction(
    call: Call, x: Value, dim: int | Sequence[int] | None = None, keepdim: bool = False, **_: object
) -> Value:
    """mean, sum, variance: the same in any order of the entries, so the axes that remain are as they were."""
    rank = len(x.axes)
    given = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {place % rank for place in given}
    for place in gone:
        call.system.contract(x.axes[place])
    kept = [call.system.fixed(1) if place in gone else axis for place, axis in enumerate(x.axes)]
    return Value(tuple(axis for place, axis in enumerate(kept) if keepdim or place not in gone))


def _same_for_module(call: Call, module: nn.Module, *inputs: Value) -> Value:
    return elementwise(call, *inputs)


def _along_module(call: Call, module: nn.Softmax, x: Value) -> Value | None:
    return along(call, x, dim=module.dim)


def _linear_module(call: Call, module: nn.Linear, x: Value) -> Value:
    return linear(call, x, call.parameter(module.weight), call.own(module.bias))


def _convolution_module(call: Call, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Value) -> Value:
    weight, bias = call.weight(module.weight), call.own(module.bias)
    return convolution(call, x, weight, bias, groups=module.groups, spatial=len(module.kernel_size))


def _transposed_convolution_module(
    call: Call, module: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d, x: Value, *_: object, **__: object
) -> Value:
    weight, bias = call.weight(module.weight), call.own(module.bias)
    return transposed_convolution(call, x, weight, bias, groups=module.groups, spatial=len(module.kernel_size))


def _batch_norm_module(call: Call, module: nn.BatchNorm2d | nn.InstanceNorm2d, x: Value) -> Value:
    return batch_norm(call, x, *map(call.own, (module.running_mean, module.running_var, module.weight, module.bias)))


def _group_norm_module(call: Call, module: nn.GroupNorm, x: Value) -> Value:
    return group_norm(call, x, module.num_groups, call.own(module.weight), call.own(module.bias))


def _layer_norm_module(call: Call, module: nn.LayerNorm, x: Value) -> Value:
    return layer_norm(call, x, module.normalized_shape, call.own(module.weight), call.own(module.bias))


def _rms_norm_module(call: Call, module: nn.RMSNorm, x: Value) -> Value:
    return layer_norm(call, x, module.normalized_shape, call.own(module.weight))


def _instance_norm_module(call: Call, module: nn.InstanceNorm2d, x: Value, *, spatial: int) -> Value | None:
    """One picture without a batch has no rule."""
    return _batch_norm_module(call, module, x) if len(x.axes) == spatial + 2 else None


def _gated_module(call: Call, module: nn.GLU, x: Value) -> Value:
    return gated(call, x, module.dim)


def _prelu_module(call: Call, module: nn.PReLU, x: Value) -> Value:
    return prelu(call, x, call.parameter(module.weight))


def _pooling_module(call: Call, module: nn.Module, x: Value, *, spatial: int) -> Value:
    return pooling(call, x, spatial=spatial)


def _interpolation_module(call: Call, module: nn.Module, x: Value) -> Value:
    return interpolation(call, x)


METADATA: frozenset[object] = frozenset(
    {getattr, "size", "dim", "ndimension", "numel", "is_floating_point", "get_device"}
)
"""Operators that read what no permutation changes."""

FUNCTIONS: dict[object, Rule] = {
    **moves.FUNCTIONS,
    **attention.FUNCTIONS,
    **dict.fromkeys((operator.matmul,), attention.matmul),
    F.linear: linear,
    F.batch_norm: batch_norm,
    F.group_norm: group_norm,
    F.layer_norm: layer_norm,
    F.rms_norm: layer_norm,
    F.instance_norm: batch_norm,
    F.prelu: prelu,
    F.glu: gated,
    **{conv: partial(convolution, spatial=n) for n, conv in enumerate((F.conv1d, F.conv2d, F.conv3d), start=1)},
    **{
        conv: partial(transposed_convolution, spatial=n)
        for n, conv in enumerate((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), start=1)
    },
    **{pool: partial(pooling, spatial=1) for pool in (F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d)},
    **{pool: partial(pooling, spatial=2) for pool in (F.max_pool2d, F.avg_pool2d)},
    **{pool: partial(pooling, spatial=2) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)},
    **dict.fromkeys((torch.mean, torch.sum, "mean", "sum", torch.amax, torch.amin, "amax", "amin"), reduction),
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
    **dict.fromkeys((F.softmax, F.log_softmax, torch.softmax, torch.log_softmax), along),
    **dict.fromkeys(("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "neg", "pow"), elementwise),
    **dict.fromkeys(("relu", "relu_", "sigmoid", "tanh", "exp", "sqrt", "abs", "clamp", "clamp_"), elementwise),
    **dict.fromkeys(("softmax", "log_softmax"), along),
    F.normalize: normalize,
    F.interpolate: interpolation,
    "torchvision.ops.stochastic_depth.stochastic_depth": elementwise,
    **dict.fromkeys((torch.where, torch.square, torch.rsqrt, torch.reciprocal, torch.log), elementwise),
    **dict.fromkeys(("masked_fill", "square", "rsqrt", "reciprocal", "log"), elementwise),
    **dict.fromkeys((torch.zeros_like, torch.ones_like, torch.rand_like, torch.randn_like), elementwise),
    **dict.fromkeys(("contiguous", "clone", "detach", "float", "half", "bfloat16", "double", "to"), elementwise),
}
"""Rules of functions, and of tensor methods by their name: `rule(call, *arguments of the operator)`."""

MODULES: dict[type[nn.Module], Rule] = {
    **moves.MODULES,
    **attention.MODULES,
    nn.Linear: _linear_module,
    nn.GroupNorm: _group_norm_module,
    nn.LayerNorm: _layer_norm_module,
    nn.RMSNorm: _rms_norm_module,
    **{
        norm: partial(_instance_norm_module, spatial=n)
        for n, norm in enumerate((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), start=1)
    },
    nn.PReLU: _prelu_module,
    nn.GLU: _gated_module,
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), _interpolation_module),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution_module),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed_convolution_module),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _batch_norm_module),
    **dict.fromkeys((nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d), partial(_pooling_module, spatial=1)),
    **dict.fromkeys((nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d), partial(_pooling_module, spatial=3)),
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d), partial(_pooling_module, spatial=2)),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), partial(_pooling_module, spatial=2)),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), _same_for_module),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish), _same_for_module),
    **dict.fromkeys((nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid), _same_for_module),
    nn.LogSigmoid: _same_for_module,
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), _along_module),
}
"""Rules of torch's own modules, by their exact class: `rule(call, module, *arguments of forward)`."""

PARTED: frozenset[Rule] = frozenset(
    {
        *moves.PARTED,
        *attention.PARTED,
        *(elementwise, gated, along, normalize, reduction),
        *(_same_for_module, _gated_module, _along_module),
    }
)
"""Rules that take axes parted by a reshape as they are; for all others these stay in place."""
