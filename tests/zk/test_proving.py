"""Proofs of a chain: of its input alone, and of which model by commitments where keys do not depend on numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from decentral.errors import Unproven, UserError
from decentral.zk.arguments import Visibility
from decentral.zk.bundle import Bundle
from decentral.zk.circuit import Chain
from decentral.zk.fixed import Fixed, half_away
from decentral.zk.proof import compressed, signed
from decentral.zk.proving import prove, prove_stage, shares, witness_of
from decentral.zk.reading import quantised
from decentral.zk.setup import setup
from decentral.zk.verification import verify, verify_stage
from decentral.zk.worker import Worker
from tests.zk.conftest import SMALL, TINY, Made, stages


async def test_inputs_of_another_shape_or_without_a_value_are_refused(prover: Worker, made: Made) -> None:
    first = made.chain.circuits[0]
    for wrong in ([], [made.inputs[0], made.inputs[0]], [made.inputs[0][:3]], [made.inputs[:2]]):
        with pytest.raises(UserError, match="takes"):
            await quantised(prover, first, wrong)
    with pytest.raises(UserError, match="finite"):
        await quantised(prover, first, [torch.full((4,), float("nan"))])
    assert await quantised(prover, first, [made.inputs[:1]]) == await quantised(prover, first, [made.inputs[0]])


async def test_what_crosses_does_not_stand_in_the_proofs(made: Made) -> None:
    first, last = made.proven.proofs.proofs
    assert (len(first.instances), len(last.instances)) == (4, 2)


async def test_proofs_in_parallel_are_proofs(prover: Worker, made: Made) -> None:
    again = await prove(made.chain, made.artefacts, made.srs, [made.inputs[0]], parallel=2, limits=SMALL)
    assert again.outputs == made.proven.outputs
    assert (await verify(prover, made.chain, made.srs, again.proofs, [made.inputs[0]])).passed


async def test_one_key_serves_every_checkpoint_where_parameters_are_committed(
    prover: Worker, made: Made, tmp_path: Path
) -> None:
    options = replace(TINY, parameters=Visibility.COMMITTED)
    ours, theirs = stages(), stages()
    with torch.no_grad():
        theirs[1].linear.weight[0, 0] += 1 / 128  # type: ignore[index,operator]
    one, artefacts, srs = await setup(ours, [made.inputs], made.store.local_srs, made.store, options, limits=SMALL)
    two, others, _ = await setup(theirs, [made.inputs], made.store.local_srs, made.store, options, limits=SMALL)
    assert one.circuits[1].key == two.circuits[1].key and one.circuits[1].committed != two.circuits[1].committed
    assert one.identity != two.identity
    proven = await prove(one, artefacts, srs, [made.inputs[0]], limits=SMALL)
    lie = await prove(two, others, srs, [made.inputs[0]], limits=SMALL)
    for circuit, proof in zip(one.circuits, proven.proofs.proofs, strict=True):
        points = proof.points(*circuit.slots.of_parameters())
        assert tuple(map(compressed, points)) == circuit.committed != ()
    assert (await verify(prover, one, srs, proven.proofs, [made.inputs[0]])).passed
    assert (await verify(prover, two, srs, lie.proofs, [made.inputs[0]])).passed
    said = await verify(prover, one, srs, lie.proofs, [made.inputs[0]])
    assert (said.passed, said.stage) == (False, 1) and "foreign" in said.detail
    said = await verify(prover, one, srs, made.proven.proofs, [made.inputs[0]])
    assert not said.passed
    assert Chain.decode(one.encoded()) == one


class Part(nn.Module):
    """Some of the output channels of a layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x) + 1)


class Joined(nn.Module):
    """What takes parts of a layer as if they were one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        found: Tensor = self.linear(torch.cat([one, other], 1))
        return found


async def test_a_layer_may_be_several_circuits_that_take_the_same_tensor(prover: Worker, made: Made) -> None:
    """The model's input goes to two parts of the first layer, its output to two of the second, which are joined."""
    torch.manual_seed(2)
    network = [Part(3), Part(2), Joined(), Part(1), nn.Linear(2, 1)]
    network[3] = nn.Sequential(nn.Linear(2, 1))
    wires = [(), (), ((0, 0), (1, 0)), ((2, 0),), ((2, 0),)]
    inputs = made.inputs
    chain, artefacts, srs = await setup(
        network, [inputs], made.store.local_srs, made.store, TINY, wires=wires, limits=SMALL
    )
    assert [len(circuit.slots.inputs) for circuit in chain.circuits] == [0, 0, 2, 1, 1]
    proven = await prove(chain, artefacts, srs, [inputs[0]], parallel=2, limits=SMALL)
    with torch.no_grad():
        hidden = network[2](network[0](inputs[:1]), network[1](inputs[:1]))
        expected = [network[3](hidden).item(), network[4](hidden).item()]
    assert [each[0] for each in proven.outputs] == pytest.approx(expected, abs=0.05)
    assert (await verify(prover, chain, srs, proven.proofs, [inputs[0]])).passed
    other = await prove(chain, artefacts, srs, [inputs[1]], limits=SMALL)
    for place in range(5):
        mixed = [*proven.proofs.proofs]
        mixed[place] = other.proofs.proofs[place]
        assert not (await verify(prover, chain, srs, Bundle(tuple(mixed)), [inputs[0]])).passed, place


async def test_finished_proofs_stay_and_those_of_another_input_do_not(made: Made, tmp_path: Path) -> None:
    said: list[str] = []
    first = await prove(made.chain, made.artefacts, made.srs, [made.inputs[0]], job=tmp_path, limits=SMALL)
    (tmp_path / "stage-1.proof").unlink()
    again = await prove(
        made.chain, made.artefacts, made.srs, [made.inputs[0]], job=tmp_path, limits=SMALL, say=said.append
    )
    assert again.proofs.proofs[0] == first.proofs.proofs[0] and again.usage[0] is None and again.usage[1] is not None
    assert "stage 0: was proved before" in said and "stage 1: proving" in said
    (tmp_path / "stage-0.proof").write_bytes(first.proofs.proofs[0].encoded() + b"more")
    third = await prove(made.chain, made.artefacts, made.srs, [made.inputs[0]], job=tmp_path, limits=SMALL)
    assert [usage is None for usage in third.usage] == [False, True]
    other = await prove(made.chain, made.artefacts, made.srs, [made.inputs[1]], job=tmp_path, limits=SMALL)
    assert None not in other.usage


async def test_circuits_of_another_model_are_refused(made: Made) -> None:
    with pytest.raises(UserError, match="set it up again"):
        await prove(made.chain, made.artefacts[::-1], made.srs, [made.inputs[0]], limits=SMALL)


@given(st.integers(1, 20), st.integers(1, 8))
def test_provers_side_by_side_share_the_cores_out(count: int, parallel: int) -> None:
    found = shares(range(count), parallel)
    assert len(found) == parallel and all(found)
    if parallel <= count:
        assert sorted(core for own in found for core in own) == list(range(count))
        assert max(map(len, found)) - min(map(len, found)) <= 1
    else:
        assert set(found) == {tuple(range(count))}


async def test_one_circuit_proves_numbers_that_somebody_else_has_come_to(
    prover: Worker, made: Made, tmp_path: Path
) -> None:
    """The second stage, of hidden numbers of any sign, also where all of them are zero."""
    stage, circuit = made.artefacts[1], made.chain.circuits[1]
    for hidden, more in (((5, 0, 130), (-7, 128, 3)), ((0, 0, 0), (0, 0, 0))):
        about = await witness_of(stage, made.srs, (hidden, more), folder=tmp_path, limits=SMALL)
        proof, _ = await prove_stage(stage, made.srs, about, SMALL)
        outputs = [tuple(map(signed, proof.instances))]
        numbers = {"inputs": (hidden, more), "outputs": outputs}
        assert await verify_stage(prover, circuit, made.srs, proof, **numbers) is None
        for change in (
            {"inputs": ((*hidden[:2], hidden[2] + 1), more)},
            {"inputs": (more, hidden)} if any(hidden) else {"inputs": (hidden,)},
            {"outputs": [(outputs[0][0], outputs[0][1] - 1)]},
        ):
            said = await verify_stage(prover, circuit, made.srs, proof, **{**numbers, **change})
            assert said is not None
            assert "is about another" in said


async def test_a_proof_of_numbers_that_hide_its_output_is_told_by_its_commitments(prover: Worker, made: Made) -> None:
    circuit, proof = made.chain.circuits[0], made.proven.proofs.proofs[0]
    scale = circuit.settings.input_scales[0]
    first = traced_numbers(made, scale)
    assert await verify_stage(prover, circuit, made.srs, proof, **first) is None
    hidden, more = first["outputs"]
    for outputs in ((more, hidden), (hidden, (more[0] + 1, *more[1:]))):
        said = await verify_stage(prover, circuit, made.srs, proof, inputs=first["inputs"], outputs=outputs)
        assert said == "is about another output"
    other = made.another.proofs.proofs[0]
    assert await verify_stage(prover, circuit, made.srs, other, **first) == "is about another input"
    broken = replace(proof, proof=proof.proof[:-1] + bytes([proof.proof[-1] ^ 1]))
    said = await verify_stage(prover, circuit, made.srs, broken, **first)
    assert said is not None
    assert "does not hold" in said
    said = await verify_stage(prover, circuit, made.srs, replace(proof, proof=proof.proof + b"\0"), **first)
    assert said is not None
    assert "bytes and" in said
    with pytest.raises(UserError, match="another SRS"):
        await verify_stage(prover, circuit, replace(made.srs, digest="0" * 64), proof, **first)


async def test_numbers_that_a_circuit_does_not_hold_have_no_witness(made: Made, tmp_path: Path) -> None:
    with pytest.raises(Unproven, match="witness"):
        await witness_of(made.artefacts[0], made.srs, ((1 << 50,) * 4,), folder=tmp_path, limits=SMALL)


def traced_numbers(made: Made, scale: int) -> dict[str, tuple[tuple[int, ...], ...]]:
    """What the first stage takes and gives of the first input, by the witness that ezkl has made of it."""
    taken = tuple(Fixed.of_real(made.inputs[0], scale).integers())
    stage = made.stages[0]
    steps = 2.0**scale
    with torch.no_grad():
        linear, more = stage.linear, stage.more  # type: ignore[union-attr]
        whole = [half_away(each.weight.double() * steps) for each in (linear, more)]
        x = torch.tensor(taken, dtype=torch.float64)
        bias = half_away(linear.bias.double() * steps)
        hidden = torch.relu(half_away(whole[0] @ x / steps) + bias + steps)
        second = half_away(whole[1] @ hidden / steps) + half_away(more.bias.double() * steps)
    return {"inputs": (taken,), "outputs": tuple(tuple(map(int, each.tolist())) for each in (hidden, second))}
