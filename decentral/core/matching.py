"""Which unit of one network plays the role of which unit of another.

Activation matching (Git Re-Basin, arXiv 2209.04836, section 3.1; DIMAT, arXiv 2404.08079, algorithm 2) maximises the
total correlation of paired units, one linear assignment problem for each group. Weight matching (Git Re-Basin,
section 3.2) maximises the inner product of the two networks' weights by coordinate descent over the groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

SHARED = 0.5
"""Two networks share a basis where staying in place reaches this share of the best total correlation. Measured on five
peers with digits: below 0.3 for networks trained apart, above 0.7 after a common initialisation."""

INERTIA = 0.5
"""In a shared basis, the correlation that a unit must gain by moving. A peer that holds few classes sees most units at
rest, and the best assignment of what it sees is noise."""


def assign(scores: Float[Tensor, "n n"], inertia: float = 0.0) -> tuple[int, ...]:
    """p that maximises the sum of scores[k, p[k]]: unit p[k] of the other network takes the place of unit k.

    Scores that are not finite count as zero, which is what correlation with a constant unit is. Staying in place is
    worth `inertia` on top of its score; with none, units between which the scores do not decide still stay.
    """
    known = scores.double().nan_to_num(0.0, 0.0, 0.0)
    largest = float(known.abs().max()) if known.numel() else 0.0
    staying = inertia or _TIE * largest or _TIE
    known = known + staying * torch.eye(len(known), dtype=known.dtype, device=known.device)
    _, sources = linear_sum_assignment(known.cpu().numpy(), maximize=True)
    return tuple(int(source) for source in sources)


def activation_matching(spec: PermutationSpec, scores: Sequence[Float[Tensor, "_ _"]]) -> Permutation:
    """The permutation of the other network that maximises the total correlation, for each group's `scores`.

    `scores` are correlations summed over the group's taps, [units, units], rows of the reference. Networks that share
    a basis already are matched again with `INERTIA`, so that only units with a clear gain move.
    """
    best = Permutation(tuple(map(assign, scores)))
    staying, reached = (_total(scores, permutation) for permutation in (identity_permutation(spec), best))
    if staying < SHARED * reached or best.is_identity:
        return best
    taps = [max(len(group.taps), 1) for group in spec.groups]
    return Permutation(tuple(assign(group, INERTIA * count) for group, count in zip(scores, taps, strict=True)))


def _total(scores: Sequence[Tensor], permutation: Permutation) -> float:
    """What the pairs of a permutation score together."""
    return sum(
        float(group.double().nan_to_num(0.0, 0.0, 0.0)[range(len(sources)), list(sources)].sum())
        for group, sources in zip(scores, permutation.sources, strict=True)
    )


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
