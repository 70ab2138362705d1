"""What every test shares: shapes of `decentral.core` checked at run time, one torch thread, reproducible laws,
certificates without ceremony.

The import hook stands before any import of decentral, so that each jaxtyping annotation in `core` is enforced by
beartype while tests run; a deployment does not pay for it.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import install_import_hook

install_import_hook("decentral.core", "beartype.beartype")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from decentral.wire.authority import Authority  # noqa: E402
from decentral.wire.certificate import Credentials, new_key, private_pem, request_certificate  # noqa: E402
from decentral.wire.identity import Identity  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

    from decentral.attestation.attester import Attester
    from decentral.models.stages import Stage
    from decentral.serving.stages.stage import StageService
    from decentral.trust.anchors import Anchors
    from decentral.trust.machines import Machines
    from decentral.wire.grpc_transport import GrpcTransport

torch.set_num_threads(1)

hypothesis.settings.register_profile("here", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("here"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where real datasets lie, in the layouts torchvision reads; tests that need them skip where they are absent."""
    place = os.environ.get("DECENTRAL_DATA")
    if not place:
        pytest.skip("DECENTRAL_DATA is not set: this test needs datasets beyond the embedded digits")
    path = Path(place)
    if not path.is_dir():
        pytest.skip(f"DECENTRAL_DATA={place} is not a folder")
    return path


@pytest.fixture(scope="session")
def beside_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an autoencoder as `vae`, colour images in and four channels out: what a reader brings along."""
    from tests.autoencoder import tiny

    place = tmp_path_factory.mktemp("reader")
    tiny(channels=3, halvings=3, latent_channels=4).save_pretrained(place / "vae")
    return place


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority") / "keys")


@pytest.fixture(scope="session")
def certify() -> Callable[..., Credentials]:
    """Credentials for an identity straight from an authority, without its server."""

    def issue(authority: Authority, identity: Identity, validity: timedelta = timedelta(days=1)) -> Credentials:
        key = new_key()
        certificate = authority.issue(request_certificate(identity, key, time.time() + 2 * 86400), validity)
        return Credentials(ssl.DER_cert_to_PEM_cert(certificate).encode(), private_pem(key), authority.pem)

    return issue


def children() -> set[int]:
    """Processes that this one has started and that have not ended; none where the kernel does not tell."""
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found.update(map(int, task.read_text().split()))
    return found


@pytest.fixture(scope="session", autouse=True)
def python_s_own_process() -> None:
    """The tracker of multiprocessing starts with the first pool and stays: it is there before any test."""
    resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def no_process_outlives_its_test(python_s_own_process: None) -> Iterator[None]:
    """Ours are peers with open ports and models in memory."""
    before = children()
    yield
    left = children() - before
    assert not left, f"these processes outlived the test: {sorted(left)}"


@pytest.fixture(scope="session")
def stages() -> list[Stage]:
    """A perceptron on 8x8 images in three stages, of which the second has two layers."""
    from decentral.models.mlp import mlp
    from decentral.models.stages import split

    torch.manual_seed(7)
    return split(mlp((1, 8, 8), 10, hidden=(16, 12, 16)), ["2", "6"], torch.rand(4, 1, 8, 8))


@dataclass
class Cluster:
    """A folder as clients have it, of a model in stages whose replicas serve in this process, over mutual TLS."""

    folder: Path
    stages: list[Stage]
    anchors: Anchors
    services: dict[str, StageService]
    """By node: `stage-1-b`. What they do may be changed while they serve."""
    transports: dict[str, GrpcTransport]

    def node(self, peer: str) -> str:
        return next(anchor.name for anchor in self.anchors.peers if anchor.id == peer)

    def expected(self, inputs: Tensor) -> Tensor:
        """What the model says."""
        with torch.no_grad():
            passed: Any = inputs
            for stage in self.stages:
                passed = stage(passed)
        return cast("Tensor", passed)

    async def kill(self, node: str) -> None:
        await self.transports.pop(node).close()


@pytest.fixture
async def cluster(
    tmp_path: Path, stages: list[Stage], authority: Authority, certify: Callable[..., Credentials]
) -> AsyncIterator[Callable[..., Awaitable[Cluster]]]:
    """`await cluster(replicas=3, local=0, liars={"stage-1-b": WrongOutput})`: a cluster that is up.

    `attesters`: of nodes by name, "" for all others; `machines`: what clients pin of them.
    """
    from decentral.attestation.session.showing import Showing
    from decentral.serving.stages.model import digest_of
    from decentral.serving.stages.stage import StageService
    from decentral.trust.anchors import Anchor, Anchors, Part
    from decentral.wire.grpc_transport import GrpcTransport

    async with AsyncExitStack() as stack:
        worker = stack.enter_context(ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)))

        async def work(fn: Callable[[], Any]) -> Any:
            return await asyncio.get_running_loop().run_in_executor(worker, fn)

        async def start(
            replicas: int = 3,
            local: int = 0,
            liars: Mapping[str, Callable[..., StageService]] | None = None,
            attesters: Mapping[str, Attester | None] | None = None,
            machines: Machines | None = None,
        ) -> Cluster:
            folder = tmp_path / "cluster"
            (folder / "client").mkdir(parents=True, mode=0o700)
            client = Identity.open(folder / "client" / "identity.key")
            certify(authority, client).save(folder / "client")
            digests = [digest_of(stage) for stage in stages]
            parts = [
                Part(
                    f"stage-{place}",
                    digests[place],
                    "client" if place < local else "peers",
                    1e-4,
                    2.0,
                    tuple(port.name for port in stage.inputs),
                )
                for place, stage in enumerate(stages)
            ]
            services, transports, peers = {}, {}, []
            for place in range(local, len(stages)):
                for letter in "abcdefgh"[:replicas]:
                    name, identity = f"stage-{place}-{letter}", Identity.generate()
                    make = (liars or {}).get(name, StageService)
                    service = make(stages[place], parts[place].name, digests[place], identity, work, epoch=1)
                    attester = (attesters or {}).get(name, (attesters or {}).get(""))
                    model = bytes.fromhex(digests[place])
                    showing = attester and Showing(
                        attester, peer=identity.id, part=parts[place].name, model=model, epoch=1
                    )
                    serving = GrpcTransport.serve(
                        "127.0.0.1:0", identity, certify(authority, identity), serve=service, attest=showing
                    )
                    services[name] = service
                    transports[name] = transport = await stack.enter_async_context(serving)
                    peers.append(Anchor(name, identity.id, transport.address, parts[place].name, digests[place]))
            anchors = Anchors(authority.pem, tuple(peers), 1, tuple(parts), machines=machines)
            anchors.save(folder / "trust.toml")
            return Cluster(folder, stages, anchors, services, transports)

        yield start
