"""Who holds which training images: every image at one peer, no peer without an image.

Drawn from the recipe's seed and the labels alone, so that every peer computes the same partition by itself.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING

import numpy as np

from decentral.core.seeds import derive_seed
from decentral.data.datasets import Indices, Labels
from decentral.errors import UserError
from decentral.registry import Registry

if TYPE_CHECKING:
    from decentral.data.clusters import Look

PARTITIONS = Registry(
    "partition",
    {
        "iid": "decentral.data.partition:iid",
        "by-class": "decentral.data.partition:by_class",
        "dirichlet": "decentral.data.partition:dirichlet",
        "shards": "decentral.data.partition:shards",
        "clusters": "decentral.data.clusters:clusters",
    },
)
"""Functions `(labels, peers, generator: numpy.random.Generator, **options) -> list of index arrays`.

One with a parameter `look` is given what looks at the images: see `decentral.data.clusters.Look`.
"""

FEWEST = 10
"""Images that a Dirichlet partition leaves to its poorest peer, as in Yurochkin et al. and Li et al."""


def partition(
    name: str, labels: Labels, peers: int, seed: int, *, look: Look | None = None, **options: object
) -> list[Indices]:
    """The indices of each peer's images, by peer. Together they are `range(len(labels))`, each index once.

    Raises UserError for an unknown name or option, an impossible value, or a peer that would be left without images.
    """
    if peers < 1:
        raise UserError(f"partition {name!r}: at least one peer is needed, not {peers}")
    generator = np.random.default_rng(derive_seed(seed, "partition"))
    if "look" in inspect.signature(PARTITIONS.resolve(name)).parameters:
        options = {**options, "look": look}
    shares: list[Indices] = PARTITIONS.construct(name, labels, peers, generator, **options)
    empty = [peer for peer, share in enumerate(shares) if len(share) == 0]
    if empty:
        raise UserError(
            f"partition {name!r} leaves {len(empty)} of {peers} peers without training images (peer {empty[0]} first): "
            f"there are {len(labels)} images of {len(np.unique(labels))} classes"
        )
    if len(shares) != peers or not np.array_equal(np.sort(np.concatenate(shares)), np.arange(len(labels))):
        raise UserError(f"partition {name!r} does not give every image to exactly one of {peers} peers")
    return shares


def subset(labels: Labels, size: int | None, seed: int, key: str = "data.subset") -> Indices:
    """`size` images in which no class has two more than another that had images left; None: all of them. Sorted.

    Raises UserError, which names the recipe's `key`, where there are not so many.
    """
    if size is None:
        return np.arange(len(labels))
    if not 1 <= size <= len(labels):
        raise UserError(f"{key}: {size} images of {len(labels)} cannot be chosen")
    return np.sort(_in_turn(labels, seed)[:size])


def with_proxy(labels: Labels, size: int | None, proxy: int, seed: int) -> tuple[Indices, Indices]:
    """The images of `subset`, and `proxy` others that are as balanced and that no peer may train on. Both sorted.

    With a `size`, the proxy set comes from the images left over, so that the shares are those of a run without one;
    else it is taken out of all of them. Raises UserError where too few are left.
    """
    left = len(labels) - (size or 1)
    if not 1 <= proxy <= left:
        raise UserError(f"matching.samples: {proxy} images cannot be a proxy set beside the shares: {left} are left")
    order = _in_turn(labels, seed)
    held, kept = (order[:proxy], order[proxy:]) if size is None else (order[size : size + proxy], order[:size])
    return np.sort(kept), np.sort(held)


def _in_turn(labels: Labels, seed: int) -> Indices:
    """All images in random order, one of each class and again one of each class, as long as there are any."""
    generator = np.random.default_rng(derive_seed(seed, "subset"))
    shuffled = generator.permutation(len(labels))
    turn = generator.permutation(int(labels.max()) + 1)  # which classes have one more when a size does not divide
    return shuffled[np.lexsort((turn[labels[shuffled]], rank_within_class(labels[shuffled])))]


def rank_within_class(labels: Labels) -> Labels:
    """For each image, how many images of its class come before it."""
    ranks = np.empty_like(labels)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    return ranks


def iid(labels: Labels, peers: int, generator: np.random.Generator) -> list[Indices]:
    """Equal shares, drawn at random; the first are one image larger where the number does not divide."""
    return [np.sort(share) for share in np.array_split(generator.permutation(len(labels)), peers)]


def by_class(labels: Labels, peers: int, generator: np.random.Generator) -> list[Indices]:
    """Class c is at peer c mod n, as in DIMAT's experiments; the first peers have one more where n does not divide.

    Raises UserError for more peers than classes, which would leave some without images.
    """
    classes = len(np.unique(labels))
    if peers > classes:
        raise UserError(
            f"partition 'by-class' gives class c to peer c mod n: {classes} classes are too few for {peers} peers. "
            f"Use {classes} peers at most, or the partition 'shards' or 'dirichlet', which split classes."
        )
    return [np.flatnonzero(labels % peers == peer) for peer in range(peers)]


def dirichlet(labels: Labels, peers: int, generator: np.random.Generator, *, alpha: float) -> list[Indices]:
    """Each class is shared out in proportions drawn from Dirichlet(alpha): the smaller alpha, the fewer its holders.

    M. Yurochkin et al., "Bayesian nonparametric federated learning of neural networks", 2019, section 4. They draw
    again until every peer has ten images, which for many peers never ends; here the poorest peer takes what it lacks at
    random from the richest.
    """
    if not (alpha > 0 and math.isfinite(alpha)):
        raise UserError(f"partition 'dirichlet': alpha must be a positive number, not {alpha}")
    owner = np.empty_like(labels)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        bounds = np.cumsum(generator.dirichlet(np.full(peers, alpha)))[:-1] * len(members)
        for peer, part in enumerate(np.split(members, bounds.round().astype(np.int64))):
            owner[part] = peer
    fewest = min(FEWEST, len(labels) // peers)
    while (held := np.bincount(owner, minlength=peers)).min() < fewest:
        poorest, richest = int(held.argmin()), int(held.argmax())
        moved = min(fewest - held[poorest], held[richest] - fewest)
        owner[generator.choice(np.flatnonzero(owner == richest), moved, replace=False)] = poorest
    return [np.flatnonzero(owner == peer) for peer in range(peers)]


def shards(labels: Labels, peers: int, generator: np.random.Generator, *, shards: int = 2) -> list[Indices]:
    """The images in order of their labels, cut into equal shards, of which every peer is dealt `shards`.

    B. McMahan et al., "Communication-efficient learning of deep networks from decentralized data", 2017, section 3.
    """
    if not 1 <= shards * peers <= len(labels):
        raise UserError(f"partition 'shards': {shards} shards for each of {peers} peers, of {len(labels)} images")
    shuffled = generator.permutation(len(labels))
    pieces = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], shards * peers)
    dealt = generator.permutation(len(pieces)).reshape(peers, shards)
    return [np.sort(np.concatenate([pieces[piece] for piece in hand])) for hand in dealt]
