"""What a client has seen of each replica, and for how long it holds that for or against it.

The mathematics is `core.reputation`; here it is kept. Judgements go in, weights for the lots come out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from decentral.core.lots import weight
from decentral.core.reputation import Reputation
from decentral.serving.selection.ledger import Ledger
from decentral.trust.evidence import Fault, FaultKind
from decentral.wire.messages import PeerId

LIES = frozenset({FaultKind.LIED, FaultKind.EQUIVOCATED, FaultKind.BROKE_COMMITMENT, FaultKind.INVALID})
"""What no network does. Bytes come over TLS from an authenticated peer as it has sent them, or not at all, and the
question that it signs is the one that it was sent. Who breaks a commitment, or shows a signature that does not fit, may
deny it before others; the client has seen it."""
SILENCE = frozenset({FaultKind.UNRESPONSIVE, FaultKind.UNATTESTED})
"""What may be the network's fault, or a crash."""
PENDING = frozenset({FaultKind.DISAGREED, FaultKind.BUSY})
"""What says nothing: the quorum may be the liars, and who has too much to do has not failed. Computed again, the first
is a lie, or nothing."""

FRESH = 1.0
"""Seconds for which a reputation that was read is used again: a choice asks dozens of times, and they fade in weeks."""


def judged(before: Reputation, faults: Iterable[Fault] = (), *, agreed: int = 0, passed: int = 0) -> Reputation:
    """After one judgement: so many answers that count, so many tests passed, and these faults of one peer.

    The order of `faults` does not matter, and one part's answer is held against a peer once, however many ways it was
    wrong in. Whatever is good counts before what is bad, so that a lie forfeits it too.
    """
    kinds: dict[str, set[FaultKind]] = {}
    for fault in faults:
        kinds.setdefault(fault.part, set()).add(fault.kind)
    lies = sum(not LIES.isdisjoint(found) for found in kinds.values())
    silences = sum(LIES.isdisjoint(found) and not SILENCE.isdisjoint(found) for found in kinds.values())
    steps = (
        (Reputation.answered, agreed),
        (Reputation.tested, passed),
        (Reputation.silent, silences),
        (Reputation.lied, lies),
    )
    for step, times in steps:
        for _ in range(times):
            before = step(before)
    return before


@dataclass(frozen=True, slots=True)
class Judged:
    """What one judgement says. `agreed`: who gave the answer that counts; `passed`: who gave one known before.

    Whoever failed a test stands among `faults`, since the known answer is a reference: `trust.consensus.judge`.
    """

    faults: tuple[Fault, ...] = ()
    agreed: tuple[PeerId, ...] = ()
    passed: tuple[PeerId, ...] = ()


def _against(judgement: Judged) -> dict[PeerId, list[Fault]]:
    """By peer, what counts against it."""
    against: dict[PeerId, list[Fault]] = {}
    for fault in judgement.faults:
        if fault.kind in LIES | SILENCE:
            against.setdefault(fault.node, []).append(fault)
    return against


class Reputations:
    """Of every peer that this client has ever judged. All methods raise UserError where the ledger cannot be used."""

    def __init__(self, ledger: Ledger, now: Callable[[], float] = time.time) -> None:
        """`now`: Unix seconds."""
        self._ledger, self._now = ledger, now
        self._read: dict[PeerId, Reputation] = {}
        self._at = now()

    def of(self, peer: PeerId) -> Reputation:
        """As it is worth now; what other processes have judged is known in `FRESH` seconds."""
        now = self._now()
        if not 0 <= now - self._at < FRESH:
            self._read, self._at = {}, now
        read = self._read  # not what comes in its place while this is read
        if peer not in read:
            with self._ledger.reading() as connection:
                read[peer] = self._faded(connection, peer, now)[0]
        return read[peer]

    def weights(self, peers: Iterable[PeerId]) -> dict[PeerId, float]:
        """For drawing lots."""
        return {peer: weight(self.of(peer).standing) for peer in peers}

    def record(
        self, faults: Iterable[Fault] = (), agreed: Iterable[PeerId] = (), passed: Iterable[PeerId] = ()
    ) -> None:
        """Takes a judgement over, see `Judged`."""
        self.take([Judged(tuple(faults), tuple(agreed), tuple(passed))])

    def take(self, judgements: Sequence[Judged]) -> None:
        """The same for several, one after another in one transaction."""
        told = [(judgement, _against(judgement)) for judgement in judgements]
        touched = sorted({peer for each, against in told for peer in (*against, *each.agreed, *each.passed)})
        if not touched:
            return
        with self._ledger.writing() as connection:
            now = self._now()
            for peer in touched:
                after, at = self._faded(connection, peer, now)
                for each, against in told:
                    agreed, passed = each.agreed.count(peer), each.passed.count(peer)
                    after = judged(after, against.get(peer, ()), agreed=agreed, passed=passed)
                connection.execute(
                    "INSERT OR REPLACE INTO reputations VALUES (?, ?, ?, ?, ?)",
                    (peer, after.good, after.bad, after.passed, at),
                )
        self._read = {}

    def _faded(self, connection: Connection, peer: PeerId, now: float) -> tuple[Reputation, float]:
        """And of which time it then is: clocks of machines are set back, and reputations are not."""
        row = connection.execute("SELECT good, bad, passed, at FROM reputations WHERE peer = ?", (peer,)).fetchone()
        if row is None:
            return Reputation(), now
        try:
            good, bad, passed, at = float(row[0]), float(row[1]), int(row[2]), float(row[3])
            return Reputation(good, bad, passed).after(max(now - at, 0.0)), max(now, at)
        except (ValueError, TypeError) as error:
            raise self._ledger.damaged(f"of {peer}: {error}") from error
