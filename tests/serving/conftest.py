"""Small experts, routers and stages with random weights, and replicas that serve over mutual TLS on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from decentral.models.denoisers import dit, unet
from decentral.serving.experts.pipeline import DecentralizedDiffusionPipeline
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.links import Links
from decentral.wire.sessions import Serve, Session, open_session
from decentral.zk.store import PLACE, Store
from tests.serving.proved import Material, ProvedCluster, material, proved_cluster

SHAPE, CLASSES = (1, 8, 8), 3


@pytest.fixture(scope="session")
def part() -> Callable[..., nn.Module]:
    """`part(seed, outputs=None, conditional=True, kind="unet", **options)`: an expert, or with outputs a router."""

    def make(seed: int, kind: str = "unet", shape: tuple[int, int, int] = SHAPE, **options: Any) -> nn.Module:
        torch.manual_seed(seed)
        if kind == "unet":
            made: nn.Module = unet(shape, CLASSES, **{"channels": (8, 16), **options})
        else:
            made = dit(shape, CLASSES, **{"heads": 2, "head": 8, "layers": 2, **options})
        for parameter in made.parameters():  # so that outputs depend on inputs: a DiT begins as zero
            parameter.data += 0.1 * torch.randn_like(parameter)
        return made.eval()

    return make


@pytest.fixture
def pipeline(part: Callable[..., nn.Module]) -> DecentralizedDiffusionPipeline:
    """Four conditional experts of 8x8 images in one channel, and a router that knows no labels."""
    return ensemble(part)


def ensemble(part: Callable[..., nn.Module]) -> DecentralizedDiffusionPipeline:
    made = DecentralizedDiffusionPipeline(
        router=part(100, outputs=4, conditional=False), **{f"expert_{k}": part(k) for k in range(4)}
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
async def replicas(
    authority: Authority, certify: Callable[..., Credentials]
) -> AsyncIterator[Callable[..., Awaitable[tuple[Session, ...]]]]:
    """`await replicas((identity, service), ..., **options)`: sessions of a new client; services go on listening."""
    async with AsyncExitStack() as stack:
        listening: dict[str, GrpcTransport] = {}

        async def start(*services: tuple[Identity, Serve], **options: Any) -> tuple[Session, ...]:
            client = Identity.generate()
            links = Links(certify(authority, client))
            stack.push_async_callback(links.close)
            sessions = []
            for identity, serve in services:
                if identity.id not in listening:
                    credentials = certify(authority, identity)
                    serving = GrpcTransport.serve("127.0.0.1:0", identity, credentials, serve=serve, **options)
                    listening[identity.id] = await stack.enter_async_context(serving)
                links.introduce(identity.id, listening[identity.id].address)
                sessions.append(await stack.enter_async_context(open_session(links, identity.id)))
            return tuple(sessions)

        yield start


@pytest.fixture(scope="session")
def proved_material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Circuits of the smallest model in two stages."""
    return material(Store(tmp_path_factory.mktemp("proved") / "store"))


@pytest.fixture
async def proved(
    tmp_path: Path,
    proved_material: Material,
    authority: Authority,
    certify: Callable[..., Credentials],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Callable[..., Awaitable[ProvedCluster]]]:
    """`await proved(replicas=3, liars={"stage-1-b": Liar})`: a cluster that proves, for clients without circuits."""
    monkeypatch.setenv(PLACE, str(tmp_path / "empty"))
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> ProvedCluster:
            made = proved_cluster(tmp_path / "cluster", proved_material, authority, certify, **options)
            return await stack.enter_async_context(made)

        yield start
