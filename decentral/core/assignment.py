"""Which unit takes whose place, from scores alone: linear sum assignment, in two levels where units lie in cells.

For groups whose cells change places alike, every pair of cells is scored by the best assignments within it, summed over
the groups; cells are assigned on these sums, and units as their pair of cells had them. That is the best permutation
of cells onto cells, since what happens within one pair of cells depends on no other pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from decentral.core.permutation import Group, Permutation, PermutationSpec

_TIE = 1e-9
"""What staying in place is worth, relative to the largest score: it decides only where the scores say nothing."""

_Scores = NDArray[np.float64]


def assign(scores: Float[Tensor, "n n"], inertia: float = 0.0) -> tuple[int, ...]:
    """p that maximises the sum of scores[k, p[k]]: unit p[k] of the other network takes the place of unit k.

    Scores that are not finite count as zero, which is what correlation with a constant unit is. Staying in place is
    worth `inertia` on top of its score; with none, units between which the scores do not decide still stay.
    """
    return _units(_best(_staying(scores, inertia)))


def assign_groups(
    spec: PermutationSpec, scores: Sequence[Float[Tensor, "_ _"]], inertia: float | Sequence[float] = 0.0
) -> Permutation:
    """The permutation with the largest total score, for each group's scores as in `assign`.

    `inertia` is one value for all groups, or one for each. Raises ValueError for scores of other groups.
    """
    if [tuple(group.shape) for group in scores] != [(group.units, group.units) for group in spec.groups]:
        raise ValueError("the scores are not those of this specification's groups")
    worth = [inertia] * len(scores) if isinstance(inertia, (int, float)) else inertia
    sources: list[tuple[int, ...]] = [()] * len(scores)
    for numbers in spec.together():
        groups = [spec.groups[number] for number in numbers]
        known = [_staying(scores[number], worth[number]) for number in numbers]
        for number, found in zip(numbers, assign_together(groups, known), strict=True):
            sources[number] = found
    return Permutation(tuple(sources))


def assign_together(groups: Sequence[Group], scores: Sequence[_Scores]) -> list[tuple[int, ...]]:
    """Sources for groups of one order (or for one group without cells), whose scores already say what staying is worth.

    cells² assignments of units within a pair of cells for every group, and one of cells.
    """
    cells = groups[0].cells
    if cells == 1:
        return [_units(_best(score)) for score in scores]
    parted = [score.reshape(cells, len(score) // cells, cells, -1).swapaxes(1, 2) for score in scores]
    within = [[[_best(pair) for pair in row] for row in score] for score in parted]
    worth = np.zeros((cells, cells))
    for score, found in zip(parted, within, strict=True):
        for first, row in enumerate(found):
            for second, best in enumerate(row):
                worth[first, second] += score[first, second, np.arange(len(best)), best].sum()
    chosen = _best(worth)
    return [
        _units(np.concatenate([cell * len(found[0][0]) + found[k][cell] for k, cell in enumerate(chosen)]))
        for found in within
    ]


def assign_within(group: Group, scores: Float[Tensor, "n n"]) -> tuple[int, ...]:
    """The same for one group whose cells stay where they are: the best permutation within each."""
    known, size = _staying(scores, 0.0), group.units // group.cells
    cells = [slice(start, start + size) for start in range(0, group.units, size)]
    return _units(np.concatenate([cell.start + _best(known[cell, cell]) for cell in cells]))


def _staying(scores: Tensor, inertia: float) -> _Scores:
    """The scores with what staying in place is worth."""
    known = scores.double().nan_to_num(0.0, 0.0, 0.0)
    largest = float(known.abs().max()) if known.numel() else 0.0
    staying = inertia or _TIE * largest or _TIE
    return (known + staying * torch.eye(len(known), dtype=known.dtype, device=known.device)).cpu().numpy()


def _best(scores: _Scores) -> NDArray[np.int64]:
    return np.asarray(linear_sum_assignment(scores, maximize=True)[1], np.int64)


def _units(sources: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(source) for source in sources)
