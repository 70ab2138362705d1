"""Newcomers show what they are worth: questions whose answers are known are put to them, and look like all others.

One is tested beside a request now and then (`Router.tests`), alone, and what it says counts for its reputation only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from decentral.core.quorum import Sizes
from decentral.serving.chain import digest_of
from decentral.serving.consultation import consult
from decentral.serving.known_answers import KnownAnswers
from decentral.serving.replicas import Replicas
from decentral.serving.reputation import Reputations
from decentral.serving.routing import Router
from decentral.trust.anchors import Anchors, Part
from decentral.trust.consensus import judge
from decentral.trust.order import SEED_BYTES, Order, Step
from decentral.trust.policy import Policy
from decentral.trust.transcript import Transcript
from decentral.wire.messages import PeerId

ALONE = Policy(require=frozenset())
"""Of a question that is put to one replica."""
ONE = Sizes(1, 0, 1)


@dataclass(frozen=True, slots=True)
class Probation:
    """One client's tests."""

    client: PeerId
    anchors: Anchors
    replicas: Replicas
    router: Router
    reputations: Reputations
    answers: KnownAnswers

    def learn(self, transcript: Transcript) -> None:
        """Keeps the questions of an answer that counts, as far as their tensors are here. Blocking."""
        inputs = transcript.inputs
        for exchange in transcript.exchanges:
            outputs = next((reply.tensors for reply in exchange.replies.values() if reply.tensors is not None), None)
            if exchange.disputed or inputs is None or outputs is None:
                return
            self.answers.keep(exchange.step.part, exchange.step.model, inputs, outputs, exchange.asked)
            inputs = outputs

    async def test(self, part: Part) -> None:
        """Tests a newcomer that serves this part, if it is time for one and there is a question that is new to it."""
        candidates: Sequence[PeerId] = [peer.id for peer in self.anchors.replicas(part.name)]
        model = bytes.fromhex(part.digest)
        if (peer := self.router.tests(candidates)) is None:
            return
        if (known := self.answers.known(part.name, model, [peer])) is None:
            return
        digest = await digest_of(known.inputs)
        step = Step(part.name, model, peer, {peer: 1.0})
        seed = os.urandom(SEED_BYTES)
        order = Order(seed, self.anchors.epoch, self.client, int(time.time()), ALONE, digest, (step,))
        found = await consult(order, step, known.inputs, digest, self.replicas)
        question = order.question(step, digest)
        judged = judge(question, [peer], found.replies, ONE, part.tolerance, reference=known.output)
        self.reputations.record(judged.faults, passed=[peer] if judged.answer is not None else [])
