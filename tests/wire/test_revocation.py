"""Who is revoked is heard by nobody any more, in the middle of a word too; all others notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import torch

from decentral.errors import Refusal, Refused, TransportError, Unreachable
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.conversation import Output, Task
from decentral.wire.enrolment import announced
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.links import Links
from decentral.wire.messages import Model, Ping, Pong
from decentral.wire.notice import Admitted, Notice, Ruling, read_notice
from decentral.wire.sessions import Client, open_session

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")
MODEL = Model(1, {"weight": torch.ones(1000)})


class Peer:
    """With what it has read of notices."""

    def __init__(self, transport: GrpcTransport, admitted: Admitted) -> None:
        self.transport, self.admitted = transport, admitted

    def learn(self, *rulings: Ruling) -> None:
        assert self.admitted.take(Notice(self.admitted.sequence + 1, 0, (), rulings))
        self.transport.enforce()


@pytest.fixture
async def up(authority: Authority, certify: Callable[..., Credentials]) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:

        async def start(identity: Identity, *others: Peer, **options: Any) -> Peer:
            admitted = Admitted()
            serving = GrpcTransport.serve(
                "127.0.0.1:0", identity, certify(authority, identity), admitted=admitted, **options
            )
            peer = Peer(await stack.enter_async_context(serving), admitted)
            for other in others:
                peer.transport.introduce(other.transport.id, other.transport.address)
                other.transport.introduce(peer.transport.id, peer.transport.address)
            return peer

        yield start


async def test_models_and_letters_of_the_revoked_are_refused_with_the_reason_and_nobody_calls_it(up: Any) -> None:
    bob = await up(BOB)
    alice, carol = await up(ALICE, bob), await up(Identity.generate(), bob)
    for sender in (alice, carol):
        await sender.transport.send(bob.transport.id, MODEL)
    bob.learn(Ruling(ALICE.id, revoked=1))
    for message in (MODEL, Ping(1)):
        with pytest.raises(Refused) as refused:
            await alice.transport.send(bob.transport.id, message)
        assert refused.value.reason is Refusal.REVOKED
        await carol.transport.send(bob.transport.id, message)
    with pytest.raises(Unreachable, match="revoked"):
        await bob.transport.send(alice.transport.id, Ping(1))
    await bob.transport.send(carol.transport.id, Ping(1))


async def test_what_is_under_way_ends_on_both_sides_and_only_for_the_revoked(up: Any) -> None:
    bob = await up(BOB)
    alice, carol = await up(ALICE, bob), await up(Identity.generate(), bob)
    inbox, heard = bob.transport.inbox(Ping), alice.transport.inbox(Ping)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(outcome(peer, bob, Ping(1))) for peer in (alice, carol)]
        asking = tasks.create_task(outcome(bob, alice, Ping(1)))
        questions = {question.sender: question for question in [await anext(inbox), await anext(inbox)]}
        await anext(heard)
        bob.learn(Ruling(ALICE.id, revoked=1))
        cut = await asked[0]
        assert isinstance(cut, Refused) and cut.reason is Refusal.REVOKED
        assert "revoked" in str(await asking)
        questions[carol.transport.id].answer(Pong(7))
        assert await asked[1] == Pong(7)


async def outcome(sender: Peer, to: Peer, message: Ping) -> object:
    try:
        return await sender.transport.request(to.transport.id, message, 20.0)
    except TransportError as error:
        return error


async def test_a_session_of_the_revoked_ends_and_those_of_others_go_on(
    up: Any, authority: Authority, certify: Callable[..., Credentials]
) -> None:
    async def echo(task: Task, client: Client) -> None:
        await client.say(Output(task.tensors))

    bob, task = await up(BOB, serve=echo), Task("part", bytes(32), {"x": torch.ones(3)})
    async with AsyncExitStack() as stack:
        sessions = []
        for identity in (ALICE, Identity.generate()):
            links = Links(certify(authority, identity))
            stack.push_async_callback(links.close)
            links.introduce(bob.transport.id, bob.transport.address)
            sessions.append(await stack.enter_async_context(open_session(links, bob.transport.id)))
            assert (await sessions[-1].ask(task, 20.0)).tensors["x"].tolist() == [1.0] * 3
        bob.learn(Ruling(ALICE.id, revoked=1))
        with pytest.raises(Refused) as refused:
            await sessions[0].ask(task, 20.0)
        assert refused.value.reason is Refusal.REVOKED
        await sessions[1].ask(task, 20.0)


async def test_a_certificate_that_was_replaced_is_refused_and_the_new_one_is_taken(
    up: Any, authority: Authority, certify: Callable[..., Credentials]
) -> None:
    bob = await up(BOB)
    alice = await up(ALICE, bob)
    await alice.transport.send(bob.transport.id, MODEL)
    shown = alice.transport._credentials
    await asyncio.sleep(1.01 - shown.issued % 1)  # certificates count in seconds
    fresh = certify(authority, ALICE)
    while fresh.issued <= shown.issued:
        await asyncio.sleep(0.1)
        fresh = certify(authority, ALICE)
    bob.learn(Ruling(ALICE.id, refuse=int(shown.issued) + 1))
    with pytest.raises(Refused) as refused:
        await alice.transport.send(bob.transport.id, MODEL)
    assert refused.value.reason is Refusal.EXPIRED
    with pytest.raises(Unreachable, match="replaced"):
        await bob.transport.send(alice.transport.id, Ping(1))
    alice.transport.rotate(fresh)
    await alice.transport.send(bob.transport.id, MODEL)
    await bob.transport.send(alice.transport.id, Ping(1))


async def test_an_authority_announces_its_newest_notice_to_anybody_and_once(tmp_path: Any) -> None:
    authority = Authority.create(tmp_path / "keys")
    async with authority.serve("127.0.0.1:0") as address:
        assert await announced(address, authority.pem, 0) == b""
        notice = authority.register.revoke(ALICE.id, 5, "why")
        assert read_notice(await announced(address, authority.pem, 0), authority.pem) == notice
        assert await announced(address, authority.pem, notice.sequence) == b""
        authority.register.name_successor()
        old = authority.register.voice.pem
        authority.register.take_over(5)
        taken = read_notice(await announced(address, old, notice.sequence), old)
        assert len(taken.authorities) == 2
        alone = authority.register.drop_predecessor()
        assert read_notice(await announced(address, taken.pem, taken.sequence), authority.pem) == alone
        with pytest.raises(Unreachable):
            await announced(address, old, 0)
