"""A twin comes to the numbers that the circuit proves, whatever the batch."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.serving.stages.twin import LARGEST, Twin, fixed, quantised, whole
from decentral.trust.proofs import samples
from decentral.zk.fixed import Fixed
from decentral.zk.proof import signed
from decentral.zk.proving import prove_stage, witness_of
from tests.serving.proved import Material, X
from tests.zk.conftest import SMALL


async def test_its_numbers_are_those_of_the_proof(proved_material: Material, tmp_path: Path) -> None:
    tensors = {"x": quantised(X, 7)}
    for place in (0, 1):
        twin = proved_material.twin(place)
        names = [port.name for port in twin.inputs]
        given_, tensors = tensors, twin.run(tensors)
        assert all(tensor.dtype == torch.int64 for tensor in tensors.values())
    for sample, numbers in enumerate(samples(given_, names)):
        about = await witness_of(
            proved_material.artefacts[1], proved_material.srs, numbers, folder=tmp_path, limits=SMALL
        )
        (logits,) = tensors.values()
        assert list(map(signed, about.instances)) == logits[sample].tolist()
    proof, _ = await prove_stage(proved_material.artefacts[1], proved_material.srs, about, SMALL)
    assert list(map(signed, proof.instances)) == logits[-1].tolist()


def test_it_is_near_the_stage_and_each_sample_is_alone(proved_material: Material) -> None:
    twin = proved_material.twin(0)
    found = twin.run({"x": quantised(X, 7)})
    with torch.no_grad():
        expected = proved_material.stages[0].run({"x": X})
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name].double() / 2**7, tensor.double(), atol=0.05)
        alone = torch.cat([twin.run({"x": quantised(row[None], 7)})[name] for row in X])
        assert torch.equal(alone, found[name])


def test_it_is_named_by_its_circuit_and_a_copy_computes_the_same(proved_material: Material) -> None:
    twin = proved_material.twin(1)
    assert twin.digest == proved_material.chain.circuits[1].identity.hex()
    inputs = {port.name: torch.arange(6).reshape(2, 3) * place for place, port in enumerate(twin.inputs, 1)}
    own, other = twin.run(inputs), copy.deepcopy(twin).run(inputs)
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert all(torch.equal(own[name], tensor) for name, tensor in twin.exact(inputs).items())


def test_a_stage_that_is_not_the_circuits_has_no_twin(proved_material: Material) -> None:
    with pytest.raises(UserError, match="takes 1 tensors and gives 2; its circuit takes 2 and gives 1"):
        Twin(proved_material.stages[0], proved_material.chain.circuits[1])


def test_other_tensors_and_numbers_that_are_too_large_are_refused(proved_material: Material) -> None:
    twin = proved_material.twin(0)
    with pytest.raises(ValueError, match="the inputs are x, not y"):
        twin.run({"y": torch.zeros(1, 4, dtype=torch.int64)})
    with pytest.raises(ValueError, match="62 bits"):
        twin.run({"x": torch.full((1, 4), LARGEST * 2 - 1)})
    with pytest.raises(ValueError, match="62 bits"):
        quantised(torch.full((1, 4), 1e30), 7)
    with pytest.raises(ValueError, match="bool"):
        quantised(torch.ones(1, 4, dtype=torch.bool), 7)


@given(st.lists(st.integers(-LARGEST + 1, LARGEST - 1), min_size=1, max_size=5), st.integers(0, 20))
def test_whole_numbers_go_through_the_emulators_form_and_back(values: list[int], scale: int) -> None:
    numbers = torch.tensor(values)
    assert torch.equal(whole(fixed(numbers, scale)), numbers)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=5), st.integers(0, 20))
def test_floats_become_the_nearest_steps_and_whole_numbers_stay(values: list[float], scale: int) -> None:
    numbers = quantised(torch.tensor(values), scale)
    assert numbers.tolist() == Fixed.of_real(torch.tensor(values), scale).integers()
    assert ((numbers.double() / 2.0**scale - torch.tensor(values).double()).abs() <= 0.5 / 2**scale).all()
    assert torch.equal(quantised(numbers, scale), numbers)
