"""The vote of replicas: which of several answers counts, though machines round differently.

Answers are compared as they are and never rounded first, since roundings differ at the edges of their buckets. The one
that counts is the centre of a ball of the calibrated tolerance in which a quorum of distinct identities answered: what
is near a neighbour of the centre and not near the centre does not count (no chaining).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from decentral.core.finite import finite

SMALLEST = 2.0**-10
"""Of the scale of a whole tensor: a sample of smaller numbers is compared on this scale, where rounding is left."""


# ---- distances ----------------------------------------------------------------------------------------------------


Tensors = Mapping[str, Tensor]


def distance(one: Tensors, other: Tensors) -> float:
    """How far two answers are apart: the largest over their tensors, 0 if they are equal, at most 2 or infinite.

    Floating point: max |a - b| over a sample (an entry of the first axis), by the larger of max |a| and max |b| over
    that sample; the largest over the samples. A sample whose numbers are all less than 1/1024 of the tensor's largest
    is compared on that scale. Symmetric. Infinite for other names, shapes or dtypes, for integers that are not equal,
    and for what is not finite or so far apart that no number says it: what is not finite is far even from itself.
    """
    return _apart(_laid_out(one), _laid_out(other))


def distances(answers: Sequence[Tensors]) -> Float[np.ndarray, "n n"]:
    """Between all pairs. An answer that several gave, one object, is compared once."""
    own = list({id(answer): answer for answer in answers}.values())
    if len(own) == 1:
        return np.full((len(answers), len(answers)), 0.0 if all(map(finite, own[0].values())) else np.inf)
    laid_out = [_laid_out(answer) for answer in own]
    found = np.zeros((len(own), len(own)))
    for i, one in enumerate(laid_out):
        found[i, i] = 0.0 if all(each.finite for each in one.values()) else np.inf
        for j in range(i):
            found[i, j] = found[j, i] = _apart(one, laid_out[j])
    place = {id(answer): i for i, answer in enumerate(own)}
    rows = [place[id(answer)] for answer in answers]
    return found[np.ix_(rows, rows)]


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """A tensor by samples: what is compared, and on which scale."""

    kind: tuple[torch.dtype, torch.Size]
    rows: Shaped[Tensor, "n d"]
    scale: Float[Tensor, " n"] | None
    finite: bool


@torch.no_grad()
def _laid_out(answer: Tensors) -> dict[str, _Samples]:
    return {name: _samples(tensor.detach().cpu()) for name, tensor in answer.items()}


def _samples(tensor: Tensor) -> _Samples:
    rows = tensor.reshape(len(tensor) if tensor.ndim > 1 else 1, -1) if tensor.numel() else tensor.reshape(0, 0)
    if not tensor.is_floating_point():
        return _Samples((tensor.dtype, tensor.shape), rows, None, True)
    rows = rows if tensor.dtype == torch.float64 else rows.float()
    scale = torch.linalg.vector_norm(rows, torch.inf, 1) if tensor.numel() else rows.new_zeros(0)
    return _Samples((tensor.dtype, tensor.shape), rows, scale, bool(scale.isfinite().all()))


def _apart(one: dict[str, _Samples], other: dict[str, _Samples]) -> float:
    if one.keys() != other.keys():
        return np.inf
    return max((_apart_by_samples(samples, other[name]) for name, samples in one.items()), default=0.0)


@torch.no_grad()
def _apart_by_samples(one: _Samples, other: _Samples) -> float:
    if one.kind != other.kind or not (one.finite and other.finite):
        return np.inf
    if one.scale is None or other.scale is None:
        return 0.0 if torch.equal(one.rows, other.rows) else np.inf
    if not one.rows.numel():
        return 0.0
    gap = torch.linalg.vector_norm(one.rows - other.rows, torch.inf, 1)
    scale = _raised(one.scale.maximum(other.scale))
    return float((gap / scale.where(gap > 0, 1.0)).max())


def _raised(scale: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return scale.maximum(scale.max() * SMALLEST)


def exact_distances(digests: Sequence[bytes]) -> Float[np.ndarray, "n n"]:
    """0 between equal digests, else infinite: for computations that come to the same bits everywhere."""
    return np.array([[0.0 if one == other else np.inf for other in digests] for one in digests]).reshape(
        len(digests), len(digests)
    )


# ---- the vote -----------------------------------------------------------------------------------------------------


class Outcome(Enum):
    AGREED = "agreed"
    NO_QUORUM = "no quorum"
    SPLIT = "split"
    """Two groups without a member in common are a quorum each: neither counts."""


@dataclass(frozen=True, slots=True)
class Vote:
    """`winner`: whose answer counts, if they agreed; `near`: who is in the largest ball, `far`: who answered else."""

    outcome: Outcome
    winner: str | None
    near: frozenset[str]
    far: frozenset[str]


def vote(identities: Sequence[str], apart: Float[np.ndarray, "n n"], tolerance: float, quorum: int) -> Vote:
    """Who agrees, by the distances between the answers of distinct identities, in any order.

    The largest ball is taken; of equally large ones that with the smallest sum of distances from its centre, then that
    whose centre has the lesser name. If another ball has a quorum of those that are not in it, the vote is split.
    Raises ValueError for an identity that answers twice.
    """
    if len(set(identities)) < len(identities):
        raise ValueError("an identity answers twice")
    inside: Bool[np.ndarray, "n n"] = apart <= tolerance  # nobody is near what is not a number, nor is that itself
    balls = [
        (-int(members.sum()), float(np.sort(row[members]).sum()), identities[i], members)
        for i, (row, members) in enumerate(zip(apart, inside, strict=True))
        if members[i]
    ]
    everybody = frozenset(identities)
    if not balls:
        return Vote(Outcome.NO_QUORUM, None, frozenset(), everybody)
    size, _, centre, members = min(balls, key=lambda ball: ball[:3])
    near = frozenset(identity for identity, member in zip(identities, members, strict=True) if member)
    outcome = Outcome.AGREED if -size >= quorum else Outcome.NO_QUORUM
    if outcome is Outcome.AGREED and any(int((others & ~members).sum()) >= quorum for *_, others in balls):
        outcome = Outcome.SPLIT
    return Vote(outcome, centre if outcome is Outcome.AGREED else None, near, everybody - near)


# ---- certificates -------------------------------------------------------------------------------------------------


def certified(logits: Float[Tensor, "n classes"], drift: float) -> Int64[Tensor, " n"]:
    """The class of each sample that no drift can change, or -1: undecided.

    `drift`: how far the logits may be from the true ones, as `distance` counts. The first may be too large and the
    second too small by that, so the margin has to exceed both. What is not finite is undecided.
    """
    if not logits.numel() or not 0 <= drift < 1:
        return torch.full((len(logits),), -1)
    exact = logits.double().cpu()
    first = exact.nan_to_num().topk(min(2, logits.shape[1]), 1).values
    margin = first[:, 0] - first[:, -1] if logits.shape[1] > 1 else torch.full((len(logits),), torch.inf)
    scale = _raised(exact.nan_to_num().abs().amax(1)) / (1 - drift)  # of the true ones, at most
    sure = (margin > 2 * drift * scale) & exact.isfinite().all(1)
    return torch.where(sure, exact.argmax(1), -1)


def end_to_end(tolerances: Sequence[float], gains: Sequence[float]) -> float:
    """How far the last stage's answer may have drifted, where every stage's may be off by its tolerance.

    `gains[i]`: how many times farther apart the last stage's outputs are than stage i's, at most (measured in
    calibration; 1 of the last). A drift of stage i is carried by all that come after: sum over i of tolerance i times
    gain i.
    """
    return math.fsum(tolerance * gain for tolerance, gain in zip(tolerances, gains, strict=True))
