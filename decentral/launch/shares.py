"""From a recipe to who holds which training images, and in an ensemble to which cluster they belong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from decentral.algorithms.catalogue import SERVED, SPLIT
from decentral.data.clusters import Assignment, nearest
from decentral.data.datasets import Indices, LabelledImages, load_dataset
from decentral.data.partition import partition
from decentral.errors import UserError
from decentral.run.recipe import Recipe

_newest: dict[str, Assignment] = {}
"""The one that was made last, by its recipe: peers that share a process need not each make it anew."""


@dataclass(frozen=True)
class Holding:
    """One peer's training images, by number; of the router's peer, the cluster of each of them."""

    share: Indices
    assignment: Assignment | None = None
    clusters: Int64[np.ndarray, " n"] | None = None


def data_of(recipe: Recipe) -> LabelledImages:
    """The dataset of a recipe. Raises DatasetNotFound and UserError."""
    source = recipe.data
    return load_dataset(
        source.name,
        root=source.root,
        download=source.download,
        verify=source.verify,
        channels=source.channels,
        **source.options,
    )


def holding(recipe: Recipe, data: LabelledImages, chosen: Indices, index: int) -> Holding:
    """Of peer `index`, where `chosen` are the training images that are shared out. Blocking. Raises UserError."""
    if recipe.algorithm in SPLIT:
        return Holding(chosen if index == 0 else chosen[:0])
    if recipe.algorithm not in SERVED:
        return Holding(chosen[_shares(recipe, data, chosen, recipe.peers)[0][index]])
    assignment = assign(recipe, data, chosen)
    if index < recipe.peers - 1:
        assignment.check(data, chosen, index)
        return Holding(chosen[assignment.shares[index]], assignment)
    share = (recipe.learner.options.get("router") or {}).get("share", 1.0)  # type: ignore[union-attr]
    if not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise UserError(f"learner.router.share: must be above 0 and at most 1, not {share!r}")
    numbers, clusters = assignment.some(share, recipe.seed)
    return Holding(chosen[numbers], assignment, clusters)


def assign(recipe: Recipe, data: LabelledImages, chosen: Indices) -> Assignment:
    """A cluster for each expert, and one for each test image. Raises UserError."""
    options, count = recipe.data.partition.options, recipe.peers - 1
    if (file := options.get("file")) is not None:
        _shares(recipe, data, chosen, count)  # for its errors
        return Assignment.load(Path(str(file)))
    key = f"{recipe.hash} {recipe.data.root}"
    if key in _newest:
        return _newest[key]
    shares, test = _shares(recipe, data, chosen, count)
    if test is None:  # no feature says where a test image belongs: it is dealt out as the others are
        name = recipe.data.partition.name
        own: dict[str, object] = {"random": True, "fewest": 1} if name == "clusters" else dict(options)
        dealt = partition(name, data.test_labels, count, recipe.seed, look=None, **own)
        test = np.empty(len(data.test_labels), np.int64)
        for cluster, numbers in enumerate(dealt):
            test[numbers] = cluster
    _newest.clear()
    _newest[key] = Assignment.make(data, chosen, shares, test)
    return _newest[key]


def _shares(
    recipe: Recipe, data: LabelledImages, chosen: Indices, count: int
) -> tuple[list[Indices], Int64[np.ndarray, " m"] | None]:
    """The shares, and the cluster of each test image if anybody looked at images."""
    choice, labels = recipe.data.partition, data.train_labels[chosen]
    options: dict[str, object] = dict(choice.options)
    if choice.name != "clusters":
        return partition(choice.name, labels, count, recipe.seed, look=None, **options), None
    from decentral.training.features import Looking

    look = Looking(data, chosen, recipe.seed, recipe.device)
    shares = partition(choice.name, labels, count, recipe.seed, look=look, **options)
    seen = look.test()
    return shares, None if look.train is None or seen is None else nearest(look.train, shares, seen)
