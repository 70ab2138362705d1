"""Which machines may join a training run, where its recipe asks for that: the authority's side, and a peer's."""

from __future__ import annotations

import asyncio
import time

from decentral.attestation.report import NotGenuine
from decentral.attestation.session.joining import Joining, shown_by
from decentral.errors import Malformed, Refusal, UserError
from decentral.launch.attesting import attester_of, pin_machines, simulates
from decentral.run.directory import AnyDirectory, RunDirectory
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.attested import judge
from decentral.wire.authority import Vouch
from decentral.wire.enrolment import Show
from decentral.wire.messages import PeerId


def vouch_for(directory: RunDirectory) -> Vouch | None:
    """The authority's side, once it is pinned which machines count; None where everybody with a token may join.

    Blocking. Raises UserError where nothing is pinned: of a real machine that is for its owner to say.
    """
    if directory.recipe.attestation.shown:
        pin_machines(directory, lambda words: None)
    if not directory.recipe.attestation.required:
        return None
    machines, run = Anchors.load(directory.path / FILE).machines, directory.recipe.hash
    if machines is None:
        raise UserError(
            f"attestation: {directory.path / FILE} pins no machines; `decentral attest measure` prints what to pin"
        )

    played = simulates(directory.recipe.attestation)

    async def vouch(nonce: bytes, key: bytes, peer: PeerId, evidence: bytes) -> None:
        try:
            seen = shown_by(peer, run, nonce, key, evidence)
        except NotGenuine as error:
            raise Malformed(Refusal.SIGNATURE, f"your machine does not count: {error}") from error
        judged = await asyncio.to_thread(judge, seen, machines, int(time.time()))
        if judged.complaints:
            raise Malformed(Refusal.SIGNATURE, f"your machine does not count: {judged.why}")
        if judged.simulated and not played:
            raise Malformed(Refusal.SIGNATURE, "your machine does not count: it is simulated, and this run is not")

    return vouch


def show_for(directory: AnyDirectory, peer: PeerId) -> Show | None:
    """A peer's side; None where nobody asks. Blocking. Raises Unattested, UserError."""
    if not isinstance(directory, RunDirectory) or not directory.recipe.attestation.required:
        return None
    return Joining(attester_of(directory), peer, directory.recipe.hash)
