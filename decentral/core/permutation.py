"""Permutations of a network's hidden units, as values.

A network computes the same function when the units of a group change places in every tensor axis that they index
(Git Re-Basin, arXiv 2209.04836, section 2). A specification says which axes these are and how each is made of units;
it is derived from a network by `models.tracing`, and everything here is a pure function of it.

Convention: a permutation lists sources. Unit k of the result is unit p[k] of what was permuted, so permuting first by
p and then by q is permuting by p[q].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of an axis: `repeat` consecutive entries for each of `units` units of a group.

    repeat > 1: a flattened map, or the outputs of a depthwise convolution. Group None: entries that stay in place.
    """

    group: int | None
    units: int
    repeat: int = 1

    @property
    def size(self) -> int:
        return self.units * self.repeat


@dataclass(frozen=True, slots=True)
class TensorAxis:
    """One axis of one named tensor, as blocks in order."""

    tensor: str
    axis: int
    blocks: tuple[Block, ...]

    def stretches(self) -> list[tuple[int, Block]]:
        """Each block with the index of its first entry."""
        ends = accumulate(block.size for block in self.blocks)
        return [(end - block.size, block) for end, block in zip(ends, self.blocks, strict=True)]


@dataclass(frozen=True, slots=True)
class Tap:
    """Where activations of a group are read: a stretch of one axis of what a node of the traced graph computes."""

    node: str
    module: str
    axis: int
    start: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Group:
    """Units that change places together, and where their activations can be read."""

    name: str
    units: int
    taps: tuple[Tap, ...]


@dataclass(frozen=True, slots=True)
class PermutationSpec:
    """Which axes of which tensors hold the units of which group. Axes that are not listed never change."""

    groups: tuple[Group, ...]
    axes: tuple[TensorAxis, ...]

    def axes_of(self, group: int) -> list[TensorAxis]:
        return [axis for axis in self.axes if any(block.group == group for block in axis.blocks)]

    def describe(self) -> str:
        """For a person: each group with its units, the tensor axes that they index and the taps."""
        lines = []
        for number, group in enumerate(self.groups):
            lines.append(f"{group.name}: {group.units} units")
            for axis in self.axes_of(number):
                stretches = ", ".join(
                    f"{start}..{start + block.size - 1}" + (f", {block.repeat} entries a unit" * (block.repeat > 1))
                    for start, block in axis.stretches()
                    if block.group == number
                )
                lines.append(f"    axis {axis.axis} of {axis.tensor} [{stretches}]")
            lines += [f"    read at {tap.node} (in {tap.module or 'the network itself'})" for tap in group.taps]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Permutation:
    """For each group of a specification, in its order, the source of every unit. Raises ValueError if it is not one."""

    sources: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for number, group in enumerate(self.sources):
            if sorted(group) != list(range(len(group))):
                raise ValueError(f"group {number} is not a permutation of 0 to {len(group) - 1}")

    def compose(self, then: Permutation) -> Permutation:
        """Permuting by the result is permuting by this one and then by the other."""
        if [len(group) for group in self.sources] != [len(group) for group in then.sources]:
            raise ValueError("the two permutations are of different specifications")
        pairs = zip(self.sources, then.sources, strict=True)
        return Permutation(tuple(tuple(first[unit] for unit in second) for first, second in pairs))

    def invert(self) -> Permutation:
        """Permuting by both, in any order, changes nothing."""
        return Permutation(tuple(tuple(sorted(range(len(group)), key=group.__getitem__)) for group in self.sources))

    @property
    def is_identity(self) -> bool:
        return all(unit == source for group in self.sources for unit, source in enumerate(group))

    @property
    def share_moved(self) -> float:
        """Units that change places, as a share of all, between 0 and 1; 0 where there are none."""
        moved = [unit != source for group in self.sources for unit, source in enumerate(group)]
        return sum(moved) / len(moved) if moved else 0.0


def identity_permutation(spec: PermutationSpec) -> Permutation:
    """Every unit stays where it is."""
    return Permutation(tuple(tuple(range(group.units)) for group in spec.groups))


def random_permutation(spec: PermutationSpec, generator: torch.Generator) -> Permutation:
    """Each group permuted uniformly and independently."""
    return Permutation(tuple(tuple(torch.randperm(group.units, generator=generator).tolist()) for group in spec.groups))


def axis_index(axis: TensorAxis, permutation: Permutation) -> Int64[Tensor, " size"]:
    """For every entry of an axis, the entry from which it comes."""
    parts = []
    for start, block in axis.stretches():
        sources = range(block.units) if block.group is None else permutation.sources[block.group]
        first = torch.tensor(sources, dtype=torch.int64) * block.repeat + start
        parts.append((first[:, None] + torch.arange(block.repeat)).flatten())
    return torch.cat(parts)


def apply_permutation(
    spec: PermutationSpec, permutation: Permutation, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state with every axis of the specification permuted; tensors that nothing moves are passed on, not copied.

    Raises ValueError naming the first tensor that is missing or whose axis has another length, and for a permutation
    of another specification.
    """
    if [len(group) for group in permutation.sources] != [group.units for group in spec.groups]:
        raise ValueError("the permutation is not one of this specification's groups")
    moving = [any(unit != source for unit, source in enumerate(group)) for group in permutation.sources]
    indices: dict[tuple[Block, ...], Tensor] = {}
    result = dict(state)
    for axis in spec.axes:
        _check(state, axis)
        if not any(block.group is not None and moving[block.group] for block in axis.blocks):
            continue
        tensor = result[axis.tensor]
        if axis.blocks not in indices:
            indices[axis.blocks] = axis_index(axis, permutation).to(tensor.device)
        result[axis.tensor] = tensor.index_select(axis.axis, indices[axis.blocks])
    return result


def units_by_samples(
    tensor: Shaped[Tensor, "*shape"], axis: int, start: int, units: int, repeat: int
) -> Shaped[Tensor, "{units} samples"]:
    """A stretch of an axis as a matrix: the entries of one unit, at all places of the other axes, are its samples."""
    return tensor.narrow(axis, start, units * repeat).movedim(axis, 0).reshape(units, -1)


def _check(state: Mapping[str, Tensor], axis: TensorAxis) -> None:
    if axis.tensor not in state:
        raise ValueError(f"the specification permutes {axis.tensor}, which the state does not have")
    shape = tuple(state[axis.tensor].shape)
    length = sum(block.size for block in axis.blocks)
    if axis.axis >= len(shape) or shape[axis.axis] != length:
        raise ValueError(f"{axis.tensor} has shape {shape}; the specification has {length} entries on axis {axis.axis}")
