"""What the router's logits become: weights over the experts that are there, and who computes which samples.

McAllister et al., arXiv 2501.05450, inference; sums are taken in the order of the experts, so that equal inputs give
equal bytes whoever answered first. Ties go to the expert with the lower index.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def posterior(
    logits: Float[Tensor, "n k"], present: Bool[Tensor, " k"], temperature: float = 1.0
) -> Float[Tensor, "n k"]:
    """softmax(logits / T) over the experts that are present; the others have probability zero.

    What the absent would have had goes to the rest in proportion. They are taken out before the softmax, so that a
    sample whose experts are all gone finds its next best ones, however improbable those were. Where the logits of all
    that are present are -inf, these are equally probable. Raises ValueError if nobody is present, and for NaN.
    """
    if not present.any():
        raise ValueError("no expert is present")
    if logits.isnan().any():
        raise ValueError("the router's logits are not numbers")
    lowest, highest = torch.finfo(logits.dtype).min, torch.finfo(logits.dtype).max
    bounded = (logits / temperature).clamp(lowest, highest)
    return bounded.masked_fill(~present, -torch.inf).softmax(1)


def temperature_at(t: float, times: Sequence[float], values: Sequence[float]) -> float:
    """The temperature at t, linear between measured times (ascending) and constant beyond them. Raises ValueError."""
    if len(times) != len(values) or not times or any(late <= early for early, late in pairwise(times)):
        raise ValueError("a temperature has one value for each of its times, and these ascend")
    if any(not value > 0 for value in values):
        raise ValueError("a temperature is greater than zero")
    return float(np.interp(t, times, values))


def top_k(probabilities: Float[Tensor, "n k"], count: int) -> Float[Tensor, "n k"]:
    """The `count` most probable experts of each sample, renormalised."""
    order = probabilities.argsort(dim=1, descending=True, stable=True)
    return _only(probabilities, order, torch.arange(order.shape[1], device=order.device).expand_as(order) < count)


def top_p(probabilities: Float[Tensor, "n k"], mass: float) -> Float[Tensor, "n k"]:
    """The fewest experts that together have the probability `mass`, at least one, renormalised."""
    order = probabilities.argsort(dim=1, descending=True, stable=True)
    ordered = probabilities.gather(1, order)
    before = ordered.cumsum(1) - ordered
    keep = before < mass
    keep[:, 0] = True
    return _only(probabilities, order, keep)


def _only(
    probabilities: Float[Tensor, "n k"], order: Int[Tensor, "n k"], keep: Bool[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """`keep` says of the places in `order` which stay."""
    kept = probabilities * torch.zeros_like(keep).scatter(1, order, keep)
    return kept / kept.sum(1, keepdim=True)


def group_by_expert(needed: Bool[Tensor, "n k"]) -> list[tuple[int, Int[Tensor, " _"]]]:
    """(expert, its samples in ascending order) for each expert that any sample needs: an evaluation for each pair."""
    return [(k, rows) for k in range(needed.shape[1]) if len(rows := needed[:, k].nonzero().flatten())]


def combine(
    parts: Sequence[tuple[int, Int[Tensor, " _"], Float[Tensor, " _ *shape"]]], weights: Float[Tensor, "n k"]
) -> Float[Tensor, " n *shape"]:
    """`flow.ensemble_velocity` of experts that were asked about some samples only: (expert, samples, velocities)."""
    first = parts[0][2]
    total = first.new_zeros(weights.shape[0], *first.shape[1:])
    for expert, rows, velocities in sorted(parts, key=lambda part: part[0]):
        share = weights[rows, expert].to(total.dtype).view(-1, *[1] * (velocities.ndim - 1))
        total[rows] += share * velocities
    return total
