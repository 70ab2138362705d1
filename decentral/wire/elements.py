"""Named tensors as one run of bytes, and back: what every message that carries tensors shares.

On the way out bytes are read from the tensors' own memory, a chunk at a time; on the way in they are written to one
buffer of which the tensors are views. Limits are checked before that buffer exists.
"""

from __future__ import annotations

import math
import mmap
import sys
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from decentral.errors import Malformed, Refusal
from decentral.wire.limits import CHUNK_BYTES, Limits
from decentral.wire.v1 import messages_pb2 as pb

HUGE = 4 << 20
SPARES = 2

_DTYPES: dict[torch.dtype, pb.DataType] = {
    torch.float16: pb.DATA_TYPE_FLOAT16,
    torch.bfloat16: pb.DATA_TYPE_BFLOAT16,
    torch.float32: pb.DATA_TYPE_FLOAT32,
    torch.float64: pb.DATA_TYPE_FLOAT64,
    torch.int8: pb.DATA_TYPE_INT8,
    torch.int16: pb.DATA_TYPE_INT16,
    torch.int32: pb.DATA_TYPE_INT32,
    torch.int64: pb.DATA_TYPE_INT64,
    torch.uint8: pb.DATA_TYPE_UINT8,
    torch.bool: pb.DATA_TYPE_BOOL,
}
_DTYPE_OF = {number: dtype for dtype, number in _DTYPES.items()}

if sys.byteorder != "little":
    raise ImportError("tensors are little-endian on the wire, and this codec copies memory as it is")


def schema_hash(state: Mapping[str, Tensor]) -> str:
    """Digest in hexadecimal over (name, dtype, shape) of every tensor, in no particular order of the mapping."""
    return _schema_digest(_describe(_ordered(state)))


def _ordered(state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """By descending element size, then by name: every tensor starts at a multiple of its element size."""
    return sorted(state.items(), key=lambda item: (-item[1].element_size(), item[0]))


def _describe(tensors: list[tuple[str, Tensor]]) -> list[pb.TensorHeader]:
    for name, tensor in tensors:
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
            raise TypeError(f"{name}: {tensor.layout} {tensor.dtype} has no encoding on the wire")
    return [pb.TensorHeader(name=name, dtype=_DTYPES[tensor.dtype], shape=tensor.shape) for name, tensor in tensors]


def _schema_digest(headers: Sequence[pb.TensorHeader]) -> str:
    lines = sorted(f"{header.name}\0{header.dtype}\0{list(header.shape)}" for header in headers)
    return blake3("\n".join(lines).encode(), derive_key_context="decentral 2026 tensor schema v1").hexdigest()


def _memory(tensor: Tensor) -> memoryview:
    """The elements of a tensor as bytes: its own memory if it is contiguous and on the CPU."""
    known = tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor  # numpy has no bfloat16
    return np.ascontiguousarray(known.numpy(force=True)).reshape(-1).view(np.uint8).data


class Elements:
    """The elements of named tensors, which must not change while they are sent.

    `headers` describe them in the order of their bytes, of which there are `total`, in `chunks` of 1 MiB (the last may
    be shorter).
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises TypeError naming a tensor that has no encoding on the wire."""
        ordered = _ordered(tensors)
        self.headers = _describe(ordered)
        self._views = [_memory(tensor) for _, tensor in ordered]
        self._starts = list(accumulate((len(view) for view in self._views), initial=0))
        self.total = self._starts.pop()
        self.chunks = math.ceil(self.total / CHUNK_BYTES)

    def chunk(self, index: int) -> list[memoryview]:
        """The memory that holds a chunk, in pieces."""
        start, stop = index * CHUNK_BYTES, min((index + 1) * CHUNK_BYTES, self.total)
        pieces = []
        place = bisect_right(self._starts, start) - 1
        while start < stop:
            offset = start - self._starts[place]
            piece = self._views[place][offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
            place += 1
        return pieces


class Arrival:
    """Tensors on their way in. The operating system gives the buffer's pages only as data arrives."""

    def __init__(self, headers: Sequence[pb.TensorHeader], total: int, limits: Limits) -> None:
        """Raises Malformed, before memory is taken, where a limit is exceeded or the headers break a rule."""
        self._headers = headers
        self._sizes = _check(headers, total, limits)
        self._buffer = _allocate(total)
        self._memory = self._buffer.numpy().data
        self._total, self._received = total, 0

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return self._total - self._received

    def take(self, chunk: memoryview) -> None:
        """The next 1 MiB, or what is left if that is less. Raises Malformed."""
        if len(chunk) != min(CHUNK_BYTES, self.left):
            raise Malformed(Refusal.MALFORMED, "a chunk of another length")
        self._memory[self._received : self._received + len(chunk)] = chunk
        self._received += len(chunk)

    def tensors(self) -> dict[str, Tensor]:
        """Once all has come. Raises Malformed."""
        found: dict[str, Tensor] = {}
        offset = 0
        for header, size in zip(self._headers, self._sizes, strict=True):
            elements = self._buffer[offset : offset + size]
            dtype = _DTYPE_OF[header.dtype]
            if dtype == torch.bool and size and int(elements.max()) > 1:
                raise Malformed(Refusal.MALFORMED, "a truth value that is neither 0 nor 1")
            found[header.name] = elements.view(dtype).view(tuple(header.shape))
            offset += size
        return found


def _check(headers: Sequence[pb.TensorHeader], total: int, limits: Limits) -> list[int]:
    """The size of each tensor in bytes. Raises Malformed."""
    if total > limits.model_bytes or len(headers) > limits.tensors:
        raise Malformed(
            Refusal.TOO_LARGE,
            f"{len(headers)} tensors of {total} bytes; the limits are {limits.tensors} and {limits.model_bytes}",
        )
    sizes = [_check_tensor(header, limits) for header in headers]
    order = [(-_DTYPE_OF[header.dtype].itemsize, header.name) for header in headers]
    if any(first >= second for first, second in pairwise(order)):
        raise Malformed(Refusal.MALFORMED, "tensors out of order")
    if len({header.name for header in headers}) != len(sizes):
        raise Malformed(Refusal.MALFORMED, "two tensors of one name")
    if sum(sizes) != total:
        raise Malformed(Refusal.MALFORMED, "a total that is not the sum of the tensors' sizes")
    if limits.schema is not None and _schema_digest(headers) not in {limits.schema, *limits.packed}:
        raise Malformed(Refusal.SCHEMA, "other tensors than those of the recipe's model")
    return sizes


def _check_tensor(tensor: pb.TensorHeader, limits: Limits) -> int:
    """Its size in bytes. Raises Malformed."""
    if tensor.dtype not in _DTYPE_OF:
        raise Malformed(Refusal.MALFORMED, "an unknown element type")
    if len(tensor.name.encode()) > limits.name_length or len(tensor.shape) > limits.rank:
        raise Malformed(
            Refusal.TOO_LARGE, f"a name longer than {limits.name_length} bytes or more than {limits.rank} dimensions"
        )
    elements = math.prod(tensor.shape)
    if (elements or math.prod(length for length in tensor.shape if length)) > limits.model_bytes:
        raise Malformed(Refusal.TOO_LARGE, "a tensor with more elements than the limit")
    return elements * _DTYPE_OF[tensor.dtype].itemsize


_spare: deque[mmap.mmap] = deque(maxlen=SPARES)
"""Memory of models that nobody holds any more, for the next ones: new pages cost as much as the copy into them."""


def _allocate(size: int) -> Tensor:
    """Bytes without a value, in huge pages where there are some."""
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    memory = _spare.pop() if _spare else None
    if memory is None or len(memory) != size:
        _spare.clear()
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise Malformed(Refusal.TOO_LARGE, "there is no memory for a model of that size") from error
        memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, dtype=np.uint8)
    weakref.finalize(array, _spare.append, memory).atexit = False  # every tensor in it holds on to the array
    return torch.from_numpy(array)
