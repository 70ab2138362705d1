"""Values that are packed come back as they were, to the last bit; what cannot be packed is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decentral.launch.pool.packing import ALIGNED, pack, unpack

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@st.composite
def tensors(draw) -> Tensor:
    shape, dtype = draw(st.lists(st.integers(0, 4), max_size=4)), draw(st.sampled_from(DTYPES))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    return (20 * noise).to(dtype)


@settings(max_examples=40)
@given(PLAIN)
def test_plain_values_come_back_equal_and_of_their_types(value):
    found = unpack(pack(value))
    assert found == value and repr(found) == repr(value)


@settings(max_examples=40)
@given(st.dictionaries(st.text(), tensors(), max_size=5))
def test_a_state_comes_back_bit_for_bit(state):
    found = unpack(pack({"state": state, "more": [1, state]}))
    for copy in (found["state"], found["more"][1]):
        assert copy.keys() == state.keys()
        for name, tensor in state.items():
            assert copy[name].dtype == tensor.dtype and copy[name].shape == tensor.shape
            assert torch.equal(copy[name], tensor)


def test_numbers_that_json_does_not_know_come_back():
    assert unpack(pack([math.inf, -math.inf])) == [math.inf, -math.inf]
    assert math.isnan(unpack(pack({"loss": math.nan}))["loss"])


def test_a_value_that_looks_like_a_reference_is_none():
    state = {"tensor": torch.ones(2), "mapping": {"tensor": 0}}
    found = unpack(pack(state))
    assert torch.equal(found["tensor"], torch.ones(2)) and found["mapping"] == {"tensor": 0}


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_images_keep_the_order_of_their_memory(order):
    images = torch.randn(2, 3, 4, 5).to(memory_format=order)
    (found,) = unpack(pack([images]))
    assert torch.equal(found, images) and found.is_contiguous(memory_format=order)


def test_what_comes_back_is_nobodys_memory_but_its_own():
    tensor = torch.zeros(3)
    (found,) = unpack(pack([tensor.view(3)]))
    found += 1
    assert tensor.tolist() == [0, 0, 0]


def test_tensors_begin_where_torch_would_have_them_begin():
    data = pack([torch.ones(3, dtype=torch.int8), torch.ones(5)])
    length = int.from_bytes(data[:8], "little")
    tree, described = json.loads(data[8 : 8 + length])
    assert tree == [{"tensor": 0}, {"tensor": 1}]
    assert [(8 + length + each["offset"]) % ALIGNED for each in described] == [0, 0]


@pytest.mark.parametrize("value", [object(), {1: "a"}, {1, 2}, [object()]], ids=["object", "keys", "set", "inside"])
def test_what_is_not_plain_is_refused(value):
    with pytest.raises(TypeError):
        pack(value)
