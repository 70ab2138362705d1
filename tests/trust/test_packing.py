"""What is written is read again with every bit; what is of another form is refused or is not written again alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral import canonical
from decentral.errors import Malformed
from decentral.trust import packing
from decentral.trust.evidence import Finding, Kind, tensors_digest
from decentral.trust.policy import Verdict
from tests.trust.world import World

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32,
          torch.int64, torch.uint8, torch.bool]  # fmt: skip
BROKEN = (Malformed, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def through(plain: Any) -> Any:
    """A file."""
    return canonical.decode(canonical.encode(plain))


@given(st.sampled_from(DTYPES), st.sampled_from([(), (0, 3), (1,), (2, 3, 1)]), st.integers(0, 99))
def test_every_type_of_tensor_keeps_its_bits(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> None:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    tensors = {"y": numbers.to(dtype), "another": torch.tensor([torch.nan, torch.inf, -0.0])}
    read = packing.read_tensors(through(packing.tensors(tensors)))
    assert tensors_digest(read) == tensors_digest(tensors)


def test_tensors_that_are_larger_than_a_message_keep_their_bits() -> None:
    tensors = {"y": torch.randn(700_000), "z": torch.randn(3)}
    assert tensors_digest(packing.read_tensors(through(packing.tensors(tensors)))) == tensors_digest(tensors)


@pytest.mark.parametrize(
    "headers",
    [
        [["y", "float32", [2, 4]], ["y", "float32", [0]]],
        [["y", "float33", [2, 4]]],
        [["y", "unspecified", [2, 4]]],
        [["y", "float32", [2, -4]]],
        [["y", "float32", [2, 5]]],
        [["y", "float32", [2.0, 4]]],
        [["y", "float32", [True, 8]]],
        [["y", "float32", [2**62, 0]]],
        [["y", "float32", [1] * 9]],
        [["\ud800", "float32", [2, 4]]],
        [["y" * 300, "float32", [2, 4]]],
        [["y", "float32"]],
        [],
        None,
    ],
)
def test_tensors_of_another_form_are_refused(headers: Any) -> None:
    plain = packing.tensors({"y": torch.randn(2, 4)})
    with pytest.raises(BROKEN):
        packing.read_tensors({**plain, "tensors": headers})


def test_the_same_in_other_words_is_not_written_again() -> None:
    plain = {**packing.tensors({"y": torch.randn(2, 4)}), "tensors": [["y", "FLOAT32", [2, 4]]]}
    assert canonical.encode(packing.tensors(packing.read_tensors(plain))) != canonical.encode(plain)


def test_a_truth_that_is_neither_is_refused() -> None:
    plain = {"tensors": [["y", "bool", [2]]], "data": canonical.text(b"\x01\x02")}
    with pytest.raises(Malformed):
        packing.read_tensors(plain)


@pytest.mark.parametrize("act", ["honest", "lies", "silent", "withholds", "breaks", "keeps", "copies"])
def test_a_transcript_is_read_as_it_was_written(act: str) -> None:
    for rounding in (False, True):
        said = World(rounding=rounding).transcript({("stage-1", 1): act})
        plain = through(packing.transcript(said))
        read = packing.read_transcript(plain)
        assert packing.transcript(read) == plain
        assert read.order == said.order
        for one, other in zip(read.exchanges, said.exchanges, strict=True):
            assert (one.step, one.inputs, one.asked, one.disputed) == (
                other.step,
                other.inputs,
                other.asked,
                other.disputed,
            )
            for node in one.asked:
                assert one.replies[node].commitment == other.replies[node].commitment
                assert one.replies[node].reveal == other.replies[node].reveal


def test_a_transcript_of_more_than_was_ordered_is_refused() -> None:
    said = World().transcript()
    plain = packing.transcript(said)
    with pytest.raises(ValueError, match="more parts"):
        packing.read_transcript({**plain, "exchanges": [*plain["exchanges"], plain["exchanges"][0]]})
    asked = plain["exchanges"][0]["asked"]
    crowd = {**plain["exchanges"][0], "asked": asked * 400}
    with pytest.raises(ValueError, match="more replicas"):
        packing.read_transcript({**plain, "exchanges": [crowd]})
    with pytest.raises(ValueError, match="another digest"):
        packing.read_transcript({**plain, "tensors": {"00" * 32: next(iter(plain["tensors"].values()))}})
    with pytest.raises(ValueError, match="other parts"):
        packing.transcript(replace(said, exchanges=said.exchanges[::-1]))


@given(st.sampled_from(Kind), st.text(max_size=9), st.booleans(), st.none() | st.floats(0, 9), st.booleans())
def test_findings_and_verdicts_are_read_as_they_were_written(
    kind: Kind, words: str, passed: bool, measured: float | None, simulated: bool
) -> None:
    finding = Finding(kind, words, passed, words, measured, simulated)
    assert packing.read_finding(through(packing.finding(finding))) == finding
    verdict = Verdict(passed, (words, words))
    assert packing.read_verdict(through(packing.verdict(verdict))) == verdict
