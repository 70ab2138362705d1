"""How many times farther apart the outputs of stages are than their inputs, as answers are compared.

The largest ratio is that of the infinity norm of the Jacobian, found as Boyd's power method for such norms does (Linear
Algebra Appl. 9, 1974): push every input by its sign of the gradient of the output that moved most, and look again. It
is a maximum over the samples that were looked at and over where the method got to: measured, not proven. Of several
stages in a row it is measured in one: the product of what each does at its worst is many times what all of them do.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from decentral.core.agreement import distance
from decentral.models.stages import Stage

Tensors = Mapping[str, Tensor]
STEPS = 6
"""Of the power method, which seldom finds much more after three."""


def gains(stages: Sequence[Stage], inputs: Tensors, aparts: Sequence[float], generator: torch.Generator) -> list[float]:
    """Of each stage, how many times farther apart the last one's outputs are than its own, which are pushed by
    `aparts`; 1 of the last. See `gain`. `inputs`: of the first stage.
    """
    found, passed = list[float](), inputs
    for place, stage in enumerate(stages[:-1]):
        with torch.no_grad():
            passed = stage.run(passed)
        found.append(gain(stages[place + 1 :], passed, aparts[place], generator))
    return [*found, 1.0]


@torch.inference_mode(False)
@torch.enable_grad()
def gain(
    stages: Sequence[Stage], inputs: Tensors, apart: float, generator: torch.Generator, steps: int = STEPS
) -> float:
    """The largest ratio, of stages in a row, over the samples (the first axis) of these inputs, for a push of `apart`.

    In float64, where the push is not lost in rounding. 0 of stages whose inputs are integers or whose outputs are.
    Raises ValueError unless `apart` is in (0, 1).
    """
    if not 0 < apart < 1:
        raise ValueError(f"inputs are pushed by more than 0 and less than 1 of their size, not by {apart}")
    twins = [copy.deepcopy(stage).double().requires_grad_(False) for stage in stages]
    exact = {name: each.double() if each.is_floating_point() else each for name, each in inputs.items()}
    exact = {name: each.clone() for name, each in exact.items()}  # also of inference tensors
    sizes = {name: _size(each) for name, each in exact.items() if each.is_floating_point()}
    signs = {
        name: torch.randint(0, 2, exact[name].shape, generator=generator).double() * 2 - 1
        for name, size in sizes.items()
    }
    with torch.no_grad():
        still = _through(twins, exact)
    moving = [name for name, each in still.items() if each.is_floating_point() and each.numel()]
    largest = 0.0
    for _ in range(steps if moving and signs else 0):
        pushed = {n: (exact[n] + apart * sizes[n] * sign).requires_grad_() for n, sign in signs.items()}
        moved = _through(twins, {**exact, **pushed})
        largest = max(largest, _ratio(moved, still, pushed, exact))
        gap = torch.cat([((moved[n] - still[n]) / _size(still[n])).flatten(1) for n in moving], 1)
        most = gap.abs().argmax(1, keepdim=True)  # of each sample, the output that moved farthest
        gradients = torch.autograd.grad(gap.gather(1, most).abs().sum(), list(pushed.values()), allow_unused=True)
        signs = {
            name: sign if gradient is None else torch.where(gradient == 0, sign, gradient.sign())
            for (name, sign), gradient in zip(signs.items(), gradients, strict=True)
        }
    return largest


def _through(stages: Sequence[Stage], tensors: Tensors) -> Tensors:
    for stage in stages:
        tensors = stage.run(tensors)
    return tensors


def _size(tensor: Tensor) -> Tensor:
    """Of each sample, what `distance` measures it by, unless it is next to nothing; 1 where there is nothing."""
    size = tensor.abs().flatten(1).amax(1) if tensor.ndim > 1 else tensor.abs().amax().expand(len(tensor))
    size = size.where(size > 0, torch.ones_like(size))
    return size.reshape(-1, *[1] * (tensor.ndim - 1))


def _ratio(moved: Tensors, still: Tensors, pushed: Tensors, exact: Tensors) -> float:
    """Over a whole batch, whose samples were all pushed equally far."""
    outputs = {name: each.detach() for name, each in moved.items()}
    inputs = {name: pushed.get(name, each).detach() for name, each in exact.items()}
    return distance(outputs, still) / distance(inputs, exact)
