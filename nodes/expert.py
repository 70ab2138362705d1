"""One peer of a standing cluster that serves the expert which it has trained, or with which it was added.

    python nodes/expert.py --dir RUN --index 2

It reads the run directory, gets a certificate from the authority if it has none (and another one in time), and answers
clients until it is told to end, or leaves the cluster and has no client any more. Started again after a crash, it
serves the same model. Every launcher starts this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from decentral.launch.changes import parted
from decentral.launch.draining import drained
from decentral.launch.ending import Told, first_of, live
from decentral.launch.life import entered, node_arguments
from decentral.launch.serving import EXPERT, parts_of
from decentral.models.experts import load_denoiser
from decentral.run.directory import RunDirectory
from decentral.serving.experts.expert import ExpertService
from decentral.serving.parts import MOST_BYTES, served_by
from decentral.wire.limits import Limits


async def serve(path: Path, index: int, listen: str | None, metrics: str | None, told: Told) -> None:
    """From the run directory until it is told to end, or has left, and has answered what it has begun."""
    async with entered(path, index, RunDirectory, listen, metrics) as node:
        torch.set_num_threads(node.directory.recipe.threads)
        model = await node.clock.work(lambda: load_denoiser(node.folder / EXPERT), 0.0)
        service = ExpertService(model, parts_of(node.directory)[index].name, served_by(node.clock))
        async with node.listening(Limits(model_bytes=MOST_BYTES), serve=service) as transport:
            node.journal.record("serving", part=service.part, digest=service.digest)
            await first_of(
                parted(node.directory, node.member.name, lambda: transport.sessions),
                drained(transport, node.folder, node.journal, told, sessions=True),
            )


def main() -> int:
    arguments = node_arguments(__doc__).parse_args()
    given = arguments.dir, arguments.index, arguments.listen, arguments.metrics
    return live(lambda told: serve(*given, told))


if __name__ == "__main__":
    sys.exit(main())
