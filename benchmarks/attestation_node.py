"""The processes of `attestation_cost`: a simulated processor's own, and a node that serves one stage on its machine.

Both live until their standard input ends. The first line on standard output says that they are there; a node answers
each line on its input with the seconds of its processor that it has used so far.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.serving_cost import stay_on
from benchmarks.serving_floor import HOST
from decentral.attestation.host.measuring import FILES, MODEL, POLICY, RECIPE, Measurer
from decentral.attestation.host.processes import running
from decentral.attestation.host.quoting import Quoting, QuotingAttester, serving
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.report import Technology
from decentral.attestation.session.showing import Showing
from decentral.serving.parts import MOST_BYTES, served_by
from decentral.serving.stages.model import Network, digest_of, load_stages, save_stages
from decentral.serving.stages.stage import StageService
from decentral.wire.certificate import Credentials
from decentral.wire.clock import WallClock
from decentral.wire.grpc_transport import GrpcTransport
from decentral.wire.identity import Identity
from decentral.wire.limits import Limits

PLACE, PART, EPOCH = 1, "stage-1", 1
MODELS = {
    "digits": Network("mlp", {}, (1, 8, 8), 10, ("2", "4"), single=False, source="nobody has trained it"),
    "ResNet-20": Network("resnet20", {}, (3, 32, 32), 10, 4, single=False, source="nobody has trained it"),
}
"""As the recipes serve-digits and serve-cifar10 cut them."""


def cluster(folder: Path, technology: Technology, model: str) -> Simulation:
    """A cluster's folder with all that is measured of it, and with its simulated maker of processors."""
    network = MODELS[model]
    (folder / FILES[MODEL]).mkdir()
    save_stages(folder / FILES[MODEL], network, network.split(network.build()))
    (folder / FILES[RECIPE]).write_text(f"stages: {len(network.split(network.build()))}\n")
    (folder / FILES[POLICY]).write_text('require = ["consensus", "attestation"]\n')
    (folder / "authority").mkdir(mode=0o700)
    return Simulation.open(folder / "authority", technology, int(time.time()))


# ---- in processes of their own --------------------------------------------------------------------------------------


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def processor(folder: Path) -> None:
    """Signs for whoever asks, and measures what that runs."""
    asked, simulation = await lines(), Simulation.kept(folder / "authority")
    with tempfile.TemporaryDirectory() as place:
        async with serving(Quoting(simulation, Measurer(folder), time.time, running), Path(place), folder):
            print(json.dumps({}), flush=True)
            await asked.read()


async def node(folder: Path) -> None:
    """Serves the stage, to who challenges it and to who does not."""
    home, asked, clock = folder / "node", await lines(), WallClock()
    identity, credentials = Identity.load(home / "identity.key"), Credentials.load(home)
    stage = load_stages(folder / FILES[MODEL], [PLACE])[PLACE]
    digest = digest_of(stage)
    service = StageService(stage, PART, digest, identity, served_by(clock), epoch=EPOCH)
    showing = Showing(QuotingAttester(folder), peer=identity.id, part=PART, model=bytes.fromhex(digest), epoch=EPOCH)
    limits, address = Limits(model_bytes=MOST_BYTES), f"{HOST}:0"
    async with GrpcTransport.serve(
        address, identity, credentials, limits=limits, serve=service, attest=showing
    ) as transport:
        print(json.dumps({"id": identity.id, "address": transport.address, "digest": digest}), flush=True)
        while await asked.readline():
            print(json.dumps(time.process_time()), flush=True)
    clock.close()


# ---- in the client's process ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Running:
    """One of them, as the client's process has it; `said`: its first line."""

    process: asyncio.subprocess.Process
    said: Any

    async def used(self) -> float:
        """Seconds of its processor."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        seconds: float = json.loads(await self.process.stdout.readline())
        return seconds


@asynccontextmanager
async def started(what: str, folder: Path, core: int) -> AsyncIterator[Running]:
    """`what`: "processor" or "node", which shares its core with all others that are told the same."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.attestation_node", what, str(folder), str(core)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Running(process, json.loads(await process.stdout.readline()))
    finally:
        process.stdin.close()
        await process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("processor", "node"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("core", type=int)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    stay_on(given.core)
    asyncio.run((processor if given.what == "processor" else node)(given.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
