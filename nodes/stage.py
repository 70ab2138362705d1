"""One replica of a stage in a cluster that serves a model.

    python nodes/stage.py --dir DIR --index 2

It builds the network that the directory names, cuts it, loads the parameters of its stage and compares what it has with
what clients pin. Then it answers clients until it is told to end. Started again after a crash, it serves the same
stage. One that is told to misbehave, by the recipe or with --behaviour, says so in its log and in its journal: its lies
are simulated. Every launcher starts this file.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from decentral.errors import UserError
from decentral.launch.life import entered, live, node_arguments
from decentral.models.stages import Stage
from decentral.run.choice import Choice
from decentral.run.directory import ServingDirectory
from decentral.serving.adversaries.catalogue import BEHAVIOURS
from decentral.serving.parts import MOST_BYTES, served_by
from decentral.serving.stages.model import digest_of, load_stages
from decentral.serving.stages.stage import StageService
from decentral.training.loop import choose_device
from decentral.trust.anchors import FILE, Anchors
from decentral.wire.limits import Limits


def loaded(directory: ServingDirectory, place: int, pinned: str, device: torch.device) -> Stage:
    """A stage on its device, for this thread. Raises UserError where it is not the one that clients have pinned."""
    torch.set_num_threads(directory.recipe.threads)
    stage = load_stages(directory.stages, [place])[place]
    if (digest := digest_of(stage)) != pinned:
        raise UserError(f"{directory.path / FILE} pins stage {place} as {pinned}, but {directory.stages} has {digest}")
    torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa would be a disagreement
    return stage.to(device)


async def serve(path: Path, index: int, told: str | None) -> None:
    """From the directory until it is cancelled. `told`: a behaviour instead of what the recipe says."""
    async with entered(path, index, ServingDirectory) as node:
        recipe = node.directory.recipe
        replica = recipe.nodes[index]
        part = recipe.parts[replica.stage]
        anchors, device = Anchors.load(path / FILE), choose_device(recipe.device)
        digest = next((each.digest for each in anchors.parts if each.name == part), "")
        torch.set_num_threads(recipe.threads)  # of this thread too, which computes what is quick
        stage = await node.clock.work(lambda: loaded(node.directory, replica.stage, digest, device), 0.0)
        serving: Callable[..., StageService] = StageService
        options: dict[str, Any] = {}
        if (behaviour := recipe.liars.get(replica.node) if told is None else Choice(name=told)) is not None:
            serving, options = BEHAVIOURS.resolve(behaviour.name), behaviour.options
            node.journal.record("misbehaves", behaviour=behaviour.name, options=options, simulated=True)
            print(f"{replica.node} is told to misbehave: {behaviour.name} (simulated)")
        work = served_by(node.clock)
        try:
            service = serving(stage, part, digest, node.identity, work, epoch=anchors.epoch, device=device, **options)
        except TypeError as error:  # of options that a behaviour does not have
            raise UserError(f"liars.{replica.node}: {error}") from error
        async with node.listening(Limits(model_bytes=MOST_BYTES), serve=service):
            node.journal.record("serving", part=part, digest=digest)
            await asyncio.Event().wait()


def main() -> int:
    parser = node_arguments(__doc__)
    parser.add_argument("--behaviour", metavar="NAME", help="misbehave, as a demonstration or a test needs it")
    arguments = parser.parse_args()
    return live(serve(arguments.dir, arguments.index, arguments.behaviour))


if __name__ == "__main__":
    sys.exit(main())
