"""What numpy and safetensors write is read as it was; what is of no form is refused in words, and takes no room."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save

from decentral.errors import UserError
from decentral.serving.gateway.bodies import BASE64, ID, JSON, MEDIA, NPY, SAFETENSORS, Body, read_body

SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=4)
FLOATS = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.float16]), SHAPES, elements=st.floats(-8, 8, width=16)
)
WHOLE = arrays.arrays(st.sampled_from([np.int64, np.int32, np.uint8, np.bool_]), SHAPES)


def said(value: Any) -> bytes:
    return json.dumps(value).encode()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tensor(body: Body) -> torch.Tensor:
    assert isinstance(body.inputs, torch.Tensor)
    return body.inputs


@given(FLOATS)
def test_floats_become_float32_whatever_brings_them(array: np.ndarray) -> None:
    expected = torch.from_numpy(array.astype(np.float32))
    for media, content in (
        (JSON, said({"inputs": array.tolist()})),
        (NPY, npy(array)),
        (NPY, npy(np.asfortranarray(array))),
        (NPY, npy(array.astype(array.dtype.newbyteorder(">")))),
        (SAFETENSORS, save({"any": torch.from_numpy(array.copy())})),
    ):
        found = tensor(read_body(media, content, {}))
        assert found.dtype == torch.float32
        assert torch.equal(found, expected), media


@given(WHOLE)
def test_integers_and_truth_values_stay_what_they_are(array: np.ndarray) -> None:
    expected = torch.from_numpy(array)
    for media, content in ((NPY, npy(array)), (SAFETENSORS, save({"x": expected.clone()}))):
        found = tensor(read_body(media, content, {}))
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_whole_numbers_in_json_are_floats_unless_they_are_not_to_be() -> None:
    assert tensor(read_body(JSON, said({"inputs": [[1, 2]]}), {})).dtype == torch.float32
    assert tensor(read_body(JSON, said({"inputs": [[1, 2]], "dtype": "int64"}), {})).dtype == torch.int64
    named = read_body(JSON, said({"inputs": {"a": [1.5], "b": [[2]]}}), {}).inputs
    assert {name: value.shape for name, value in named.items()} == {"a": (1,), "b": (1, 1)}
    several = read_body(SAFETENSORS, save({"a": torch.ones(1), "b": torch.zeros(2)}), {}).inputs
    assert sorted(several) == ["a", "b"]


def test_policy_and_receipt_stand_in_the_body_or_in_the_query() -> None:
    body = read_body(JSON, said({"inputs": [1.0], "policy": {"replicas": 1}, "receipt": BASE64}), {})
    assert (body.policy, body.receipt) == ({"replicas": 1}, BASE64)
    body = read_body(NPY, npy(np.ones(2)), {"policy": '{"replicas": 1}', "receipt": BASE64})
    assert (body.policy, body.receipt) == ({"replicas": 1}, BASE64)
    body = read_body(NPY, npy(np.ones(2)), {})
    assert (body.policy, body.receipt) == ({}, ID)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"inputs": [NaN]}', "NaN is no number"),
        (b'{"inputs": [-Infinity]}', "Infinity is no number"),
        (said([1.0]), "must be an object"),
        (said({}), "inputs: are missing"),
        (said({"inputs": [1.0], "input": 1}), "input: unknown key"),
        (said({"inputs": [[1.0], [1.0, 2.0]]}), "inputs: is no array"),
        (said({"inputs": ["1.0"]}), "inputs: must be numbers"),
        (said({"inputs": [True]}), "inputs: must be numbers"),
        (said({"inputs": [None]}), "inputs: must be numbers"),
        (said({"inputs": {"a": {"b": 1}}}), "a: must be numbers"),
        (said({"inputs": [2**64 - 1], "dtype": "int64"}), "must be whole numbers"),
        (said({"inputs": [1.5], "dtype": "int64"}), "must be whole numbers"),
        (said({"inputs": [1], "dtype": "float64"}), "dtype: must be one of float32, int64"),
        (said({"inputs": [1], "dtype": ["float32"]}), "dtype: must be one of"),
        (said({"inputs": [1.0], "policy": "always"}), "policy: must be an object"),
        (said({"inputs": [1.0], "receipt": "all"}), "receipt: must be 'id' or 'base64'"),
    ],
)
def test_json_of_another_form_is_refused_in_words(content: bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        read_body(JSON, content, {})


def header(text: str, data: bytes = b"") -> bytes:
    """Of a .npy file."""
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}", bytes(24)),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", bytes(4)),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", bytes(12)),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        header("{'descr': '<U2', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        header("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        header("__import__('os').system('true')"),
        npy(np.ones(4))[:-1],
    ],
)
def test_what_numpy_has_not_written_is_refused_before_it_takes_room(content: bytes) -> None:
    with pytest.raises(UserError, match="the body"):
        read_body(NPY, content, {})


@given(st.binary(max_size=200), st.sampled_from(MEDIA))
def test_noise_is_refused(content: bytes, media: str) -> None:
    with pytest.raises(UserError):
        read_body(media, content, {})


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_file_is_read_as_numbers_or_refused(place: int, noise: bytes) -> None:
    for media, content in ((NPY, npy(np.ones((3, 4)))), (SAFETENSORS, save({"x": torch.ones(3, 4)}))):
        damaged = bytearray(content)
        damaged[place % len(content) : place % len(content) + len(noise)] = noise
        try:
            found = read_body(media, bytes(damaged), {}).inputs
        except UserError:
            continue
        for each in found.values() if isinstance(found, dict) else [found]:
            assert each.nbytes <= 2 * len(damaged)


def test_safetensors_that_are_none_are_refused() -> None:
    whole = save({"x": torch.ones(3)})
    for content in (b"", whole[:-1], (2**60).to_bytes(8, "little") + whole[8:], whole + b"\0"):
        with pytest.raises(UserError, match="no safetensors file"):
            read_body(SAFETENSORS, content, {})
    for query, why in (({"policy": "{"}, "policy: is no JSON"), ({"receipt": "x"}, "receipt: must be")):
        with pytest.raises(UserError, match=why):
            read_body(SAFETENSORS, whole, query)
