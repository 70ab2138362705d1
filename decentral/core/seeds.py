"""One root seed, a tree of independent ones.

Every random choice of a run is drawn from a generator whose seed is derived from the recipe's seed and from what the
choice is for, by the index of the peer in the plan and never by its id or by the order in which things arrive.
"""

from __future__ import annotations

import hashlib


def derive_seed(root: int, *path: int | str) -> int:
    """A 63-bit seed for `path` under `root`: `derive_seed(0, "shuffle", peer, round)`.

    SHA-256 over an unambiguous encoding, so distinct paths give unrelated seeds on every platform.
    """
    text = "\x1f".join([f"i{root}", *(f"i{part}" if isinstance(part, int) else f"s{part}" for part in path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
