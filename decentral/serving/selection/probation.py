"""Newcomers show what they are worth: questions whose answers are known are put to them, and look like all others.

One is tested beside a request now and then (`Router.tests`), alone, and what it says counts for its reputation only. A
newcomer that is asked everything already knows every question that was kept. Where the client holds the part it is
tested by the request itself, whose answer the client then computes: nothing looks more like a question.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace

from decentral.core.quorum import Sizes
from decentral.errors import UserError
from decentral.serving.asking.chain import digest_of
from decentral.serving.asking.consultation import consult
from decentral.serving.asking.replicas import Replicas
from decentral.serving.selection.known_answers import Known, KnownAnswers
from decentral.serving.selection.reputation import Reputations
from decentral.serving.selection.routing import Router
from decentral.trust.anchors import Anchors, Part
from decentral.trust.consensus import Tensors, judge
from decentral.trust.evidence import FaultKind, Kind
from decentral.trust.order import SEED_BYTES, Order, Step
from decentral.trust.policy import Policy
from decentral.trust.transcript import Exchange, Transcript
from decentral.wire.messages import PeerId

ALONE = Policy(require=frozenset())
"""Of a question that is put to one replica."""
ATTESTED = replace(ALONE, require=frozenset({Kind.ATTESTATION}), allow_simulated=True)
"""The same where machines are pinned: questions are users' inputs, and may have been for such machines alone."""
ONE = Sizes(1, 0, 1)

BURST, PAUSE = 16, 1.0
"""Answers whose questions are kept one after another, and seconds until those of another one are."""

Computed = Callable[[str, Tensors], Awaitable[Tensors]]


class Sparing:
    """Says yes to `burst` in a row and then once in `pause` seconds: what is worth doing, and not for everything."""

    def __init__(self, burst: int = BURST, pause: float = PAUSE, now: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._pause, self._now = burst, pause, now
        self._left, self._at = float(burst), now()

    def may(self) -> bool:
        now = self._now()
        self._left, self._at = min(self._burst, self._left + (now - self._at) / self._pause), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Probation:
    """One client's tests. `computed`: what a part that the client holds (`held`) comes to."""

    client: PeerId
    anchors: Anchors
    replicas: Replicas
    router: Router
    reputations: Reputations
    answers: KnownAnswers
    computed: Computed
    held: Collection[str]
    sparing: Sparing = field(default_factory=Sparing)

    def learn(self, transcript: Transcript) -> None:
        """Keeps the questions of an answer that counts, as far as their tensors are here. Blocking.

        Not of every answer where they come fast: it costs as much as a small answer, and there are enough questions.
        """
        if not self.sparing.may():
            return
        last = len(transcript.exchanges) - 1
        for place, exchange in enumerate(transcript.exchanges):
            inputs = transcript.given(place)
            if place < last:
                outputs = transcript.given(place + 1)
            elif not exchange.disputed:
                outputs = next((r.tensors for r in exchange.replies.values() if r.tensors is not None), None)
            else:
                outputs = None
            if inputs is not None and outputs is not None:
                self.answers.keep(exchange.step.part, exchange.step.model, inputs, outputs, exchange.asked)

    async def beside(self, transcript: Transcript, place: int, blamed: Collection[PeerId] = ()) -> None:
        """After an exchange: tests a newcomer that serves its part, if it is time and there is something to test by.

        `blamed`: who failed in this exchange, and is remembered for it.
        """
        exchange = transcript.exchanges[place]
        part = next(part for part in self.anchors.parts if part.name == exchange.step.part)
        candidates = [peer.id for peer in self.anchors.asked(part.name)]
        if (peer := self.router.tests(candidates)) is None:
            return
        known = await asyncio.to_thread(self.answers.known, part.name, exchange.step.model, [peer])
        if known is not None:
            await self._put(part, peer, known)
        elif transcript.order.policy.proved:  # floats tell nothing of a circuit's numbers
            return
        elif peer in exchange.asked and part.name in self.held and (given := transcript.given(place)) is not None:
            await self._compute(part, transcript.order, exchange, given, blamed)

    async def _put(self, part: Part, peer: PeerId, known: Known) -> None:
        digest = await digest_of(known.inputs)
        step = Step(part.name, known.model, peer, {peer: 1.0})
        seed = os.urandom(SEED_BYTES)
        policy = ALONE if self.anchors.machines is None else ATTESTED
        order = Order(seed, self.anchors.epoch, self.client, int(time.time()), policy, digest, (step,))
        found = await consult(order, step, known.inputs, digest, self.replicas)
        question = order.question(step, digest)
        judged = judge(question, [peer], found.replies, ONE, part.tolerance, reference=known.output)
        passed = [peer] if judged.answer is not None else []
        faults = [] if found.busy or found.spared else judged.faults
        await asyncio.to_thread(self.reputations.record, faults, passed=passed)

    async def _compute(
        self, part: Part, order: Order, exchange: Exchange, given: Tensors, blamed: Collection[PeerId]
    ) -> None:
        """All who were asked are compared with what their part comes to: a quorum of liars is found out here too."""
        try:
            reference = await self.computed(part.name, given)
        except (UserError, ValueError):  # not in float64: then this part cannot test anybody
            return
        question = order.question(exchange.step, exchange.inputs)
        judged = judge(question, exchange.asked, exchange.replies, ONE, part.tolerance, reference=reference)
        failed = {fault.node for fault in judged.faults} | set(blamed)
        passed = [peer for peer in exchange.asked if peer not in failed and self.reputations.of(peer).newcomer]
        lies = [fault for fault in judged.faults if fault.kind is FaultKind.LIED and fault.node not in blamed]
        await asyncio.to_thread(self.reputations.record, lies, passed=passed)
