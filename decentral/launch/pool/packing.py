"""Plain values and tensors as bytes, and back to the last bit: what a run and its workers say to one another.

A header in JSON, which refers to tensors by number, then their elements. Between parts of one program of one version:
no message of peers is written so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

ALIGNED = 64
"""Bytes that tensors begin at multiples of, as torch's own do."""
CHANNELS_LAST = torch.channels_last
LENGTH = 8
"""Bytes of the header's length."""


def pack(value: object) -> bytes:
    """`value`: None, truth, numbers, strings, tensors, and lists, tuples and mappings by strings of such.

    Tuples become lists. Raises TypeError for anything else.
    """
    tensors: list[Tensor] = []
    tree = _plain(value, tensors)
    described, pieces, offset = [], [], 0
    for tensor in tensors:
        last = tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=CHANNELS_LAST)
        laid = tensor.permute(0, 2, 3, 1) if last else tensor
        dtype = str(tensor.dtype).removeprefix("torch.")
        described.append({"dtype": dtype, "shape": list(laid.shape), "channels_last": last, "offset": offset})
        flat = laid.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().data if flat.numel() else b""
        gap = -len(data) % ALIGNED
        pieces += [data, bytes(gap)]
        offset += len(data) + gap
    header = json.dumps([tree, described]).encode()
    header += b" " * (-(LENGTH + len(header)) % ALIGNED)
    return b"".join((len(header).to_bytes(LENGTH, "little"), header, *pieces))


def unpack(data: bytes) -> Any:
    """What was packed; its tensors share memory of their own."""
    memory = bytearray(data)
    begin = LENGTH + int.from_bytes(memory[:LENGTH], "little")
    tree, described = json.loads(memory[LENGTH:begin])
    return _value(tree, [_tensor(memory, begin, each) for each in described])


def _tensor(memory: bytearray, begin: int, described: Mapping[str, Any]) -> Tensor:
    dtype: torch.dtype = getattr(torch, described["dtype"])
    shape = described["shape"]
    if count := math.prod(shape):
        place = begin + described["offset"]
        tensor = torch.frombuffer(memory, dtype=dtype, count=count, offset=place).view(shape)
    else:
        tensor = torch.empty(shape, dtype=dtype)
    return tensor.permute(0, 3, 1, 2) if described["channels_last"] else tensor


def _plain(value: object, tensors: list[Tensor]) -> object:
    """As JSON has it: mappings and tensors in an object of one key, which tells them apart."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Tensor():
            tensors.append(value)
            return {"tensor": len(tensors) - 1}
        case Mapping():
            if not all(isinstance(name, str) for name in value):
                raise TypeError("only strings can name what is packed")
            return {"mapping": {name: _plain(each, tensors) for name, each in value.items()}}
        case Sequence():
            return [_plain(each, tensors) for each in value]
        case _:
            raise TypeError(f"a {type(value).__name__} cannot be packed")


def _value(tree: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(tree, list):
        return [_value(each, tensors) for each in tree]
    if isinstance(tree, dict):
        if "tensor" in tree:
            return tensors[tree["tensor"]]
        return {name: _value(each, tensors) for name, each in tree["mapping"].items()}
    return tree
