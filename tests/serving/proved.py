"""The smallest model whose answers are proved, and replicas on loopback that prove them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from decentral.models.folding import fold_batchnorm
from decentral.models.stages import Stage, split
from decentral.serving.asking.circuits import FILE
from decentral.serving.selection.routing import Router
from decentral.serving.stages.model import digest_of
from decentral.serving.stages.proved import Either, ProvedService, Prover
from decentral.serving.stages.stage import StageService
from decentral.serving.stages.twin import Twin
from decentral.trust.anchors import Anchor, Anchors, Part
from decentral.trust.proofs import Proofs
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.links import Links
from decentral.wire.sessions import Session, open_session
from decentral.zk.circuit import Chain
from decentral.zk.setup import Artefacts, setup
from decentral.zk.srs import SRS
from decentral.zk.store import Store
from tests.conftest import children
from tests.zk.conftest import SMALL, TINY

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(11))


class Small(nn.Module):
    """A residual crosses the cut after `second`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        found: Tensor = self.third(self.second(hidden) + hidden)
        return found


@dataclass(frozen=True)
class Material:
    """Two stages and what proves them; `foreign`: circuits of other parameters, on the same SRS."""

    stages: list[Stage]
    chain: Chain
    artefacts: list[Artefacts]
    foreign: list[Artefacts]
    srs: SRS

    def twin(self, place: int) -> Twin:
        return Twin(self.stages[place], self.chain.circuits[place])

    def prover(self, place: int, **options: Any) -> Prover:
        return Prover(self.artefacts[place], self.srs, SMALL, **options)


def material(store: Store) -> Material:
    def stages(seed: int) -> list[Stage]:
        torch.manual_seed(seed)
        return split(Small().eval(), ["second"], X)

    async def made(own: list[Stage]) -> tuple[Chain, list[Artefacts], SRS]:
        networks: list[nn.Module] = [fold_batchnorm(stage.network, len(stage.inputs)) for stage in own]
        return await setup(networks, [X], store.local_srs, store, TINY, limits=SMALL)

    own = stages(3)
    chain, artefacts, srs = asyncio.run(made(own))
    _, foreign, _ = asyncio.run(made(stages(4)))
    return Material(own, chain, artefacts, foreign, srs)


@dataclass
class ProvedCluster:
    """As `tests.conftest.Cluster`; the services prove too."""

    folder: Path
    material: Material
    anchors: Anchors
    services: dict[str, Either]

    def node(self, peer: str) -> str:
        return next(anchor.name for anchor in self.anchors.peers if anchor.id == peer)

    def floats(self, inputs: Tensor) -> Tensor:
        """What the model says."""
        passed: Any = inputs
        with torch.no_grad():
            for stage in self.material.stages:
                passed = stage(passed)
        return cast("Tensor", passed)

    def model(self) -> dict[str, Stage]:
        return {part.name: stage for part, stage in zip(self.anchors.parts, self.material.stages, strict=True)}


async def inline(fn: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(fn)


@asynccontextmanager
async def proved_cluster(
    folder: Path,
    material: Material,
    authority: Authority,
    certify: Callable[..., Credentials],
    *,
    replicas: int = 3,
    liars: Mapping[str, type[ProvedService]] | None = None,
) -> AsyncIterator[ProvedCluster]:
    """`liars`: what serves the circuit at a node (`stage-1-b`) instead of a ProvedService."""
    before = children()
    (folder / "client").mkdir(parents=True, mode=0o700)
    client = Identity.open(folder / "client" / "identity.key")
    certify(authority, client).save(folder / "client")
    parts = [
        Part(
            f"stage-{place}",
            digest_of(stage),
            "peers",
            1e-4,
            2.0,
            tuple(port.name for port in stage.inputs),
            material.chain.circuits[place].identity.hex(),
        )
        for place, stage in enumerate(material.stages)
    ]
    async with AsyncExitStack() as stack:
        services, peers = {}, []
        for place, part in enumerate(parts):
            for letter in "abcdefgh"[:replicas]:
                name, identity = f"{part.name}-{letter}", Identity.generate()
                make = (liars or {}).get(name, ProvedService)
                twin = material.twin(place)
                plain = StageService(material.stages[place], part.name, part.digest, identity, inline, epoch=1)
                proved = make(twin, part.name, twin.digest, identity, inline, epoch=1, prover=material.prover(place))
                services[name] = Either(plain, proved)
                serving = GrpcTransport.serve(
                    "127.0.0.1:0", identity, certify(authority, identity), serve=services[name]
                )
                transport = await stack.enter_async_context(serving)
                peers.append(Anchor(name, identity.id, transport.address, part.name, part.digest))
        anchors = Anchors(authority.pem, tuple(peers), 1, tuple(parts))
        anchors.save(folder / "trust.toml")
        (folder / FILE).parent.mkdir()
        (folder / FILE).write_bytes(material.chain.encoded())
        yield ProvedCluster(folder, material, anchors, services)
    async with asyncio.timeout(20):  # what was proved for a client that has left ends a moment later
        while children() - before:  # noqa: ASYNC110  the kernel tells nobody
            await asyncio.sleep(0.02)


@asynccontextmanager
async def session_with(
    service: Either | StageService, authority: Authority, certify: Callable[..., Credentials]
) -> AsyncIterator[Session]:
    """A client's session with one service."""
    identity = service.identity if isinstance(service, StageService) else service.plain.identity
    serving = GrpcTransport.serve("127.0.0.1:0", identity, certify(authority, identity), serve=service)
    async with serving as transport:
        links = Links(certify(authority, Identity.generate()))
        try:
            links.introduce(identity.id, transport.address)
            async with open_session(links, identity.id) as session:
                yield session
        finally:
            await links.close()


def served_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each part, so that a test knows who is asked to prove first."""
    monkeypatch.setattr(Router, "serves", lambda self, part, candidates: candidates[0])


def after(event: asyncio.Event, right: Any) -> Any:
    """The same proofs, once something has happened."""

    async def proofs(*arguments: Any) -> Proofs:
        await event.wait()
        return await right(*arguments)

    return proofs
