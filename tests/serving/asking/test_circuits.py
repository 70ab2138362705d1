"""A client takes no circuit but the pinned ones, and reads their numbers as they are meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import UserError
from decentral.serving.asking.circuits import FILE, Circuits, classes, numbers
from decentral.serving.asking.prediction import UNDECIDED
from decentral.trust.anchors import Anchors, Part
from tests.serving.proved import Material, X


def anchors(made: Material, **changes: str) -> Anchors:
    parts = [
        Part(f"stage-{place}", "ab" * 32, "peers", 1e-4, 1.0, ("x",), circuit.identity.hex())
        for place, circuit in enumerate(made.chain.circuits)
    ]
    return Anchors(b"", (), 1, tuple(replace(part, circuit=changes.get(part.name, part.circuit)) for part in parts))


def folder_of(made: Material, folder: Path) -> Path:
    (folder / FILE).parent.mkdir()
    (folder / FILE).write_bytes(made.chain.encoded())
    return folder


def test_the_circuits_are_those_that_are_pinned(proved_material: Material, tmp_path: Path) -> None:
    folder = folder_of(proved_material, tmp_path)
    found = Circuits.load(folder, anchors(proved_material))
    assert found is not None
    assert found.parts == proved_material.chain.circuits
    assert found.srs == proved_material.srs.digest
    with pytest.raises(UserError, match="given for stage-1 is not the one that is pinned"):
        Circuits.load(folder, anchors(proved_material, **{"stage-1": "0" * 64}))


def test_where_a_part_has_no_circuit_there_are_none(proved_material: Material, tmp_path: Path) -> None:
    assert Circuits.load(tmp_path, replace(anchors(proved_material), parts=())) is None
    assert Circuits.load(tmp_path, anchors(proved_material, **{"stage-1": ""})) is None


@pytest.mark.parametrize("content", [None, b"", b"{}"], ids=["none", "empty", "damaged"])
def test_pinned_circuits_that_are_not_there_are_an_error(
    proved_material: Material, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / FILE).parent.mkdir()
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"circuits\.json: does not say"):
        Circuits.load(tmp_path, anchors(proved_material))


def test_another_number_of_circuits_is_an_error(proved_material: Material) -> None:
    with pytest.raises(UserError, match="2 parts are served by peers, and 1 circuits"):
        Circuits.of(proved_material.chain.circuits[:1], anchors(proved_material))


def test_inputs_become_whole_numbers_by_the_circuits_own_scale(proved_material: Material) -> None:
    found = Circuits(proved_material.chain.circuits)
    taken = found.taken({"x": X}, ("x",))
    assert taken["x"].dtype == torch.int64
    assert torch.allclose(taken["x"].double() / 2**7, X.double(), atol=0.5 / 2**7)
    with pytest.raises(UserError, match="no circuit takes this input"):
        found.taken({"x": torch.full((1, 4), 1e30)}, ("x",))


def test_an_answer_is_read_by_the_last_scale_beside_what_floats_say(proved_material: Material) -> None:
    found = Circuits(proved_material.chain.circuits)
    integers = {"logits": torch.tensor([[128, -64]])}
    read = found.read(integers, {}, {"logits": torch.tensor([[1.0, -0.75]])})
    assert (read.scale, read.difference) == (proved_material.chain.circuits[-1].settings.output_scales[0], 0.25)
    assert numbers(integers, 7)["logits"].tolist() == [[1.0, -0.5]]
    assert found.read(integers, {}).difference is None


@given(st.lists(st.lists(st.integers(-(1 << 60), 1 << 60), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_class_is_that_of_the_largest_number_and_undecided_between_equals(rows: list[list[int]]) -> None:
    for label, row in zip(classes({"logits": torch.tensor(rows)}), rows, strict=True):
        assert label == (row.index(max(row)) if row.count(max(row)) == 1 else UNDECIDED)


def test_what_is_no_classifiers_answer_has_no_classes() -> None:
    assert classes({"a": torch.zeros(2, 3, dtype=torch.int64), "b": torch.zeros(1, dtype=torch.int64)}) == ()
    assert classes({"a": torch.zeros(2, 3, 4, dtype=torch.int64)}) == ()
    assert classes({"a": torch.zeros(2, 0, dtype=torch.int64)}) == ()
