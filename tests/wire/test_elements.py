"""Named tensors as one run of bytes: nothing is lost on the way, and no claim is believed before it is checked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed, Refusal
from decentral.wire.elements import Arrival, Elements
from decentral.wire.limits import CHUNK_BYTES, Limits
from decentral.wire.v1 import messages_pb2 as pb

SHAPES = st.lists(st.integers(0, 5), max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int8, torch.bool])


def there_and_back(elements: Elements, limits: Limits) -> dict[str, torch.Tensor]:
    arrival = Arrival(elements.headers, elements.total, limits)
    for index in range(elements.chunks):
        arrival.take(memoryview(b"".join(elements.chunk(index))))
    assert not arrival.left
    return arrival.tensors()


@given(st.dictionaries(st.text(max_size=8), st.tuples(SHAPES, DTYPES), max_size=6), st.integers(0, 2**31))
def test_tensors_come_back_bit_by_bit(described: dict[str, tuple[list[int], torch.dtype]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randint(0, 2, shape, generator=generator).to(dtype) for name, (shape, dtype) in described.items()
    }
    back = there_and_back(Elements(tensors), Limits())
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_tensors_of_several_chunks_and_strides_come_back() -> None:
    tensors = {"wide": torch.randn(3, CHUNK_BYTES // 4 + 7).t(), "small": torch.arange(5), "empty": torch.empty(0, 3)}
    elements = Elements(tensors)
    assert elements.chunks == 4
    for name, tensor in there_and_back(elements, Limits()).items():
        assert torch.equal(tensor, tensors[name])


@pytest.mark.parametrize(
    ("headers", "total", "reason"),
    [
        ([("a", 3, [2])], 9, Refusal.MALFORMED),  # not the sum
        ([("a", 3, [2]), ("a", 3, [2])], 16, Refusal.MALFORMED),  # one name twice
        ([("b", 3, [1]), ("a", 3, [1])], 8, Refusal.MALFORMED),  # out of order
        ([("a", 0, [1])], 4, Refusal.MALFORMED),  # no element type
        ([("a", 3, [1 << 40])], 4 << 40, Refusal.TOO_LARGE),
        ([("a", 3, [0, 1 << 62])], 0, Refusal.TOO_LARGE),  # its elements are none, its strides would overflow
        ([("a", 3, [1] * 9)], 4, Refusal.TOO_LARGE),
        ([("a" * 300, 3, [1])], 4, Refusal.TOO_LARGE),
    ],
)
def test_a_claim_that_breaks_a_rule_is_refused_before_memory_is_taken(
    headers: list[tuple[str, int, list[int]]], total: int, reason: Refusal
) -> None:
    claimed = [pb.TensorHeader(name=name, dtype=dtype, shape=shape) for name, dtype, shape in headers]  # type: ignore[arg-type]
    with pytest.raises(Malformed) as refused:
        Arrival(claimed, total, Limits())
    assert refused.value.reason is reason


def test_chunks_of_another_length_and_truth_values_that_are_none_are_refused() -> None:
    elements = Elements({"flags": torch.tensor([True, False])})
    arrival = Arrival(elements.headers, elements.total, Limits())
    with pytest.raises(Malformed):
        arrival.take(memoryview(b"\x01"))
    arrival.take(memoryview(b"\x01\x02"))
    with pytest.raises(Malformed, match="truth value"):
        arrival.tensors()
