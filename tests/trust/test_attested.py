"""Evidence of machines in a receipt: every replica that answered ran what is pinned, or the answer does not count."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import pytest

from decentral import canonical
from decentral.attestation.attester import RUNTIME
from decentral.attestation.binding import VOUCHED, report_data
from decentral.attestation.evidence import Evidence
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.registers import Event, EventLog
from decentral.attestation.report import Flaw, Technology
from decentral.attestation.session.challenging import Seen, Subject
from decentral.errors import Malformed
from decentral.trust import attested
from decentral.trust.anchors import Anchors
from decentral.trust.attested import Attestations, Shown, judge
from decentral.trust.evidence import Kind, Reply, together
from decentral.trust.examination import examine
from decentral.trust.machines import Machines, Reference
from decentral.trust.policy import Policy, Verdict
from decentral.trust.receipt import Receipt, check
from decentral.trust.transcript import Exchange, Transcript
from decentral.wire.identity import Identity
from decentral.wire.messages import PeerId
from tests.attestation.world import IMAGE, LOG, STRANGER, TDX, Machine
from tests.trust.world import World

POLICY = Policy(require=frozenset({Kind.CONSENSUS, Kind.ATTESTATION}), allow_simulated=True)
WORLD = World(policy=POLICY)
TIME = WORLD.order.time
REFERENCE = Reference(Technology.TDX, IMAGE.hex(), events={event.name: event.digest.hex() for event in LOG.events})
MACHINES = Machines((TDX.root,), (REFERENCE,))
ANCHORS = replace(WORLD.anchors, machines=MACHINES)
OTHER = EventLog((LOG.events[0], Event.of(RUNTIME, "recipe", b"another")))
KEY = b"the public key of a connection"


def voice(peer: PeerId, start: bytes = b"") -> Identity:
    """Of its machine, since it was started."""
    return Identity.from_seed(b"voice" + start + peer.encode())


def shown(peer: PeerId, part: str, machine: Machine, epoch: int = WORLD.epoch, start: bytes = b"") -> Shown:
    """As a node with this machine answers a challenge of its own."""
    model = next(bytes.fromhex(each.digest) for each in ANCHORS.parts if each.name == part)
    nonce, hpke = (hashlib.sha256(peer.encode() + word).digest() for word in (b"nonce", b"key"))
    bound = report_data(
        tls_key=KEY,
        hpke_key=hpke,
        voice=voice(peer, start).public_key,
        peer=peer,
        nonce=nonce,
        model=model,
        part=part,
        epoch=epoch,
        events=machine.measured.digest,
    )
    quoted = asyncio.run(machine.quote(bound))
    return Shown(nonce, KEY, Evidence.of(quoted, hpke, voice(peer, start).public_key).short)


def machine(simulation: Simulation = TDX, image: bytes = IMAGE, log: EventLog = LOG, now: int = TIME) -> Machine:
    return Machine(simulation, image, log, now=now)


@cache
def plain() -> Transcript:
    return WORLD.transcript(content=Policy())


def transcript(change: Callable[[str, dict[PeerId, Shown]], Mapping[PeerId, Shown]]) -> Transcript:
    """What was said, with evidence of every replica; `change` makes other evidence of what is right for a part."""
    exchanges = []
    for each in plain().exchanges:
        right = {node: shown(node, each.step.part, machine()) for node in each.asked}
        said = Attestations(change(each.step.part, right)).encoded()
        exchanges.append(replace(each, replies=spoken(each), evidence={Kind.ATTESTATION: said}))
    return replace(plain(), exchanges=tuple(exchanges))


def spoken(exchange: Exchange, start: bytes = b"") -> dict[PeerId, Reply]:
    """The replies, each signed by the machine of its node too."""
    question = WORLD.order.question(exchange.step, exchange.inputs)
    opened = together(each.commitment for each in exchange.replies.values() if each.commitment is not None)
    found = {}
    for node, reply in exchange.replies.items():
        signed = reply.signed(question, opened)
        assert signed is not None and reply.reveal is not None
        vouched = voice(node, start).sign(VOUCHED, signed.content)
        found[node] = replace(reply, reveal=replace(reply.reveal, vouched=vouched))
    return found


def answering(change: Callable[[Exchange, PeerId, Reply], Reply]) -> Transcript:
    """With right evidence of all, and another reply of the second replica of the second part."""
    right = transcript(lambda part, right: right)
    node = ANCHORS.replicas("stage-1")[1].id
    exchanges = list(right.exchanges)
    said = {**exchanges[1].replies, node: change(exchanges[1], node, exchanges[1].replies[node])}
    exchanges[1] = replace(exchanges[1], replies=said)
    return replace(right, exchanges=tuple(exchanges))


def vouching(reply: Reply, vouched: bytes) -> Reply:
    assert reply.reveal is not None
    return replace(reply, reveal=replace(reply.reveal, vouched=vouched))


def vouched_by(reply: Reply) -> bytes:
    assert reply.reveal is not None
    return reply.reveal.vouched


ELSEWHERE: dict[str, Callable[[Exchange, PeerId, Reply], Reply]] = {
    "in a session that was not sealed": lambda said, node, reply: vouching(reply, b""),
    "in a machine that was started at another time": lambda said, node, reply: spoken(said, b"later")[node],
    "in another replica's machine": lambda said, node, reply: vouching(
        reply, next(vouched_by(other) for peer, other in said.replies.items() if peer != node)
    ),
    "by the node's own key": lambda said, node, reply: vouching(
        reply, WORLD.peers[node].sign(VOUCHED, b"what it has answered")
    ),
}


@pytest.mark.parametrize("elsewhere", ELSEWHERE.values(), ids=ELSEWHERE)
def test_evidence_of_a_machine_does_not_speak_for_what_was_answered_elsewhere(
    elsewhere: Callable[[Exchange, PeerId, Reply], Reply],
) -> None:
    found = verdict(answering(elsewhere))
    assert found.reasons == ("stage-1: attestation: stage-1-b: its machine has not signed this answer",)


def test_whoever_committed_knew_the_inputs_and_has_to_have_shown_its_machine_whatever_it_revealed() -> None:
    def silent(said: Exchange, node: PeerId, reply: Reply) -> Reply:
        return Reply(reply.commitment)

    assert verdict(answering(silent)).valid
    right = answering(silent)
    liar = ANCHORS.replicas("stage-1")[1].id
    seen = Attestations.decode(right.exchanges[1].evidence[Kind.ATTESTATION]).shown
    without_it = Attestations({node: each for node, each in seen.items() if node != liar}).encoded()
    exchanges = list(right.exchanges)
    exchanges[1] = replace(exchanges[1], evidence={Kind.ATTESTATION: without_it})
    (said,) = verdict(replace(right, exchanges=tuple(exchanges))).reasons
    assert said == "stage-1: attestation: stage-1-b has shown nothing of its machine"


def verdict(said: Transcript, anchors: Anchors = ANCHORS, policy: Policy = POLICY) -> Verdict:
    """Of the client, and of who verifies its receipt: always the same."""
    found = examine(said, anchors, policy)
    receipt = Receipt.decode(Receipt.signed(said, found, WORLD.client).encode())
    later = check(receipt, anchors, policy).verdict
    assert later.valid == found.verdict.valid
    return later


def test_an_answer_of_machines_that_count_is_valid_and_is_said_to_be_simulated() -> None:
    found = verdict(transcript(lambda part, right: right))
    assert found.valid, found.reasons
    attested = [each for each in found.findings if each.kind is Kind.ATTESTATION]
    assert [(each.measured, each.simulated) for each in attested] == [(3.0, True)] * 3
    assert attested[0].detail == "3 machines count (tdx)"


def test_who_does_not_allow_a_simulation_is_told_that_it_is_one() -> None:
    found = verdict(transcript(lambda part, right: right), policy=replace(POLICY, allow_simulated=False))
    assert not found.valid
    assert "stage-0: attestation: is simulated, which the policy does not allow" in found.reasons


LIES: dict[str, tuple[Callable[[PeerId, str], Shown], str]] = {
    "another maker": (lambda peer, part: shown(peer, part, machine(STRANGER)), "root"),
    "another image": (lambda peer, part: shown(peer, part, machine(image=bytes(48))), "measurement: the image"),
    "another recipe": (lambda peer, part: shown(peer, part, machine(log=OTHER)), "measurement: its recipe is not"),
    "another epoch": (lambda peer, part: shown(peer, part, machine(), 6), "binding"),
    "another part": (
        lambda peer, part: shown(peer, "stage-2" if part == "stage-1" else "stage-1", machine()),
        "binding",
    ),
    "another peer": (lambda peer, part: shown(WORLD.client.id, part, machine()), "binding"),
    "another key": (lambda peer, part: replace(shown(peer, part, machine()), key=b"another"), "binding"),
    "another nonce": (lambda peer, part: replace(shown(peer, part, machine()), nonce=bytes(32)), "binding"),
    "collateral of long ago": (lambda peer, part: shown(peer, part, machine(now=TIME - 40 * 86400)), "expired"),
    "collateral of the future": (lambda peer, part: shown(peer, part, machine(now=TIME + 86400)), "not yet valid"),
    "no quote": (lambda peer, part: without(peer, part, quote=b""), "malformed"),
    "no collateral": (lambda peer, part: without(peer, part, collateral=b""), "collateral"),
}


def without(peer: PeerId, part: str, **changes: bytes) -> Shown:
    right = shown(peer, part, machine())
    return replace(right, evidence=replace(right.evidence, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("lie", "reason"), LIES.values(), ids=LIES)
def test_one_replica_whose_machine_does_not_count_is_named(lie: Callable[[PeerId, str], Shown], reason: str) -> None:
    def change(part: str, right: dict[PeerId, Shown]) -> dict[PeerId, Shown]:
        liar = ANCHORS.replicas("stage-1")[1].id
        return {**right, liar: lie(liar, part)} if part == "stage-1" else right

    found = verdict(transcript(change))
    assert not found.valid
    (said,) = found.reasons
    assert said.startswith(f"stage-1: attestation: stage-1-b: {reason}"), said


def test_a_replica_that_has_shown_nothing_is_named() -> None:
    def change(part: str, right: dict[PeerId, Shown]) -> dict[PeerId, Shown]:
        return {peer: each for peer, each in right.items() if peer != ANCHORS.replicas("stage-1")[2].id}

    (said,) = verdict(transcript(change)).reasons
    assert said == "stage-1: attestation: stage-1-c has shown nothing of its machine"


def test_evidence_that_is_missing_is_a_failure() -> None:
    assert "stage-0: attestation: there is no evidence that passed" in verdict(plain()).reasons


def test_whoever_pins_no_machines_does_not_believe_evidence_of_any() -> None:
    found = verdict(transcript(lambda part, right: right), anchors=WORLD.anchors)
    assert "stage-0: attestation: the trust file pins no machines" in found.reasons


def test_a_verifiers_own_list_of_revoked_processors_counts() -> None:
    right = transcript(lambda part, right: right)
    seen = Attestations.decode(right.exchanges[0].evidence[Kind.ATTESTATION])
    node = right.exchanges[0].asked[0]
    subject = Subject(node, "stage-0", bytes.fromhex(ANCHORS.parts[0].digest), WORLD.epoch)
    each = seen.shown[node]
    serial = Seen(subject, each.nonce, each.key, each.evidence).verify(MACHINES.roots, TIME).serial
    found = verdict(right, anchors=replace(ANCHORS, machines=replace(MACHINES, revoked=(serial,))))
    assert not found.valid
    assert "is on the list" in found.reasons[0]


def test_what_was_verified_once_is_verified_again_when_it_has_expired() -> None:
    node = ANCHORS.replicas("stage-0")[0].id
    given = shown(node, "stage-0", machine())
    subject = Subject(node, "stage-0", bytes.fromhex(ANCHORS.parts[0].digest), WORLD.epoch)
    seen = Seen(subject, given.nonce, given.key, given.evidence)
    assert judge(seen, MACHINES, TIME).complaints == ()
    assert judge(seen, MACHINES, TIME + 86400).complaints == ()
    assert [each.flaw for each in judge(seen, MACHINES, TIME + 90 * 86400).complaints] == [Flaw.EXPIRED]
    assert [each.flaw for each in judge(seen, MACHINES, TIME - 90 * 86400).complaints] == [Flaw.FUTURE]


def test_a_quote_is_verified_once_with_or_without_the_files_that_it_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client is shown the files too, and keeps nothing of them; its receipt does not have them."""
    monkeypatch.setattr(attested, "_known", {})
    verified: list[Evidence] = []
    verify = Seen.verify
    monkeypatch.setattr(Seen, "verify", lambda seen, *args: verified.append(seen.evidence) or verify(seen, *args))
    node = ANCHORS.replicas("stage-0")[0].id
    given = shown(node, "stage-0", machine())
    subject = Subject(node, "stage-0", bytes.fromhex(ANCHORS.parts[0].digest), WORLD.epoch)
    for manifest in (b"files", b"", b"other files"):
        seen = Seen(subject, given.nonce, given.key, replace(given.evidence, manifest=manifest))
        assert judge(seen, MACHINES, TIME).complaints == ()
    assert [each.manifest for each in verified] == [b""]


def test_what_is_remembered_is_bounded_whoever_else_remembers_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[object, object] = {}
    monkeypatch.setattr(attested, "_known", known)
    monkeypatch.setattr(attested, "MOST_KNOWN", 2)
    node = ANCHORS.replicas("stage-0")[0].id
    given = shown(node, "stage-0", machine())
    subject = Subject(node, "stage-0", bytes.fromhex(ANCHORS.parts[0].digest), WORLD.epoch)
    report = Seen(subject, given.nonce, given.key, given.evidence).verify(MACHINES.roots, TIME)
    monkeypatch.setattr(Seen, "verify", lambda *_: report)

    def many(start: int) -> None:
        for number in range(start, start + 2000):
            seen = Seen(subject, number.to_bytes(32, "big"), given.key, given.evidence)
            assert judge(seen, MACHINES, TIME).complaints == ()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(many, 10_000 * each) for each in range(4)]:
            done.result()
    assert len(known) == 2


def test_evidence_is_kept_in_one_form_and_common_collateral_once() -> None:
    nodes = [anchor.id for anchor in ANCHORS.replicas("stage-0")]
    found = Attestations({node: shown(node, "stage-0", machine()) for node in nodes})
    data = found.encoded()
    assert Attestations.decode(data) == found
    assert len(data) < 2 * len(Attestations({nodes[0]: found.shown[nodes[0]]}).encoded())


WRONG: dict[str, Callable[[dict[str, object]], object]] = {
    "no nodes": lambda value: {"collateral": value["collateral"]},
    "no such collateral": lambda value: {**value, "collateral": []},
    "collateral of nobody": lambda value: {**value, "collateral": [*value["collateral"], "AAAA"]},  # type: ignore[misc]
    "more": lambda value: {**value, "more": 1},
    "a list": lambda value: [value],
    "a nonce of another length": lambda value: changed(value, nonce=canonical.text(bytes(31))),
    "no key": lambda value: changed(value, tls=""),
    "a place before the first": lambda value: changed(value, collateral=-1),
    "no technology": lambda value: changed(value, technology="sgx"),
}


def changed(value: dict[str, object], **fields: object) -> dict[str, object]:
    nodes = value["nodes"]
    assert isinstance(nodes, dict)
    return {**value, "nodes": {node: {**each, **fields} for node, each in nodes.items()}}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_is_no_evidence_of_machines_is_malformed(change: Callable[[dict[str, object]], object]) -> None:
    node = ANCHORS.replicas("stage-0")[0].id
    right = canonical.decode(Attestations({node: shown(node, "stage-0", machine())}).encoded())
    with pytest.raises(Malformed):
        Attestations.decode(canonical.encode(change(right)))
