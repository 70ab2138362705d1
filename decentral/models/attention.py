"""Rules of products of tensors, and of attention: heads change places whole, units within their head.

Q and K of a head share one order, V and the columns of the output projection another, and both follow the heads.
torch's transformer encoders, which it shows as one operator, are written out here as those that have rules.
"""

# ruff: noqa: PLR0917 - a rule has the signature of its operator

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from decentral.models.axes import Axis
from decentral.models.calls import Call, Projection, Rule, Value


def einsum(call: Call, equation: str, *operands: Any) -> Value | None:
    """Axes of one letter agree; a sum over a letter is the same in any order. Ellipses have no rule."""
    values = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    letters = inputs.split(",")
    if not arrow or "." in equation or any(len(set(each)) < len(each) for each in (*letters, output)):
        return None
    return contraction(call, list(zip(values, letters, strict=True)), output)


def matmul(call: Call, x: Value, y: Value) -> Value | None:
    """The last axis of one with the second to last of the other; leading axes agree or are broadcast."""
    ranks = len(x.axes), len(y.axes)
    if min(ranks) < 2:
        return None
    batch = string.ascii_lowercase[: max(ranks) - 2]
    first, second = (batch[len(batch) - rank + 2 :] for rank in ranks)
    return contraction(call, [(x, first + "XY"), (y, second + "YZ")], batch + "XZ")


def attention(call: Call, query: Value, key: Value, value: Value, *mask: Any, **options: Any) -> Value | None:
    """softmax(Q Kᵀ) V over the last two axes (scaled_dot_product_attention without a mask of tensors)."""
    masks = [given for given in (*mask, *options.values()) if isinstance(given, Value)]
    if masks or options.get("enable_gqa") or len(query.axes) < 3:
        return None
    if options.get("is_causal") or mask[2:3] == (True,):
        call.pin((query.axes[-2], key.axes[-2]))
    batch = string.ascii_lowercase[: len(query.axes) - 2]
    weights = contraction(call, [(query, batch + "LE"), (key, batch + "SE")], batch + "LS")
    return contraction(call, [(weights, batch + "LS"), (value, batch + "SV")], batch + "LV")


def contraction(call: Call, operands: Sequence[tuple[Value, str]], output: str) -> Value:
    """A sum of products over the letters that the output lacks."""
    system = call.system
    named: dict[str, list[Axis]] = {}
    for value, letters in operands:
        for letter, axis in zip(letters, value.axes, strict=True):
            named.setdefault(letter, []).append(axis)
    result: dict[str, Axis] = {}
    for letter, axes in named.items():
        wide = [axis for axis in axes if axis.size > 1]
        # Parted axes first: where one of them is left, the others that share its arrays are left with it.
        wide.sort(key=lambda axis: not axis.is_parted)
        for axis in wide[1:]:
            system.join(wide[0], axis)
        if letter not in output:
            for axis in wide:
                system.contract(axis)
        result[letter] = wide[0] if wide else system.fixed(1)
    return Value(system.complete([result[letter] for letter in output]))


def heads(call: Call, inputs: Sequence[Value], weight: Value, count: int) -> tuple[Axis, Axis]:
    """Rows [Q; K; V] of a joint projection of three inputs: the heads, and V's units, which the output layer reads."""
    system, axis = call.system, weight.axes[0]
    rows = [slice(n * axis.size // 3, (n + 1) * axis.size // 3) for n in range(3)]
    for x, part in zip(inputs, rows, strict=True):
        system.join(weight.axes[1], x.axes[-1])
        call.reads.append(x.node)
        if weight.name:
            call.projections.append(Projection(x, weight.name, part))
    query, key, value = (system.select([axis], 0, part)[0] for part in rows)
    system.join(query, key)
    outer = system.outer(query.rows(count))
    system.join(outer, system.outer(value.rows(count)))
    return outer, value


def multi_head_attention(
    call: Call, module: nn.MultiheadAttention, query: Value, key: Value, value: Value, *rest: object, **options: object
) -> tuple[Value, Value | None] | None:
    """nn.MultiheadAttention with one size of embedding, no extra keys and, if any, the same mask for all heads."""
    masks = [mask for name in ("attn_mask", "key_padding_mask") if isinstance(mask := options.pop(name, None), Value)]
    if rest or any(len(mask.axes) > 2 for mask in masks) or not options.pop("average_attn_weights", True):
        return None
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        return None
    call.pin(axis for mask in masks for axis in mask.axes)
    weight, merge = call.parameter(module.in_proj_weight), call.parameter(module.out_proj.weight)
    for x in (query, key, value):
        call.pin(x.axes[:-1])
    call.per_entry(weight.axes[0], call.own(module.in_proj_bias))
    call.system.join(merge.axes[1], heads(call, (query, key, value), weight, module.num_heads)[1])
    call.per_entry(merge.axes[0], call.own(module.out_proj.bias))
    seen = call.result[1]
    weights = None if seen is None else Value(tuple(map(call.system.fixed, seen)))
    return Value((*call.fixed()[:-1], merge.axes[0])), weights


def shifted_window_attention(
    call: Call,
    x: Value,
    qkv_weight: Value,
    proj_weight: Value,
    relative_position_bias: Value,
    window_size: object,
    num_heads: int,
    shift_size: object,
    attention_dropout: float = 0.0,
    dropout: float = 0.0,
    qkv_bias: Value | None = None,
    proj_bias: Value | None = None,
    logit_scale: Value | None = None,
    training: bool = False,
) -> Value:
    """Swin Transformer's attention, both versions: its bias and its scale are per head, pixels keep their order."""
    call.pin((*x.axes[:-1], *relative_position_bias.axes[2:]))
    call.per_entry(qkv_weight.axes[0], qkv_bias)
    outer, value = heads(call, (x, x, x), qkv_weight, num_heads)
    call.system.join(relative_position_bias.axes[1], outer)
    call.per_entry(outer, logit_scale)
    call.system.join(proj_weight.axes[1], value)
    call.per_entry(proj_weight.axes[0], proj_bias)
    return Value((*call.fixed()[:-1], proj_weight.axes[0]))


def relative_position_bias(call: Call, table: Value, index: Value, window_size: object) -> Value:
    """A table [positions, heads] looked up for each pair of pixels: [1, heads, pixels, pixels]."""
    call.pin((table.axes[0], *index.axes))
    fixed = call.fixed()
    return Value((fixed[0], table.axes[1], *fixed[2:]))


def patch_merging(call: Call, x: Value) -> Value:
    """Four neighbouring pixels become one with four times the channels."""
    call.pin(x.axes[-3:-1])
    return Value((*call.fixed()[:-1], call.system.concatenate([x.axes[-1]] * 4)))


def _encoder_layer(
    layer: nn.TransformerEncoderLayer,
    src: Tensor,
    src_mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    def attend(x: Tensor) -> Tensor:
        masks = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask, "is_causal": is_causal}
        seen: Tensor = layer.dropout1(layer.self_attn(x, x, x, need_weights=False, **masks)[0])
        return seen

    def think(x: Tensor) -> Tensor:
        thought: Tensor = layer.dropout2(layer.linear2(layer.dropout(layer.activation(layer.linear1(x)))))
        return thought

    if layer.norm_first:
        src = src + attend(layer.norm1(src))
        return src + think(layer.norm2(src))
    src = layer.norm1(src + attend(src))
    normed: Tensor = layer.norm2(src + think(src))
    return normed


def _encoder(
    encoder: nn.TransformerEncoder,
    src: Tensor,
    mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool | None = None,
) -> Tensor:
    masks = {"src_mask": mask, "src_key_padding_mask": src_key_padding_mask, "is_causal": bool(is_causal)}
    for layer in encoder.layers:
        src = layer(src, **masks)
    return src if encoder.norm is None else encoder.norm(src)


WRITTEN_OUT: dict[type[nn.Module], Callable[..., Any]] = {
    nn.TransformerEncoder: _encoder,
    nn.TransformerEncoderLayer: _encoder_layer,
}
"""Forward passes of modules that choose among several ways to compute the same, and so cannot be traced themselves."""

_SWIN = "torchvision.models.swin_transformer"

FUNCTIONS: dict[object, Rule] = {
    torch.einsum: einsum,
    F.scaled_dot_product_attention: attention,
    **dict.fromkeys((torch.matmul, torch.bmm, "matmul", "bmm", "__matmul__"), matmul),
    f"{_SWIN}.shifted_window_attention": shifted_window_attention,
    f"{_SWIN}._get_relative_position_bias": relative_position_bias,
    f"{_SWIN}._patch_merging_pad": patch_merging,
}
"""Functions of torchvision that are traced as a whole go by their qualified names."""

MODULES: dict[type[nn.Module], Rule] = {nn.MultiheadAttention: multi_head_attention}

PARTED: frozenset[Rule] = frozenset({einsum, matmul, attention})
