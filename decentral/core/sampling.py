"""Who takes part in a round: the same few for all who know the same (MoDeST, arXiv 2302.13837, algorithm 1).

The paper orders candidates by hash(id, round). An id follows from a key, and its owner could try keys until one is
drawn early; the number of a peer in the plan is nobody's choice: that is what is hashed here, under the run's seed.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from jaxtyping import Int64, UInt64

from decentral.core.seeds import derive_seed

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@lru_cache(maxsize=16)
def places(seed: int, round: int, peers: int) -> UInt64[np.ndarray, " peers"]:
    """[peers], distinct: the lower, the earlier a peer is drawn in `round`. Not to be written.

    The stream SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) from a seed of the round; its function is a bijection.
    """
    state = np.uint64(derive_seed(seed, "sample", round)) + _GOLDEN * np.arange(1, peers + 1, dtype=np.uint64)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def drawn(
    candidates: Int64[np.ndarray, " candidates"], seed: int, round: int, peers: int, first: int | None = None
) -> list[int]:
    """The candidates in the order in which they are asked to take part; only the `first` so many if given."""
    place = places(seed, round, peers)[candidates]
    if first is not None and first < len(candidates):
        nearest = np.argpartition(place, first - 1)[:first]
        candidates, place = candidates[nearest], place[nearest]
    return [int(peer) for peer in candidates[np.argsort(place)]]


def fingerprint(candidates: Int64[np.ndarray, " candidates"]) -> str:
    """Eight hexadecimal digits: the same for all who see the same candidates, so that views can be compared."""
    return hashlib.blake2b(candidates.astype("<i8").tobytes(), digest_size=4).hexdigest()
