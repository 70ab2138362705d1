"""Where a client wants its replicas attested, only those are asked whose machines count, in sessions for them alone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from decentral.attestation.attester import RUNTIME, Quoted, Unattested
from decentral.attestation.host.measuring import CODE
from decentral.attestation.host.simulation import Simulation
from decentral.attestation.manifest import Manifest
from decentral.attestation.registers import Event, EventLog
from decentral.attestation.report import Technology
from decentral.errors import UserError
from decentral.serving.asking.attesting import MANIFEST, MOST_NAMES, Attesting
from decentral.serving.asking.prediction import Unverified
from decentral.serving.client import Client
from decentral.trust.evidence import FaultKind, Kind
from decentral.trust.machines import Machines, Reference
from decentral.trust.policy import Policy
from decentral.trust.receipt import verify
from tests.attestation.world import IMAGE, STRANGER, TDX, Machine

X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
WANTED = Policy(require=frozenset({Kind.CONSENSUS, Kind.ATTESTATION}), allow_simulated=True)
FILES = Manifest({"decentral/core/merge.py": "a" * 64, "nodes/stage.py": "b" * 64})
EDITED = Manifest({"decentral/core/merge.py": "c" * 64, "nodes/stage.py": "b" * 64})


class Node(Machine):
    """Runs code with these files, on a simulated machine of now."""

    def __init__(self, files: Manifest = FILES, simulation: Simulation = TDX) -> None:
        super().__init__(simulation, IMAGE, EventLog((Event(RUNTIME, CODE, files.digest),)), now=int(time.time()))
        self.files = files

    async def quote(self, report_data: bytes) -> Quoted:
        return replace(await super().quote(report_data), manifest=self.files.encoded())


class Broken(Node):
    async def log(self) -> EventLog:
        raise Unattested("the quoting process does not answer")


PINNED = Machines((TDX.root,), (Reference(Technology.TDX, IMAGE.hex(), events={CODE: FILES.digest.hex()}),))


def faults(made: Any, found: Any) -> dict[str, tuple[FaultKind, str]]:
    return {made.node(each.node): (each.kind, each.detail) for each in found.faults}


async def test_an_answer_of_attested_replicas_is_the_models_and_its_receipt_says_so(cluster):
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    async with Client.connect(made.folder) as client:
        for _ in range(2):
            prediction = await client.predict(X, WANTED)
            assert torch.equal(prediction.output, made.expected(X))
    assert prediction.faults == ()
    attested = [each for each in prediction.findings if each.kind is Kind.ATTESTATION]
    assert [(each.passed, each.measured, each.simulated) for each in attested] == [(True, 3.0, True)] * 3
    trust = made.folder / "trust.toml"
    assert verify(prediction.receipt.encode(), trust, WANTED).valid
    assert not verify(prediction.receipt.encode(), trust, replace(WANTED, allow_simulated=False)).valid


async def test_what_is_said_in_such_a_session_is_sealed(cluster):
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    async with Client.connect(made.folder) as client:
        await client.predict(X, WANTED)
        peer = made.anchors.peers[0].id
        assert (await client._replicas.session(peer, attested=True))._stream.cipher is not None
        assert (await client._replicas.session(peer))._stream.cipher is None


async def test_a_simulation_is_refused_where_it_is_not_allowed(cluster):
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    async with Client.connect(made.folder) as client:
        with pytest.raises(Unverified, match="is simulated"):
            await client.predict(X, replace(WANTED, allow_simulated=False))


LIARS: dict[str, tuple[Any, str]] = {
    "edited code": (Node(EDITED), "its machine does not count: measurement: its code is not the one that is allowed"),
    "another maker": (Node(simulation=STRANGER), "its machine does not count: root"),
    "no evidence": (None, "shows no evidence of its machine"),
    "no quoting process": (Broken(), "the quoting process does not answer"),
}


@pytest.mark.parametrize(("liar", "why"), LIARS.values(), ids=LIARS)
async def test_a_replica_whose_machine_does_not_count_is_named_and_told_nothing(cluster, liar, why):
    made = await cluster(replicas=4, attesters={"": Node(), "stage-1-b": liar}, machines=PINNED)
    asked: list[object] = []
    answer = made.services["stage-1-b"].answer
    made.services["stage-1-b"].answer = lambda inputs, client: asked.append(inputs) or answer(inputs, client)
    found = None
    async with Client.connect(made.folder) as client:
        for _ in range(12):  # until it is drawn
            found = await client.predict(X, WANTED)
            assert torch.equal(found.output, made.expected(X))
            if found.faults:
                break
    assert found is not None
    (node, (kind, detail)), *others = faults(made, found).items()
    assert (node, kind, others) == ("stage-1-b", FaultKind.UNATTESTED, [])
    assert why in detail
    assert asked == []


async def test_a_replica_whose_machine_does_not_sign_its_answers_takes_none_from_the_others(cluster):
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    liar = made.services["stage-1-b"]

    async def reveal(sealed: Any, shown: Any, client: Any) -> None:
        await client.say(sealed.open(shown))

    liar.reveal = reveal
    async with Client.connect(made.folder) as client:
        prediction = await client.predict(X, WANTED)
    assert torch.equal(prediction.output, made.expected(X))
    problems = {made.node(peer): problem for peer, problem in prediction.problems.items()}
    assert problems == {"stage-1-b": "its machine has not signed its answer"}
    assert verify(prediction.receipt.encode(), made.folder / "trust.toml", WANTED).valid


async def test_a_machine_to_whose_key_nothing_can_be_sealed_does_not_count(cluster):
    """With it every secret would be the same: whoever plays a maker of processors can have any key signed."""
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    made.transports["stage-1-b"]._attest.public_key = bytes(32)
    async with Client.connect(made.folder) as client:
        prediction = await client.predict(X, WANTED)
    assert torch.equal(prediction.output, made.expected(X))
    why = "its machine does not count: is no public key to encrypt to"
    assert faults(made, prediction) == {"stage-1-b": (FaultKind.UNATTESTED, why)}


async def test_where_too_few_count_there_is_no_answer_and_each_is_named(cluster):
    made = await cluster(attesters={"": Node(), "stage-1-a": Node(EDITED), "stage-1-b": Node(EDITED)}, machines=PINNED)
    async with Client.connect(made.folder) as client:
        with pytest.raises(Unverified) as refused:
            await client.predict(X, WANTED)
    named = faults(made, refused.value)
    assert {node: kind for node, (kind, _) in named.items()} == dict.fromkeys(
        ("stage-1-a", "stage-1-b"), FaultKind.UNATTESTED
    )


async def test_files_that_have_changed_are_named_where_the_client_has_the_list_that_is_pinned(cluster):
    made = await cluster(replicas=4, attesters={"": Node(), "stage-0-a": Node(EDITED)}, machines=PINNED)
    (made.folder / MANIFEST).parent.mkdir()
    (made.folder / MANIFEST).write_bytes(FILES.encoded())
    async with Client.connect(made.folder) as client:
        for _ in range(12):
            found = await client.predict(X, WANTED)
            if found.faults:
                break
    assert faults(made, found)["stage-0-a"][1].endswith("(changed: decentral/core/merge.py)")


def test_many_files_are_not_all_named_and_a_list_that_is_not_pinned_names_none(tmp_path: Path) -> None:
    many = Manifest({f"decentral/{name}.py": "d" * 64 for name in range(20)})
    attesting = Attesting(Anchors_of(PINNED), tmp_path)
    seen = seen_with(many)
    assert attesting._changed(seen) == ""
    (tmp_path / MANIFEST).parent.mkdir()
    (tmp_path / MANIFEST).write_bytes(FILES.encoded())
    assert attesting._changed(seen).endswith(f"and {22 - MOST_NAMES} more")
    (tmp_path / MANIFEST).write_bytes(many.encoded())
    assert attesting._changed(seen) == ""


def Anchors_of(machines: Machines) -> Any:
    from decentral.trust.anchors import Anchors

    return Anchors(b"", (), machines=machines)


def seen_with(files: Manifest) -> Any:
    from decentral.attestation.evidence import Evidence
    from decentral.attestation.session.challenging import Seen, Subject

    log = EventLog((Event(RUNTIME, CODE, files.digest),))
    evidence = Evidence(Technology.TDX, b"quote", log, b"", bytes(32), bytes(32), files.encoded())
    return Seen(Subject("peer", "stage-0", bytes(32), 1), bytes(32), b"key", evidence)


async def test_a_session_rests_on_one_challenge_no_longer_than_is_allowed(cluster, monkeypatch):
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    async with Client.connect(made.folder) as client:
        peer = made.anchors.peers[0].id
        first = await client._replicas.session(peer, attested=True)
        assert await client._replicas.session(peer, attested=True) is first
        nonce = client._replicas.seen(peer).nonce
        client._replicas._held[peer, True].ends = 0.0
        assert await client._replicas.session(peer, attested=True) is not first
        assert client._replicas.seen(peer).nonce != nonce


async def test_evidence_is_that_of_the_session_in_which_an_answer_was_given(cluster):
    """Another question may have met the replica anew meanwhile, on a machine that was started anew."""
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    service = made.services["stage-1-b"]
    reveal = service.reveal
    async with Client.connect(made.folder) as client:

        async def late(sealed: Any, shown: Any, said: Any) -> None:
            client._replicas._held[service.identity.id, True].seen = None
            await reveal(sealed, shown, said)

        service.reveal = late
        prediction = await client.predict(X, WANTED)
    assert prediction.faults == ()
    assert verify(prediction.receipt.encode(), made.folder / "trust.toml", WANTED).valid


async def test_what_is_under_way_in_a_session_ends_in_it_when_its_time_is_over(cluster):
    """All sessions of a busy client end at about the same time, with every question that is under way."""
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    async with Client.connect(made.folder) as client:
        peer, replicas = made.anchors.peers[0].id, client._replicas
        first = await replicas.session(peer, attested=True)
        async with first.converse():
            replicas._held[peer, True].ends = 0.0
            second = await replicas.session(peer, attested=True)
            assert second is not first and not first.broken
        sent = replicas.traffic[0]
        replicas._held[peer, True].ends = 0.0
        assert await replicas.session(peer, attested=True) not in (first, second)
        assert first.broken and second.broken
        assert replicas.traffic[0] >= sent


async def test_replicas_that_renewed_their_certificates_are_met_over_connections_that_show_the_new_ones(
    cluster, authority, certify
):
    made = await cluster(attesters={"": Node()}, machines=PINNED)
    async with Client.connect(made.folder) as client:
        await client.predict(X, WANTED)
        for name, transport in made.transports.items():
            transport.rotate(certify(authority, made.services[name].identity))
        for held in client._replicas._held.values():
            held.ends = 0.0
        prediction = await client.predict(X, WANTED)
    assert prediction.faults == ()


async def test_who_asks_for_it_of_a_cluster_that_pins_no_machines_is_told_before_anybody_is_asked(cluster):
    made = await cluster()
    async with Client.connect(made.folder) as client:
        with pytest.raises(UserError, match="attestation, which this cluster does not offer"):
            await client.predict(X, WANTED)


async def test_who_does_not_ask_for_it_is_answered_as_ever(cluster):
    made = await cluster(attesters={"": Node(EDITED)}, machines=PINNED)
    async with Client.connect(made.folder) as client:
        prediction = await client.predict(X)
    assert prediction.verdict.valid
    assert not any(each.kind is Kind.ATTESTATION for each in prediction.findings)
