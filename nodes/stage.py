"""One replica of a stage in a cluster that serves a model.

    python nodes/stage.py --dir DIR --index 2

It builds the network that the directory names, cuts it, loads the parameters of its stage and compares what it has with
what clients pin. Then it answers clients until it is told to end, and what it has begun until then. It proves its
answers to who asks for that where a circuit of its stage is pinned, and shows evidence of its machine where the recipe
says so. Started again after a crash, it serves the same stage. One that is told to misbehave, by the recipe or with
--behaviour, says so in its log and in its journal: its lies are simulated. Every launcher starts this file.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from decentral.attestation.session.showing import Showing
from decentral.errors import DecentralError, UserError
from decentral.launch.attesting import attester_of
from decentral.launch.draining import drained
from decentral.launch.ending import Told, live
from decentral.launch.life import Node, entered, node_arguments
from decentral.launch.proofs import limits_of, proving_of
from decentral.models.stages import Stage
from decentral.run.choice import Choice
from decentral.run.directory import ServingDirectory
from decentral.serving.adversaries.catalogue import BEHAVIOURS
from decentral.serving.parts import MOST_BYTES, served_by
from decentral.serving.stages.model import digest_of, load_stages
from decentral.serving.stages.proved import PROVING, Either, ProvedService, Prover
from decentral.serving.stages.stage import StageService
from decentral.serving.stages.twin import Twin
from decentral.training.loop import choose_device
from decentral.trust.anchors import FILE, Anchors, Part
from decentral.wire.limits import Limits
from decentral.wire.sessions import Serve
from decentral.zk.store import Store

_LOG = logging.getLogger("decentral.stage")
NICE = 5
"""Proofs take all cores for long, and answers come first."""


def loaded(directory: ServingDirectory, place: int, wanted: str) -> Stage:
    """A stage, for this thread. Raises UserError where it is not the one that clients have pinned."""
    torch.set_num_threads(directory.recipe.threads)
    stage = load_stages(directory.stages, [place])[place]
    if (digest := digest_of(stage)) != wanted:
        raise UserError(f"{directory.path / FILE} pins stage {place} as {wanted}, but {directory.stages} has {digest}")
    torch.backends.cudnn.allow_tf32 = False  # 10 bits of mantissa would be a disagreement
    return stage


def pinned(anchors: Anchors, name: str, path: Path) -> Part:
    """A part as clients know it. Raises UserError."""
    for part in anchors.parts:
        if part.name == name:
            return part
    raise UserError(f"{path / FILE}: parts: there is no {name}")


def proof_of(directory: ServingDirectory, part: Part, stage: Stage) -> tuple[Twin, Prover] | None:
    """What answers in the whole numbers of the part's circuit, and proves it; None where no circuit is pinned.

    Raises UserError where it is not here, or is not the stage's.
    """
    if (found := proving_of(directory.path, part, Store())) is None:
        return None
    proofs = directory.recipe.proofs
    limits = replace(PROVING if proofs is None else limits_of(proofs), nice=NICE)
    try:
        return Twin(stage, found[0].circuit), Prover(*found, limits)
    except DecentralError as error:
        raise UserError(f"{part.name}: its circuit is not that of the stage: {error}") from error


def services(behaviour: Choice | None) -> tuple[Callable[..., StageService], Callable[..., ProvedService]]:
    """What answers in floats, and what in a circuit's numbers: the same lie in both, or one about proofs alone."""
    if behaviour is None:
        return StageService, ProvedService
    liar: Any = BEHAVIOURS.resolve(behaviour.name)
    if issubclass(liar, ProvedService):
        return StageService, partial(liar, **behaviour.options)
    proved = type(f"Proved{liar.__name__}", (liar, ProvedService), {})
    return partial(liar, **behaviour.options), partial(proved, **behaviour.options)


def shown_by(node: Node[ServingDirectory], part: Part, epoch: int) -> Showing | None:
    """The evidence of its machine, for who asks; None where the recipe has none. Blocking.

    Raises UserError for what cannot be measured, Unattested where no evidence can be made.
    """
    if not node.directory.recipe.attestation.shown:
        return None
    attester = attester_of(node.directory)
    return Showing(attester, peer=node.identity.id, part=part.name, model=bytes.fromhex(part.digest), epoch=epoch)


async def serve(given: argparse.Namespace, ending: Told) -> None:
    """From the directory until it is told to end, and has answered what it has begun."""
    path, index, told = given.dir, given.index, given.behaviour
    async with entered(path, index, ServingDirectory, given.listen, given.metrics) as node:
        recipe = node.directory.recipe
        replica = recipe.nodes[index]
        anchors, device = Anchors.load(path / FILE), choose_device(recipe.device)
        part = pinned(anchors, recipe.parts[replica.stage], path)
        torch.set_num_threads(recipe.threads)  # of this thread too, which computes what is quick
        stage = await node.clock.work(lambda: loaded(node.directory, replica.stage, part.digest), 0.0)
        proof = await node.clock.work(lambda: proof_of(node.directory, part, stage), 0.0)
        behaviour = recipe.liars.get(replica.node) if told is None else Choice(name=told)
        if behaviour is not None:
            node.journal.record("misbehaves", behaviour=behaviour.name, options=behaviour.options, simulated=True)
            _LOG.warning("%s is told to misbehave: %s (simulated)", replica.node, behaviour.name)
        serving, proving = services(behaviour)
        who = node.identity, served_by(node.clock)
        try:
            plain = serving(stage.to(device), part.name, part.digest, *who, device=device, epoch=anchors.epoch)
            service: Serve = plain
            if proof is not None:
                twin, prover = proof
                proved = proving(twin, part.name, twin.digest, *who, prover=prover, epoch=anchors.epoch)
                service = Either(plain, proved)
        except TypeError as error:  # of options that a behaviour does not have
            raise UserError(f"liars.{replica.node}: {error}") from error
        # A lie that is told by argument is measured by nobody: then nothing is shown.
        attest = None if told is not None else await node.clock.work(lambda: shown_by(node, part, anchors.epoch), 0.0)
        async with node.listening(Limits(model_bytes=MOST_BYTES), serve=service, attest=attest) as transport:
            node.journal.record("serving", part=part.name, digest=part.digest, circuit=part.circuit)
            await drained(transport, node.folder, node.journal, ending)


def main() -> int:
    parser = node_arguments(__doc__)
    parser.add_argument("--behaviour", metavar="NAME", help="misbehave, as a demonstration or a test needs it")
    given = parser.parse_args()
    return live(lambda told: serve(given, told))


if __name__ == "__main__":
    sys.exit(main())
