"""An answer counts as proved if the pinned circuits come to it, of what was asked, for this task; nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from decentral import canonical
from decentral.errors import Malformed
from decentral.trust.anchors import FILE, Anchors
from decentral.trust.consensus import Tensors
from decentral.trust.evidence import Kind, Question, tensors_digest
from decentral.trust.order import Order
from decentral.trust.policy import HEAD, Policy
from decentral.trust.proofs import Proofs, sign_proof
from decentral.trust.receipt import Receipt, Transcript, check, verify
from decentral.wire.messages import PeerId
from decentral.zk.bundle import Bundle
from decentral.zk.circuit import Chain
from decentral.zk.emulator import Emulator, Scales
from decentral.zk.fixed import Fixed
from decentral.zk.proof import Proof
from decentral.zk.proving import prove
from decentral.zk.setup import setup
from decentral.zk.srs import SRS
from decentral.zk.store import Store
from tests.trust.world import World
from tests.zk.conftest import SMALL, TINY, Second

PROVED = Policy(require=frozenset({Kind.CONSENSUS, Kind.ZK}), allow_simulated=True)
TRUSTING, STRICT = PROVED, replace(PROVED, allow_simulated=False)
OF_HEAD = replace(PROVED, proof_parts=HEAD)
NAMES = {"stage-0": ("x",), "stage-1": ("hidden", "more")}
OUTPUTS = {"stage-0": ("hidden", "more"), "stage-1": ("logits",)}
SAMPLES = 2


class First(nn.Module):
    """Gives two tensors: what crosses the cut, and a residual over it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.more = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.linear(x))
        return hidden, self.more(hidden)


def stages() -> list[nn.Module]:
    torch.manual_seed(21)  # with which the first samples differ in what is hidden
    return [First().eval(), Second().eval()]


@dataclass(frozen=True)
class Material:
    """Circuits of two stages; `proofs`: of each sample of one batch, and of another."""

    chain: Chain
    srs: SRS
    batches: tuple[Tensor, Tensor]
    proofs: tuple[list[Bundle], list[Bundle]]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    store = Store(tmp_path_factory.mktemp("proofs") / "store")
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(5))

    async def made() -> Material:
        chain, artefacts, srs = await setup(stages(), [inputs], store.local_srs, store, TINY, limits=SMALL)
        one, two = inputs[:SAMPLES], inputs[SAMPLES : 2 * SAMPLES]
        proofs = [
            [(await prove(chain, artefacts, srs, [row], limits=SMALL)).proofs for row in batch] for batch in (one, two)
        ]
        return Material(chain, srs, (one, two), (proofs[0], proofs[1]))

    return asyncio.run(made())


@dataclass(frozen=True)
class ProvedWorld(World):
    """Peers that compute what the circuits do."""

    material: Material | None = None
    batch: int = 0

    @property
    def made(self) -> Material:
        assert self.material is not None
        return self.material

    @cached_property
    def anchors(self) -> Anchors:
        pins = [circuit.identity.hex() for circuit in self.made.chain.circuits]
        known = World(parts=2).anchors
        parts = (replace(p, circuit=c, inputs=NAMES[p.name]) for p, c in zip(known.parts, pins, strict=True))
        return replace(known, parts=tuple(parts))

    @cached_property
    def inputs(self) -> Tensors:
        return {"x": whole(Fixed.of_real(self.made.batches[self.batch], 7))}

    @cached_property
    def order(self) -> Order:
        plain = World(parts=2, policy=self.policy, seed=self.seed).order
        models = {part.name: bytes.fromhex(part.circuit) for part in self.anchors.parts}
        steps = tuple(replace(step, model=models[step.part]) for step in plain.steps)
        return replace(plain, inputs=tensors_digest(self.inputs), steps=steps)

    def computed(self, question: Question, given: Tensors, node: PeerId) -> dict[str, Tensor]:
        place = list(NAMES).index(question.part)
        scale = self.made.chain.circuits[place].settings.input_scales[0]
        taken = [fixed(given[name], scale) for name in NAMES[question.part]]
        found = Emulator(stages()[place], Scales(7, 1), inputs=len(taken))(*taken)
        return dict(zip(OUTPUTS[question.part], map(whole, found), strict=True))

    def evidence(self, transcript: Transcript, bundles: list[Bundle] | None = None) -> Transcript:
        """With proofs that the first who was asked has signed."""
        exchanges, order = [], transcript.order
        to_prove = order.policy.to_prove(order.seed, list(NAMES))
        for place, exchange in enumerate(transcript.exchanges):
            if exchange.step.part not in to_prove:
                exchanges.append(exchange)
                continue
            question = order.question(exchange.step, exchange.inputs)
            proofs = tuple(each.proofs[place] for each in bundles or self.made.proofs[self.batch])
            signer = self.peers[exchange.asked[0]]
            bound = tuple(sign_proof(signer, question, sample, each) for sample, each in enumerate(proofs))
            srs = self.made.srs.path.read_bytes() if exchange.step.part == to_prove[0] else b""
            own = Proofs(self.made.chain.circuits[place], Bundle(proofs, bound), srs)
            exchanges.append(replace(exchange, evidence={Kind.ZK: own.encoded()}))
        return replace(transcript, exchanges=tuple(exchanges))


def fixed(tensor: Tensor, scale: int) -> Fixed:
    return Fixed.of_integers(tensor.flatten().tolist(), tensor.shape, scale)


def whole(values: Fixed) -> Tensor:
    return torch.tensor(values.integers()).reshape(values.shape)


@pytest.fixture(scope="module")
def world(material: Material) -> ProvedWorld:
    return ProvedWorld(parts=2, policy=PROVED, material=material)


@pytest.fixture(scope="module")
def honest(world: ProvedWorld) -> Receipt:
    return world.signed(world.evidence(world.transcript()))


def changed(transcript: Transcript, place: int, change: Callable[[Proofs], Proofs]) -> Transcript:
    exchanges = list(transcript.exchanges)
    own = change(Proofs.decode(exchanges[place].evidence[Kind.ZK]))
    exchanges[place] = replace(exchanges[place], evidence={Kind.ZK: own.encoded()})
    return replace(transcript, exchanges=tuple(exchanges))


def refused(world: ProvedWorld, transcript: Transcript, reason: str) -> None:
    """By the client at once, and by whoever reads what a dishonest client has signed."""
    receipt = world.signed(transcript)
    for verdict in (receipt.verdict, verify(receipt.encode(), world.anchors, world.policy)):
        assert not verdict.valid
        assert any(reason in each for each in verdict.reasons), verdict.reasons


# Honest


def test_a_proved_answer_is_valid_to_whom_trusts_nothing_but_the_trust_file(
    world: ProvedWorld, honest: Receipt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.anchors.save(tmp_path / FILE)
    honest.save(tmp_path / "receipt.json")
    monkeypatch.setenv("DECENTRAL_ZK", str(tmp_path / "empty"))
    verdict = verify(tmp_path / "receipt.json", tmp_path / FILE, TRUSTING)
    assert verdict.valid, verdict.reasons
    proved = [each for each in verdict.findings if each.kind is Kind.ZK]
    assert [each.part for each in proved] == ["stage-0", "stage-1"]
    assert all(each.passed and each.simulated and "local test SRS" in each.detail for each in proved)


def test_what_stands_on_a_local_test_srs_is_refused_unless_that_is_allowed(world: ProvedWorld, honest: Receipt) -> None:
    verdict = verify(honest, world.anchors, STRICT)
    assert not verdict.valid
    assert any("zk: is simulated" in each for each in verdict.reasons)


def test_the_answer_is_the_proofs_own_numbers(world: ProvedWorld, honest: Receipt) -> None:
    output = check(honest, world.anchors, TRUSTING).output
    assert output is not None
    scale = world.made.chain.circuits[-1].settings.output_scales[0]
    real = stages()
    with torch.no_grad():
        expected = real[1](*real[0](world.made.batches[0]))
    assert output["logits"].dtype == torch.int64
    assert torch.allclose(output["logits"] / 2**scale, expected, atol=0.1)


def test_one_replica_that_answers_other_numbers_is_outvoted(world: ProvedWorld) -> None:
    transcript = world.evidence(world.transcript({("stage-1", 2): "lies"}))
    found = check(world.signed(transcript), world.anchors, TRUSTING)
    assert found.verdict.valid, found.verdict.reasons
    assert [fault.kind.value for fault in found.faults] == ["disagreed"]


# Not honest


def test_without_proofs_there_is_no_proved_answer(world: ProvedWorld) -> None:
    refused(world, world.transcript(), "zk: there is no evidence")


def test_no_part_is_proved_without_the_others(world: ProvedWorld, honest: Receipt) -> None:
    first, last = honest.transcript.exchanges
    refused(world, replace(honest.transcript, exchanges=(first, replace(last, evidence={}))), "missing: stage-1")


def test_proofs_of_another_input_are_refused(world: ProvedWorld) -> None:
    refused(world, world.evidence(world.transcript(), world.made.proofs[1]), "about another output")
    mixed = [
        Bundle((other.proofs[0], own.proofs[1]))
        for own, other in zip(world.made.proofs[0], world.made.proofs[1], strict=True)
    ]
    refused(world, world.evidence(world.transcript(), mixed), "is about another input")


def test_proofs_of_two_samples_do_not_change_places(world: ProvedWorld) -> None:
    swapped = world.evidence(world.transcript(), world.made.proofs[0][::-1])
    refused(world, swapped, "proof 0 is about another output")


def test_a_proof_that_was_moved_to_another_answer_is_refused(world: ProvedWorld, honest: Receipt) -> None:
    conspired = world.transcript({("stage-1", place): "lies" for place in range(3)})
    exchanges = zip(conspired.exchanges, honest.transcript.exchanges, strict=True)
    moved = tuple(replace(own, evidence=other.evidence) for own, other in exchanges)
    refused(world, replace(conspired, exchanges=moved), "about another output")


def test_a_proof_that_is_shown_again_for_another_task_is_refused(world: ProvedWorld, honest: Receipt) -> None:
    later = replace(world, seed=b"t" * 32).transcript()
    exchanges = zip(later.exchanges, honest.transcript.exchanges, strict=True)
    replayed = tuple(replace(own, evidence=other.evidence) for own, other in exchanges)
    refused(world, replace(later, exchanges=replayed), "stale: proof 0 is not signed for this task")


def test_a_proof_is_signed_by_one_who_gave_the_answer(world: ProvedWorld) -> None:
    liar = world.evidence(world.transcript({("stage-1", 0): "lies"}))
    refused(world, liar, "one who did not give this answer")


def test_a_proof_that_nobody_signed_is_refused(world: ProvedWorld, honest: Receipt) -> None:
    bare = changed(honest.transcript, 1, lambda own: replace(own, bundle=Bundle(own.bundle.proofs)))
    refused(world, bare, "nobody has signed")


def test_swapped_stages_are_refused(world: ProvedWorld) -> None:
    swapped = [Bundle(each.proofs[::-1]) for each in world.made.proofs[0]]
    refused(world, world.evidence(world.transcript(), swapped), "zk:")


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: data[:-1]], ids=["longer", "shorter"])
def test_a_proof_of_another_length_is_refused(world: ProvedWorld, change: Callable[[bytes], bytes]) -> None:
    first, second = world.made.proofs[0]
    other = Proof(first.proofs[0].instances, change(first.proofs[0].proof))
    refused(world, world.evidence(world.transcript(), [Bundle((other, first.proofs[1])), second]), "bytes and")


def test_a_foreign_srs_is_refused(world: ProvedWorld, honest: Receipt) -> None:
    foreign = changed(honest.transcript, 0, lambda own: replace(own, srs=own.srs[:-1] + b"\1"))
    refused(world, foreign, "SRS that came with them is not the one that is pinned")


def test_other_settings_are_another_circuit(world: ProvedWorld, honest: Receipt) -> None:
    def edited(own: Proofs) -> Proofs:
        settings = canonical.decode(own.circuit.settings.encoded)
        settings["model_output_scales"] = [scale + 1 for scale in settings["model_output_scales"]]
        encoded = canonical.encode(settings)
        return replace(own, circuit=replace(own.circuit, settings=type(own.circuit.settings)(encoded)))

    refused(world, changed(honest.transcript, 1, edited), "foreign: they are of another circuit")


def test_a_model_that_is_not_pinned_is_refused(world: ProvedWorld, honest: Receipt) -> None:
    parts = (world.anchors.parts[0], replace(world.anchors.parts[1], circuit="0" * 64))
    verdict = verify(honest, replace(world.anchors, parts=parts), TRUSTING)
    assert not verdict.valid
    assert any("foreign: the circuit of stage-1" in each for each in verdict.reasons)


def test_who_pins_no_circuits_accepts_no_proofs(world: ProvedWorld, honest: Receipt) -> None:
    bare = replace(world.anchors, parts=tuple(replace(part, circuit="") for part in world.anchors.parts))
    verdict = verify(honest, bare, TRUSTING)
    assert not verdict.valid
    assert any("has no circuit that is pinned" in each for each in verdict.reasons)


def test_an_answer_in_floats_is_not_one_of_circuits(world: ProvedWorld) -> None:
    plain = World(parts=2)
    verdict = verify(plain.receipt(), world.anchors, TRUSTING)
    assert not verdict.valid
    assert any("the order is not for the parts that are pinned" in each for each in verdict.reasons)


# The head alone


@pytest.fixture(scope="module")
def headed(material: Material) -> ProvedWorld:
    return ProvedWorld(parts=2, policy=OF_HEAD, material=material)


def test_a_proved_head_is_enough_where_both_policies_say_so(
    headed: ProvedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DECENTRAL_ZK", str(tmp_path / "empty"))
    receipt = headed.signed(headed.evidence(headed.transcript()))
    verdict = verify(receipt.encode(), headed.anchors, OF_HEAD)
    assert verdict.valid, verdict.reasons
    (proved,) = [each for each in verdict.findings if each.kind is Kind.ZK]
    assert (proved.part, proved.simulated) == ("stage-1", True)
    assert proved.detail == f"{SAMPLES} proofs of the head hold (local test SRS)"
    everything = verify(receipt.encode(), headed.anchors, PROVED)
    assert everything.reasons == ("stage-0: zk: there is no evidence that passed",)
    assert not verify(receipt, headed.anchors, replace(OF_HEAD, allow_simulated=False)).valid


def test_who_wants_the_head_alone_takes_proofs_of_all_parts(world: ProvedWorld, honest: Receipt) -> None:
    verdict = verify(honest.encode(), world.anchors, OF_HEAD)
    assert verdict.valid, verdict.reasons


def test_a_head_of_another_input_or_output_is_refused(headed: ProvedWorld) -> None:
    other = headed.made.proofs[1]
    refused(headed, headed.evidence(headed.transcript(), other), "proof 0 is about another input")
    refused(headed, headed.evidence(headed.transcript(), headed.made.proofs[0][::-1]), "is about another input")
    refused(headed, headed.evidence(headed.transcript(), headed.made.proofs[0][:1]), "there have to be 2 proofs")
    conspired = headed.transcript({("stage-1", place): "lies" for place in range(3)})
    refused(headed, headed.evidence(conspired), "proof 0 is about another output")


def test_the_head_is_proved_of_what_a_quorum_gave_it(headed: ProvedWorld) -> None:
    conspired = headed.transcript({("stage-0", place): "lies" for place in range(3)})
    refused(headed, headed.evidence(conspired), "proof 0 is about another input")
    dissent = headed.evidence(headed.transcript({("stage-0", 2): "lies"}))
    assert verify(headed.signed(dissent).encode(), headed.anchors, OF_HEAD).valid


def test_what_the_head_was_given_has_to_be_shown(headed: ProvedWorld) -> None:
    whole_receipt = headed.evidence(headed.transcript())
    first, last = whole_receipt.exchanges
    hidden = {node: replace(reply, tensors=None) for node, reply in first.replies.items()}
    exchanges = (replace(first, replies=hidden), last)
    refused(headed, replace(whole_receipt, exchanges=exchanges), "what the head was given is not in the receipt")


def test_proofs_of_other_parts_than_the_head_are_refused(headed: ProvedWorld, honest: Receipt) -> None:
    first, last = headed.evidence(headed.transcript()).exchanges
    more = replace(first, evidence=honest.transcript.exchanges[0].evidence)
    both = replace(headed.evidence(headed.transcript()), exchanges=(more, last))
    verdict = verify(headed.signed(both).encode(), headed.anchors, OF_HEAD)
    assert not verdict.valid
    assert any("stage-0: zk:" in each for each in verdict.reasons)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"circuit":1,"proofs":"","srs":""}'])
def test_what_is_no_evidence_cannot_be_read(data: bytes) -> None:
    with pytest.raises(Malformed):
        Proofs.decode(data)


def test_evidence_comes_back_as_it_was_written(honest: Receipt) -> None:
    evidence: Mapping[Kind, bytes] = honest.transcript.exchanges[0].evidence
    assert Proofs.decode(evidence[Kind.ZK]).encoded() == evidence[Kind.ZK]
    with pytest.raises(Malformed):
        Proofs.decode(evidence[Kind.ZK] + b" ")
