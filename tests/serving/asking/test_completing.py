"""An answer that was taken at once is proved later, from its receipt alone, by those who gave it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from decentral.errors import UserError
from decentral.serving.adversaries.provers import ProofOfAnotherInput
from decentral.serving.asking.prediction import Unverified
from decentral.serving.client import Client
from decentral.trust.evidence import FaultKind, Kind
from decentral.trust.policy import Policy
from decentral.trust.receipt import Receipt, verify
from tests.serving.proved import ProvedCluster, X

PROVED = Policy(require=frozenset({Kind.CONSENSUS, Kind.ZK}), allow_simulated=True)


async def test_an_answer_is_taken_at_once_and_its_receipt_is_valid_once_it_is_completed(proved: Any) -> None:
    made: ProvedCluster = await proved()
    trust = made.folder / "trust.toml"
    async with Client.connect(made.folder, policy=PROVED) as client:
        taken = await client.predict(X[:2], prove=False)
    assert taken.verdict.valid
    assert taken.proved is not None
    assert taken.proved.pending
    assert taken.proved.provers == {}
    kept = taken.receipt.encode()
    assert not verify(kept, trust, PROVED).valid
    assert verify(kept, trust, replace(PROVED, proofs=0.0)).valid
    async with Client.connect(made.folder) as client:  # another day
        completed = await client.complete(Receipt.decode(kept))
    assert completed.proved is not None
    assert not completed.proved.pending
    assert completed.labels == taken.labels
    assert completed.output.tolist() == taken.output.tolist()
    found = verify(completed.receipt.encode(), trust, PROVED)
    assert found.valid, found.reasons
    assert len(completed.receipt.transcript.order.task) == 16
    assert completed.receipt.transcript.order == taken.receipt.transcript.order


async def test_a_head_is_proved_later_too(proved: Any) -> None:
    made: ProvedCluster = await proved()
    policy = replace(PROVED, proof_parts="head")
    async with Client.connect(made.folder, policy=policy) as client:
        taken = await client.predict(X[:1], prove=False)
        completed = await client.complete(Receipt.decode(taken.receipt.encode()))
        assert completed.proved is not None
        assert set(completed.proved.provers) == {"stage-1"}
        assert verify(completed.receipt.encode(), made.folder / "trust.toml", policy).valid
        with pytest.raises(UserError, match="it is complete"):
            await client.complete(Receipt.decode(completed.receipt.encode()))


async def test_what_is_hidden_stays_in_a_receipt_only_until_it_is_proved(proved: Any) -> None:
    made: ProvedCluster = await proved()
    async with Client.connect(made.folder, policy=PROVED) as client:
        taken = await client.predict(X[:1], prove=False)
        completed = await client.complete(taken.receipt)
    before, after = (Receipt.decode(each.receipt.encode()).transcript for each in (taken, completed))
    assert before.given(1) is not None
    assert after.given(1) is None
    assert after.given(0) is not None, "what was asked"


async def test_who_gave_an_answer_and_does_not_prove_it_is_remembered(proved: Any) -> None:
    made: ProvedCluster = await proved(liars={f"stage-1-{letter}": ProofOfAnotherInput for letter in "abc"})
    async with Client.connect(made.folder, policy=PROVED) as client:
        taken = await client.predict(X[:1], prove=False)
        assert taken.verdict.valid
        with pytest.raises(Unverified) as refused:
            await client.complete(taken.receipt)
        bad = {peer.name for peer in made.anchors.peers if client.reputations.of(peer.id).bad}
    names = {f"stage-1-{letter}" for letter in "abc"}
    assert {made.node(fault.node) for fault in refused.value.faults} == bad == names
    assert {fault.kind for fault in refused.value.faults} == {FaultKind.INVALID}


async def test_what_has_nothing_to_prove_is_not_completed(proved: Any) -> None:
    made: ProvedCluster = await proved()
    async with Client.connect(made.folder, policy=PROVED) as client:
        proven, plain = await client.predict(X[:1]), await client.predict(X[:1], Policy())
        undrawn = await client.predict(X[:1], replace(PROVED, proofs=0.0))
        taken = await client.predict(X[:1], prove=False)
        for receipt, said in (
            (proven.receipt, "it has all its proofs"),
            (plain.receipt, "no proof was asked for"),
            (undrawn.receipt, "no proof was asked for"),
            (replace(taken.receipt, signature=bytes(64)), "does not verify"),
        ):
            with pytest.raises(UserError, match=said):
                await client.complete(receipt)
    replace(made.anchors, epoch=2).save(made.folder / "trust.toml")
    async with Client.connect(made.folder) as client:
        with pytest.raises(UserError, match="of epoch 1, and it is 2 now"):
            await client.complete(taken.receipt)


async def test_another_clients_receipt_is_not_completed(proved: Any) -> None:
    made: ProvedCluster = await proved()
    async with Client.connect(made.folder, policy=PROVED) as client:
        taken = await client.predict(X[:1], prove=False)
        client._cluster = replace(client._cluster, identity=made.services["stage-0-a"].plain.identity)
        with pytest.raises(UserError, match="another client has signed it"):
            await client.complete(taken.receipt)
