"""One small network in both worlds."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.links import Links
from decentral.wire.memory import MemoryNetwork
from decentral.wire.sessions import Serve, Session, open_session
from decentral.wire.transport import Transport


@pytest.fixture(scope="session")
def foreign_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("foreign") / "keys")


class World(Protocol):
    """Peers that know one another. `join` takes the options of a transport; `leave` ends one as a crash would."""

    async def join(self, **options: Any) -> Transport: ...

    async def rejoin(self, transport: Transport, **options: Any) -> Transport: ...

    async def leave(self, transport: Transport) -> None: ...


class GrpcWorld:
    def __init__(self, certify: Callable[[Identity], Credentials]) -> None:
        self._certify = certify
        self._stack = AsyncExitStack()
        self._peers: list[GrpcTransport] = []
        self._identities: dict[str, Identity] = {}

    async def join(self, **options: Any) -> Transport:
        return await self._serve(Identity.generate(), options)

    async def rejoin(self, transport: Transport, **options: Any) -> Transport:
        return await self._serve(self._identities[transport.id], options)

    async def _serve(self, identity: Identity, options: dict[str, Any]) -> Transport:
        self._identities[identity.id] = identity
        serving = GrpcTransport.serve("127.0.0.1:0", identity, self._certify(identity), **options)
        transport = await self._stack.enter_async_context(serving)
        for other in self._peers:
            other.introduce(transport.id, transport.address)
            transport.introduce(other.id, other.address)
        self._peers.append(transport)
        return transport

    async def leave(self, transport: Transport) -> None:
        self._peers = [peer for peer in self._peers if peer is not transport]
        await transport.close()

    async def close(self) -> None:
        await self._stack.aclose()


class MemoryWorld:
    def __init__(self) -> None:
        self._network = MemoryNetwork(latency=0.0005, bandwidth=1e9)
        self._seeds = itertools.count()

    async def join(self, **options: Any) -> Transport:
        return self._network.transport(Identity.from_seed(bytes([next(self._seeds)])).id, **options)

    async def rejoin(self, transport: Transport, **options: Any) -> Transport:
        return self._network.transport(transport.id, **options)

    async def leave(self, transport: Transport) -> None:
        self._network.crash(transport.id)


@pytest.fixture(params=["grpc", "memory"])
async def world(
    request: pytest.FixtureRequest, authority: Authority, certify: Callable[..., Credentials]
) -> AsyncIterator[World]:
    """Every law that uses this holds over mutual TLS on loopback and in the simulator's network."""
    if request.param == "memory":
        yield MemoryWorld()
        return
    grpc_world = GrpcWorld(lambda identity: certify(authority, identity))
    try:
        yield grpc_world
    finally:
        await grpc_world.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
async def serving(authority: Authority, certify: Callable[..., Credentials], joining: Any) -> AsyncIterator[Any]:
    """serving(serve, **options): a server; its transport, and a session with it."""
    async with AsyncExitStack() as stack:

        async def start(serve: Serve, **options: Any) -> tuple[GrpcTransport, Session]:
            server = Identity.generate()
            transport = await stack.enter_async_context(
                GrpcTransport.serve("127.0.0.1:0", server, certify(authority, server), serve=serve, **options)
            )
            return transport, await joining(transport)

        yield start


@pytest.fixture
async def joining(authority: Authority, certify: Callable[..., Credentials]) -> AsyncIterator[Any]:
    """joining(transport): a session of a new client."""
    async with AsyncExitStack() as stack:

        async def join(transport: GrpcTransport) -> Session:
            links = Links(certify(authority, Identity.generate()))
            stack.push_async_callback(links.close)
            links.introduce(transport.id, transport.address)
            return await stack.enter_async_context(open_session(links, transport.id))

        yield join
