"""The quoting process of a simulated processor, for a cluster whose machine has no real one.

    python nodes/quoting.py --dir DIR

It has the keys in DIR/attestation, measures each process of this machine that asks it for a quote, and signs what it
found; who asks for keys to seal files with gets those of what it has measured. DIR/quoting says where its socket is;
once it listens, it prints that. The launcher starts it before the nodes and ends it after them, by the end of its
standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from decentral.attestation.host.measuring import Measurer
from decentral.attestation.host.processes import running
from decentral.attestation.host.quoting import PREFIX, Quoting, forget, serving
from decentral.attestation.host.release import FILE, Release
from decentral.attestation.host.simulation import Simulation
from decentral.launch.ending import live
from decentral.run.directory import open_cluster


async def serve(path: Path, attached: bool) -> None:
    """Until it is cancelled; `attached`: or nobody has the other end of its standard input any more."""
    directory = open_cluster(path)
    simulation, release = Simulation.kept(directory.attestation), directory.attestation / FILE
    quoting = Quoting(
        simulation, Measurer(path), time.time, secret=simulation.sealing, release=lambda: Release.load(release)
    )
    await asyncio.to_thread(quoting.measurer.measure, running(os.getpid()))  # before anybody waits for it
    await asyncio.to_thread(forget, path)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as place:  # 0700; a socket's name has 107 bytes at most
        async with serving(quoting, Path(place), path):
            print(Path(place) / "socket", flush=True)
            await (input_ended() if attached else asyncio.Event().wait())


async def input_ended() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(1024):
        continue


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, required=True, help="the directory of the cluster")
    parser.add_argument("--attached", action="store_true", help="end when the standard input does")
    given = parser.parse_args()
    return live(serve(given.dir, given.attached))


if __name__ == "__main__":
    sys.exit(main())
