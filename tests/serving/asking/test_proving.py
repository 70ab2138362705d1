"""A client that wants proofs gets numbers that are proved, or says who failed to prove them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from decentral.errors import Malformed, Refusal, UserError
from decentral.serving.adversaries.provers import ProofOfAnotherInput
from decentral.serving.asking.prediction import Unverified
from decentral.serving.asking.proving import Proving, State
from decentral.serving.client import Client
from decentral.serving.stages.proved import ProvedService, Prover
from decentral.trust.evidence import FaultKind, Kind, Question
from decentral.trust.policy import HEAD, Policy
from decentral.trust.proofs import Integers, Proofs
from decentral.trust.receipt import verify
from decentral.wire.conversation import Output, Proof
from tests.serving.proved import Material, ProvedCluster, X, after, served_by_the_first
from tests.zk.conftest import SMALL

PROVED = Policy(require=frozenset({Kind.CONSENSUS, Kind.ZK}), allow_simulated=True)
TWO = X[:2]


async def test_an_answer_is_proved_and_its_receipt_valid_to_whom_has_the_trust_file_alone(proved: Any) -> None:
    made: ProvedCluster = await proved()
    heard: list[Proving] = []
    async with Client.connect(made.folder, policy=PROVED, model=made.model()) as client:
        prediction = await client.predict(TWO, say=heard.append)
    assert prediction.verdict.valid
    assert prediction.faults == ()
    assert prediction.proved is not None
    assert set(prediction.proved.provers) == {"stage-0", "stage-1"}
    assert torch.allclose(prediction.output, made.floats(TWO).double(), atol=0.1)
    assert prediction.proved.floats is not None
    assert prediction.proved.difference == float((prediction.output - made.floats(TWO)).abs().max())
    (integers,) = prediction.proved.integers.values()
    assert integers.dtype == torch.int64
    assert prediction.labels == tuple(integers.argmax(1).tolist())
    assert {(each.part, each.state) for each in heard} == {
        (part, state) for part in ("stage-0", "stage-1") for state in (State.PROVING, State.PROVED)
    }
    told, trust = prediction.receipt.encode(), made.folder / "trust.toml"
    found = verify(told, trust, PROVED)
    assert found.valid, found.reasons
    assert not verify(told, trust, replace(PROVED, allow_simulated=False)).valid, "its SRS is for tests"


async def test_the_head_alone_is_proved_where_consensus_speaks_for_the_rest(proved: Any) -> None:
    made: ProvedCluster = await proved(liars={"stage-0-c": WrongIntegers})
    policy = replace(PROVED, proof_parts=HEAD)
    async with Client.connect(made.folder, policy=policy) as client:
        prediction = await client.predict(TWO)
    assert prediction.proved is not None
    assert set(prediction.proved.provers) == {"stage-1"}
    assert [made.node(fault.node) for fault in prediction.faults] == ["stage-0-c"]
    told, trust = prediction.receipt.encode(), made.folder / "trust.toml"
    assert verify(told, trust, policy).valid
    assert not verify(told, trust, PROVED).valid, "no proof of the other part"


async def test_the_srs_travels_once(proved: Any) -> None:
    made: ProvedCluster = await proved()
    async with Client.connect(made.folder, policy=PROVED) as client:
        first, second = await client.predict(X[:1]), await client.predict(X[1:2])
    assert first.proved is not None
    assert first.proved.floats is None
    assert first.cost.received - second.cost.received > made.material.srs.path.stat().st_size
    for prediction in (first, second):
        assert verify(prediction.receipt.encode(), made.folder / "trust.toml", PROVED).valid


async def test_who_asks_for_no_proofs_is_answered_in_floats_by_the_same_replicas(proved: Any) -> None:
    made: ProvedCluster = await proved()
    async with Client.connect(made.folder) as client:
        prediction = await client.predict(X)
    assert prediction.proved is None
    assert torch.equal(prediction.output, made.floats(X))


async def test_where_no_proof_is_drawn_the_numbers_come_without(proved: Any) -> None:
    made: ProvedCluster = await proved()
    async with Client.connect(made.folder, policy=replace(PROVED, proofs=0.0)) as client:
        prediction = await client.predict(X)
    assert prediction.proved is not None
    assert prediction.proved.provers == {}
    assert all(not exchange.evidence for exchange in prediction.receipt.transcript.exchanges)


# Replicas that break one rule


class WrongIntegers(ProvedService):
    def answer(self, inputs: Any, client: Any) -> Any:
        return {name: tensor + 1 for name, tensor in super().answer(inputs, client).items()}


class RefusesToProve(ProvedService):
    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Any) -> Proofs:
        raise Malformed(Refusal.UNSPECIFIED, "not today")


class AlwaysBusy(ProvedService):
    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Any) -> Proofs:
        raise Malformed(Refusal.BUSY, "too many answers wait to be proved")


class Garbage(ProvedService):
    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Any) -> Proofs:
        await client.say(Proof(b"no proof"))
        raise Malformed(Refusal.UNSPECIFIED, "that was all")


class OutputInstead(ProvedService):
    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Any) -> Proofs:
        await client.say(Output({}))
        raise Malformed(Refusal.UNSPECIFIED, "that was all")


class WithoutSrs(ProvedService):
    async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Any) -> Proofs:
        return await super().proofs(question, inputs, b"", client)


def another_model(made: Material, part: int) -> type[ProvedService]:
    """Proves the same architecture with other parameters."""

    class AnotherModel(ProvedService):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options["prover"] = Prover(made.foreign[part], made.srs, SMALL)
            super().__init__(*arguments, **options)

    return AnotherModel


def dressed_up(made: Material, part: int) -> type[ProvedService]:
    """The same, and says that it is the pinned circuit."""

    class DressedUp(ProvedService):
        async def proofs(self, question: Question, inputs: Sequence[Integers], srs: bytes, client: Any) -> Proofs:
            self.prover = Prover(made.foreign[part], made.srs, SMALL)
            own = await super().proofs(question, inputs, srs, client)
            return replace(own, circuit=made.chain.circuits[part])

    return DressedUp


LIES: dict[str, tuple[Any, FaultKind, str]] = {
    "refuses": (RefusesToProve, FaultKind.UNRESPONSIVE, "not today"),
    "garbage": (Garbage, FaultKind.INVALID, "cannot be read"),
    "an output": (OutputInstead, FaultKind.INVALID, "sent something else"),
    "another model": (another_model, FaultKind.INVALID, "another circuit"),
    "another model, dressed up": (dressed_up, FaultKind.INVALID, "is about another output"),
    "no srs": (WithoutSrs, FaultKind.UNRESPONSIVE, "sent no SRS"),
}


ALIKE = ("refuses", "garbage", "another model", "no srs")
"""Found where another lie is found: the long suite has them."""


def liar_of(made: Material, lie: str, part: int) -> type[ProvedService]:
    kind = LIES[lie][0]
    return kind if isinstance(kind, type) else kind(made, part)


@pytest.mark.parametrize("lie", [pytest.param(lie, marks=[pytest.mark.slow] if lie in ALIKE else []) for lie in LIES])
async def test_who_proves_something_else_is_blamed_and_another_proves_the_answer(
    proved: Any, proved_material: Material, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    served_by_the_first(monkeypatch)
    made: ProvedCluster = await proved(liars={"stage-1-a": liar_of(proved_material, lie, 1)})
    # The first part's proof waits, so that the liar's own SRS is the one that is looked at.
    found = asyncio.Event()
    honest = made.services["stage-0-a"].proved
    monkeypatch.setattr(honest, "proofs", after(found, honest.proofs))
    async with Client.connect(made.folder, policy=PROVED) as client:
        prediction = await client.predict(X[:1], say=lambda each: found.set() if each.state is State.FAILED else None)
    assert [(made.node(fault.node), fault.kind) for fault in prediction.faults] == [("stage-1-a", LIES[lie][1])]
    assert LIES[lie][2] in prediction.faults[0].detail
    assert prediction.proved is not None
    assert made.node(prediction.proved.provers["stage-1"][0]) in ("stage-1-b", "stage-1-c")
    assert verify(prediction.receipt.encode(), made.folder / "trust.toml", PROVED).valid


async def test_who_is_too_busy_to_prove_is_blamed_for_nothing_while_another_proves_the_answer(
    proved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served_by_the_first(monkeypatch)
    made: ProvedCluster = await proved(liars={"stage-1-a": AlwaysBusy})
    async with Client.connect(made.folder, policy=PROVED) as client:
        prediction = await client.predict(X[:1])
        assert client.busy == 1
    assert prediction.faults == ()
    assert prediction.proved is not None
    assert made.node(prediction.proved.provers["stage-1"][0]) != "stage-1-a"


async def test_a_hidden_input_that_was_not_given_is_found_in_the_middle_of_a_model(proved: Any) -> None:
    """Of the first part the output is hidden: a proof of other numbers is told by its commitments."""
    made: ProvedCluster = await proved(liars={f"stage-0-{letter}": ProofOfAnotherInput for letter in "abc"})
    async with Client.connect(made.folder, policy=PROVED) as client:
        with pytest.raises(Unverified) as refused:
            await client.predict(X[:1])
    blamed = [(made.node(fault.node), fault.kind) for fault in refused.value.faults]
    assert sorted(blamed) == [(f"stage-0-{letter}", FaultKind.INVALID) for letter in "abc"], "each once"
    assert any("zk: there is no evidence" in reason for reason in refused.value.reasons)
    assert not verify(refused.value.receipt.encode(), made.folder / "trust.toml", PROVED).valid


async def test_who_answers_other_numbers_is_outvoted_and_not_asked_to_prove_them(proved: Any) -> None:
    made: ProvedCluster = await proved(liars={"stage-1-b": WrongIntegers})
    async with Client.connect(made.folder, policy=PROVED) as client:
        prediction = await client.predict(X[:1])
    assert [(made.node(f.node), f.kind) for f in prediction.faults] == [("stage-1-b", FaultKind.DISAGREED)]
    assert prediction.proved is not None
    assert made.node(prediction.proved.provers["stage-1"][0]) != "stage-1-b"


async def test_a_quorum_of_liars_cannot_prove_what_it_says(proved: Any) -> None:
    made: ProvedCluster = await proved(liars={"stage-1-a": WrongIntegers, "stage-1-b": WrongIntegers})
    async with Client.connect(made.folder, policy=PROVED) as client:
        with pytest.raises(Unverified) as refused:
            await client.predict(X[:1])
    invalid = {made.node(f.node) for f in refused.value.faults if f.kind is FaultKind.INVALID}
    assert invalid == {"stage-1-a", "stage-1-b"}


async def test_one_replica_alone_is_enough_where_its_proof_is_and_another_is_asked_where_it_is_not(
    proved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served_by_the_first(monkeypatch)
    made: ProvedCluster = await proved(replicas=2, liars={"stage-1-a": ProofOfAnotherInput})
    alone = replace(PROVED, require=frozenset({Kind.ZK}))
    async with Client.connect(made.folder, policy=alone) as client:
        prediction = await client.predict(X[:1])
    assert prediction.cost.asked == 4, "two attempts, two parts"
    assert [made.node(fault.node) for fault in prediction.faults] == ["stage-1-a"]
    assert prediction.proved is not None
    assert made.node(prediction.proved.provers["stage-1"][0]) == "stage-1-b"


async def test_numbers_that_the_circuits_do_not_hold_are_nobodys_fault(proved: Any) -> None:
    made: ProvedCluster = await proved()
    async with Client.connect(made.folder, policy=PROVED) as client:
        with pytest.raises(UserError, match=r"stage-[01] cannot prove .*does not hold these numbers"):
            await client.predict(X[:1] * 1e9)
        assert {client.reputations.of(peer.id).bad for peer in made.anchors.peers} == {0.0}


# What can be asked


async def test_a_cluster_without_circuits_offers_no_proofs(cluster: Any) -> None:
    made = await cluster()
    async with Client.connect(made.folder) as client:
        with pytest.raises(UserError, match="wants zk, which this cluster does not offer"):
            await client.predict(torch.rand(1, 1, 8, 8), PROVED)


async def test_more_samples_than_are_proved_at_once_are_refused_before_anybody_is_asked(proved: Any) -> None:
    made: ProvedCluster = await proved()
    async with Client.connect(made.folder, policy=PROVED) as client:
        with pytest.raises(UserError, match="65 samples: at most 64"):
            await client.predict(torch.zeros(65, 4))
        assert client.traffic == (0, 0)
