"""What a lazy replica would run in place of a stage, to be paid for the stage: cheaper, older, or another model.

They are as near to the honest computation as such a saving can be, so that what finds them finds cruder ones: int8 has
a scale for every output channel and leaves activations as they are, and so does pruning by magnitude.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from decentral.models.stages import Stage

Tensors = Mapping[str, Tensor]
Answering = Callable[[Tensors], dict[str, Tensor]]
"""From a stage's inputs to its outputs, by the names of its ports."""

PRUNED, NOISE = 0.2, 0.01
"""The share of weights that is left out; the deviation of the noise, by the root mean square of the tensor."""


def int8(weight: Float[Tensor, "out ..."]) -> Float[Tensor, "out ..."]:
    """As it comes back from 8 bits: symmetric, by output channel. The largest of each is kept exactly."""
    rows = weight.reshape(len(weight), -1)
    step = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / 127
    return ((rows / step).round() * step).reshape(weight.shape)


def pruned(weight: Float[Tensor, "*shape"], share: float = PRUNED) -> Float[Tensor, "*shape"]:
    """Without the share of its entries that are smallest."""
    sizes = weight.abs().flatten()
    count = int(share * len(sizes))
    return weight if not count else weight * (weight.abs() > sizes.kthvalue(count).values)


def noisy(weight: Float[Tensor, "*shape"], generator: torch.Generator, share: float = NOISE) -> Float[Tensor, "*shape"]:
    """With Gaussian noise whose deviation is this share of the root mean square."""
    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return weight + share * weight.square().mean().sqrt() * noise


def lies(stage: Stage, others: Mapping[str, Tensors], generator: torch.Generator) -> dict[str, Answering]:
    """By name: what to run in its place. `others`: states of other checkpoints of the whole network, or of the stage.

    What would have the same parameters as the stage is left out: a stage without weights cannot be quantised. Raises
    ValueError for states that do not fit.
    """
    state = stage.state()
    changed: dict[str, Tensors] = {
        "int8": _changed(state, int8, 2),
        "pruned": _changed(state, pruned, 2),
        "weight noise": _changed(state, lambda weight: noisy(weight, generator), 1),
        **others,
    }
    found: dict[str, Answering] = {
        name: loaded(stage, new).run
        for name, new in changed.items()
        if any(key not in new or not torch.equal(value, new[key]) for key, value in state.items())
    }
    return {"bf16": narrowed(stage, torch.bfloat16), "float16": narrowed(stage, torch.float16), **found}


def loaded(stage: Stage, state: Tensors) -> Stage:
    """A copy of the stage with this state. Raises ValueError if it does not fit."""
    twin = copy.deepcopy(stage)
    with torch.no_grad():
        twin.load(state)
    return twin


def narrowed(stage: Stage, dtype: torch.dtype) -> Answering:
    """Computed in another precision, and handed over as if it were the stage's own."""
    twin = copy.deepcopy(stage).to(dtype)
    types = {port.name: port.dtype for port in stage.outputs}

    def run(tensors: Tensors) -> dict[str, Tensor]:
        given = {name: each.to(dtype) if each.is_floating_point() else each for name, each in tensors.items()}
        return {name: each.to(types[name]) for name, each in twin.run(given).items()}

    return run


def _changed(state: Tensors, change: Callable[[Tensor], Tensor], dimensions: int) -> dict[str, Tensor]:
    """With each floating-point tensor of so many dimensions or more changed; never a BatchNorm's statistics."""
    return {
        name: change(tensor)
        if tensor.is_floating_point() and tensor.ndim >= dimensions and not name.endswith(_STATISTICS)
        else tensor
        for name, tensor in state.items()
    }


_STATISTICS = ("running_mean", "running_var")
