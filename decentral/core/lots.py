"""Who computes and who audits, drawn by lots that nobody could foresee and everybody can draw again.

The lots come from a nonce that the client draws after identities and models are fixed, by HMAC-SHA-256 (RFC 2104) over
what they are for and the identity: whoever does not know the nonce knows as much about them as about a random function,
so an identity that was chosen for its lots, or a coalition that waits to be drawn together, gains nothing. Whoever
knows it, as a verifier does, finds the same. Weights: Efraimidis and Spirakis (Inf. Process. Lett. 97, 2006).
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping

NONCE_BYTES = 32
DOMAIN = b"decentral lots v1"
FLOOR = 0.1
"""Of the weight of the best, what one has of whom nothing is known, or nothing good."""


def draw(nonce: bytes, purpose: str, weights: Mapping[str, float], count: int) -> list[str]:
    """`count` distinct identities, the first drawn first; with probability proportional to weight at every draw.

    Independent of the order of `weights`. Different purposes (task, stage, serving or auditing) draw independently.
    Raises ValueError for a nonce of another length than 32 bytes, for weights that are not finite and above zero, and
    for more than there are.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    if any(not (0 < weight < math.inf) for weight in weights.values()):
        raise ValueError("weights are finite and above zero")
    if not 0 <= count <= len(weights):
        raise ValueError(f"{count} cannot be drawn from {len(weights)}")
    key = hmac.digest(nonce, _told(DOMAIN, purpose.encode()), hashlib.sha256)
    # Exponential clocks that run as fast as the weights: the order in which they ring is that of drawing one by one.
    rings = {identity: -math.log(uniform(key, identity)) / weight for identity, weight in weights.items()}
    return sorted(rings, key=lambda identity: (rings[identity], identity))[:count]


def chosen(nonce: bytes, purpose: str, probability: float) -> bool:
    """Whether something happens that is to happen with this probability: an audit, a proof."""
    return uniform(hmac.digest(nonce, _told(DOMAIN, purpose.encode()), hashlib.sha256), "") < probability


def weight(reputation: float) -> float:
    """From a reputation in [0, 1] to a weight in [FLOOR, 1]: nobody is never drawn."""
    return FLOOR + (1 - FLOOR) * min(max(reputation, 0.0), 1.0)


def uniform(key: bytes, identity: str) -> float:
    """In (0, 1), from 52 bits."""
    number = int.from_bytes(hmac.digest(key, identity.encode(), hashlib.sha256)[:8], "big") >> 12
    return (number + 0.5) / 2**52


def _told(*parts: bytes) -> bytes:
    """Each part after its length, so that no two lists of parts are the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
