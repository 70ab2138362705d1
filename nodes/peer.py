"""One training peer of a run.

    python nodes/peer.py --dir RUN --index 2

It reads the recipe and the cluster file of the run directory, gets a certificate from the authority if it has none
(and another one in time), and trains with its neighbours to the last round. Started again after a crash, it rejoins
from its last checkpoint. With --stay it goes on to answer health checks after its last round, until it is told to end,
for those who would start it again otherwise. Every launcher starts this file.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from decentral.algorithms.catalogue import APART
from decentral.launch import assembly
from decentral.launch.cluster import COUNTER
from decentral.launch.ending import live
from decentral.launch.life import entered, node_arguments
from decentral.launch.plan import make_plan
from decentral.run.directory import RunDirectory
from decentral.run.journal import read
from decentral.training.checkpoint import Checkpoints


async def participate(
    path: Path, index: int, *, resumed: int | None, listen: str | None, metrics: str | None, stay: bool
) -> None:
    """From the run directory to the last round; with `stay` until it is cancelled."""
    async with entered(path, index, RunDirectory, listen, metrics) as node:
        directory, recipe, name = node.directory, node.directory.recipe, node.member.name
        plan, algorithm = make_plan(recipe), assembly.assemble_algorithm(recipe)
        past = {event["event"] for event in read(directory.journal_file(name))} if resumed is None else set()
        checkpoints = Checkpoints(directory.checkpoints, name, plan.kept_checkpoints, node.vault)
        learner = await node.clock.work(lambda: assembly.assemble_learner(recipe, index), 0.0)
        start = await node.clock.work(
            lambda: assembly.restore(checkpoints, learner, resumed, together=recipe.algorithm not in APART), 0.0
        )
        async with node.listening(
            assembly.limits_for(learner, recipe),
            members={other.id for other in node.cluster.members}.__contains__,
        ) as transport:
            if not (stay and "finished" in past):
                async with assembly.open_peer(
                    recipe=recipe,
                    plan=plan,
                    index=index,
                    roster=node.cluster.members,
                    algorithm=algorithm,
                    learner=learner,
                    transport=transport,
                    clock=node.clock,
                    journal=node.journal,
                    checkpoints=checkpoints,
                    signer=assembly.Signer(node.identity, node.folder / COUNTER),
                    directory=directory,
                    revoked=lambda: node.admitted.revoked,
                ) as peer:
                    await assembly.take_part(
                        peer, algorithm, start, running="started" in past, at_end=checkpoints.publish
                    )
            if stay:
                await asyncio.Event().wait()


def main() -> int:
    parser = node_arguments(__doc__)
    parser.add_argument("--resumed", type=int, help="the round from which the whole run goes on")
    parser.add_argument("--stay", action="store_true", help="answer health checks when the last round is over")
    given = parser.parse_args()
    told = {name: getattr(given, name) for name in ("resumed", "listen", "metrics", "stay")}
    return live(participate(given.dir, given.index, **told))


if __name__ == "__main__":
    sys.exit(main())
