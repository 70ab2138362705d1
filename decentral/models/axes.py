"""The algebra behind permutation groups: which axes of a network's tensors must be permuted alike.

Every axis is a row of runs; a run is `repeat` consecutive entries for each unit of an atom, and an atom is a set of
units that may still be permuted freely. Where an operator needs two axes to agree they are joined: by unification,
an atom on one side is bound to what stands on the other side. What cannot be unified is pinned, which is always
right: units that stay in place agree with anything that stays in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Run:
    """`repeat` consecutive entries for each unit of an atom."""

    atom: int
    repeat: int = 1


Axis = tuple[Run, ...]


class AxisSystem:
    """Atoms, what they are bound to, and which of them are pinned."""

    def __init__(self) -> None:
        self._units: list[int] = []
        self._bound: dict[int, Axis] = {}
        self._pinned: set[int] = set()

    def fresh(self, size: int) -> Axis:
        """An axis whose units are free until something says otherwise; a single unit has nowhere to go."""
        self._units.append(size)
        axis = (Run(len(self._units) - 1),)
        if size <= 1:
            self.pin(axis)
        return axis

    def fixed(self, size: int) -> Axis:
        """An axis that keeps its order: images, pixels, classes."""
        axis = self.fresh(size)
        self.pin(axis)
        return axis

    def units(self, atom: int) -> int:
        return self._units[atom]

    def size(self, axis: Axis) -> int:
        return sum(self._length(run) for run in axis)

    def resolve(self, axis: Axis) -> Axis:
        """The axis in terms of atoms that are bound to nothing."""
        runs: list[Run] = []
        for run in axis:
            bound = self._bound.get(run.atom)
            runs += [run] if bound is None else self.resolve(expand(bound, run.repeat))
        return tuple(runs)

    def is_pinned(self, atom: int) -> bool:
        return atom in self._pinned

    def is_fixed(self, axis: Axis) -> bool:
        return all(run.atom in self._pinned for run in self.resolve(axis))

    def pin(self, axis: Axis) -> None:
        """Nothing on this axis may change places."""
        self._pinned.update(run.atom for run in self.resolve(axis))

    def join(self, first: Axis, second: Axis) -> Axis:
        """Both axes are permuted alike from now on. Raises ValueError when their sizes differ."""
        if self.size(first) != self.size(second):
            raise ValueError(f"axes of {self.size(first)} and {self.size(second)} entries cannot be the same")
        self._unify(self.resolve(first), self.resolve(second))
        return self.resolve(first)

    def _unify(self, first: Axis, second: Axis) -> None:
        first, second = self.resolve(first), self.resolve(second)
        if first == second:
            return
        common = sorted(set(self._ends(first)) & set(self._ends(second)))
        if len(common) > 1:
            for start, end in zip([0, *common], common, strict=False):
                self._unify(self._between(first, start, end), self._between(second, start, end))
        elif not (self._bind(first, second) or self._bind(second, first)):
            self.pin(first)
            self.pin(second)

    def _bind(self, single: Axis, other: Axis) -> bool:
        """Lets one free atom stand for the other axis, if its run is the coarser of the two."""
        if len(single) > 1:
            return False
        (run,) = single
        coarser = all(part.repeat % run.repeat == 0 for part in other)
        if run.atom in self._pinned or run.atom in {part.atom for part in other} or not coarser:
            return False
        self._bound[run.atom] = tuple(Run(part.atom, part.repeat // run.repeat) for part in other)
        return True

    def _length(self, run: Run) -> int:
        return self._units[run.atom] * run.repeat

    def _ends(self, axis: Axis) -> list[int]:
        return list(accumulate(self._length(run) for run in axis))

    def _between(self, axis: Axis, start: int, end: int) -> Axis:
        return tuple(run for run, until in zip(axis, self._ends(axis), strict=True) if start < until <= end)


def expand(axis: Axis, repeat: int) -> Axis:
    """Every entry of an axis becomes `repeat` consecutive entries."""
    return tuple(Run(run.atom, run.repeat * repeat) for run in axis)
