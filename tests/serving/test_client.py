"""What a client says is verified was verified; what it cannot verify it does not say; it remembers who failed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import torch

from decentral.errors import Malformed, Refusal, UserError
from decentral.serving.asking.prediction import UNDECIDED, Unverified
from decentral.serving.asking.replicas import Patience
from decentral.serving.client import Client
from decentral.serving.parts import MOST_BYTES
from decentral.serving.selection.ledger import Ledger
from decentral.serving.selection.reputation import Reputations
from decentral.serving.stages.model import Network, save_stages
from decentral.serving.stages.stage import StageService
from decentral.trust.anchors import Anchors
from decentral.trust.evidence import FaultKind, Kind
from decentral.trust.leakage import Exposure, Measurement
from decentral.trust.policy import Policy
from decentral.trust.receipt import verify

X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
QUICK = Patience(opening=5, commit=5, reveal=1)


class Lies(StageService):
    """Adds to what it computes."""

    def answer(self, inputs: Any, client: Any) -> Any:
        return {name: tensor + 1 for name, tensor in super().answer(inputs, client).items()}


def model_of(cluster: Any) -> dict[str, Any]:
    return {part.name: stage for part, stage in zip(cluster.anchors.parts, cluster.stages, strict=True)}


async def test_a_prediction_is_the_models_and_its_receipt_is_valid_for_whoever_trusts_the_same(cluster):
    made = await cluster()
    async with Client.connect(made.folder) as client:
        prediction = await client.predict(X)
    assert torch.equal(prediction.output, made.expected(X))
    assert prediction.verdict.valid
    assert prediction.faults == ()
    assert prediction.labels == tuple(made.expected(X).argmax(1).tolist())
    assert prediction.cost.asked == 9
    assert prediction.cost.sent > 9 * X.nbytes / 5
    assert verify(prediction.receipt.encode(), made.folder / "trust.toml").valid


async def test_awaiting_a_connection_gives_a_client_that_one_closes(cluster):
    made = await cluster()
    client = await Client.connect(made.folder / "trust.toml")
    try:
        assert (await client.predict(X)).verdict.valid
    finally:
        await client.close()


async def test_who_lies_is_named_once_the_client_has_the_model_and_is_weighed_less_afterwards(cluster):
    made = await cluster(liars={"stage-1-b": Lies})
    async with Client.connect(made.folder, model=model_of(made)) as client:
        prediction = await client.predict(X)
        assert [(made.node(f.node), f.kind) for f in prediction.faults] == [("stage-1-b", FaultKind.LIED)]
        assert torch.equal(prediction.output, made.expected(X))
    async with Client.connect(made.folder, model=model_of(made)) as client:
        liar = next(peer.id for peer in made.anchors.peers if peer.name == "stage-1-b")
        assert client.reputations.of(liar).bad > 10, "it survives a restart"


async def test_where_no_answer_is_accepted_there_is_an_error_with_the_evidence(cluster):
    made = await cluster(liars={"stage-1-a": Lies, "stage-1-b": Lies})
    async with Client.connect(made.folder, model=model_of(made)) as client:
        with pytest.raises(Unverified) as refused:
            await client.predict(X)
    assert {made.node(fault.node) for fault in refused.value.faults} == {"stage-1-a", "stage-1-b"}
    assert not verify(refused.value.receipt.encode(), made.folder / "trust.toml").valid


async def test_whoever_failed_is_not_asked_again_where_others_are_left(cluster):
    made = await cluster(replicas=5, liars={"stage-1-a": Lies, "stage-1-b": Lies})
    async with Client.connect(made.folder, model=model_of(made)) as client:
        for _ in range(6):
            prediction = await client.predict(X)
            assert torch.equal(prediction.output, made.expected(X)), "however often the liars are a quorum"


async def test_a_stream_comes_in_order_and_several_batches_are_under_way(cluster):
    made = await cluster()
    batches = [torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(12)]
    async with Client.connect(made.folder) as client:
        found = [prediction.output async for prediction in client.stream(batches)]
    assert all(torch.equal(one, made.expected(batch)) for one, batch in zip(found, batches, strict=True))


async def test_a_class_that_drift_could_change_is_undecided(cluster):
    made = await cluster()
    loose = replace(made.anchors, parts=tuple(replace(part, tolerance=0.3) for part in made.anchors.parts))
    loose.save(made.folder / "trust.toml")
    async with Client.connect(made.folder) as client:
        prediction = await client.predict(X, Policy(tolerance=0.3))
    assert set(prediction.labels) == {UNDECIDED}


async def test_the_first_parts_are_the_clients_own_where_they_are_to_be(cluster):
    made = await cluster(local=1)
    seen: list[tuple[int, ...]] = []

    def see(service: StageService) -> None:
        compute = service.answer

        def answer(inputs: Any, client: Any) -> Any:
            seen.extend(tuple(tensor.shape) for tensor in inputs.values())
            return compute(inputs, client)

        service.answer = answer  # type: ignore[method-assign]

    for service in made.services.values():
        see(service)
    async with Client.connect(made.folder, model=model_of(made)) as client:
        prediction = await client.predict(X)
    assert torch.allclose(prediction.output, made.expected(X), atol=1e-5)
    assert tuple(X.shape) not in seen, "no peer sees the inputs"
    assert [part for part, _ in prediction.receipt.transcript.order.local] == ["stage-0"]
    assert verify(prediction.receipt.encode(), made.folder / "trust.toml").valid
    with pytest.raises(UserError, match="stage-0 is the client's own"):
        await Client.connect(made.folder)


WRONG = {
    "shape": (torch.rand(2, 1, 4, 4), r"replicas of stage-0 do not take .* is torch.float32 \(2, 1, 4, 4\), not"),
    "dtype": (torch.rand(2, 1, 8, 8).double(), "replicas of stage-0 do not take .*float64"),
    "many": (torch.rand(1025, 1, 8, 8), "replicas of stage-0 do not take .*1025 samples; 1024 at most"),
    "bytes": (torch.zeros(1, 1, 4097, 4096), "stage-0 would be given 67125248 bytes, and takes 67108864 at most"),
    "complex": (torch.zeros(1, 1, 8, 8, dtype=torch.complex64), "does not take .*complex64"),
    "rank": (torch.zeros(2, 1, 1, 1, 1, 1, 1, 1, 1), "does not take"),
    "nan": (torch.full((1, 1, 8, 8), torch.nan), "not finite"),
    "empty": (torch.rand(0, 1, 8, 8), "is empty"),
    "names": ({"other": torch.rand(1, 1, 8, 8)}, "the model takes"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("holds", [False, True], ids=["without the model", "with it"])
async def test_what_cannot_be_asked_is_refused_and_held_against_nobody(cluster, what, holds):
    made = await cluster()
    batch, said = WRONG[what]
    async with Client.connect(made.folder, model=model_of(made) if holds else {}) as client:
        beside = asyncio.create_task(client.predict(X))
        with pytest.raises(UserError, match=said):
            await client.predict(batch)
        assert (await beside).faults == (), "others who ask at the same time get their answer"
        assert (await client.predict(X)).faults == ()
    async with Client.connect(made.folder) as client:
        assert {client.reputations.of(peer.id).bad for peer in made.anchors.peers} == {0.0}


async def test_replicas_of_another_epoch_than_is_pinned_are_named_as_such_and_held_against_nobody(cluster):
    made = await cluster()
    replace(made.anchors, epoch=2).save(made.folder / "trust.toml")
    async with Client.connect(made.folder) as client:
        with pytest.raises(UserError, match=r"another epoch, than the trust file pins .*this is epoch 1, not 2"):
            await client.predict(X)
        assert {client.reputations.of(peer.id).bad for peer in made.anchors.peers} == {0.0}


async def test_a_request_that_is_called_off_is_held_against_nobody(cluster):
    made = await cluster()
    async with Client.connect(made.folder) as client:
        asking = asyncio.create_task(client.predict(X))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        parts = [[peer.id for peer in made.anchors.replicas(part.name)] for part in made.anchors.parts]
        assert all(client._router._awake(peer) for part in parts for peer in part)


class AlwaysBusy(StageService):
    """Has too much to do, whenever it is asked."""

    async def __call__(self, task: Any, client: Any) -> None:
        raise Malformed(Refusal.BUSY, "come again")


async def test_who_was_busy_loses_no_reputation_and_who_was_silent_does(cluster):
    made = await cluster(liars={"stage-1-b": AlwaysBusy, "stage-2-b": Hangs})
    async with Client.connect(made.folder, patience=replace(QUICK, commit=1)) as client:
        prediction = await client.predict(X)
    assert {(made.node(f.node), f.kind) for f in prediction.faults} == {
        ("stage-1-b", FaultKind.BUSY),
        ("stage-2-b", FaultKind.UNRESPONSIVE),
    }
    with Ledger.open(made.folder / "client" / "ledger.sqlite") as ledger:
        reputations = Reputations(ledger)
        bad = {peer.name: reputations.of(peer.id).bad for peer in made.anchors.peers}
    assert {name for name, count in bad.items() if count} == {"stage-2-b"}
    assert verify(prediction.receipt, made.anchors).valid


class Enormous(StageService):
    """Answers with far more than its stage does."""

    samples = 0

    def answer(self, inputs: Any, client: Any) -> Any:
        (output,) = super().answer(inputs, client).items()
        return {output[0]: output[1].new_zeros(self.samples, *output[1].shape[1:])}


@pytest.mark.parametrize("size", [1 << 20, MOST_BYTES + (1 << 20)], ids=["a MiB", "more than any answer"])
async def test_what_a_liar_sends_too_much_of_is_in_no_receipt(cluster, monkeypatch, size):
    made = await cluster(liars={"stage-2-a": Enormous, "stage-1-c": Lies})
    monkeypatch.setattr(Enormous, "samples", size // 40)  # ten classes each
    async with Client.connect(made.folder, patience=replace(QUICK, reveal=20)) as client:
        prediction = await client.predict(X)
    assert torch.equal(prediction.output, made.expected(X))
    assert {(made.node(fault.node), fault.kind) for fault in prediction.faults} == {
        ("stage-2-a", FaultKind.UNRESPONSIVE),
        ("stage-1-c", FaultKind.DISAGREED),
    }
    receipt = prediction.receipt.encode()
    assert len(receipt) < 100_000
    assert verify(receipt, made.anchors).valid


async def test_where_nobody_has_room_another_attempt_is_made_and_then_it_is_said(cluster):
    made = await cluster(liars=dict.fromkeys(["stage-1-a", "stage-1-b"], AlwaysBusy))
    async with Client.connect(made.folder, patience=replace(QUICK, commit=0.2)) as client:
        with pytest.raises(Unverified) as refused:
            await client.predict(X)
    assert {fault.kind for fault in refused.value.faults} == {FaultKind.BUSY}
    assert all("busy" in problem for problem in refused.value.problems.values())


class Hangs(StageService):
    """Takes the task and says nothing."""

    async def commit(self, sealed: Any, client: Any) -> None:
        await asyncio.Event().wait()


async def test_an_answer_that_cannot_be_remembered_is_an_answer_and_the_end_says_so(cluster, monkeypatch):
    made = await cluster()

    def full(*said: object) -> None:
        raise UserError("the ledger cannot grow")

    client = await Client.connect(made.folder)
    monkeypatch.setattr(client.reputations, "take", full)
    try:
        assert (await client.predict(X)).verdict.valid
    finally:
        with pytest.raises(UserError, match="cannot grow"):
            await client.close()


@pytest.mark.parametrize(
    ("policy", "said"),
    [(Policy(replicas=5), "wants 5 replicas"), (Policy(require=frozenset({Kind.ZK})), "wants zk")],
    ids=["replicas", "zk"],
)
async def test_a_policy_that_cannot_be_met_is_refused_before_anybody_is_asked(cluster, policy, said):
    made = await cluster()
    async with Client.connect(made.folder) as client:
        with pytest.raises(UserError, match=said):
            await client.predict(X, policy)
        assert client.traffic == (0, 0)


async def test_a_folder_that_serves_no_model_in_stages_and_a_model_that_is_not_pinned_are_refused(cluster, tmp_path):
    made = await cluster()
    other = {part.name: made.stages[0] for part in made.anchors.parts}
    with pytest.raises(UserError, match="not the one that is pinned"):
        await Client.connect(made.folder, model=other)
    Anchors(made.anchors.authority, ()).save(made.folder / "trust.toml")
    with pytest.raises(UserError, match="no model in stages"):
        await Client.connect(made.folder)


async def test_the_policy_and_the_model_of_the_folder_are_taken_where_nothing_is_said(cluster):
    made = await cluster()
    (made.folder / "policy.toml").write_text("tolerance = 2e-4\n")
    (made.folder / "stages").mkdir()
    save_stages(
        made.folder / "stages",
        Network("mlp", {"hidden": [16, 12, 16]}, (1, 8, 8), 10, ("2", "6"), True, "x"),
        made.stages,
    )
    async with Client.connect(made.folder) as client:
        assert client.policy == Policy(tolerance=2e-4)
        assert set(client.model) == {"stage-0", "stage-1", "stage-2"}


async def test_what_was_measured_of_leakage_speaks_where_the_policy_asks(cluster):
    made = await cluster()
    strict, loose = Policy(leakage=0.3), Policy(leakage=0.6)
    async with Client.connect(made.folder) as client:
        with pytest.raises(UserError, match="nobody has measured"):
            await client.predict(X, loose)
    exposures = tuple(Exposure(part.name, 0.5, 1.0, 0.1, 1.0, 0.1, 0.5) for part in made.anchors.parts)
    digests = {part.name: part.digest for part in made.anchors.parts}
    Measurement(exposures, digests, "", 0.9, 10, 10, 0).save(made.folder)
    async with Client.connect(made.folder) as client:
        prediction = await client.predict(X, loose)
        assert verify(prediction.receipt, made.anchors, loose).valid
        assert not verify(prediction.receipt, made.anchors, strict).valid
        with pytest.raises(Unverified, match="leak"):
            await client.predict(X, strict)


async def test_many_at_once_all_get_their_own_answer(cluster):
    made = await cluster()
    batches = [torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(24)]
    async with Client.connect(made.folder) as client:
        found = await asyncio.gather(*(client.predict(batch) for batch in batches))
    assert all(torch.equal(one.output, made.expected(batch)) for one, batch in zip(found, batches, strict=True))
