"""Room for what waits at a server, and each client's share of it."""

from __future__ import annotations

from collections import Counter

from decentral.wire.messages import PeerId

SHARE = 4
"""Times as much as a client holds has to be left over before it is given more."""


class Room:
    """How many bytes may still be held, for all clients of one server.

    A client that holds nothing is given what there is; one that holds something, more only while `SHARE` times as much
    is left. So one alone gets about a fifth of all, and ten who take what they can leave a tenth to whoever comes next
    (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998, with a factor of 1/4).
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._held: Counter[PeerId] = Counter()

    def take(self, size: int, client: PeerId) -> bool:
        """Whether there was room; then `give_back` as much."""
        left = self._left - size
        if left < SHARE * self._held[client]:
            return False
        self._left -= size
        self._held[client] += size
        return True

    def give_back(self, size: int, client: PeerId) -> None:
        self._left += size
        self._held[client] -= size
        if not self._held[client]:
            del self._held[client]
