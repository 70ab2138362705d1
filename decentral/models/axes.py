"""The algebra behind permutation groups: which axes of a network's tensors must be permuted alike.

What operators ask of axes, in terms of the units that their entries belong to (`units`). Whatever is asked for makes
the set of permutations smaller, so a rule may ask for too much, and it costs only freedom.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from decentral.models.units import FIXED, Axis, Units

__all__ = ["FIXED", "Axis", "AxisSystem"]


class AxisSystem(Units):
    """Axes, and what operators ask of them."""

    def pin(self, axes: Iterable[Axis]) -> None:
        """Nothing on these axes may change places."""
        for axis in axes:
            self._pin(self.resolve(axis).units.ravel())
        self._mend()

    def join(self, first: Axis, second: Axis) -> None:
        """Both axes are permuted alike from now on. Raises ValueError when their sizes differ."""
        if first.size != second.size:
            raise ValueError(f"axes of {first.size} and {second.size} entries cannot be the same")
        alike = first.units.shape == second.units.shape and first.place == second.place
        if not alike:
            first, second = self.outer(first), self.outer(second)
        self._unify(first.flat(), second.flat())
        self._mend()

    def complete(self, axes: Sequence[Axis]) -> tuple[Axis, ...]:
        """Axes of one tensor, those that were parted all there: of what is left alone, cells move or nothing."""
        together: dict[int, list[Axis]] = {}
        for axis in axes:
            together.setdefault(id(axis.units), []).append(axis)
        result = []
        for axis in axes:
            places = sorted(other.place for other in together[id(axis.units)])
            if not axis.is_parted or places == list(range(axis.units.ndim)):
                result.append(axis)
            elif len(places) == 1:
                result.append(self.outer(axis))
            else:
                self.pin([axis])
                result.append(self.fixed(axis.size))
        return tuple(result)

    def outer(self, axis: Axis) -> Axis:
        """The axis by itself: one that was parted becomes the axis of its cells, which then move whole."""
        if not axis.is_parted:
            return axis
        return self._into_cells(*(np.moveaxis(array, axis.place, 0) for array in (axis.units, axis.labels)))

    def contract(self, axis: Axis) -> None:
        """An operator treats all entries along the axis alike, and nothing else together with them."""
        if axis.is_parted:
            arrays = (np.moveaxis(array, axis.place, -1) for array in (axis.units, axis.labels))
            self._into_cells(*(array.reshape(-1, array.shape[-1]) for array in arrays))

    def select(self, axes: Sequence[Axis], at: int, index: slice | int) -> list[Axis]:
        """A part of one of a tensor's axes; only units with equal shares in it may still change places.

        A number leaves one entry of a whole axis, and of a parted one takes the axis out of the arrays it shares.
        """
        axis = self.resolve(axes[at])
        if isinstance(index, int) and not axis.is_parted:
            index = slice(index, index + 1 or None)
        chosen = (*[slice(None)] * axis.place, index)
        taken = Axis(axis.units[chosen], axis.labels[chosen], axis.place)
        self._settle(taken.flat())
        self._mend()
        gone = isinstance(index, int)
        result = list(axes)
        for here, other in enumerate(axes):
            if other.units is axes[at].units:
                result[here] = Axis(taken.units, taken.labels, other.place - (gone and other.place > axis.place))
        if gone:
            result[at] = self.fixed(1)
        return result

    def concatenate(self, axes: Sequence[Axis]) -> Axis:
        """Whole axes in a row. A unit that is there twice has its entries numbered by the axis."""
        resolved = [self.resolve(axis) for axis in axes]
        numbers = np.concatenate([np.full(axis.size, number) for number, axis in enumerate(resolved)])
        units, labels = (np.concatenate([getattr(axis, name) for axis in resolved]) for name in ("units", "labels"))
        several = len(np.unique(units[units != FIXED])) < np.count_nonzero(units)
        return self.resolve(Axis(units, self._joined_labels(numbers, labels) if several else labels))

    def merge(self, axes: Sequence[Axis]) -> Axis | None:
        """Axes in a row as one, the last running fastest; None where more than one of them moves by itself."""
        resolved = [self.resolve(axis) for axis in axes]
        moving = [place for place, axis in enumerate(resolved) if not axis.is_fixed]
        shape = tuple(axis.size for axis in axes)
        if not moving:
            return self.fixed(int(np.prod(shape)))
        axis = resolved[moving[0]]
        if len({id(axes[place].units) for place in moving}) > 1 or len(moving) != axis.units.ndim:
            return None
        # Dimensions of the arrays in the order of the axes, and beside them those that keep their order.
        order = [resolved[place].place for place in moving]
        wide = [shape[place] if place in moving else 1 for place in range(len(shape))]
        others = [1 if place in moving else size for place, size in enumerate(shape)]
        index = np.broadcast_to(np.arange(np.prod(others)).reshape(others), shape)
        units, labels = (
            np.broadcast_to(array.transpose(order).reshape(wide), shape) for array in (axis.units, axis.labels)
        )
        return self.resolve(Axis(units.ravel(), self._joined_labels(index.ravel(), labels.ravel())))

    def part(self, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
        """A whole axis as several, the last running fastest: each by itself if one holds all that moves."""
        axis = self.resolve(axis)
        if axis.is_fixed:
            return [self.fixed(size) for size in sizes]
        if len(sizes) == 1:
            return [axis]
        units, labels = axis.units.reshape(sizes), axis.labels.reshape(sizes)
        for place, size in enumerate(sizes):
            rows = np.moveaxis(units, place, 0).reshape(size, -1)
            if (rows == rows[:, :1]).all():
                # Entries of one row share their unit, so a row is one entry; its label says which they are.
                names = np.moveaxis(labels, place, 0).reshape(size, -1)
                numbers = [self._number(row.tobytes()) if row.any() else 0 for row in names]
                whole = Axis(rows[:, 0].copy(), np.array(numbers, np.int64))
                self._settle(whole)
                self._mend()
                whole = self.resolve(whole)
                return [whole if here == place else self.fixed(other) for here, other in enumerate(sizes)]
        return [Axis(units, labels, place) for place in range(len(sizes))]
