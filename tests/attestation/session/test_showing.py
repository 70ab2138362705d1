"""What a node shows is made for one challenge over one connection, and for what it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from decentral.attestation.attester import Quoted, Unattested
from decentral.attestation.binding import VOUCHED
from decentral.attestation.evidence import Evidence
from decentral.attestation.report import Flaw, NotGenuine
from decentral.attestation.session.challenging import Seen, Subject
from decentral.attestation.session.showing import ATTEMPTS, Showing, tls_key
from decentral.errors import Malformed
from decentral.wire.authority import Authority
from decentral.wire.certificate import Credentials
from decentral.wire.identity import Identity, verify
from tests.attestation.world import MODEL, NONCE, NOW, TDX, Machine

IDENTITY = Identity.from_seed(b"node")
SUBJECT = Subject(IDENTITY.id, "stage-1", MODEL, 3)


def showing(machine: Machine) -> Showing:
    return Showing(machine, peer=IDENTITY.id, part="stage-1", model=MODEL, epoch=3)


@pytest.fixture
def certificate(authority: Authority, certify: Callable[..., Credentials]) -> bytes:
    return certify(authority, IDENTITY).certificate


async def seen(machine: Machine, certificate: bytes) -> Seen:
    offer = await showing(machine)(NONCE, certificate)
    return Seen(SUBJECT, NONCE, tls_key(certificate), Evidence.parse(offer.evidence))


async def test_evidence_covers_all_that_the_client_knows_itself(certificate: bytes) -> None:
    report = (await seen(Machine(), certificate)).verify([TDX.root], NOW)
    assert report.simulated


OTHERS = {
    "nonce": lambda each: replace(each, nonce=bytes(32)),
    "connection": lambda each: replace(each, key=b"another key"),
    "peer": lambda each: replace(each, subject=replace(each.subject, peer=Identity.from_seed(b"other").id)),
    "part": lambda each: replace(each, subject=replace(each.subject, part="stage-2")),
    "model": lambda each: replace(each, subject=replace(each.subject, model=bytes(32))),
    "epoch": lambda each: replace(each, subject=replace(each.subject, epoch=4)),
    "key": lambda each: replace(each, evidence=replace(each.evidence, key=bytes(32))),
    "voice": lambda each: replace(each, evidence=replace(each.evidence, voice=bytes(32))),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_it_is_about_nothing_else(certificate: bytes, other: Callable[[Seen], Seen]) -> None:
    with pytest.raises(NotGenuine) as refused:
        other(await seen(Machine(), certificate)).verify([TDX.root], NOW)
    assert refused.value.flaw is Flaw.BINDING


async def test_only_the_machine_that_was_shown_opens_what_is_sealed_to_it(certificate: bytes) -> None:
    offer = await showing(Machine())(NONCE, certificate)
    shown = Seen(SUBJECT, NONCE, tls_key(certificate), Evidence.parse(offer.evidence))
    client = shown.sealed()
    node = offer.agree(client.hello)
    assert node.open(client.seal(b"a task")) == b"a task"
    assert client.open(node.seal(b"an answer")) == b"an answer"
    other = await showing(Machine())(NONCE, certificate)
    with pytest.raises(Malformed):
        other.agree(client.hello)


async def test_what_is_measured_meanwhile_is_quoted_with_the_log_that_it_led_to(certificate: bytes) -> None:
    machine = Machine(growing=1)
    found = await seen(machine, certificate)
    assert found.evidence.log == machine.measured
    found.verify([TDX.root], NOW)
    with pytest.raises(Malformed, match="change all the time"):
        await showing(Machine(growing=ATTEMPTS))(NONCE, certificate)


async def test_a_machine_that_makes_no_evidence_is_said_to(certificate: bytes) -> None:
    class Broken(Machine):
        async def quote(self, report_data: bytes) -> Quoted:
            raise Unattested("the quoting process does not answer")

    with pytest.raises(Malformed, match="quoting process does not answer"):
        await showing(Broken())(NONCE, certificate)
    with pytest.raises(Malformed, match="no certificate"):
        tls_key(b"nothing")


async def test_every_start_has_keys_of_its_own(certificate: bytes) -> None:
    assert showing(Machine()).public_key != showing(Machine()).public_key
    assert (await seen(Machine(), certificate)).evidence.voice != (await seen(Machine(), certificate)).evidence.voice


async def test_a_machine_signs_answers_with_the_voice_that_its_evidence_covers(certificate: bytes) -> None:
    offer = await showing(Machine())(NONCE, certificate)
    voice = Evidence.parse(offer.evidence).voice
    assert verify(voice, VOUCHED, b"an answer", offer.speak(b"an answer"))
    with pytest.raises(Malformed):
        verify(voice, "answer", b"an answer", offer.speak(b"an answer"))
