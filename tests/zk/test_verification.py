"""A proof holds for this model, this input, this output and this task, and for nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from decentral import canonical
from decentral.errors import Malformed, Unproven, UserError
from decentral.wire.identity import Identity
from decentral.zk.arguments import Settings
from decentral.zk.binding import Binding, bind
from decentral.zk.bundle import Bundle
from decentral.zk.circuit import Chain
from decentral.zk.export import export
from decentral.zk.proof import MODULUS, POINT, Proof
from decentral.zk.proving import Proven, prove, prove_stage, witness_of
from decentral.zk.setup import COMPILED, MODEL, SETTINGS, Artefacts, setup
from decentral.zk.store import Store
from decentral.zk.verification import Verified, verify
from decentral.zk.worker import Worker
from tests.zk.conftest import SMALL, TINY, Made, stages

NONCE = bytes(range(32))


async def found(prover: Worker, made: Made, proof: Bundle, chain: Chain | None = None, **others: object) -> Verified:
    given = {"inputs": [made.inputs[0]], "outputs": made.outputs, **others}
    return await verify(prover, chain or made.chain, made.srs, proof, **given)  # type: ignore[arg-type]


def changed(proven: Proven, stage: int, change: Callable[[Proof], Proof]) -> Bundle:
    proofs = list(proven.proofs.proofs)
    proofs[stage] = change(proofs[stage])
    return Bundle(tuple(proofs))


async def test_an_honest_proof_holds_and_tells_the_output(prover: Worker, made: Made) -> None:
    said = await found(prover, made, Bundle.decode(made.proven.proofs.encoded()))
    assert said.passed and said.outputs == made.proven.outputs and said.stage is None
    answer = made.inputs[0]
    for stage in made.stages:
        answer = stage(*answer) if isinstance(answer, tuple) else stage(answer)
    assert torch.tensor(said.outputs[0]).numpy() == pytest.approx(answer.detach().numpy(), abs=0.05)


async def test_what_stands_on_a_local_test_srs_says_so(prover: Worker, made: Made) -> None:
    said = await found(prover, made, made.proven.proofs)
    assert said.simulated and "local test SRS" in said.detail


async def test_what_the_proof_says_is_given_where_no_output_is_claimed(prover: Worker, made: Made) -> None:
    said = await found(prover, made, made.proven.proofs, outputs=None)
    assert said.passed and said.outputs == made.proven.outputs


async def test_a_proof_of_another_input_is_found(prover: Worker, made: Made) -> None:
    said = await found(prover, made, made.another.proofs)
    assert (said.passed, said.stage, said.detail) == (False, 0, "stage 0: is about another input")


async def test_an_input_that_differs_by_one_step_of_the_scale_is_another(prover: Worker, made: Made) -> None:
    moved = made.inputs[0].clone()
    moved[2] += 1 / 128
    said = await found(prover, made, made.proven.proofs, inputs=[moved])
    assert (said.passed, said.stage) == (False, 0)


async def test_an_output_that_differs_by_one_step_is_found(prover: Worker, made: Made) -> None:
    wrong = [made.outputs[0].clone()]
    wrong[0][1] += 1 / 128
    said = await found(prover, made, made.proven.proofs, outputs=wrong)
    assert (said.passed, said.stage, said.detail) == (False, 1, "stage 1: is about another output")


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("place", [0, -1])
async def test_an_instance_that_is_edited_is_found(prover: Worker, made: Made, stage: int, place: int) -> None:
    def edit(proof: Proof) -> Proof:
        values = list(proof.instances)
        values[place] = (values[place] + 1) % MODULUS
        return replace(proof, instances=tuple(values))

    said = await found(prover, made, changed(made.proven, stage, edit), outputs=None)
    assert (said.passed, said.stage) == (False, stage)


@pytest.mark.parametrize("stage", [0, 1])
async def test_more_or_fewer_instances_are_found(prover: Worker, made: Made, stage: int) -> None:
    for change in (lambda values: (*values, 0), lambda values: values[:-1], lambda values: ()):
        proof = changed(made.proven, stage, lambda each, c=change: replace(each, instances=c(each.instances)))  # type: ignore[misc]
        said = await found(prover, made, proof, outputs=None)
        assert (said.passed, said.stage) == (False, stage)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw + b"\0",
        lambda raw: raw + bytes(32),
        lambda raw: raw + raw,
        lambda raw: raw[:-1],
        lambda raw: raw[:-32],
        lambda raw: b"",
        lambda raw: bytes(len(raw)),
        lambda raw: (
            torch.randint(0, 256, (len(raw),), generator=torch.Generator().manual_seed(1))
            .numpy()
            .astype("u1")
            .tobytes()
        ),
    ],
    ids=["trailing byte", "trailing word", "twice", "byte short", "word short", "empty", "zeros", "random"],
)
async def test_bytes_that_are_not_the_proof_are_found(
    prover: Worker, made: Made, change: Callable[[bytes], bytes]
) -> None:
    said = await found(prover, made, changed(made.proven, 1, lambda each: replace(each, proof=change(each.proof))))
    assert (said.passed, said.stage) == (False, 1)


async def test_no_byte_of_a_proof_can_be_changed(prover: Worker, made: Made) -> None:
    """One in each 32-byte word: commitments, evaluations, opening."""
    length = len(made.proven.proofs.proofs[1].proof)
    for place in range(5, length, 32):

        def flip(each: Proof, place: int = place) -> Proof:
            raw = bytearray(each.proof)
            raw[place] ^= 1 << (place % 8)
            return replace(each, proof=bytes(raw))

        said = await found(prover, made, changed(made.proven, 1, flip))
        assert (said.passed, said.stage) == (False, 1), place


async def test_a_missing_proof_is_named(prover: Worker, made: Made) -> None:
    for proofs in ((), made.proven.proofs.proofs[:1], (*made.proven.proofs.proofs, made.proven.proofs.proofs[1])):
        said = await found(prover, made, Bundle(proofs))
        assert not said.passed and "missing" in said.detail


async def test_swapped_stages_are_found(prover: Worker, made: Made) -> None:
    said = await found(prover, made, Bundle(made.proven.proofs.proofs[::-1]))
    assert not said.passed and said.stage == 0


async def test_a_link_of_another_input_is_named(prover: Worker, made: Made) -> None:
    """Both proofs hold, and the second is about a tensor that the first did not give."""
    mixed = Bundle((made.proven.proofs.proofs[0], made.another.proofs.proofs[1]))
    said = await found(prover, made, mixed, outputs=None)
    assert (said.passed, said.stage) == (False, 1) and "foreign link" in said.detail


async def test_a_link_cannot_be_written_over(prover: Worker, made: Made) -> None:
    """The commitments of the giver, put where the taker's stand."""
    start, count = made.chain.circuits[0].slots.of_outputs()[0]
    given = made.proven.proofs.proofs[0].proof[start * POINT : (start + count) * POINT]

    def write(each: Proof) -> Proof:
        return replace(each, proof=given + each.proof[len(given) :])

    mixed = Bundle((made.proven.proofs.proofs[0], write(made.another.proofs.proofs[1])))
    said = await found(prover, made, mixed, outputs=None)
    assert (said.passed, said.stage) == (False, 1)


def edited(made: Made, stage: int, **changes: object) -> Chain:
    circuits = list(made.chain.circuits)
    settings = {**canonical.decode(circuits[stage].settings.encoded), **changes}
    circuits[stage] = replace(circuits[stage], settings=Settings(canonical.encode(settings)))
    return Chain(tuple(circuits), made.chain.wires)


async def test_edited_scales_are_another_model(made: Made) -> None:
    """ezkl accepts the proof and would read other numbers from it: so settings are part of the identity."""
    assert edited(made, 1, model_output_scales=[3]).identity != made.chain.identity


async def test_edited_ranges_are_another_model(made: Made) -> None:
    assert edited(made, 0, required_range_checks=[[-1, 1], [0, 31]]).identity != made.chain.identity


async def test_settings_in_another_order_are_refused(made: Made) -> None:
    ranges = canonical.decode(made.chain.circuits[0].settings.encoded)["required_range_checks"]
    with pytest.raises(Malformed, match="one form"):
        edited(made, 0, required_range_checks=ranges[::-1])


async def test_another_version_of_ezkl_is_refused(made: Made) -> None:
    with pytest.raises(Malformed, match=r"ezkl 23\.0\.4"):
        edited(made, 0, version="23.0.4")
    with pytest.raises(Malformed, match=r"ezkl 22"):
        replace(made.chain.circuits[0], version="22.0.0")


async def test_a_proof_of_other_weights_is_found(prover: Worker, made: Made) -> None:
    """One weight, by one step of its scale: the circuit has another key, and its proof does not hold under ours."""
    network = stages()
    linear = network[1].linear
    with torch.no_grad():
        linear.weight[0, 0] += 1 / 128  # type: ignore[index,operator]
    chain, artefacts, srs = await setup(network, [made.inputs], made.store.local_srs, made.store, TINY, limits=SMALL)
    assert chain.circuits[0].identity == made.chain.circuits[0].identity
    assert chain.circuits[1].identity != made.chain.circuits[1].identity
    lie = await prove(chain, artefacts, srs, [made.inputs[0]], limits=SMALL)
    assert (await found(prover, made, lie.proofs, chain=chain, outputs=None)).passed
    said = await found(prover, made, lie.proofs, outputs=None)
    assert (said.passed, said.stage) == (False, 1)


async def test_a_stale_key_is_found(prover: Worker, made: Made) -> None:
    """A verifier that pins the key of another circuit."""
    first, second = made.chain.circuits
    stale = Chain((replace(first, key=second.key), second), made.chain.wires)
    said = await found(prover, made, made.proven.proofs, chain=stale)
    assert (said.passed, said.stage) == (False, 0)


async def test_a_foreign_srs_is_refused(prover: Worker, made: Made) -> None:
    other = await Store(made.store.root.parent / "other").local_srs(made.srs.logrows, SMALL)
    assert other.digest != made.srs.digest
    with pytest.raises(UserError, match="another SRS"):
        await verify(prover, made.chain, other, made.proven.proofs, [made.inputs[0]])
    foreign = Chain(tuple(replace(circuit, srs=other.digest) for circuit in made.chain.circuits), made.chain.wires)
    assert foreign.identity != made.chain.identity
    assert not (await verify(prover, foreign, other, made.proven.proofs, [made.inputs[0]])).passed


# ---- between the operators -----------------------------------------------------------------------------------------

EDGES = ("images", "patches", "product", "bias", "relu", "mean", "answer")
QUICK = ("nowhere", "product", "answer")


class Exchanged(nn.Module):
    """A small network. Where `edge` names one, its numbers change places there: ezkl writes no constraint for that, so
    that circuit and key have the same form, and other numbers go on."""

    def __init__(self, edge: str) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.edge, self.bias = edge, nn.Parameter(torch.randn(1, 3, 1))
        self.weight, self.linear = nn.Parameter(torch.randn(3, 18)), nn.Linear(3, 4)

    def passed(self, edge: str, x: Tensor, dim: int) -> Tensor:
        count = x.shape[dim]
        return x if edge != self.edge else x.index_select(dim, torch.tensor([*range(1, count), 0]))

    def forward(self, x: Tensor) -> Tensor:
        patches = functional.unfold(self.passed("images", x, 3), 3, padding=1)
        product = torch.einsum("kc,acn->akn", self.weight, self.passed("patches", patches, 1))
        hidden = self.passed("bias", self.passed("product", product, 1) + self.bias, 1)
        hidden = self.passed("relu", torch.relu(hidden), 1).mean(2)
        return self.passed("answer", self.linear(self.passed("mean", hidden, 1)), 1)


async def exchanged(prover: Worker, store: Store, folder: Path, edge: str) -> Verified:
    """What is found of a proof by who exchanged numbers at an edge and has the honest proving key."""
    images = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(6))
    options = replace(TINY, rebase=64, checked=False, logrows=10)
    chain, (own,), srs = await setup([Exchanged("").eval()], [images], store.local_srs, store, options, limits=SMALL)
    shutil.copytree(own.folder, folder)
    export(Exchanged(edge), [images[:1]], folder / MODEL)
    paths = {"model": folder / MODEL, "compiled": folder / COMPILED, "settings": folder / SETTINGS}
    await prover.call("compile_circuit", **{name: str(path) for name, path in paths.items()})
    lie = Artefacts(own.circuit, folder)
    proven = await prove(chain, [lie], srs, [images[0]], limits=SMALL)
    said = await verify(prover, chain, srs, proven.proofs, [images[0]])
    honest = await prove(chain, [own], srs, [images[0]], limits=SMALL)
    assert (proven.outputs == honest.outputs) == (edge == "nowhere"), "nothing else went on"
    return said


@pytest.mark.parametrize(
    "edge", [pytest.param(edge, marks=[] if edge in QUICK else [pytest.mark.slow]) for edge in ("nowhere", *EDGES)]
)
async def test_no_operator_can_be_given_other_numbers_than_the_one_before_gave(
    prover: Worker, store: Store, tmp_path: Path, edge: str
) -> None:
    said = await exchanged(prover, store, tmp_path / "lie", edge)
    assert said.passed == (edge == "nowhere"), said.detail


@pytest.mark.parametrize("value", [1 << 32, -(1 << 32), 1 << 62, MODULUS // 2, MODULUS // 2 + 1, MODULUS // 3])
async def test_a_number_that_has_more_digits_than_its_circuit_has_no_proof(
    made: Made, tmp_path: Path, value: int
) -> None:
    """2^32 in eight digits of base 16: the ReLU of the first stage does not take it."""
    first = made.artefacts[0]
    assert await witness_of(first, made.srs, [[64, 0, 0, 0]], folder=tmp_path, limits=SMALL)
    with pytest.raises(Unproven):
        about = await witness_of(first, made.srs, [[value, 0, 0, 0]], folder=tmp_path, limits=SMALL)
        await prove_stage(first, made.srs, about, SMALL)
        raise AssertionError("it has a witness and a proof")


# ---- whose, and for which task -------------------------------------------------------------------------------------


def bindings(made: Made, identity: Identity, nonce: bytes = NONCE, proven: Proven | None = None) -> tuple[Binding, ...]:
    proofs = (proven or made.proven).proofs.proofs
    return tuple(bind(identity, nonce, made.chain.identity, place, each) for place, each in enumerate(proofs))


async def test_a_proof_that_is_signed_for_the_task_names_its_makers(prover: Worker, made: Made) -> None:
    maker = Identity.generate()
    signed = Bundle(made.proven.proofs.proofs, bindings(made, maker))
    said = await found(prover, made, signed, nonce=NONCE)
    assert said.passed and said.signers == (maker.id, maker.id)


async def test_a_proof_without_the_tasks_signature_is_found(prover: Worker, made: Made) -> None:
    maker = Identity.generate()
    signed = bindings(made, maker)
    for wrong in (
        (),
        signed[:1],
        signed[::-1],
        (*signed, signed[0]),
        bindings(made, maker, nonce=bytes(32)),
        bindings(made, maker, proven=made.another),
        tuple(Binding(Identity.generate().public_key, each.signature) for each in signed),
    ):
        said = await found(prover, made, Bundle(made.proven.proofs.proofs, wrong), nonce=NONCE)
        assert not said.passed, wrong
