"""Experts that never talk: each peer learns one cluster of the data by itself, and the last one learns who knows what.

McAllister et al., "Decentralized Diffusion Models" (arXiv 2501.05450). Nothing is exchanged until the end: then each
expert is sent once to the router's peer, which writes down the ensemble. What is written is the publisher's to know.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from decentral.algorithms.base import Peer, Publisher, evaluate, finish, local_model, train
from decentral.core.finite import finite
from decentral.errors import DecentralError

EXPERT = "expert"


class Experts:
    """Peers 0 to n - 2 are experts, peer n - 1 is the router's."""

    apart: ClassVar[bool] = True
    """A peer that was away goes on where it stopped: nobody has gone on in its place."""

    def partners(self, index: int, neighbours: Collection[int], peers: int) -> frozenset[int]:
        """The topology has no say in it."""
        router = peers - 1
        return frozenset(range(router)) if index == router else frozenset({router})

    async def run(self, peer: Peer) -> None:
        schedule = peer.schedule
        if peer.finished == 0 and schedule.pretrain_epochs:
            await train(peer, 0)
        for round in range(peer.finished + 1, schedule.rounds + 1):
            peer.session.enter(round)
            await train(peer, round)
            if schedule.evaluates(round):
                await evaluate(peer, round)
            await finish(peer, round)
        peer.session.enter(schedule.rounds)
        peer.phase(schedule.rounds, "exchange")
        await peer.clock.work(publisher_of(peer).own, 0.0)
        if peer.index == peer.layout.peers - 1:
            await self._assemble(peer)
        else:
            await self._hand_over(peer)

    async def _assemble(self, peer: Peer) -> None:
        """Waits for every expert, also for one that is away, and writes down the ensemble of those that came.

        Raises DecentralError where none did.
        """
        began, round = peer.clock.now(), peer.schedule.rounds
        models = await peer.session.collect(peer.session.partners, EXPERT, returning=True)
        checked = await peer.clock.work(
            lambda: {who: all(map(finite, model.tensors.values())) for who, model in models.items()}, 0.0
        )
        for who in [who for who, good in checked.items() if not good]:
            peer.journal.record("rejected", round=round, other=who, reason="not finite")
        experts = {who: models[who].tensors for who, good in checked.items() if good}
        missing = sorted(peer.session.partners - experts.keys())
        if not experts:
            raise DecentralError("no expert came: there is nothing that could be sampled from")
        await peer.clock.work(lambda: publisher_of(peer).ensemble(experts), 0.0)
        peer.journal.record(
            "exchanged", round=round, received=sorted(experts), missing=missing, seconds=peer.clock.now() - began
        )

    async def _hand_over(self, peer: Peer) -> None:
        """Sends this expert, and stays until the router's peer says goodbye: it may crash with what it was given."""
        session, clock, router = peer.session, peer.clock, peer.layout.peers - 1
        began, model = clock.now(), await local_model(peer, peer.schedule.rounds, tag=EXPERT)
        given, said, ends = False, session.word(router), None
        while router not in session.left:
            if router in session.reachable:
                ends, word = None, session.word(router)
                if given and word == said:
                    await session.probe({router})
                else:
                    await session.push({router}, model)
                given, said = router in session.reachable, word
            else:
                given, ends = False, ends or clock.now() + session.deadlines.round
                if clock.now() >= ends:
                    break
            await clock.sleep(session.deadlines.probe)
        missing = [] if router in session.left else [router]
        peer.journal.record(
            "exchanged", round=peer.schedule.rounds, received=[], missing=missing, seconds=clock.now() - began
        )


def publisher_of(peer: Peer) -> Publisher:
    assert peer.publisher is not None, "a peer of this algorithm needs a publisher"
    return peer.publisher
