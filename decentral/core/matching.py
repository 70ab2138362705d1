"""Which unit of one network plays the role of which unit of another.

Activation matching (Git Re-Basin, arXiv 2209.04836, section 3.1; DIMAT, arXiv 2404.08079, algorithm 2) maximises the
total correlation of paired units, one linear assignment problem for each group. Weight matching (Git Re-Basin,
section 3.2) maximises the inner product of the two networks' weights by coordinate descent over the groups.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from decentral.core.permutation import (
    Permutation,
    PermutationSpec,
    TensorAxis,
    apply_permutation,
    identity_permutation,
    units_by_samples,
)

_TIE = 1e-9
"""What staying in place is worth, relative to the largest score: it decides only where the scores say nothing."""


def assign(scores: Float[Tensor, "n n"]) -> tuple[int, ...]:
    """p that maximises the sum of scores[k, p[k]]: unit p[k] of the other network takes the place of unit k.

    Scores that are not finite count as zero, which is what correlation with a constant unit is. Units between which
    the scores do not decide stay in place as far as they can.
    """
    known = scores.double().nan_to_num(0.0, 0.0, 0.0)
    largest = float(known.abs().max()) if known.numel() else 0.0
    known = known + (_TIE * largest or _TIE) * torch.eye(len(known), dtype=known.dtype, device=known.device)
    _, sources = linear_sum_assignment(known.cpu().numpy(), maximize=True)
    return tuple(int(source) for source in sources)


def weight_matching(
    spec: PermutationSpec,
    reference: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    *,
    sweeps: int = 100,
) -> Permutation:
    """The permutation of `other` found by coordinate descent on ‖reference - permuted other‖² (Git Re-Basin, alg. 1).

    The groups are visited in the specification's order until a whole sweep changes nothing, `sweeps` times at most.
    Tensors that either state lacks play no part: leave out running statistics by not passing them.
    """
    axes = tuple(axis for axis in spec.axes if axis.tensor in reference and axis.tensor in other)
    visible = PermutationSpec(spec.groups, axes)
    found = identity_permutation(spec)
    for _ in range(sweeps):
        before = found
        for group in range(len(spec.groups)):
            # Everything but this group where it stands now: what remains is a linear problem.
            others = _with(found, group, tuple(range(spec.groups[group].units)))
            moved = apply_permutation(visible, others, {axis.tensor: other[axis.tensor] for axis in axes})
            scores = _agreement(group, spec.groups[group].units, visible.axes_of(group), reference, moved)
            found = _with(found, group, assign(scores))
        if found == before:
            break
    return found


def _agreement(
    group: int, units: int, axes: list[TensorAxis], reference: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> Float[Tensor, "{units} {units}"]:
    """Inner products of all weights of unit k of the reference with all weights of unit l of the other."""
    scores = torch.zeros(units, units, dtype=torch.float64)
    for axis in axes:
        for start, block in axis.stretches():
            if block.group != group:
                continue
            # Entries of one unit must stay in their order, so each is a row of its own weights.
            place = (axis.axis, start, units, block.repeat)
            first, second = (units_by_samples(state[axis.tensor], *place).double() for state in (reference, other))
            scores += (first @ second.T).cpu()
    return scores


def _with(permutation: Permutation, group: int, sources: tuple[int, ...]) -> Permutation:
    return Permutation((*permutation.sources[:group], sources, *permutation.sources[group + 1 :]))
