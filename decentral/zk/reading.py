"""The tensors at both ends of a model as field elements, and back: always by the pinned scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from decentral.errors import UserError
from decentral.zk.circuit import Circuit
from decentral.zk.proof import MODULUS, felt, felt_text, signed
from decentral.zk.worker import Worker

if TYPE_CHECKING:
    from torch import Tensor

KIND = "F32"
"""The type of inputs, of which the circuit takes the nearest multiple of its scale's step."""
Floats = tuple[float, ...]


async def quantised(alone: Worker, circuit: Circuit, inputs: Sequence[Tensor]) -> list[list[str]]:
    """A model's inputs as a circuit that sees them takes them: what is of int64 is field elements already.

    Raises UserError for other shapes.
    """
    shapes = circuit.public_inputs
    if len(inputs) != len(shapes):
        raise UserError(f"the model takes {len(shapes)} tensors, not {len(inputs)}")
    found = []
    for tensor, shape, scale in zip(inputs, shapes, circuit.settings.input_scales, strict=True):
        if tuple(tensor.shape) not in (shape, shape[1:]):
            raise UserError(f"the model takes {list(shape[1:])}, not {list(tensor.shape)}")
        if tensor.dtype.itemsize == 8 and not tensor.is_floating_point():
            found.append([felt_text(int(value) % MODULUS) for value in tensor.flatten().tolist()])
            continue
        if not tensor.isfinite().all():
            raise UserError("an input that is not finite")
        values = tensor.float().flatten().tolist()
        found.append(await alone.call("felts", values=values, scale=scale, kind=KIND))
    return found


def read_inputs(circuit: Circuit, instances: Sequence[int]) -> tuple[int, ...]:
    """Of a proof's instances, those of the inputs."""
    return tuple(instances[: sum(map(math.prod, circuit.public_inputs))])


def read_outputs(circuit: Circuit, instances: Sequence[int]) -> tuple[Floats, ...]:
    """The outputs that stand in a proof, flat, as floats."""
    found, place = [], sum(map(math.prod, circuit.public_inputs))
    if not circuit.public_outputs:
        return ()
    for shape, scale in zip(circuit.public_outputs, circuit.settings.output_scales, strict=True):
        size = math.prod(shape)
        found.append(tuple(signed(value) / 2**scale for value in instances[place : place + size]))
        place += size
    return tuple(found)


def numbers(tensors: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """Field elements of several tensors as ezkl writes them, one after another. Raises Malformed."""
    return tuple(felt(text) for tensor in tensors for text in tensor)
