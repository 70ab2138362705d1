"""Which unit of one network plays the role of which unit of another.

Activation matching (Git Re-Basin, arXiv 2209.04836, section 3.1, equation 1 with correlations for products; so does
DIMAT, arXiv 2404.08079) maximises the total correlation of paired units, one linear assignment problem for each group.
Weight matching (Git Re-Basin, section 3.2, equation 2) maximises the inner product of the two networks' weights by
coordinate descent over the groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import cosine_similarity

from decentral.core.assignment import assign_groups, assign_within
from decentral.core.permutation import (
    Group,
    Permutation,
    PermutationSpec,
    TensorAxis,
    apply_permutation,
    identity_permutation,
    weights_by_unit,
)
from decentral.core.statistics import widened

SHARED = 0.5
"""Two networks share a basis where staying in place reaches this share of the best total correlation. Measured on five
peers with digits: below 0.3 for networks trained apart, above 0.7 after a common initialisation."""

INERTIA = 0.5
"""In a shared basis, the correlation that a unit must gain by moving. A peer that holds few classes sees most units at
rest, and the best assignment of what it sees is noise."""

COPY = 1 - 1e-3
"""Total correlation, as a share of what copies attain, from which two networks are one network in two orders."""

ALIKE = 1e-5
"""Two units whose correlation lacks less than this are one to whoever looks at activations in float32."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """What the activations say of a reference and another network, for each group of a specification."""

    correlation: tuple[Float64[Tensor, "_ _"], ...]
    """[units of the reference, units of the other], summed over the group's taps."""
    attainable: tuple[Float64[Tensor, " _"], ...]
    """What each unit of the reference would score with a perfect copy: the number of taps where it is not constant."""

    def total(self, permutation: Permutation) -> float:
        """What the pairs of a permutation of the other network score together."""
        pairs = zip(self.correlation, permutation.sources, strict=True)
        return sum(float(scores[range(len(sources)), list(sources)].sum()) for scores, sources in pairs)


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """Units that activations cannot tell apart: a permutation of a network is recovered up to exchanges among these."""

    spec: PermutationSpec
    constant: tuple[tuple[int, ...], ...]
    """For each group the units that never change."""
    alike: tuple[tuple[tuple[int, ...], ...], ...]
    """For each group the sets of two units or more that change in the same way."""

    @property
    def count(self) -> int:
        """How many units that is."""
        return sum(map(len, self.constant)) + sum(len(units) for group in self.alike for units in group)

    def allows(self, left: Permutation) -> bool:
        """Whether a permutation exchanges nothing but units that cannot be told apart."""
        for number, sources in enumerate(left.sources):
            sets = [set(units) for units in (self.constant[number], *self.alike[number])]
            if any(
                unit != source and not any({unit, source} <= one for one in sets) for unit, source in enumerate(sources)
            ):
                return False
        return True

    def describe(self) -> str:
        """For a person: a line for the network, and one for each group that has any."""
        total = sum(group.units for group in self.spec.groups)
        lines = [f"{self.count} of {total} units cannot be told apart by these activations"]
        for group, constant, alike in zip(self.spec.groups, self.constant, self.alike, strict=True):
            found = [f"{len(constant)} constant ({', '.join(map(str, constant))})"] if constant else []
            found += [f"alike: {', '.join(map(str, units))}" for units in alike]
            if found:
                lines.append(f"    {group.name}: " + "; ".join(found))
        return "\n".join(lines)


def ambiguity(spec: PermutationSpec, itself: Likeness) -> Ambiguity:
    """From the likeness of a network with itself."""
    constant, alike = [], []
    seen = {group.order for group in spec.groups if group.taps}
    for group, scores, attainable in zip(spec.groups, itself.correlation, itself.attainable, strict=True):
        # A number for each cell (a bias for each head) goes where the units of that cell are seen to be.
        follows = not group.taps and group.units == group.cells and group.order in seen
        constant.append(() if follows else tuple((attainable == 0).nonzero().flatten().tolist()))
        one = (scores >= attainable[:, None] - ALIKE) & (scores >= attainable - ALIKE) & (attainable > 0)
        _, labels = connected_components(one.cpu().numpy(), directed=False)
        sets: dict[int, list[int]] = {}
        for unit, label in enumerate(labels.tolist()):
            sets.setdefault(label, []).append(unit)
        alike.append(tuple(tuple(units) for units in sets.values() if len(units) > 1))
    return Ambiguity(spec, tuple(constant), tuple(alike))


def activation_matching(spec: PermutationSpec, likeness: Likeness) -> Permutation:
    """The permutation of the other network that maximises the total correlation.

    Networks that share a basis already are matched with `INERTIA`, so that only units with a clear gain move. Where
    every unit finds a perfect copy there is no noise to resist, and the best permutation stands.
    """
    staying, scores = likeness.total(identity_permutation(spec)), likeness.correlation
    highest = sum(float(group.amax(dim=1).sum()) for group in scores if group.numel())
    best = None
    if staying < SHARED * highest:
        # No permutation reaches more than `highest`: only here may the two be strangers.
        best = assign_groups(spec, scores)
        if staying < SHARED * likeness.total(best):
            return best
    copies = COPY * sum(float(attainable.sum()) for attainable in likeness.attainable)
    if highest >= copies:
        best = best or assign_groups(spec, scores)
        if likeness.total(best) >= copies:
            return best
    return assign_groups(spec, scores, [INERTIA * max(len(group.taps), 1) for group in spec.groups])


def agreement(
    spec: PermutationSpec, reference: Mapping[str, Tensor], other: Mapping[str, Tensor], permutation: Permutation
) -> float:
    """Mean cosine of the weights that the specification permutes with those of the other network, permuted.

    Vectors (biases, scales) play no part: most of what they have in common is not a matter of order. 0 without any.
    """
    names = {axis.tensor for axis in spec.axes if axis.tensor in reference and reference[axis.tensor].ndim > 1}
    visible = PermutationSpec(spec.groups, tuple(axis for axis in spec.axes if axis.tensor in names))
    moved = apply_permutation(visible, permutation, {name: other[name] for name in names})
    cosines = []
    for name in sorted(names):
        first, second = (_real(state[name]).flatten().float() for state in (reference, moved))
        cosines.append(cosine_similarity(first, second, dim=0))
    return float(torch.stack(cosines).mean()) if cosines else 0.0


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
    return _descend(spec, reference, other, identity_permutation(spec), likeness=None, sweeps=sweeps)


def combined_matching(
    spec: PermutationSpec,
    reference: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    likeness: Likeness,
    *,
    sweeps: int = 100,
) -> Permutation:
    """Activations and weights together, starting from what `activation_matching` finds.

    Coordinate descent on one objective: the cosine of every tensor with its permuted counterpart, and for every group
    as many times its mean correlation as it has tensors. So units that the images leave constant or alike are told
    apart by their weights.
    """
    start = activation_matching(spec, likeness)
    return _descend(spec, reference, other, start, likeness=likeness, sweeps=sweeps)


def _descend(
    spec: PermutationSpec,
    reference: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    found: Permutation,
    *,
    likeness: Likeness | None,
    sweeps: int,
) -> Permutation:
    axes = [axis for axis in spec.axes if axis.tensor in reference and axis.tensor in other]

    def score(number: int, standing: Permutation) -> Float64[Tensor, "_ _"]:
        """Of the pairs of units of one group, where all others stand as they are said to."""
        group, tensors = spec.groups[number], {axis.tensor for axis in spec.axes_of(number)}
        visible = PermutationSpec(spec.groups, tuple(axis for axis in axes if axis.tensor in tensors))
        moved = apply_permutation(visible, standing, {axis.tensor: other[axis.tensor] for axis in visible.axes})
        known = _agreement(number, group.units, visible.axes_of(number), reference, moved, cosine=likeness is not None)
        if likeness is not None:
            seen = likeness.correlation[number].cpu()[:, list(standing.sources[number])]
            known += seen * len(tensors) / (group.units * max(len(group.taps), 1))
        return known

    for _ in range(sweeps):
        before = found
        for numbers in spec.together():
            # Everything else where it stands now: for one group, what remains is a linear problem. Groups whose cells
            # move together may share a tensor: each is scored with the cells at home and the others' units as found.
            home = {number: _at_home(spec.groups[number], found.sources[number]) for number in numbers}
            scores = [
                score(number, _with(found, home | {number: tuple(range(spec.groups[number].units))}))
                for number in numbers
            ]
            part = PermutationSpec(tuple(spec.groups[number] for number in numbers), ())
            found = _with(found, dict(zip(numbers, assign_groups(part, scores).sources, strict=True)))
            for number in numbers if len(numbers) > 1 else ():
                # Then the units of each within their cells, which stay where they are now.
                group, sources = spec.groups[number], found.sources[number]
                cells = _cells_of(group, sources)
                within = assign_within(group, score(number, _with(found, {number: cells})))
                found = _with(found, {number: tuple(cells[unit] for unit in within)})
        if found == before:
            break
    return found


def _cells_of(group: Group, sources: Sequence[int]) -> tuple[int, ...]:
    """The permutation's cells where it takes them, with their units in order."""
    size = group.units // group.cells
    return tuple(source - source % size + place % size for place, source in enumerate(sources))


def _at_home(group: Group, sources: Sequence[int]) -> tuple[int, ...]:
    """The permutation's units as it orders them within their cells, which stay in place."""
    size = group.units // group.cells
    home = {source - source % size + place % size: source for place, source in enumerate(sources)}
    return tuple(home[place] for place in range(group.units))


def _agreement(
    group: int,
    units: int,
    axes: Sequence[TensorAxis],
    reference: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    *,
    cosine: bool,
) -> Float64[Tensor, "{units} {units}"]:
    """Inner products of all weights of unit k of the reference with all weights of unit l of the other.

    With `cosine` each tensor's are divided by the norms of both tensors.
    """
    scores = torch.zeros(units, units, dtype=torch.float64)
    for axis in axes:
        first, second = (widened(_real(state[axis.tensor])) for state in (reference, other))
        scale = float(first.norm() * second.norm()) if cosine else 1.0
        for block in axis.blocks:
            if block.group == group:
                # Entries of one unit must stay in their order, so each is a row of its own weights.
                products = weights_by_unit(axis, block, first) @ weights_by_unit(axis, block, second).T
                scores += products.cpu() / (scale or 1.0)
    return scores


def _real(tensor: Tensor) -> Tensor:
    """Complex numbers with their two parts on one more axis, so that products are sums over both."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _with(permutation: Permutation, sources: Mapping[int, tuple[int, ...]]) -> Permutation:
    return Permutation(tuple(sources.get(number, group) for number, group in enumerate(permutation.sources)))
