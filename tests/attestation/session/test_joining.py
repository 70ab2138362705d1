"""Evidence for an authority: of one peer, one key, one run and one nonce, over real enrolment."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.session.joining import Joining, shown_by
from decentral.errors import Malformed, Refusal, Refused
from decentral.wire.authority import Authority
from decentral.wire.certificate import peer_id_of
from decentral.wire.enrolment import enrol
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId
from tests.attestation.world import NONCE, NOW, STRANGER, TDX, Machine

ALICE, BOB = Identity.from_seed(b"alice"), Identity.from_seed(b"bob")
KEY = b"a public key"


async def vouch(nonce: bytes, key: bytes, peer: PeerId, evidence: bytes) -> None:
    try:
        shown_by(peer, "run", nonce, key, evidence).verify([TDX.root], NOW)
    except NotGenuine as error:
        raise Malformed(Refusal.SIGNATURE, str(error)) from error


async def test_a_peer_on_a_machine_that_counts_is_let_in_and_no_other(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "authority")
    token = authority.token(uses=2)
    async with authority.serve("127.0.0.1:0", vouch=vouch) as address:
        credentials = await enrol(address, token, ALICE, show=Joining(Machine(), ALICE.id, "run"))
        assert peer_id_of(credentials.certificate) == ALICE.id
        for liar in (
            Joining(Machine(STRANGER), BOB.id, "run"),
            Joining(Machine(), ALICE.id, "run"),
            Joining(Machine(), BOB.id, "another run"),
        ):
            with pytest.raises(Refused):
                await enrol(address, token, BOB, show=liar)
        await enrol(address, token, BOB, show=Joining(Machine(), BOB.id, "run"))


async def test_evidence_is_of_one_key_and_nonce_and_brings_no_files() -> None:
    evidence = await Joining(Machine(), ALICE.id, "run")(NONCE, KEY)
    seen = shown_by(ALICE.id, "run", NONCE, KEY, evidence)
    assert seen.verify([TDX.root], NOW).simulated
    assert seen.evidence.manifest == b""
    for nonce, key in ((bytes(32), KEY), (NONCE, b"another key")):
        with pytest.raises(NotGenuine) as refused:
            shown_by(ALICE.id, "run", nonce, key, evidence).verify([TDX.root], NOW)
        assert refused.value.flaw is Flaw.BINDING
    with pytest.raises(NotGenuine):
        shown_by(ALICE.id, "run", NONCE, KEY, b"nothing")
