"""A client seals a session to the machine whose evidence it has verified, over real mutual TLS."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
import torch

from decentral.attestation.evidence import Evidence
from decentral.attestation.session.challenging import Seen, Subject
from decentral.attestation.session.showing import Showing, tls_key
from decentral.errors import Refused, Unreachable
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.conversation import Output, Task
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.links import Links
from decentral.wire.sessions import Client, Session, open_session
from tests.attestation.world import MODEL, NOW, STRANGER, TDX, Machine

TASK = Task("stage-1", MODEL, {"x": torch.ones(1 << 19)})


async def double(given: Task, client: Client) -> None:
    await client.say(Output({"y": given.tensors["x"] * 2}))


class World:
    def __init__(self, stack: AsyncExitStack, certify: Callable[[Identity], Credentials]) -> None:
        self._stack, self._certify = stack, certify

    async def node(self, machine: Machine) -> GrpcTransport:
        identity = Identity.generate()
        showing = Showing(machine, peer=identity.id, part="stage-1", model=MODEL, epoch=1)
        serving = GrpcTransport.serve("127.0.0.1:0", identity, self._certify(identity), serve=double, attest=showing)
        return await self._stack.enter_async_context(serving)

    async def session(self, node: GrpcTransport) -> Session:
        links = Links(self._certify(Identity.generate()))
        self._stack.push_async_callback(links.close)
        links.introduce(node.id, node.address)
        return await self._stack.enter_async_context(open_session(links, node.id))


@pytest.fixture
async def world(authority: Authority, certify: Callable[..., Credentials]) -> object:
    async with AsyncExitStack() as stack:
        yield World(stack, lambda identity: certify(authority, identity))


async def challenge(session: Session) -> Seen:
    nonce = os.urandom(32)
    evidence = Evidence.parse(await session.challenge(nonce, 20.0))
    return Seen(Subject(session.to, "stage-1", MODEL, 1), nonce, tls_key(session.certificate), evidence)


async def test_a_sealed_session_answers_as_any_other(world: World) -> None:
    session = await world.session(await world.node(Machine()))
    seen = await challenge(session)
    assert seen.verify([TDX.root], NOW).simulated
    channel = seen.sealed()
    await session.seal(channel.hello, channel, 20.0)
    for _ in range(3):
        assert (await session.ask(TASK, 20.0)).tensors["y"].sum() == 2 << 19


async def test_evidence_of_one_node_is_not_anothers(world: World) -> None:
    """Another node relays the challenge to a machine that counts: its own key in TLS is not the one that was quoted."""
    genuine = await world.session(await world.node(Machine()))
    liar = await world.session(await world.node(Machine(STRANGER)))
    nonce = os.urandom(32)
    relayed = Evidence.parse(await genuine.challenge(nonce, 20.0))
    seen = Seen(Subject(liar.to, "stage-1", MODEL, 1), nonce, tls_key(liar.certificate), relayed)
    with pytest.raises(Exception, match="binding"):
        seen.verify([TDX.root], NOW)
    channel = seen.sealed()
    await liar.challenge(nonce, 20.0)
    await liar.seal(channel.hello, channel, 20.0)
    with pytest.raises((Refused, Unreachable)):
        await liar.ask(TASK, 20.0)
