"""Models survive their frames; frames that break a rule are refused before memory is taken for them."""

from __future__ import annotations

import math
import sys
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from decentral.errors import Malformed, Refusal
from decentral.wire.elements import schema_hash
from decentral.wire.limits import CHUNK_BYTES, Limits
from decentral.wire.messages import Model
from decentral.wire.tensors import ModelDecoder, encoded
from decentral.wire.v1 import exchange_pb2
from decentral.wire.v1 import messages_pb2 as pb

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
DTYPES = st.sampled_from(
    [torch.float32, torch.float64, torch.bfloat16, torch.int16, torch.uint8, torch.bool, torch.int64]
)
TENSORS = st.builds(
    lambda shape, dtype: torch.ones(shape).cumsum(-1).to(dtype) if shape else torch.ones(()).to(dtype), SHAPES, DTYPES
)


def decode(frames: list[bytes], limits: Limits | None = None) -> Model:
    decoder = ModelDecoder(limits or Limits())
    for frame in frames:
        decoder.feed(frame)
    return decoder.finish()


def frames_of(tensors: dict[str, torch.Tensor]) -> list[bytes]:
    return list(encoded(Model(1, tensors, samples=2)).frames())


def header_of(frames: list[bytes]) -> pb.ModelHeader:
    return exchange_pb2.ModelChunk.FromString(frames[0]).header


def refusal_of(frames: list[bytes], limits: Limits | None = None) -> Refusal:
    with pytest.raises(Malformed) as malformed:
        decode(frames, limits)
    return malformed.value.reason


def rebuilt(header: pb.ModelHeader, data: bytes) -> list[bytes]:
    """Frames of any header and data, with a digest that is right."""
    raw = header.SerializeToString()
    content = blake3(data, derive_key_context="decentral 2026 model data v1").digest()
    digest = blake3(content + raw, derive_key_context="decentral 2026 model message v1").digest()
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    parts: list[dict[str, object]] = [{"header": header}, *({"data": chunk} for chunk in chunks)]
    if len(data) <= CHUNK_BYTES:
        parts = [{key: value for part in parts for key, value in part.items()}]
    parts[-1]["digest"] = digest
    return [exchange_pb2.ModelChunk(**part).SerializeToString() for part in parts]


@given(st.dictionaries(st.text(max_size=20), TENSORS, max_size=6))
def test_a_model_comes_back(tensors: dict[str, torch.Tensor]) -> None:
    frames = frames_of(tensors)
    assert sum(map(len, frames)) == encoded(Model(1, tensors, samples=2)).size
    model = decode(frames, Limits(schema=schema_hash(tensors)))
    assert (model.round, model.samples, model.tag, model.tensors.keys()) == (1, 2, "local", tensors.keys())
    assert all(torch.equal(model.tensors[name], tensor) for name, tensor in tensors.items())


def test_packed_forms_of_a_model_are_taken_beside_it_and_no_others() -> None:
    whole = {"w": torch.ones(4, 3)}
    packed = {"w": torch.ones(4, 3, dtype=torch.int8), "w@largest": torch.ones(4)}
    limits = Limits(schema=schema_hash(whole), packed=frozenset({schema_hash(packed)}))
    for form in (whole, packed):
        assert decode(frames_of(form), limits).tensors.keys() == form.keys()
    for form in ({"w": packed["w"]}, {"w": whole["w"].bfloat16()}, {**packed, "w@largest": torch.ones(5)}):
        with pytest.raises(Malformed) as refused:
            decode(frames_of(form), limits)
        assert refused.value.reason is Refusal.SCHEMA


@given(st.dictionaries(st.text(max_size=20), TENSORS, max_size=6))
def test_frames_are_the_protobuf_of_the_schema(tensors: dict[str, torch.Tensor]) -> None:
    frames = frames_of(tensors)
    chunks = [exchange_pb2.ModelChunk.FromString(frame) for frame in frames]
    assert [chunk.SerializeToString() for chunk in chunks] == frames
    data = b"".join(chunk.data for chunk in chunks)
    assert rebuilt(chunks[0].header, data) == frames


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_a_push_sum_weight_comes_back_to_the_last_bit(weight: float) -> None:
    model = decode(list(encoded(Model(1, {"a": torch.ones(1)}, weight=weight)).frames()))
    assert model.weight == weight


def test_a_model_without_a_push_sum_weight_has_the_weight_one_and_spends_no_byte_on_it() -> None:
    (plain,) = frames_of({"a": torch.ones(1)})
    (weighed,) = encoded(Model(1, {"a": torch.ones(1)}, samples=2, weight=0.5)).frames()
    assert decode([plain]).weight == 1.0
    assert len(weighed) == len(plain) + 9


def test_the_order_of_a_mapping_changes_nothing() -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.int64), "c": torch.ones(1, dtype=torch.bool)}
    turned = dict(reversed(tensors.items()))
    assert frames_of(tensors) == frames_of(turned)
    assert schema_hash(tensors) == schema_hash(turned)


def test_the_schema_hash_tells_names_types_and_shapes_apart_and_ignores_values() -> None:
    base = {"a": torch.ones(2, 3)}
    assert schema_hash(base) == schema_hash({"a": torch.zeros(2, 3)})
    others = [{"b": base["a"]}, {"a": base["a"].double()}, {"a": base["a"].t()}, {}, {**base, "b": torch.ones(())}]
    assert len({schema_hash(state) for state in (base, *others)}) == 6


def test_a_model_is_digested_once_for_all_its_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = 0

    class Counting:
        def __init__(self, *data: bytes, **options: str) -> None:
            self._hasher = blake3(*data, **options)

        def update(self, part: bytes) -> None:
            nonlocal hashed
            hashed += len(part)
            self._hasher.update(part)

        def digest(self) -> bytes:
            return self._hasher.digest()

    monkeypatch.setattr("decentral.wire.tensors.blake3", Counting)
    model = Model(1, {"a": torch.randn(1_000_000)})
    first, second = encoded(model).frames(), encoded(model).frames()
    together = [frame for pair in zip(first, second, strict=True) for frame in pair]
    assert together[::2] == together[1::2] == list(encoded(model).frames())
    assert hashed == 4_000_000


def test_contiguous_tensors_are_not_copied_before_they_are_framed() -> None:
    model = Model(1, {"a": torch.randn(8_000_000)})
    list(encoded(Model(1, {"a": torch.ones(1)})).frames())
    tracemalloc.start()
    sent = sum(len(frame) for frame in encoded(model).frames())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent > 32_000_000
    assert peak < 4 * CHUNK_BYTES


TWO = {"a": torch.arange(600_000, dtype=torch.float32), "b": torch.tensor([True, False])}


def test_a_changed_bit_anywhere_is_refused() -> None:
    frames = frames_of(TWO)
    for number, frame in enumerate(frames):
        for position in (0, 1, len(frame) // 2, len(frame) - 1):
            for bit in (1, 128):
                changed = bytearray(frame)
                changed[position] ^= bit
                refusal_of([*frames[:number], bytes(changed), *frames[number + 1 :]])


def test_frames_that_are_missing_repeated_or_out_of_order_are_refused() -> None:
    frames = frames_of(TWO)
    head, first, second, last = frames
    cut = len(last) - 34  # the digest's tag, length and bytes
    data, digest = last[:cut], last[cut:]
    lies: list[list[bytes]] = [
        [],
        [head],
        [first, second, last],
        [digest],
        [head, first, second],
        [head, first, second, data],
        [head, first, second, data, digest],
        [head, first, second, digest],
        [head, head, first, second, last],
        [head, first, last],
        [head, first, second, second, last],
        [head, second, first, last],
        [*frames, digest],
        [*frames, last],
        [*frames, b""],
        [head, b"", first, second, last],
        [head, b"\x12\x00", first, second, last],
        [head + first, second, last],
        [head, first + digest, second, last],
        [head, first[:-1], second, last],
        [head, first + b"\0", second, last],
        [head, b"\x22" + first[1:], second, last],
        [head, b"\x10" + first[1:], second, last],
        [head, b"\x12", second, last],
        [head, b"\x12\xff\xff\xff\xff\xff\xff\xff", second, last],
        [head, first, second, digest + data],
        [head, first, second, data + digest + digest],
    ]
    for lie in lies:
        assert refusal_of(lie) in (Refusal.MALFORMED, Refusal.DIGEST)
    assert torch.equal(decode(frames).tensors["a"], TWO["a"])


def test_a_small_model_is_one_frame() -> None:
    (whole,) = frames_of({"a": torch.ones(5)})
    chunk = exchange_pb2.ModelChunk.FromString(whole)
    head = exchange_pb2.ModelChunk(header=chunk.header).SerializeToString()
    data = exchange_pb2.ModelChunk(data=chunk.data).SerializeToString()
    digest = exchange_pb2.ModelChunk(digest=chunk.digest).SerializeToString()
    assert whole == head + data + digest
    assert decode([whole]).tensors["a"].tolist() == [1.0] * 5
    for lie in ([head, data + digest], [head + data, digest], [head + digest], [head + data], [data + digest]):
        assert refusal_of(lie) is Refusal.MALFORMED


def change(edit: Callable[[pb.ModelHeader], object]) -> pb.ModelHeader:
    header = header_of(frames_of(TWO))
    edit(header)
    return header


@pytest.mark.parametrize(
    "edit",
    [
        lambda header: setattr(header, "total_bytes", header.total_bytes - 1),
        lambda header: setattr(header, "total_bytes", 0),
        lambda header: setattr(header, "round", 1 << 63),
        lambda header: setattr(header, "samples", 1 << 63),
        lambda header: setattr(header, "tag", "x" * 65),
        lambda header: header.tensors.reverse(),
        lambda header: setattr(header.tensors[1], "name", "a"),
        lambda header: setattr(header.tensors[0], "dtype", 0),
        lambda header: setattr(header.tensors[0], "dtype", 99),
        lambda header: header.tensors[0].shape.append(2),
        lambda header: header.tensors.add(name="b", dtype=pb.DATA_TYPE_BOOL, shape=[0]),
        lambda header: setattr(header, "weight", 0.0),
        lambda header: setattr(header, "weight", -sys.float_info.min),
        lambda header: setattr(header, "weight", math.inf),
        lambda header: setattr(header, "weight", -math.inf),
        lambda header: setattr(header, "weight", math.nan),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(edit: Callable[[pb.ModelHeader], object]) -> None:
    data = b"".join(exchange_pb2.ModelChunk.FromString(frame).data for frame in frames_of(TWO))
    honest = header_of(frames_of(TWO))
    assert decode(rebuilt(honest, data)).tensors["b"].tolist() == [True, False]
    assert refusal_of(rebuilt(change(edit), data)) is Refusal.MALFORMED


def test_a_truth_value_is_zero_or_one() -> None:
    header = pb.ModelHeader(total_bytes=2, tensors=[pb.TensorHeader(name="a", dtype=pb.DATA_TYPE_BOOL, shape=[2])])
    assert decode(rebuilt(header, b"\x00\x01")).tensors["a"].tolist() == [False, True]
    assert refusal_of(rebuilt(header, b"\x00\x02")) is Refusal.MALFORMED


@pytest.mark.parametrize(
    "header",
    [
        pb.ModelHeader(total_bytes=1 << 50, tensors=[pb.TensorHeader(name="a", dtype=9, shape=[1 << 50])]),
        pb.ModelHeader(total_bytes=0, tensors=[pb.TensorHeader(name="a", dtype=9, shape=[0, 1 << 63])]),
        pb.ModelHeader(total_bytes=0, tensors=[pb.TensorHeader(name="a", dtype=9, shape=[1 << 63, 1 << 63, 1 << 63])]),
        pb.ModelHeader(total_bytes=1, tensors=[pb.TensorHeader(name="a", dtype=9, shape=[1] * 100)]),
        pb.ModelHeader(total_bytes=0, tensors=[pb.TensorHeader(name="a" * 300, dtype=9, shape=[0])]),
        pb.ModelHeader(tensors=[pb.TensorHeader()] * 9000),
        pb.ModelHeader(tag="x" * (1 << 20)),
    ],
    ids=["bytes", "empty but long", "overflow", "rank", "name", "tensors", "header"],
)
def test_what_exceeds_a_limit_is_refused_before_memory_is_taken(header: pb.ModelHeader) -> None:
    frame = exchange_pb2.ModelChunk(header=header).SerializeToString()
    assert refusal_of([frame]) is Refusal.TOO_LARGE


@pytest.mark.parametrize("elements", [100, 2_000_000])
def test_memory_is_not_shared_between_models_that_are_held(elements: int) -> None:
    sent = [{"a": torch.full((elements,), value), "b": torch.ones(3)} for value in (1.0, 2.0, 3.0, 4.0)]
    held = [decode(frames_of(tensors)).tensors for tensors in sent[:2]]
    kept = held[0]["a"][5:7]  # a view of a part holds the whole
    held[0] = {}
    held += [decode(frames_of(tensors)).tensors for tensors in sent[2:]]
    assert kept.eq(1.0).all()
    assert [float(tensors["a"].sum()) / elements for tensors in held[1:]] == [2.0, 3.0, 4.0]


def test_memory_of_a_large_model_that_nobody_holds_serves_the_next() -> None:
    frames = frames_of({"a": torch.ones(2_000_000)})
    first = decode(frames).tensors["a"]
    address = first.data_ptr()
    second = decode(frames).tensors["a"]
    assert second.data_ptr() != address
    del first
    assert decode(frames).tensors["a"].data_ptr() == address
