"""Proofs of a chain: of its input alone, and of which model by commitments where keys do not depend on numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decentral.errors import UserError
from decentral.zk.arguments import Visibility
from decentral.zk.circuit import Chain
from decentral.zk.proof import compressed
from decentral.zk.proving import prove, quantised
from decentral.zk.setup import setup
from decentral.zk.verification import verify
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
    first, last = made.proven.proof.proofs
    assert (len(first.instances), len(last.instances)) == (4, 2)


async def test_proofs_in_parallel_are_proofs(prover: Worker, made: Made) -> None:
    again = await prove(made.artefacts, made.srs, [made.inputs[0]], parallel=2, limits=SMALL)
    assert again.outputs == made.proven.outputs
    assert (await verify(prover, made.chain, made.srs, again.proof, [made.inputs[0]])).passed


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
    proven = await prove(artefacts, srs, [made.inputs[0]], limits=SMALL)
    lie = await prove(others, srs, [made.inputs[0]], limits=SMALL)
    for circuit, proof in zip(one.circuits, proven.proof.proofs, strict=True):
        points = proof.points(*circuit.slots.of_parameters())
        assert tuple(map(compressed, points)) == circuit.committed != ()
    assert (await verify(prover, one, srs, proven.proof, [made.inputs[0]])).passed
    assert (await verify(prover, two, srs, lie.proof, [made.inputs[0]])).passed
    said = await verify(prover, one, srs, lie.proof, [made.inputs[0]])
    assert (said.passed, said.stage) == (False, 1) and "foreign" in said.detail
    said = await verify(prover, one, srs, made.proven.proof, [made.inputs[0]])
    assert not said.passed
    assert Chain.decode(one.encoded()) == one
