"""Rules of operators that only move entries: reshape, permute, concatenate, slice, repeat.

Most of them understand axes that a reshape has parted (`axes.Axis`), so that heads and shuffled channels stay free.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from decentral.models.axes import Axis
from decentral.models.calls import Call, Rule, Value


def creation(call: Call, x: Value, *_: object, **__: object) -> Value:
    """new_empty and its like: of the tensor only its type and device count. All axes keep their order."""
    return Value(call.fixed())


def regroup(call: Call, x: Value, *arguments: object, **_: object) -> Value | None:
    """reshape, view, flatten, squeeze: entries keep their order, so axes are merged and parted at common products."""
    if any(isinstance(argument, torch.dtype) for argument in arguments):
        return None
    axes: list[Axis] = []
    before = [axis for axis in x.axes if axis.size != 1]
    after = [size for size in call.shape if size != 1]
    while before or after:
        merged, parted = [before.pop(0)], [after.pop(0)]
        while (have := math.prod(axis.size for axis in merged)) != (want := math.prod(parted)):
            if have < want:
                merged.append(before.pop(0))
            else:
                parted.append(after.pop(0))
        axes += [*merged] if len(merged) == len(parted) == 1 else _reshaped(call, merged, parted)
    wide = iter(axes)
    return Value(tuple(call.system.fixed(1) if size == 1 else next(wide) for size in call.shape))


def concatenation(call: Call, values: Sequence[Value], dim: int = 0) -> Value:
    """Along one axis the inputs' units stand one after the other; all other axes agree."""
    along = dim % len(call.shape)
    axes: list[Axis] = []
    for place in range(len(call.shape)):
        parts = [value.axes[place] for value in values]
        if place != along:
            for part in parts[1:]:
                call.system.join(parts[0], part)
        axes.append(call.system.concatenate(parts) if place == along else parts[0])
    return Value(tuple(axes))


def stacking(call: Call, values: Sequence[Value], dim: int = 0) -> Value:
    """A new axis that keeps its order; all others agree."""
    axes = list(values[0].axes)
    for value in values[1:]:
        for own, other in zip(axes, value.axes, strict=True):
            call.system.join(own, other)
    axes.insert(dim % len(call.shape), call.system.fixed(len(values)))
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


def matrix_transposition(call: Call, x: Value) -> Value | None:
    """`t()` of a matrix; of anything less it changes nothing."""
    return Value(x.axes[::-1]) if len(x.axes) <= 2 else None


def indexing(call: Call, x: Value, index: object) -> Value | None:
    """Numbers, slices, None and ...; or one tensor, which looks entries of the first axis up."""
    if isinstance(index, Value):
        return lookup(call, index, x)
    items = list(index) if isinstance(index, tuple) else [index]
    if not all(item is None or isinstance(item, (int, slice, EllipsisType)) for item in items):
        return None
    taken = sum(item is not None and item is not Ellipsis for item in items)
    at = items.index(Ellipsis) if Ellipsis in items else len(items)
    items[at : at + 1] = [slice(None)] * (len(x.axes) - taken)
    axes, kept, place = list(x.axes), [], 0
    for item in items:
        if isinstance(item, bool):
            return None
        if isinstance(item, (int, slice)) and item != slice(None):
            axes = call.system.select(axes, place, item)
        if not isinstance(item, int):
            kept.append(None if item is None else place)
        place += item is not None
    return Value(tuple(call.system.fixed(1) if place is None else axes[place] for place in kept))


def lookup(call: Call, index: Value, table: Value, *_: object, **__: object) -> Value | None:
    """Rows of a table (an embedding): they keep their order, and each is as wide as the table."""
    if len(call.shape) != len(index.axes) + len(table.axes) - 1:
        return None
    call.pin((table.axes[0], *index.axes))
    rows = call.fixed()[: len(index.axes)]
    return Value((*rows, *table.axes[1:]))


def splitting(call: Call, x: Value, size: int | Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    """Stretches of an axis: so many entries each, or as long as they are listed."""
    length = x.axes[dim].size
    sizes = [min(size, length - start) for start in range(0, length, size)] if isinstance(size, int) else size
    values, start = [], 0
    for part in sizes:
        values.append(Value(tuple(call.system.select(x.axes, dim % len(x.axes), slice(start, start + part)))))
        start += part
    return tuple(values)


def chunking(call: Call, x: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    """So many stretches of an axis, equally long but for the last."""
    return splitting(call, x, -(-x.axes[dim].size // chunks), dim)


def unbinding(call: Call, x: Value, dim: int = 0) -> tuple[Value, ...]:
    """Every entry of an axis by itself."""
    place = dim % len(x.axes)
    values = []
    for entry in range(x.axes[place].size):
        axes = call.system.select(x.axes, place, entry)
        values.append(Value(tuple(axes[:place] + axes[place + 1 :])))
    return tuple(values)


def expansion(call: Call, x: Value, *_: object) -> Value:
    """Axes of one entry are repeated; new ones stand in front."""
    axes = (*call.fixed()[: len(call.shape) - len(x.axes)], *x.axes)
    pairs = zip(axes, call.shape, strict=True)
    return Value(tuple(axis if axis.size == size else call.system.fixed(size) for axis, size in pairs))


def rolling(call: Call, x: Value, shifts: object, dims: int | Sequence[int] = ()) -> Value:
    """Entries of some axes, or without any of all, change places: those axes stay in order."""
    return turning(call, x, *([dims] if isinstance(dims, int) else dims or range(len(x.axes))))


def turning(call: Call, x: Value, *dims: Any) -> Value:
    """flip: the axes that are turned keep their order otherwise."""
    places = dims[0] if dims and not isinstance(dims[0], int) else dims
    call.pin(x.axes[place] for place in places)
    return x


def padding(call: Call, x: Value, pad: Sequence[int], *_: object, **__: object) -> Value:
    """The last axes get entries at their ends, and keep their order if so."""
    axes = list(x.axes)
    for number in range(len(pad) // 2):
        if any(pad[2 * number : 2 * number + 2]):
            call.pin([axes[-1 - number]])
            axes[-1 - number] = call.system.fixed(call.shape[-1 - number])
    return Value(tuple(axes))


def _reshaped(call: Call, merged: list[Axis], parted: list[int]) -> list[Axis]:
    """Some axes in a row that become some others with as many entries."""
    whole = call.system.merge(merged)
    if whole is None:
        call.pin(merged)
        return [call.system.fixed(size) for size in parted]
    return call.system.part(whole, parted)


def _channel_shuffle(call: Call, module: nn.ChannelShuffle, x: Value) -> Value:
    channels = call.system.part(x.axes[1], [module.groups, x.axes[1].size // module.groups])
    shuffled = call.system.merge(channels[::-1])
    assert shuffled is not None
    return Value((x.axes[0], shuffled, *x.axes[2:]))


def _embedding(call: Call, module: nn.Embedding, index: Value) -> Value | None:
    return lookup(call, index, call.parameter(module.weight))


def _regroup_module(call: Call, module: nn.Module, x: Value) -> Value | None:
    return regroup(call, x)


FUNCTIONS: dict[object, Rule] = {
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze), regroup),
    **dict.fromkeys(("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten"), regroup),
    **dict.fromkeys((torch.cat, torch.concat), concatenation),
    torch.stack: stacking,
    **dict.fromkeys(("new_empty", "new_zeros", "new_ones", "new_full"), creation),
    **dict.fromkeys((torch.permute, "permute"), permutation),
    **dict.fromkeys((torch.transpose, torch.swapaxes, "transpose", "swapaxes"), transposition),
    **dict.fromkeys((torch.t, "t"), matrix_transposition),
    operator.getitem: indexing,
    **dict.fromkeys((torch.split, "split"), splitting),
    **dict.fromkeys((torch.chunk, "chunk"), chunking),
    **dict.fromkeys((torch.unbind, "unbind"), unbinding),
    **dict.fromkeys((torch.broadcast_to, "expand", "expand_as"), expansion),
    **dict.fromkeys((torch.roll, "roll"), rolling),
    **dict.fromkeys((torch.flip, "flip"), turning),
    F.pad: padding,
    F.embedding: lookup,
}

MODULES: dict[type[nn.Module], Rule] = {
    nn.Flatten: _regroup_module,
    nn.Unflatten: _regroup_module,
    nn.Embedding: _embedding,
    nn.ChannelShuffle: _channel_shuffle,
}

PARTED: frozenset[Rule] = frozenset(
    {
        creation,
        regroup,
        permutation,
        transposition,
        indexing,
        splitting,
        chunking,
        unbinding,
        expansion,
        _regroup_module,
    }
)
"""Rules that take parted axes as they are; for all others these stay in place."""
