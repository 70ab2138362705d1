"""Models in fewer bytes: bfloat16, int8 with a scale for each row, and the few coordinates that changed most.

Rounding is stochastic: the code above or below a value is drawn so that the value is expected (QSGD, arXiv 1610.02132,
section 3.1). A model whose steps are smaller than half a code would stand still for ever if it were rounded to the
nearest; and an unbiased code needs no memory, so whoever misses a message misses no more than that. What `sparse`
leaves out is a bias, which error feedback gives back: Seide et al. 2014; Stich, Cordonnier, Jaggi (arXiv 1809.07599).

Vectors (biases, BatchNorm's statistics) travel in bfloat16 whatever the encoding: they weigh little, and a variance
that is rounded to nothing destroys a network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import BFloat16, Float, Float32, Int, Int8
from torch import Tensor

State = Mapping[str, Tensor]

LARGEST, INDEX = "@largest", "@index"
"""What stands behind a tensor's name where its rows' scales and its coordinates' places travel beside it."""
CODES = 127
NOISES = 4096
"""Different noises that int8 is rounded with. What is a code but for 1/8192 stays that code, so that rounding what was
rounded changes nothing; the bias that this costs is no more than 1/8192 of a step."""


class Unsound(ValueError):
    """A packed model that breaks a rule; says which."""


def heavy(tensor: Tensor) -> bool:
    """Whether a tensor is worth more than bfloat16: a matrix or more, of real numbers."""
    return tensor.is_floating_point() and tensor.dim() >= 2


# ---- one tensor -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def to_bfloat16(values: Float[Tensor, "*d"], generator: torch.Generator) -> BFloat16[Tensor, "*d"]:
    """The two bfloat16 neighbours of a value, drawn so that the value is expected; off by less than 2^-7 of it.

    Magnitudes are normal numbers up to the largest bfloat16. What is in 16 bits already stays as it is.
    """
    bits = values.detach().to("cpu", torch.float32).contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, generator=generator)
    return (bits + noise).bitwise_and_(-1 << 16).view(torch.float32).bfloat16()


@torch.no_grad()
def to_int8(
    values: Float[Tensor, "rows ..."], generator: torch.Generator
) -> tuple[Int8[Tensor, "rows ..."], Float32[Tensor, " rows"]]:
    """Codes of -127 to 127 and each row's largest magnitude: value = code / 127 * largest, off by less than one step.

    The largest value of a row is kept exactly, and so is zero.
    """
    rows = values.detach().to("cpu", torch.float32)
    largest = rows.abs().flatten(1).amax(1) if rows.numel() else rows.new_zeros(len(rows))
    divisor = torch.where(largest > 0, largest, 1.0).view(-1, *[1] * (rows.dim() - 1))
    noise = torch.randint(0, NOISES, rows.shape, generator=generator, dtype=torch.int16)
    codes = (rows / divisor * CODES).add_((2 * noise.float() + 1) / (2 * NOISES)).floor_()
    return codes.clamp_(-CODES, CODES).to(torch.int8), largest


def from_int8(codes: Int8[Tensor, "rows ..."], largest: Tensor) -> Float32[Tensor, "rows ..."]:
    """`largest` is what somebody says that it is.

    Raises Unsound for a scale that is negative or not finite, and for the code -128, which nothing is rounded to.
    """
    if largest.shape != codes.shape[:1] or not bool(torch.isfinite(largest).all()) or bool((largest < 0).any()):
        raise Unsound("a scale that is not a finite number of at least zero for each row")
    if codes.numel() and int(codes.min()) < -CODES:
        raise Unsound("a code out of range")
    return codes.float().div_(CODES).mul_(largest.view(-1, *[1] * (codes.dim() - 1)))


@torch.no_grad()
def most_changed(values: Float[Tensor, "*d"], base: Float[Tensor, "*d"], count: int) -> Int[Tensor, " count"]:
    """The flat places of the `count` values that are farthest from `base`, ascending."""
    return (values - base).abs().flatten().topk(count).indices.sort().values


def overlay(base: Float[Tensor, "*d"], places: Tensor, values: Tensor) -> Float[Tensor, "*d"]:
    """`base` with other values at some flat places, as somebody says. Raises Unsound unless they ascend within it."""
    if places.shape != values.shape or places.dim() != 1 or places.is_floating_point() or places.is_complex():
        raise Unsound("places and values that do not belong together")
    places = places.long()
    if len(places) and not 0 <= int(places[0]) <= int(places[-1]) < base.numel():
        raise Unsound("a place out of range")
    if bool((places[1:] <= places[:-1]).any()):
        raise Unsound("places that do not ascend")
    result = base.detach().to("cpu", copy=True).flatten()
    result[places] = values.to(result.dtype)
    return result.view(base.shape)


# ---- whole models ---------------------------------------------------------------------------------------------------


def rounded(state: State, generator: torch.Generator) -> dict[str, Tensor]:
    """Every floating-point tensor of more than 16 bits in bfloat16; the others as they are."""
    return {name: _short(tensor, generator) for name, tensor in state.items()}


def quantised(state: State, generator: torch.Generator) -> dict[str, Tensor]:
    """Matrices as int8 with each row's largest magnitude, a row being one index of the first dimension."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if heavy(tensor):
            packed[name], packed[name + LARGEST] = to_int8(tensor, generator)
        else:
            packed[name] = _short(tensor, generator)
    return packed


def sparse(state: State, base: State, share: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Of every matrix the `share` of values, rounded up, that are farthest from `base`, in bfloat16 with their places.

    Values travel and not differences: a receiver with another base fills up with what it has, and decodes no garbage.
    A matrix whose values and places would be no smaller than the whole goes whole.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        count = math.ceil(share * tensor.numel() - 1e-9)
        place = torch.int16 if tensor.numel() <= 1 << 15 else torch.int32 if tensor.numel() <= 1 << 31 else torch.int64
        if not heavy(tensor) or count * (2 + place.itemsize) >= 2 * tensor.numel():
            packed[name] = _short(tensor, generator)
            continue
        places = most_changed(tensor, base[name], count)
        packed[name] = _short(tensor.flatten()[places], generator)
        packed[name + INDEX] = places.to(place)
    return packed


def unpack(packed: State, base: State) -> dict[str, Tensor]:
    """The model that a packed one stands for, in the types of `base`, which fills up what a sparse one left out.

    Raises Unsound for tensors that are not those of `base`, and for scales, codes and places that cannot be.
    """
    found: dict[str, Tensor] = {}
    used = 0
    for name, own in base.items():
        if (values := packed.get(name)) is None:
            raise Unsound(f"no tensor {name}")
        largest, places = packed.get(name + LARGEST), packed.get(name + INDEX)
        used += 1 + (largest is not None) + (places is not None)
        if places is not None:
            if values.dtype not in (own.dtype, torch.bfloat16):
                raise Unsound(f"{name} of another type")
            values = overlay(own, places, values)
        elif largest is not None:
            if values.dtype != torch.int8:
                raise Unsound("codes of another type")
            values = from_int8(values, largest)
        elif values.dtype not in (own.dtype, torch.bfloat16) or values.is_floating_point() != own.is_floating_point():
            raise Unsound(f"{name} of another type")
        if values.shape != own.shape:
            raise Unsound(f"{name} of another shape")
        found[name] = values.to(own.dtype)
    if used != len(packed):
        raise Unsound("tensors that the model does not have")
    return found


def _short(tensor: Tensor, generator: torch.Generator) -> Tensor:
    return to_bfloat16(tensor, generator) if tensor.is_floating_point() and tensor.itemsize > 2 else tensor


# ---- error feedback -------------------------------------------------------------------------------------------------


def compensated(state: State, left: State) -> dict[str, Tensor]:
    """What is to be said: the model, and what earlier messages have left out (1809.07599, algorithm 1)."""
    return {name: tensor + left[name] if name in left else tensor for name, tensor in state.items()}


def left_out(wanted: State, understood: State) -> dict[str, Tensor]:
    """What a message did not say of the matrices that it was made from: the next one's to give back.

    Over any number of messages, what was understood and what is left out now sum to what was wanted.
    """
    return {name: tensor - understood[name] for name, tensor in wanted.items() if heavy(tensor)}
