"""What a client takes from its answers for later, beside answering: reputations, questions to keep, tests of newcomers.

Whatever waits is written in one transaction, so that a disk that many write to holds up nobody for long. Nobody waits
for a test: it goes on while the client lives, and is called off soon after.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from decentral.errors import UserError
from decentral.serving.selection.probation import Probation
from decentral.serving.selection.reputation import Judged, Reputations
from decentral.trust.examination import Examination
from decentral.trust.transcript import Transcript
from decentral.wire.messages import PeerId

MOST_WAITING = 64
"""Answers that wait to be written down: where a disk is slower than the replicas, who asks waits for it."""
MOST_TESTS = 16
"""Answers beside which newcomers are tested at once; beside others nobody is."""
PARTING = 2.0
"""Seconds that tests have when the client closes: a replica that does not answer keeps nobody from leaving."""


@dataclass(frozen=True, slots=True)
class _Noted:
    """An answer, and what it says of those who took part."""

    judged: Judged
    transcript: Transcript
    counts: bool


class Notebook:
    """One client's. `close` raises what could not be written down."""

    def __init__(self, reputations: Reputations, probation: Probation) -> None:
        self._reputations, self._probation = reputations, probation
        self._waiting: list[_Noted] = []
        self._writing: asyncio.Task[None] | None = None
        self._tests: set[asyncio.Task[None]] = set()
        self._failed: BaseException | None = None

    async def room(self) -> None:
        """Returns once another answer may wait."""
        while len(self._waiting) >= MOST_WAITING and self._writing is not None:
            await asyncio.wait({self._writing})

    def take(self, found: Examination, transcript: Transcript) -> None:
        """It is written down, and newcomers are tested, while others answer."""
        votes = [judgement.vote.near for judgement in found.judgements if judgement.answer is not None]
        agreed = tuple(
            PeerId(peer) for near in votes if len(near) > 1 for peer in near
        )  # alone, one agrees with nobody
        self._waiting.append(_Noted(Judged(found.faults, agreed), transcript, found.verdict.valid))
        if self._writing is None:
            self._begin()

    async def close(self) -> None:
        """Raises UserError."""
        try:
            while self._writing is not None:
                await asyncio.wait({self._writing})
            if self._tests:
                await asyncio.wait(self._tests, timeout=PARTING)
        finally:
            await self._drop()
        if self._failed is not None:
            raise self._failed

    async def _drop(self) -> None:
        left = [*self._tests, *([self._writing] if self._writing is not None else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _begin(self) -> None:
        self._writing = asyncio.create_task(self._write())
        self._writing.add_done_callback(self._written)

    async def _write(self) -> None:
        while self._waiting:
            noted, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._record, noted)
            except UserError as error:  # said at the end: it costs nobody an answer
                self._failed = self._failed or error
            for each in noted:
                if each.counts and len(self._tests) < MOST_TESTS:
                    test = asyncio.create_task(self._test(each))
                    self._tests.add(test)
                    test.add_done_callback(self._ended)

    def _written(self, task: asyncio.Task[None]) -> None:
        """It is known how the writing has ended before it counts as ended."""
        self._writing = None
        self._ended(task)
        if self._waiting and not task.cancelled():
            self._begin()

    def _record(self, noted: list[_Noted]) -> None:
        """Blocking."""
        self._reputations.take([each.judged for each in noted])
        for each in noted:
            if each.counts:
                self._probation.learn(each.transcript)

    async def _test(self, noted: _Noted) -> None:
        blamed = {fault.node for fault in noted.judged.faults}
        for place in range(len(noted.transcript.exchanges)):
            await self._probation.beside(noted.transcript, place, blamed)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tests.discard(task)
        if not task.cancelled():
            self._failed = self._failed or task.exception()
